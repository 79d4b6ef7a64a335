"""Computing blocks again in the backward pass changes neither parameters nor numbers, and keeps less."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.config.schema import Config
from accdistill_jax.config.tree import with_values
from accdistill_jax.models.build import build_autoencoder, build_encoder
from accdistill_jax.objectives.registered import AutoencoderOptions


def encoder(architecture, rematerialise):
    sizes = {
        "transformer": dict(width=16, heads=2, mlp=32),
        "efficientnet": dict(stem=(8, 15, 8), stages=((16, 2, 2, 7, 2),), head=32, output=16),
    }
    config = with_values(Config().teacher.encoder, {"architecture": architecture} | sizes)
    return build_encoder(config, dtype=jnp.float32, rematerialise=rematerialise)


def autoencoder(architecture, rematerialise):
    config = AutoencoderOptions(drop_fraction=0.5, patch=64, decoder_width=16, decoder_depth=2, decoder_heads=2)
    return build_autoencoder(encoder(architecture, rematerialise), config, samples=640, dtype=jnp.float32)


def kept_bytes(fn, params):
    residuals = jax.eval_shape(lambda p: jax.vjp(fn, p)[1], params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "make"),
    [
        ("transformer", encoder),
        ("transformer", autoencoder),
        ("efficientnet", encoder),
        ("efficientnet", autoencoder),
    ],
)
def test_same_parameters_and_gradients_from_less_memory(architecture, make):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 640, 2)), jnp.float32)
    order = np.tile(np.random.default_rng(1).permutation(10).astype(np.int32), (4, 1))
    inputs = (x, order) if make is autoencoder else (x,)
    plain, again = (make(architecture, way) for way in ("none", "blocks"))
    params = plain.init(jax.random.key(0), *inputs)
    assert jax.tree.structure(params) == jax.tree.structure(again.init(jax.random.key(0), *inputs))

    def loss(model):
        return lambda p: jnp.sum(jnp.square(jax.tree.leaves(model.apply(p, *inputs))[0]))

    wanted, found = (jax.jit(jax.value_and_grad(loss(model)))(params) for model in (plain, again))

    def same(path, a, b):
        # a depthwise kernel's gradient goes through a Fourier transform, whose rounding is that of its largest entries
        atol = 3e-4 * float(jnp.max(jnp.abs(a))) if "depthwise']['kernel" in jax.tree_util.keystr(path) else 1e-3
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=atol)

    jax.tree_util.tree_map_with_path(same, wanted, found)
    assert kept_bytes(loss(again), params) < 0.7 * kept_bytes(loss(plain), params)
