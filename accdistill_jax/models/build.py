"""From config to modules: the one place where architecture names mean something."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from accdistill_jax.errors import UserError
from accdistill_jax.models.autoencoder import MaskedAutoencoder, kept_count
from accdistill_jax.models.efficientnet import EfficientNetEncoder, Stage
from accdistill_jax.models.heads import ProjectionHead
from accdistill_jax.models.transformer import TransformerEncoder

ARCHITECTURES = ("transformer", "efficientnet")


def compute_dtype(name: str) -> jnp.dtype:
    """ "float32" or "bfloat16" as a dtype."""
    return jnp.dtype(name)


def build_encoder(config: Any, *, dtype: jnp.dtype, rematerialise: str = "none") -> nn.Module:
    """Encoder of `config.architecture`, [batch, time, C] -> [batch, D] float32.

    Args:
        config: an `encoder` section: architecture, transformer.*, efficientnet.*.
        dtype: compute dtype.
        rematerialise: what the backward pass computes again instead of keeping it: "none" or "blocks".
    """
    again = rematerialise == "blocks"
    if config.architecture == "transformer":
        c = config.transformer
        return TransformerEncoder(
            patch=c.patch,
            width=c.width,
            depth=c.depth,
            heads=c.heads,
            mlp=c.mlp,
            tokenizer=tuple(tuple(level) for level in c.tokenizer),
            positions=c.positions,
            output=c.output,
            dtype=dtype,
            rematerialise=again,
            residual=dtype
            if c.get("residual") == "compute"
            else jnp.float32,  # exports of earlier versions have no such key
        )
    c = config.efficientnet
    return EfficientNetEncoder(
        stem=tuple(c.stem),
        stages=tuple(Stage(*stage) for stage in c.stages),
        head=c.head,
        output=c.output,
        dtype=dtype,
        rematerialise=again,
    )


def build_autoencoder(encoder: nn.Module, config: Any, *, samples: int, dtype: jnp.dtype) -> MaskedAutoencoder:
    """Masked autoencoder around an encoder.

    Args:
        encoder: the encoder to pretrain.
        config: an `autoencoder` section: patch (of an EfficientNet; a Transformer has its own), drop_fraction,
            decoder_width, decoder_depth, decoder_heads.
        samples: of a segment; round(patches * (1 - drop_fraction)) of its patches are kept.
        dtype: compute dtype.

    Raises:
        UserError: the segment is not a whole number of patches.
    """
    patch = encoder.patch if isinstance(encoder, TransformerEncoder) else config.patch
    if samples % patch:
        raise UserError(
            f"segments of {samples} samples are no whole number of patches of {patch}: change the patch size"
        )
    return MaskedAutoencoder(
        encoder=encoder,
        patch=patch,
        keep=kept_count(samples // patch, config.drop_fraction),
        decoder_width=config.decoder_width,
        decoder_depth=config.decoder_depth,
        decoder_heads=config.decoder_heads,
        dtype=dtype,
    )


def build_head(config: Any) -> ProjectionHead:
    """Projection head of a `head` section: hidden, output."""
    return ProjectionHead(hidden=config.hidden, output=config.output)


def parameter_count(params: Any) -> int:
    """Number of scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
