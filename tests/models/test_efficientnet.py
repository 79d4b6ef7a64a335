import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.models.efficientnet import EfficientNetEncoder, MBConv, Stage, average_parts

STAGES = ((6, 1, 2, 5, 2), (8, 2, 1, 3, 3))


def encoder():
    return EfficientNetEncoder(stem=(4, 5, 2), stages=STAGES, head=10, output=7)


@pytest.mark.parametrize("stride,width", [(1, 6), (2, 6), (1, 9)])
def test_inverted_bottleneck_agrees_with_pytorch(stride, width, draw, scattered):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    x, block = draw(0, 2, 13, 6), MBConv(Stage(width, 1, stride, 5, 3), stride)
    params = scattered(block, x)
    p = jax.tree.map(lambda a: torch.tensor(np.array(a)), params)

    def dense(name, h):
        return F.linear(h, p[name]["kernel"].T, p[name]["bias"])

    def norm(name, h):
        return F.layer_norm(h, h.shape[-1:], p[name]["scale"], p[name]["bias"], eps=1e-6)

    theirs_x = torch.tensor(x, requires_grad=True)
    h = F.gelu(dense("expand", norm("norm_in", theirs_x)), approximate="tanh").transpose(1, 2)
    total = max((-(-13 // stride) - 1) * stride + 5 - 13, 0)
    h = F.pad(h, (total // 2, total - total // 2))
    h = F.conv1d(h, p["depthwise"]["kernel"].T[:, None], stride=stride, groups=18).transpose(1, 2)
    h = F.gelu(norm("norm_depthwise", h), approximate="tanh")
    gate = torch.sigmoid(dense("excite", F.silu(dense("squeeze", h.mean(dim=1)))))
    h = dense("project", h * gate[:, None])
    h = theirs_x + h if h.shape == theirs_x.shape else h
    h.square().sum().backward()

    @jax.jit
    def ours(x):
        value, pullback = jax.vjp(lambda x: block.apply({"params": params}, x), x)
        return value, *pullback(2.0 * value)

    value, gradient = ours(x)
    assert value.shape == (2, -(-13 // stride), width)
    np.testing.assert_allclose(value, h.detach().numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, theirs_x.grad.numpy(), rtol=1e-3, atol=1e-3)


def test_encoder_is_a_pure_function_with_finite_gradient_in_every_parameter(draw, scattered):
    x, model = draw(0, 3, 32, 2), encoder()
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert set(variables) == {"params"}  # no batch statistics
    params = scattered(model, x)
    apply = jax.jit(lambda p, x: model.apply({"params": p}, x))
    whole = np.asarray(apply(params, x))
    assert whole.shape == (3, 7)
    np.testing.assert_allclose(apply(params, x[1:2]), whole[1:2], rtol=1e-4, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(apply(p, x)))))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)) and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_constant_input_gives_finite_value_and_gradient(scattered):
    model, x = encoder(), np.zeros((2, 32, 2), np.float32)
    params = scattered(model, x)
    loss = lambda p: jnp.sum(jnp.square(model.apply({"params": p}, x)))
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value) and all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_strides_and_depth_shape_the_features(draw, scattered):
    x, model = draw(0, 2, 30, 1), encoder()
    params = scattered(model, x)

    @jax.jit
    def run(params, x):
        return model.apply(
            {"params": params},
            x,
            method="encode",
            capture_intermediates=lambda module, _: isinstance(module, MBConv | nn.Conv),
        )

    encoded, seen = run(params, x)
    shapes = {name: out["__call__"][0].shape for name, out in seen["intermediates"].items() if "__call__" in out}
    assert shapes == {
        "stem": (2, 15, 4),
        "stage_0_block_0": (2, 8, 6),
        "stage_1_block_0": (2, 8, 8),
        "stage_1_block_1": (2, 8, 8),
    }
    assert encoded.tokens.shape == (2, 8, 10)
    output = params["output"]
    np.testing.assert_allclose(
        encoded.embedding,
        np.asarray(encoded.tokens).mean(axis=1) @ output["kernel"] + output["bias"],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("length,parts", [(12, 4), (5, 3), (3, 7)])
def test_average_parts_integrates_a_step_function(length, parts, draw):
    h = draw(0, 2, length, 3)
    fine = np.repeat(h, parts, axis=1)  # length * parts samples: every edge falls between two
    wanted = fine.reshape(2, parts, length, 3).mean(axis=2)
    np.testing.assert_allclose(average_parts(jnp.asarray(h), parts), wanted, rtol=1e-5, atol=1e-6)
