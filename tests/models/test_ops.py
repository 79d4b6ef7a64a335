import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.models import ops
from accdistill_jax.runtime.platform import tracing_for


def same_padding(length, taps, stride):
    total = max((-(-length // stride) - 1) * stride + taps - length, 0)
    return total // 2, total - total // 2


def by_hand(x, kernel, stride):
    """Depthwise convolution as its definition, in float64."""
    before, after = same_padding(x.shape[1], len(kernel), stride)
    padded = np.pad(x.astype(np.float64), ((0, 0), (before, after), (0, 0)))
    starts = range(0, padded.shape[1] - len(kernel) + 1, stride)
    return np.stack([np.einsum("bkc,kc->bc", padded[:, s : s + len(kernel)], kernel) for s in starts], axis=1)


def grouped(x, kernel, stride):
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, None],
        (stride,),
        (same_padding(x.shape[1], len(kernel), stride),),
        dimension_numbers=("NHC", "HIO", "NHC"),
        feature_group_count=x.shape[2],
    )


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("taps", [1, 4, 7])
@pytest.mark.parametrize("length", [5, 25])
def test_depthwise_conv_is_the_grouped_convolution_in_value_and_gradient(length, taps, stride, draw):
    x, kernel = draw(0, 2, length, 3), draw(1, taps, 3)
    weights = draw(2, 2, -(-length // stride), 3)

    @jax.jit
    def both(x, kernel):
        value, pullback = jax.vjp(lambda x, k: ops.depthwise_conv(x, k, stride=stride), x, kernel)
        return value, pullback(weights), jax.vjp(lambda x, k: grouped(x, k, stride), x, kernel)[1](weights)

    value, got, wanted = both(x, kernel)
    assert value.shape == weights.shape
    np.testing.assert_allclose(value, by_hand(x, kernel, stride), rtol=1e-5, atol=1e-5)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_conv_agrees_with_pytorch(stride, draw):
    torch = pytest.importorskip("torch")
    x, kernel = draw(0, 2, 33, 4), draw(1, 7, 4)
    theirs_x = torch.tensor(x.transpose(0, 2, 1), requires_grad=True)
    theirs_k = torch.tensor(kernel.T[:, None].copy(), requires_grad=True)
    padded = torch.nn.functional.pad(theirs_x, same_padding(33, 7, stride))
    theirs = torch.nn.functional.conv1d(padded, theirs_k, stride=stride, groups=4)
    theirs.square().sum().backward()

    @jax.jit
    def square(x, kernel):
        value, pullback = jax.vjp(lambda x, k: ops.depthwise_conv(x, k, stride=stride), x, kernel)
        return value, pullback(2.0 * value)

    value, (dx, dk) = square(x, kernel)
    np.testing.assert_allclose(value, theirs.detach().numpy().transpose(0, 2, 1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, theirs_x.grad.numpy().transpose(0, 2, 1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dk, theirs_k.grad.numpy()[:, 0].T, rtol=1e-4, atol=1e-4)


def test_depthwise_conv_in_half_precision_keeps_the_dtype(draw):
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in (draw(0, 2, 16, 3), draw(1, 3, 3)))
    value, pullback = jax.vjp(ops.depthwise_conv, x, kernel)
    assert {a.dtype for a in (value, *pullback(value))} == {jnp.dtype(jnp.bfloat16)}
    wanted = by_hand(np.asarray(x, np.float32), np.asarray(kernel, np.float32), 1)
    np.testing.assert_allclose(np.asarray(value, np.float32), wanted, atol=0.05)


def test_dot_rows_is_a_dense_layers_product_and_nothing_else(draw):
    x, kernel = draw(0, 2, 3, 4), draw(1, 4, 5)
    rows = (((2,), (0,)), ((), ()))
    np.testing.assert_allclose(ops.dot_rows(x, kernel, rows), x @ kernel, rtol=1e-5)
    with pytest.raises(ValueError, match="rows by a matrix"):
        ops.dot_rows(x, kernel, (((1,), (0,)), ((), ())))


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 9), (9, 5), (7, 7)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_a_dense_products_gradients_whichever_side_is_wider(draw, inputs, outputs, dtype, tolerance):
    x, kernel, dy = (
        jnp.asarray(draw(k, *shape), dtype)
        for k, shape in enumerate([(2, 3, inputs), (inputs, outputs), (2, 3, outputs)])
    )
    y, back = jax.vjp(jax.jit(lambda x, w: ops.dot_rows(x, w, (((2,), (0,)), ((), ())))), x, kernel)
    d_x, d_kernel = back(dy)
    wide = [np.asarray(a.astype(jnp.float32), np.float64) for a in (x, kernel, dy)]
    for found, wanted in (
        (y, wide[0] @ wide[1]),
        (d_x, wide[2] @ wide[1].T),
        (d_kernel, np.einsum("abc,abd->cd", wide[0], wide[2])),
    ):
        assert found.dtype == dtype
        np.testing.assert_allclose(
            found.astype(jnp.float32), wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max()
        )
    rows = [a.reshape(-1, a.shape[-1]) for a in (x, dy)]
    assert ops.summed_products(*rows).shape == tuple(sorted((inputs, outputs)))
    np.testing.assert_allclose(
        ops.kernel_gradient(*rows).astype(dtype).astype(jnp.float32), d_kernel.astype(jnp.float32), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_transposed_side_and_a_repeated_row_are_just_that(draw, dtype):
    a, row = jnp.asarray(draw(0, 2, 3, 5), dtype), jnp.asarray(draw(1, 4), dtype)
    for copied in (False, True):
        assert np.array_equal(
            jax.jit(lambda a, c=copied: ops.transposed(a, copied=c))(a), np.asarray(a).swapaxes(-1, -2)
        )
    found, back = jax.vjp(lambda row: ops.repeat_row(row, 3), row)
    assert np.array_equal(found, np.tile(np.asarray(row), 3)) and found.dtype == dtype
    np.testing.assert_allclose(back(jnp.ones_like(found))[0].astype(jnp.float32), np.full(4, 3.0))


def test_gelu_is_the_tanh_form_with_its_gradient():
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    np.testing.assert_allclose(ops.gelu(x), 0.5 * x * (1 + np.tanh(u)), rtol=1e-4, atol=1e-6)
    slope = 0.5 * (1 + np.tanh(u)) + 0.5 * x * (1 - np.tanh(u) ** 2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    np.testing.assert_allclose(jax.grad(lambda x: jnp.sum(ops.gelu(x)))(x), slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [8, 7])
def test_sinusoidal_positions_are_distinct_and_shift_by_rotation(width):
    codes = ops.sinusoidal_positions(50, width)
    assert codes.shape == (50, width) and codes.dtype == np.float32
    np.testing.assert_allclose(codes[0], [0] * (width // 2) + [1] * (width // 2) + [0] * (width % 2), atol=1e-7)
    apart = np.linalg.norm(codes[:, None] - codes[None], axis=-1)
    assert apart[~np.eye(50, dtype=bool)].min() > 0.01
    # the product of two codes depends on the tokens' distance alone
    products = codes @ codes.T
    np.testing.assert_allclose(np.diag(products, 5), products[0, 5], rtol=1e-4)


@pytest.mark.parametrize(
    "shape, hidden_bytes", [((3, 4, 6), 1 << 20), ((3, 4, 6), 4 * 10 * 5), ((1, 7, 6), 4 * 10 * 3)]
)
def test_mlp_is_two_dense_layers_with_gelu(draw, monkeypatch, shape, hidden_bytes):
    """Value and gradient, all rows at once and by blocks, and rows that no block divides."""
    monkeypatch.setattr(ops, "HIDDEN_BYTES", hidden_bytes)
    arguments = [jnp.asarray(a) for a in (draw(0, *shape), draw(1, 6, 10), draw(2, 10), draw(3, 10, 6), draw(4, 6))]
    d_out = jnp.asarray(draw(5, *shape))

    def by_hand(x, w_in, b_in, w_out, b_out):
        return jax.nn.gelu(x.reshape(-1, 6) @ w_in + b_in[None]) @ w_out + b_out[None]

    value, back = jax.vjp(ops.mlp, *arguments)
    wanted, wanted_back = jax.vjp(by_hand, *arguments)
    np.testing.assert_allclose(value.reshape(-1, 6), wanted, rtol=1e-5, atol=1e-5)
    for a, b in zip(back(d_out), wanted_back(d_out.reshape(-1, 6)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for name in ("gpu", "tpu"):
        with tracing_for(name):
            elsewhere, elsewhere_back = jax.vjp(ops.mlp, *arguments)
        np.testing.assert_allclose(elsewhere, value, rtol=1e-5, atol=1e-5)
        for a, b in zip(elsewhere_back(d_out), wanted_back(d_out.reshape(-1, 6)), strict=True):
            np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-4, atol=1e-5)


def test_mlp_for_gpus_keeps_the_hidden_layer_before_and_after_gelu_and_no_more(draw):
    arguments = [
        jnp.asarray(a, jnp.bfloat16) for a in (draw(0, 64, 6), draw(1, 6, 40), draw(2, 40), draw(3, 40, 6), draw(4, 6))
    ]
    with tracing_for("gpu"):
        kept = jax.eval_shape(lambda *a: jax.vjp(ops.mlp, *a)[1], *arguments)
    hidden = [leaf for leaf in jax.tree.leaves(kept) if leaf.shape == (64, 40)]
    assert len(hidden) == 2 and {leaf.dtype for leaf in hidden} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.slow
def test_mlp_for_gpus_in_bfloat16(draw):
    exact = [jnp.asarray(a) for a in (draw(0, 256, 6), draw(1, 6, 10), draw(2, 10), draw(3, 10, 6), draw(4, 6))]
    half = [a.astype(jnp.bfloat16) for a in exact]
    with tracing_for("gpu"):
        (value, back), (wanted, wanted_back) = (jax.vjp(ops.mlp, *a) for a in (half, exact))
    d_out = jnp.asarray(draw(5, 256, 6), jnp.bfloat16)
    for a, b in zip((value, *back(d_out)), (wanted, *wanted_back(d_out.astype(jnp.float32))), strict=True):
        assert a.dtype == jnp.bfloat16 and np.linalg.norm(a.astype(jnp.float32) - b) < 0.02 * np.linalg.norm(b)


def test_mlp_in_bfloat16_adds_its_gradient_up_in_float32(draw, monkeypatch):
    monkeypatch.setattr(ops, "HIDDEN_BYTES", 4 * 10 * 2)
    exact = [jnp.asarray(a) for a in (draw(0, 256, 6), draw(1, 6, 10), draw(2, 10), draw(3, 10, 6), draw(4, 6))]
    half = [a.astype(jnp.bfloat16) for a in exact]
    found, wanted = (jax.vjp(ops.mlp, *a)[1](jnp.ones((256, 6), a[0].dtype)) for a in (half, exact))
    assert {a.dtype for a in found} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_array_equal(
        found[-1].astype(jnp.float32), 256.0
    )  # ones added one by one would stop at 256 - 0, at 8 bits
    for a, b in zip(found, wanted, strict=True):
        assert np.linalg.norm(a.astype(jnp.float32) - b) < 0.02 * np.linalg.norm(b)


def test_block_size():
    def size(count, at_once):
        return ops.block_size(count, bytes_each=10, bytes_at_once=at_once)

    assert (size(32, 45), size(32, 1000), size(6, 39), size(5, 1)) == (4, 32, 3, 1)
    assert size(31, 80) == 31  # a prime: 8 at a time are not to be had, and one by one is slow
    rows = {"a": jnp.arange(12.0).reshape(6, 2), "b": jnp.arange(6)}
    for block in (1, 2, 6):
        found = ops.in_blocks(lambda r: (r["a"] * 2.0, r["b"] + 1), rows, size=block)
        np.testing.assert_array_equal(found[0], 2.0 * rows["a"])
        np.testing.assert_array_equal(found[1], rows["b"] + 1)


def test_rows_are_chosen_on_tpus_by_products_with_the_same_values_and_gradients(draw):
    x, table, index = draw(0, 3, 7, 4), draw(1, 7, 5), np.array([[6, 0], [2, 2], [1, 5]], np.int32)
    d_rows = draw(2, 3, 2, 4)

    def every(x, table, index):
        rows, back = jax.vjp(lambda x: ops.rows_at(x, index), x)
        halves = ops.rows_at(x.astype(jnp.bfloat16), index)
        looked_up = ops.looked_up(table, index), ops.looked_up(table, index[0])
        return rows, back(d_rows)[0], halves, *looked_up, ops.marked(index, 7)

    wanted = every(x, table, index)
    with tracing_for("tpu"):
        text = str(jax.make_jaxpr(every)(x, table, index))
        ours = every(x, table, index)
    assert "gather" not in text and "scatter" not in text
    for exact, found in zip(wanted, ours, strict=True):
        assert found.dtype == exact.dtype
        np.testing.assert_allclose(found.astype(np.float32), exact.astype(np.float32), atol=1e-6)
    np.testing.assert_array_equal(wanted[0], x[np.arange(3)[:, None], index])
    np.testing.assert_array_equal(wanted[-1][1], np.arange(7) == 2)
