import jax
import jax.numpy as jnp
import pytest

from accdistill_jax.config.schema import Config, EncoderConfig, HeadConfig
from accdistill_jax.config.tree import with_values
from accdistill_jax.errors import UserError
from accdistill_jax.models.build import build_autoencoder, build_encoder, build_head, parameter_count
from accdistill_jax.objectives.registered import AutoencoderOptions


def shapes(module, *inputs):
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def autoencoder_config(**changes):
    return AutoencoderOptions(**(dict(drop_fraction=0.8, decoder_width=8, decoder_depth=1, decoder_heads=2) | changes))


def small(architecture, **options):
    """The default preset's encoder, with some options changed."""
    return with_values(Config().teacher.encoder, {"architecture": architecture, architecture: options})


@pytest.mark.parametrize("architecture,millions", [("transformer", 6.3), ("efficientnet", 3.3)])
def test_paper_preset_has_the_papers_size(architecture, millions):
    encoder = build_encoder(EncoderConfig(architecture), dtype=jnp.float32)
    x = jnp.zeros((2, 3840, 4))
    assert parameter_count(shapes(encoder, x)) == pytest.approx(millions * 1e6, rel=0.05)
    assert jax.eval_shape(encoder.init_with_output, jax.random.key(0), x)[0].shape == (2, 256)


def test_paper_preset_has_192_tokens_of_which_the_encoder_sees_a_fifth():
    encoder = build_encoder(EncoderConfig("transformer"), dtype=jnp.float32)
    model = build_autoencoder(encoder, autoencoder_config(patch=7), samples=3840, dtype=jnp.float32)
    assert (3840 // model.patch, model.keep) == (192, 38)
    order = jnp.zeros((2, 192), jnp.int32)
    (prediction, embedding), _ = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((2, 3840, 4)), order
    )
    assert prediction.shape == (2, 154, 80) and embedding.shape == (2, 256)


@pytest.mark.parametrize("drop_fraction,keep", [(0.0, 3), (0.5, 2), (0.999, 1)])
def test_at_least_one_patch_is_kept_and_one_dropped(drop_fraction, keep):
    encoder = build_encoder(small("efficientnet"), dtype=jnp.float32)
    config = autoencoder_config(drop_fraction=drop_fraction)
    assert build_autoencoder(encoder, config, samples=80, dtype=jnp.float32).keep == keep


def test_a_broken_patch_is_refused():
    encoder = build_encoder(small("efficientnet"), dtype=jnp.float32)
    with pytest.raises(UserError, match="3840 samples are no whole number of patches of 21"):
        build_autoencoder(encoder, autoencoder_config(patch=21), samples=3840, dtype=jnp.float32)


def test_config_values_reach_the_modules():
    sizes = dict(patch=16, width=24, depth=2, heads=3, mlp=40, output=5)
    config = small("transformer", **sizes, positions="relative", tokenizer=((4, 7),))
    encoder = build_encoder(config, dtype=jnp.bfloat16)
    assert (encoder.patch, encoder.heads, encoder.positions, encoder.dtype) == (
        16,
        3,
        "relative",
        jnp.bfloat16,
    )
    params = shapes(encoder, jnp.zeros((1, 32, 2)))
    assert params["tokenizer_0"]["kernel"].shape == (8, 7)
    assert params["token"]["kernel"].shape == (28, 24)
    assert params["block_1"]["mlp_in"]["kernel"].shape == (24, 40) and "block_2" not in params
    assert params["projection"]["kernel"].shape == (24, 5)
    head = shapes(build_head(HeadConfig(hidden=9, output=3)), jnp.zeros((1, 5)))
    assert (head["hidden"]["kernel"].shape, head["output"]["kernel"].shape) == ((5, 9), (9, 3))


def test_half_precision_is_close_to_single(draw, scattered):
    x = draw(0, 2, 64, 2)
    config = small("efficientnet", stem=(8, 3, 2), stages=((8, 1, 2, 3, 2),), head=8, output=4)
    full, half = (build_encoder(config, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    params = scattered(full, x)
    a, b = (jax.jit(m.apply)({"params": params}, x) for m in (full, half))
    assert b.dtype == jnp.float32 and 0 < jnp.abs(a - b).max() < 0.1
