"""Builds modules from config sections."""

from typing import Any

import jax
import jax.numpy as jnp

from accdistill_jax.config.registry import ENCODERS
from accdistill_jax.config.schema import EncoderConfig, HeadConfig
from accdistill_jax.config.tree import with_values
from accdistill_jax.errors import UserError
from accdistill_jax.models.autoencoder import MaskedAutoencoder, kept_count
from accdistill_jax.models.efficientnet import EfficientNetEncoder, Stage
from accdistill_jax.models.heads import ProjectionHead
from accdistill_jax.models.protocol import Encoder
from accdistill_jax.models.registered import Architecture, EfficientNetOptions, TransformerOptions
from accdistill_jax.models.transformer import TransformerEncoder


def compute_dtype(name: str) -> jnp.dtype:
    """The dtype of a name, "float32" or "bfloat16"."""
    return jnp.dtype(name)


def build_encoder(config: EncoderConfig, *, dtype: jnp.dtype, rematerialise: str = "none") -> Encoder:
    """Encoder of `config.architecture`, [batch, time, C] -> [batch, D] float32.

    Args:
        config: an `encoder` section: architecture, and a section of options for each architecture.
        dtype: compute dtype.
        rematerialise: "none", or "blocks": the backward pass recomputes each block.
    """
    build = architecture(config).load()
    return build(config.chosen, dtype=dtype, rematerialise=rematerialise == "blocks")


def architecture(config: EncoderConfig) -> Architecture:
    """The registered architecture of an `encoder` section."""
    return ENCODERS.get(config.architecture)


def encoder_of_tokens(config: EncoderConfig) -> EncoderConfig:
    """An `encoder` section without the layers that a loss on the tokens leaves untrained.

    A masked autoencoder's decoder reads the tokens; a layer on their mean would stay as initialised. A probe on the mean
    itself loses nothing.
    """
    section = ENCODERS.entry(config.architecture).section
    return with_values(config, {section: architecture(config).token_options})


def build_transformer(options: TransformerOptions, *, dtype: jnp.dtype, rematerialise: bool) -> TransformerEncoder:
    """The Transformer of its options."""
    return TransformerEncoder(
        patch=options.patch,
        width=options.width,
        depth=options.depth,
        heads=options.heads,
        mlp=options.mlp,
        tokenizer=options.tokenizer,
        stem=options.stem,
        positions=options.positions,
        output=options.output,
        dtype=dtype,
        rematerialise=rematerialise,
        residual=dtype if options.residual == "compute" else jnp.dtype(jnp.float32),
    )


def build_efficientnet(options: EfficientNetOptions, *, dtype: jnp.dtype, rematerialise: bool) -> EfficientNetEncoder:
    """The EfficientNet of its options."""
    return EfficientNetEncoder(
        stem=options.stem,
        stages=tuple(Stage(*stage) for stage in options.stages),
        head=options.head,
        output=options.output,
        dtype=dtype,
        rematerialise=rematerialise,
    )


def build_autoencoder(encoder: Encoder, config: Any, *, samples: int, dtype: jnp.dtype) -> MaskedAutoencoder:
    """Masked autoencoder around an encoder.

    Args:
        encoder: the encoder to pretrain.
        config: an `autoencoder` section: patch (for an encoder without its own), drop_fraction, decoder_width,
            decoder_depth, decoder_heads.
        samples: of a segment; round(patches * (1 - drop_fraction)) of its patches are kept.
        dtype: compute dtype.

    Raises:
        UserError: the segment's samples are not a multiple of the patch.
    """
    patch = encoder.patch or config.patch
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


def build_head(config: HeadConfig) -> ProjectionHead:
    """Projection head of a `head` section."""
    return ProjectionHead(
        hidden=config.hidden, output=config.output, windows=config.windows, weighting=config.weighting
    )


def parameter_count(params: Any) -> int:
    """Number of scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
