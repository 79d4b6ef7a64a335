"""A config file with an encoder architecture of its own: `--config=tests/stages/pooling_encoder.py`.

The encoder, its options and its registration stand in this file alone; the package does not know of it.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from accdistill_jax.config.fields import setting, size
from accdistill_jax.config.registry import ENCODERS
from accdistill_jax.configs import distill
from accdistill_jax.models.protocol import Encoded
from accdistill_jax.models.registered import Architecture
from accdistill_jax.models.transformer import patchify


@dataclasses.dataclass(frozen=True)
class PoolingOptions:
    """Options of the pooling encoder."""

    patch: int = setting(64, size(), "length of a token", unit="samples")
    width: int = setting(16, size(), "features of a token")


class PoolingEncoder(nn.Module):
    """Each patch by itself through two dense layers, then the mean."""

    patch: int
    width: int
    rematerialise: bool = False

    positions = "sinusoidal+relative"

    @property
    def token_width(self):
        return self.width

    @property
    def embedding_width(self):
        return self.width

    def __call__(self, x):
        return self.encode(x).embedding

    def encode(self, x):
        return self._encoded(patchify(x, self.patch))

    def encode_kept(self, x, kept, *, patch):
        return self._encoded(jnp.take_along_axis(patchify(x, patch), kept[:, :, None], axis=1))

    @nn.compact
    def _encoded(self, patches):
        tokens = nn.Dense(self.width, name="out")(jax.nn.gelu(nn.Dense(self.width, name="in")(patches)))
        return Encoded(tokens, jnp.mean(tokens, axis=1))

    def flops(self, *, samples, channels, patch=0, kept=0):
        tokens = kept or samples // self.patch
        return 2 * tokens * self.width * (self.patch * channels + self.width)


def build(options, *, dtype, rematerialise):
    return PoolingEncoder(options.patch, options.width, rematerialise)


ENCODERS.register("pooling", Architecture(build, drops_tokens=True), options=PoolingOptions)


def get_config(preset="smoke"):
    """The preset of the shipped config, with this encoder on both sides."""
    config = distill.get_config(preset)
    for section, width in ((config.teacher, 24), (config.student, 16)):
        section.encoder.architecture = "pooling"
        section.encoder.pooling.width = width
    config.student.drop_fraction = 0.5
    return config
