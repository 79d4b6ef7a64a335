"""Attention as each backend has it, against the textbook in float64 and against each other; positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.models import attention
from accdistill_jax.runtime import platform as runtime_platform
from accdistill_jax.runtime.parallel import AXIS, Parallel

B, P, HEADS, DIM = 6, 5, 2, 4
OWN_ROWS = np.stack([np.random.default_rng(i).permutation(9)[:P] for i in range(B)]).astype(np.int32)
PLACES = {
    "none": {},
    "one after another": {"relative": True},
    "different rows": {"relative": True, "where": attention.places(jnp.asarray(OWN_ROWS), count=9, dim=DIM)},
}


@pytest.fixture
def textbook(monkeypatch):
    """textbook(qkv, **places): the form that other backends compile."""

    def call(qkv, **places):
        with monkeypatch.context() as patch:
            patch.setattr(attention, "on_cpu", lambda: False)
            return attention.attention(qkv, heads=HEADS, **places)

    return call


def test_softmax_attention(draw, textbook):
    qkv = draw(0, B, P, 3 * HEADS * DIM)
    q, k, v = qkv.reshape(B, P, 3, HEADS, DIM).transpose(2, 0, 3, 1, 4).astype(np.float64)
    weights = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(DIM))
    wanted = (weights / weights.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(B, P, -1)
    for form in (lambda a: attention.attention(a, heads=HEADS), textbook):
        np.testing.assert_allclose(form(jnp.asarray(qkv)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("where", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("at_once", [1, 2, 6])
@pytest.mark.parametrize("few", [0, 96])
def test_the_blocked_form_has_value_and_gradient_of_the_textbook(draw, textbook, monkeypatch, where, at_once, few):
    monkeypatch.setattr(attention, "FEW_TOKENS", few)
    monkeypatch.setattr(attention, "LOGITS_BYTES", at_once * 4 * HEADS * P * P)
    qkv, d_out = jnp.asarray(draw(0, B, P, 3 * HEADS * DIM)), jnp.asarray(draw(1, B, P, HEADS * DIM))
    found, back = jax.vjp(jax.jit(lambda a: attention.attention(a, heads=HEADS, **where)), qkv)
    wanted, wanted_back = jax.vjp(lambda a: textbook(a, **where), qkv)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(back(d_out)[0], wanted_back(d_out)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("where", PLACES.values(), ids=PLACES)
def test_an_accelerator_s_slices_are_the_same_queries_keys_and_values(draw, monkeypatch, where, dtype):
    qkv = jnp.asarray(draw(0, B, P, 3 * HEADS * DIM), dtype)

    def heads(qkv):
        where_they_are = attention.token_places(P, DIM, where.get("relative", False), where.get("where"))
        return attention.queries_keys_values(qkv, where_they_are, HEADS)[:3]

    wanted, wanted_back = jax.vjp(heads, qkv)
    monkeypatch.setattr(attention, "on_cpu", lambda: False)
    found, back = jax.vjp(heads, qkv)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(*(each(wanted)[0] for each in (back, wanted_back)))


@pytest.mark.parametrize("where", PLACES.values(), ids=PLACES)
def test_three_products_are_the_thirds_of_one(draw, textbook, where):
    x, kernel, bias = (
        jnp.asarray(draw(0, B, P, HEADS * DIM)),
        jnp.asarray(draw(1, HEADS * DIM, 3 * HEADS * DIM)),
        jnp.asarray(draw(2, 24)),
    )

    def apart(x, kernel, bias):
        return textbook(attention.three_products(x, kernel, bias), **where)

    value, back = jax.vjp(apart, x, kernel, bias)
    wanted, wanted_back = jax.vjp(
        lambda x, kernel, bias: textbook(x @ kernel + bias[None, None], **where), x, kernel, bias
    )
    d_out = jnp.asarray(draw(3, B, P, HEADS * DIM))
    for ours, exact in zip((value, *back(d_out)), (wanted, *wanted_back(d_out)), strict=True):
        assert np.linalg.norm(ours - exact) < 1e-5 * np.linalg.norm(exact)


def test_a_form_can_be_forced_while_something_is_traced():
    with attention.forced(attention.TEXTBOOK):
        assert attention.chosen_form(192, 32, jnp.bfloat16, heads=8, relative=False) == (
            attention.TEXTBOOK,
            "as asked for",
        )
    assert attention.chosen_form(192, 32, jnp.bfloat16, heads=8, relative=False)[0] == attention.BLOCKS
    with pytest.raises(ValueError, match="no form of attention 'flash'"), attention.forced("flash"):
        pass


def test_large_logits_do_not_overflow(draw):
    qkv = jnp.asarray(draw(0, B, P, 3 * HEADS * DIM)) * 100.0
    value, back = jax.vjp(lambda a: attention.attention(a, heads=HEADS), qkv)
    assert np.isfinite(value).all() and np.isfinite(back(jnp.ones_like(value))[0]).all()


def test_bfloat16_in_and_out_with_the_softmax_in_float32(draw, textbook):
    qkv = jnp.asarray(draw(0, B, P, 3 * HEADS * DIM))
    half, back = jax.vjp(lambda a: attention.attention(a, heads=HEADS), qkv.astype(jnp.bfloat16))
    gradient = back(jnp.ones_like(half))[0]
    assert half.dtype == gradient.dtype == jnp.bfloat16
    exact, exact_back = jax.vjp(textbook, qkv)
    np.testing.assert_allclose(half.astype(jnp.float32), exact, atol=0.05)
    np.testing.assert_allclose(gradient.astype(jnp.float32), exact_back(jnp.ones_like(exact))[0], atol=0.1)


def test_the_form_of_a_platform_and_why_it_is_not_a_faster_one():
    def chosen(platform, dtype=jnp.bfloat16, tokens=192, relative=False, heads=8):
        with runtime_platform.tracing_for(platform):
            return attention.chosen_form(tokens, 32, dtype, heads=heads, relative=relative)

    assert chosen("cpu") == (attention.BLOCKS, "") and chosen("tpu") == (attention.PALLAS, "")
    assert chosen(runtime_platform.PORTABLE) == (attention.TEXTBOOK, "")
    for platform, reason, how in [
        ("gpu", "there is no GPU", {}),
        ("gpu", "no float32", {"dtype": jnp.float32}),
        ("gpu", "even number", {"tokens": 191}),
        ("gpu", "no position codes", {"relative": True}),
        ("tpu", "no position codes", {"relative": True}),
        ("tpu", "fill 128 lanes, not 2 of 32", {"heads": 2}),
        ("tpu", "1000 tokens of 8 heads of 32 do not fit", {"tokens": 1000}),
        ("tpu", "not float16", {"dtype": jnp.float16}),
    ]:
        form, why = chosen(platform, **how)
        assert form == attention.TEXTBOOK and reason in why


def test_what_compiles_is_found_out_in_the_middle_of_a_trace():
    shape, found = jax.ShapeDtypeStruct((4,), jnp.float32), []

    def refuses(a):
        raise RuntimeError("no such library")

    def step(a):
        found.append([attention.refusal(fn, shape) for fn in (jnp.sin, jax.grad(lambda a: jnp.sum(a * a)), refuses)])
        return a + jax.lax.axis_index(AXIS)

    parallel = Parallel()
    jax.block_until_ready(
        parallel.map_rows(lambda params, batch: step(batch))({}, parallel.place(np.zeros(8, np.float32)))
    )
    assert found == [["", "", "RuntimeError: no such library"]]


def test_rotate_keeps_lengths_and_makes_products_depend_on_distance_alone(draw):
    q, k = draw(0, 1, 2, 6, 8), draw(1, 1, 2, 6, 8)
    near, far = np.arange(6, dtype=np.int32)[None], np.arange(6, dtype=np.int32)[None] + 37

    def products(positions):
        where, looked_up = (attention.places(kind(positions), count=60, dim=8) for kind in (np.asarray, jnp.asarray))
        assert all(np.array_equal(a, b) for a, b in zip(where, looked_up, strict=True)) and isinstance(
            where.cos, np.ndarray
        )
        a, b = (attention.rotate(jnp.asarray(z), where.cos, where.sin) for z in (q, k))
        return np.asarray(a @ b.swapaxes(-1, -2)), a

    first, turned = products(near)
    np.testing.assert_allclose(products(far)[0], first, atol=1e-4)
    assert np.abs(first - q @ k.swapaxes(-1, -2)).max() > 0.1
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(q, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(turned[:, :, 0], q[:, :, 0], atol=1e-6)


def test_distance_bias_is_minus_slope_times_distance():
    positions = np.array([[3, 0, 7]], np.int32)
    bias = attention.distance_bias(jnp.asarray(positions), 4)
    distance = np.array([[0, 3, 4], [3, 0, 7], [4, 7, 0]])
    for head, slope in enumerate([1 / 2, 1 / 8, 1 / 32, 1 / 128]):
        np.testing.assert_allclose(bias[0, head], -slope * distance, rtol=1e-6)
