"""The protocol of encoders, for every architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.models.efficientnet import EfficientNetEncoder
from accdistill_jax.models.transformer import TransformerEncoder

PATCH, TOKENS, CHANNELS = 8, 6, 2
ENCODERS = {
    "transformer": TransformerEncoder(patch=PATCH, width=8, depth=1, heads=2, mlp=8, output=5, positions="relative"),
    "transformer without output": TransformerEncoder(patch=PATCH, width=8, depth=1, heads=2, mlp=8),
    "transformer with a stem": TransformerEncoder(
        patch=PATCH, width=8, depth=1, heads=2, mlp=8, stem=((6, 3, 2), (4, 4, 2)), positions="relative"
    ),
    "efficientnet": EfficientNetEncoder(stem=(4, 3, 2), stages=((6, 1, 2, 3, 2),), head=9, output=7),
}


@pytest.fixture(params=ENCODERS)
def encoder(request):
    return ENCODERS[request.param]


def signal(draw):
    return draw(0, 2, PATCH * TOKENS, CHANNELS)


def test_the_embedding_is_that_of_encode_and_widths_are_as_stated(encoder, draw, scattered):
    x = signal(draw)
    params = scattered(encoder, x)
    embedding, encoded = jax.jit(
        lambda p: (encoder.apply({"params": p}, x), encoder.apply({"params": p}, x, method="encode"))
    )(params)
    np.testing.assert_array_equal(embedding, encoded.embedding)
    assert encoded.tokens.shape[2] == encoder.token_width and encoded.tokens.dtype == jnp.float32
    assert embedding.shape == (2, encoder.embedding_width) and embedding.dtype == jnp.float32


def test_kept_patches_have_a_token_each_in_their_order(encoder, draw, scattered):
    x, kept = signal(draw), np.array([[4, 1, 0], [0, 5, 2]], np.int32)
    params = scattered(encoder, x)

    @jax.jit
    def encode_kept(kept):
        return encoder.apply({"params": params}, x, kept, patch=PATCH, method="encode_kept")

    encoded, turned = encode_kept(kept), encode_kept(kept[:, ::-1])
    assert encoded.tokens.shape == (2, 3, encoder.token_width)
    assert encoded.embedding.shape == (2, encoder.embedding_width)
    np.testing.assert_allclose(turned.tokens, encoded.tokens[:, ::-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(turned.embedding, encoded.embedding, rtol=1e-4, atol=1e-5)


def test_tokens_hold_nothing_of_patches_that_are_not_kept(encoder, draw, scattered):
    x, kept = signal(draw), np.array([[4, 1, 0], [0, 5, 2]], np.int32)
    params = scattered(encoder, x)
    seen = np.zeros((2, TOKENS), bool)
    seen[np.arange(2)[:, None], kept] = True
    other = np.where(np.repeat(seen, PATCH, axis=1)[:, :, None], x, 9.0).astype(np.float32)
    run = jax.jit(lambda x: encoder.apply({"params": params}, x, kept, patch=PATCH, method="encode_kept"))
    jax.tree.map(np.testing.assert_array_equal, run(x), run(other))


def test_all_methods_have_the_same_parameters(encoder, draw):
    x, kept = signal(draw), np.zeros((2, 3), np.int32)
    trees = [
        jax.eval_shape(
            lambda key, method=method, extra=extra: encoder.init(key, x, *extra, **method), jax.random.key(0)
        )
        for method, extra in (
            ({}, ()),
            ({"method": "encode"}, ()),
            ({"method": "encode_kept", "patch": PATCH}, (kept,)),
        )
    ]
    assert trees[0] == trees[1] == trees[2]


def test_an_encoder_that_can_leave_out_tokens_does_less_work(encoder):
    whole = encoder.flops(samples=PATCH * TOKENS, channels=CHANNELS)
    some = encoder.flops(samples=PATCH * TOKENS, channels=CHANNELS, patch=PATCH, kept=2)
    assert (some < whole) == (encoder.patch is not None)


def test_a_patch_other_than_the_encoders_own_is_refused(draw):
    encoder, x = ENCODERS["transformer"], signal(draw)
    with pytest.raises(ValueError, match="patches of 4 samples, but the encoder's tokens have 8"):
        encoder.init(jax.random.key(0), x, np.zeros((2, 3), np.int32), patch=4, method="encode_kept")


def test_inputs_of_a_wrong_rank_are_refused_at_the_door(encoder, draw):
    with pytest.raises(AssertionError, match="rank"):
        encoder.init(jax.random.key(0), signal(draw)[0])
    with pytest.raises(AssertionError, match="rank"):
        encoder.init(jax.random.key(0), signal(draw), np.zeros(3, np.int32), patch=PATCH, method="encode_kept")
