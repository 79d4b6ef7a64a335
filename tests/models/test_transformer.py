import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.models.attention import places
from accdistill_jax.models.transformer import Attention, Block, TransformerEncoder, patchify

WIDTH, HEADS, MLP, PATCH, TOKENS = 12, 3, 20, 4, 6


def applied(module, params, *arguments, method=None):
    return np.asarray(jax.jit(lambda p, *a: module.apply({"params": p}, *a, method=method))(params, *arguments))


def encoder(**changes):
    settings = dict(patch=PATCH, width=WIDTH, depth=2, heads=HEADS, mlp=MLP)
    return TransformerEncoder(**settings | changes)


class TorchEncoder:
    """The same encoder in PyTorch's own modules, on the same weights."""

    def __init__(self, params, depth):
        torch = pytest.importorskip("torch")
        self.torch, self.params = torch, jax.tree.map(np.array, params)
        self.blocks = [self.block(self.params[f"block_{i}"]) for i in range(depth)]

    def dense(self, p):
        layer = self.torch.nn.Linear(*p["kernel"].shape)
        layer.weight.data, layer.bias.data = self.torch.tensor(p["kernel"].T), self.torch.tensor(p["bias"])
        return layer

    def norm(self, p):
        layer = self.torch.nn.LayerNorm(len(p["scale"]), eps=1e-6)
        layer.weight.data, layer.bias.data = self.torch.tensor(p["scale"]), self.torch.tensor(p["bias"])
        return layer

    def attention(self, p):
        layer = self.torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        layer.in_proj_weight.data = self.torch.tensor(p["qkv"]["kernel"].T)
        layer.in_proj_bias.data = self.torch.tensor(p["qkv"]["bias"])
        layer.out_proj = self.dense(p["out"])
        return layer

    def block(self, p):
        nn = self.torch.nn
        mlp = nn.Sequential(self.dense(p["mlp_in"]), nn.GELU(approximate="tanh"), self.dense(p["mlp_out"]))
        return self.norm(p["norm_attention"]), self.attention(p["attention"]), self.norm(p["norm_mlp"]), mlp

    def run_block(self, block, h):
        norm_attention, attention, norm_mlp, mlp = block
        z = norm_attention(h)
        h = h + attention(z, z, z, need_weights=False)[0]
        return h + mlp(norm_mlp(h))

    def __call__(self, x):
        t = self.torch
        h = self.dense(self.params["token"])(x.reshape(x.shape[0], TOKENS, -1))
        rate = 10_000.0 ** (-t.arange(WIDTH // 2, dtype=t.float64) / (WIDTH // 2 - 1))
        angle = t.arange(TOKENS)[:, None] * rate
        h = h + t.cat([t.sin(angle), t.cos(angle)], dim=1).float()
        for block in self.blocks:
            h = self.run_block(block, h)
        return self.norm(self.params["norm"])(h).mean(dim=1)


def test_patchify_keeps_all_channels_of_a_patch_together():
    x = np.arange(2 * 12 * 3).reshape(2, 12, 3)
    patches = patchify(jnp.asarray(x), 4)
    assert patches.shape == (2, 3, 12)
    np.testing.assert_array_equal(patches[1, 2], x[1, 8:12].reshape(-1))


def test_attention_block_agrees_with_pytorch(draw, scattered):
    x = draw(0, 2, TOKENS, WIDTH)
    block = Block(HEADS, MLP)
    params = scattered(block, x)
    theirs = TorchEncoder({"block_0": params}, 1)
    wanted = theirs.run_block(theirs.blocks[0], theirs.torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(applied(block, params, x), wanted, rtol=1e-4, atol=1e-4)


def test_encoder_agrees_with_pytorch_in_value_and_gradient(draw, scattered):
    x, model = draw(0, 2, PATCH * TOKENS, 3), encoder()
    params = scattered(model, x)
    theirs = TorchEncoder(params, 2)
    theirs_x = theirs.torch.tensor(x, requires_grad=True)
    out = theirs(theirs_x)
    out.square().sum().backward()
    np.testing.assert_allclose(applied(model, params, x), out.detach().numpy(), rtol=1e-4, atol=1e-4)
    loss = lambda p, x: jnp.sum(jnp.square(model.apply({"params": p}, x)))
    gradient, dx = jax.jit(jax.grad(loss, (0, 1)))(params, x)
    np.testing.assert_allclose(dx, theirs_x.grad.numpy(), rtol=1e-3, atol=1e-4)
    _, attention, _, mlp = theirs.blocks[0]
    pairs = [
        (gradient["block_0"]["attention"]["qkv"]["kernel"], attention.in_proj_weight.grad.T),
        (gradient["block_0"]["attention"]["qkv"]["bias"], attention.in_proj_bias.grad),
        (gradient["block_0"]["mlp_in"]["kernel"], mlp[0].weight.grad.T),
        (gradient["block_0"]["mlp_out"]["bias"], mlp[2].bias.grad),
    ]
    for ours, wanted in pairs:
        np.testing.assert_allclose(ours, wanted.numpy(), rtol=1e-3, atol=1e-3)


def test_levels_of_a_tokenizer_that_do_not_fit_are_refused(draw):
    with pytest.raises(ValueError, match="stretches of 4 samples do not divide the next ones of 6"):
        encoder(patch=12, tokenizer=((4, 5), (6, 7))).init(jax.random.key(0), draw(0, 2, 24, 2))


def test_relative_positions_see_distance_alone(draw, scattered):
    x, positions = draw(0, 2, TOKENS, WIDTH), np.tile(np.arange(TOKENS, dtype=np.int32), (2, 1))
    layer, blind = Attention(HEADS, relative=True), Attention(HEADS)
    params = scattered(layer, x)

    def apply(positions):
        return applied(layer, params, x, places(jnp.asarray(positions), count=40, dim=WIDTH // HEADS))

    np.testing.assert_allclose(apply(positions + 11), apply(positions), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(applied(layer, params, x), apply(positions), rtol=1e-5, atol=1e-5)  # one after another
    assert np.abs(apply(positions * 2) - apply(positions)).max() > 1e-2
    assert np.abs(applied(blind, params, x) - apply(positions)).max() > 1e-2


@pytest.mark.parametrize("positions", ["sinusoidal", "relative", "sinusoidal+relative"])
def test_kept_tokens_are_encoded_by_their_place_whatever_their_order(positions, draw, scattered):
    x = draw(0, 2, PATCH * TOKENS, 1)
    model = encoder(positions=positions)
    params = scattered(model, x)
    tokens = jax.jit(lambda kept: model.apply({"params": params}, x, kept, method="tokens"))
    whole = applied(model, params, x, method="tokens")
    order = np.array([[3, 0, 5, 1, 4, 2], [5, 4, 3, 2, 1, 0]], np.int32)
    rows = np.arange(2)[:, None]
    np.testing.assert_allclose(tokens(order), whole[rows, order], rtol=1e-4, atol=1e-4)
    # a subset, shuffled, is the same subset in order: which token it is counts, not where it stands
    kept = np.array([[4, 1, 2], [0, 5, 3]], np.int32)
    ranked = np.sort(kept, axis=1)
    back = np.argsort(np.argsort(kept, axis=1), axis=1)
    np.testing.assert_allclose(tokens(kept), np.asarray(tokens(ranked))[rows, back], rtol=1e-4, atol=1e-4)
    assert np.abs(tokens(ranked) - whole[rows, ranked]).max() > 1e-3


def test_without_positions_order_would_not_count_but_with_each_kind_it_does(draw, scattered):
    x = draw(0, 1, PATCH * TOKENS, 1)
    swapped = x.reshape(TOKENS, PATCH)[[0, 3, 2, 1, 4, 5]].reshape(x.shape)
    for positions in ("sinusoidal", "relative"):
        model = encoder(positions=positions)
        params = scattered(model, x)
        a, b = (applied(model, params, z) for z in (x, swapped))
        assert np.abs(a - b).max() > 1e-3, positions


def test_dropped_tokens_have_exactly_zero_gradient(draw, scattered):
    x, model = draw(0, 2, PATCH * TOKENS, 2), encoder()
    params = scattered(model, x)
    kept = np.array([[4, 1], [0, 2]], np.int32)
    out = lambda x: jnp.sum(jnp.square(model.apply({"params": params}, x, kept, method="tokens") + 1.0))
    gradient = np.asarray(jax.jit(jax.grad(out))(x)).reshape(2, TOKENS, -1)
    for row in range(2):
        seen = np.isin(np.arange(TOKENS), kept[row])
        assert np.all(gradient[row, ~seen] == 0)
        assert np.all(np.abs(gradient[row, seen]).max(axis=1) > 0)


def test_a_stem_is_strided_convolutions_with_norms(draw, scattered):
    x = draw(3, 2, 16, 2)
    model = encoder(patch=8, stem=((5, 3, 2), (7, 4, 2)), depth=0, positions="relative")
    params = scattered(model, x)
    stem, h = params["convolutions"], x.astype(np.float64)

    def norm(h, p):
        h = h - h.mean(axis=-1, keepdims=True)
        return h / np.sqrt((h**2).mean(axis=-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    for level, (taps, before, after) in enumerate(((3, 0, 1), (4, 1, 1))):  # zeros before and after the signal
        h = np.pad(h, ((0, 0), (before, after), (0, 0)))
        kernel = stem[f"conv_{level}"]["kernel"]
        h = np.stack(
            [np.einsum("bkc,kcd->bd", h[:, t : t + taps], kernel) for t in range(0, h.shape[1] - taps + 1, 2)], 1
        )
        h = norm(h + stem[f"conv_{level}"]["bias"], stem[f"norm_{level}"])
        h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    assert h.shape == (2, 4, 7)  # four steps of four samples, two to a token
    tokens = norm(h.reshape(2, 2, 14) @ params["token"]["kernel"] + params["token"]["bias"], params["norm"])
    np.testing.assert_allclose(applied(model, params, x, method="tokens"), tokens, rtol=1e-4, atol=1e-4)


def test_tokenizer_levels_are_dense_layers_on_ever_longer_stretches(draw, scattered):
    x = draw(0, 2, 16, 2)
    model = encoder(patch=8, tokenizer=((2, 5), (4, 7)), depth=0, positions="relative")
    params = scattered(model, x)

    def dense(name, h):
        return h @ params[name]["kernel"] + params[name]["bias"]

    def gelu(h):
        return 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))

    h = gelu(dense("tokenizer_0", x.reshape(2, 8, 4)))  # 2 samples of 2 channels -> 5 features
    h = gelu(dense("tokenizer_1", h.reshape(2, 4, 10)))  # 4 samples: two stretches of 5 features -> 7
    h = dense("token", h.reshape(2, 2, 14))
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
    wanted = h * params["norm"]["scale"] + params["norm"]["bias"]
    tokens = applied(model, params, x, method="tokens")
    np.testing.assert_allclose(tokens, wanted, rtol=1e-3, atol=1e-4)


def test_output_layer_maps_the_mean_token(draw, scattered):
    x = draw(0, 3, PATCH * TOKENS, 1)
    model = encoder(output=5)
    params = scattered(model, x)
    tokens = applied(model, params, x, method="tokens")
    wanted = tokens.mean(axis=1) @ params["projection"]["kernel"] + params["projection"]["bias"]
    np.testing.assert_allclose(applied(model, params, x), wanted, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_parameters_and_result_in_float32(draw, scattered):
    x = draw(0, 2, PATCH * TOKENS, 1)
    model = encoder(dtype=jnp.bfloat16)
    params = scattered(model, x)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    assert {a.dtype for a in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    half, full = (applied(m, params, x) for m in (model, encoder()))
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - full).max() < 0.2


def test_tokens_between_blocks_in_bfloat16(draw, scattered):
    """The embedding is that of float32 to bfloat16's precision, and what a block hands on is half as large."""
    x = jnp.asarray(draw(0, 2, PATCH * TOKENS, 2))
    params = scattered(encoder(), x)
    exact, half = applied(encoder(), params, x), applied(encoder(residual=jnp.bfloat16), params, x)
    assert half.dtype == np.float32
    assert 1e-5 < np.linalg.norm(half - exact) / np.linalg.norm(exact) < 0.02
    program = jax.make_jaxpr(lambda p: encoder(residual=jnp.bfloat16).apply({"params": p}, x))(params)
    assert f"bf16[2,{TOKENS},{WIDTH}]" in str(program)
