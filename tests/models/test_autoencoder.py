import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.models.autoencoder import MaskedAutoencoder, dropped_patches, random_order
from accdistill_jax.models.efficientnet import EfficientNetEncoder
from accdistill_jax.models.transformer import TransformerEncoder
from accdistill_jax.objectives.losses import masked_reconstruction

PATCH, TOKENS, KEEP = 4, 6, 2


def autoencoder(kind):
    if kind == "transformer":
        encoder = TransformerEncoder(patch=PATCH, width=8, depth=1, heads=2, mlp=8)
    else:
        encoder = EfficientNetEncoder(stem=(4, 3, 2), stages=((6, 1, 2, 3, 2),), head=8, output=8)
    return MaskedAutoencoder(encoder, PATCH, KEEP, decoder_width=8, decoder_depth=1, decoder_heads=2)


def orders():
    return np.array([[4, 1, 0, 5, 3, 2], [0, 5, 2, 1, 3, 4]], np.int32)


def test_random_order_is_an_even_permutation_per_key():
    keys = jax.random.split(jax.random.key(0), 2000)
    order = np.asarray(jax.jit(lambda k: random_order(k, 5))(keys))
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(5), (2000, 1)))
    shares = np.stack([np.mean(order == token, axis=0) for token in range(5)])  # of each place, for each token
    assert np.all(np.abs(shares - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 2000))
    np.testing.assert_array_equal(order[7:8], random_order(keys[7:8], 5))


def test_dropped_patches_and_loss_agree_with_numpy(draw):
    x, order = draw(0, 2, PATCH * TOKENS, 3), orders()
    dropped = dropped_patches(jnp.asarray(x), order, patch=PATCH, keep=KEEP)
    wanted = [[x[row, PATCH * p : PATCH * (p + 1)].ravel() for p in order[row, KEEP:]] for row in range(2)]
    np.testing.assert_array_equal(dropped, wanted)
    prediction = draw(1, *dropped.shape)
    np.testing.assert_allclose(
        masked_reconstruction(prediction, dropped), np.mean((prediction - wanted) ** 2, axis=(1, 2)), rtol=1e-6
    )


@pytest.mark.parametrize("kind", ["transformer", "efficientnet"])
def test_prediction_and_embedding_do_not_see_what_is_dropped(kind, draw, scattered):
    x, order, model = draw(0, 2, PATCH * TOKENS, 1), orders(), autoencoder(kind)
    params = scattered(model, x, order)

    @jax.jit
    def gradient(x):
        def total(x):
            prediction, embedding = model.apply({"params": params}, x, order)
            return jnp.sum(jnp.square(prediction)), (prediction, embedding)

        return jax.grad(total, has_aux=True)(x)

    slope, (prediction, embedding) = gradient(x)
    assert prediction.shape == (2, TOKENS - KEEP, PATCH) and prediction.dtype == jnp.float32
    assert embedding.shape == (2, 8)
    slope = np.asarray(slope).reshape(2, TOKENS, PATCH)
    rows = np.arange(2)[:, None]
    assert np.all(slope[rows, order[:, KEEP:]] == 0)
    assert np.all(np.abs(slope[rows, order[:, :KEEP]]).max(axis=-1) > 0)
    other = x.reshape(2, TOKENS, PATCH).copy()
    other[rows, order[:, KEEP:]] = 9.0
    np.testing.assert_array_equal(gradient(other.reshape(x.shape))[1][1], embedding)


@pytest.mark.parametrize("kind", ["transformer", "efficientnet"])
def test_prediction_follows_its_patch_whatever_the_order_of_the_dropped(kind, draw, scattered):
    x, order, model = draw(0, 2, PATCH * TOKENS, 1), orders(), autoencoder(kind)
    params = scattered(model, x, order)
    apply = jax.jit(lambda order, x: model.apply({"params": params}, x, order)[0])
    predict = lambda order: np.asarray(apply(order, x))
    turned = np.concatenate([order[:, :KEEP], order[:, KEEP:][:, ::-1]], axis=1)
    np.testing.assert_allclose(predict(turned), predict(order)[:, ::-1], rtol=1e-3, atol=1e-4)
    # different places get different predictions: the decoder knows where a patch was
    assert np.abs(np.diff(predict(order), axis=1)).max(axis=-1).min() > 1e-4


def test_reconstruct_keeps_the_kept_patches_and_marks_the_dropped(draw, scattered):
    x, model = draw(0, 3, PATCH * TOKENS, 2), autoencoder("transformer")
    keys = jax.random.split(jax.random.key(1), 3)
    params = scattered(model, x[:2], orders())
    shown = jax.jit(lambda x: model.apply({"params": params}, x, keys, method="reconstruct"))(x)
    order, dropped = random_order(keys, TOKENS), np.asarray(shown["dropped"])
    prediction, _ = jax.jit(lambda x: model.apply({"params": params}, x, order))(x)
    before, after = (np.asarray(a).reshape(3, TOKENS, -1) for a in (x, shown["reconstruction"]))
    np.testing.assert_array_equal(dropped.sum(axis=1), TOKENS - KEEP)
    np.testing.assert_array_equal(after[~dropped], before[~dropped])
    np.testing.assert_allclose(
        after[np.arange(3)[:, None], np.asarray(order)[:, KEEP:]], prediction, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(shown["ppg"], x)
