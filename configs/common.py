"""Sections of a config for config files, made from the schema (`python -m accdistill_jax.config` prints it). No jax here.

A config file begins with `defaults()`, or with `get_config` of configs/distill.py, and changes what differs.
"""

from ml_collections import ConfigDict

from accdistill_jax.config.convert import as_config_dict
from accdistill_jax.config.registry import OBJECTIVES
from accdistill_jax.config.schema import Config, EncoderConfig, InputSettings, TrainConfig
from accdistill_jax.config.tree import with_values


def defaults() -> ConfigDict:
    """Every key with its default: minutes on two cores, synthetic data."""
    return as_config_dict(Config())


def synthetic() -> ConfigDict:
    """The section `data.synthetic`."""
    return as_config_dict(Config().data.synthetic)


def data() -> ConfigDict:
    """The section `data`."""
    return as_config_dict(Config().data)


def inputs(bands: str = "full", limit: float = 0.0) -> ConfigDict:
    """The section `inputs` of a modality, by default as in the paper."""
    return as_config_dict(InputSettings(bands=bands, limit=limit))


def augmentations() -> ConfigDict:
    """A modality's augmentations with the probabilities of arXiv 2312.05409; the strengths are our choice."""
    return as_config_dict(Config().student.augment.accel)


def no_augmentations() -> ConfigDict:
    """A modality's augmentations, every probability zero."""
    return as_config_dict(Config().teacher.augment)


def encoder_paper(architecture: str) -> ConfigDict:
    """An encoder of the paper's size; sizes that the paper does not state are our choice.

    Heads of 64 are such a choice: on an H200 they are 1.12 times as fast as heads of 32.
    """
    return as_config_dict(
        with_values(EncoderConfig(architecture=architecture), {"transformer": {"residual": "compute"}})
    )


def encoder_small(architecture: str) -> ConfigDict:
    """An encoder for minutes on two cores; sizes are our choice."""
    return as_config_dict(with_values(Config().teacher.encoder, {"architecture": architecture}))


def autoencoder(*, drop_fraction: float, decoder_width: int, decoder_depth: int, decoder_heads: int) -> ConfigDict:
    """The section `autoencoder` of a stage."""
    options = OBJECTIVES.sections()["autoencoder"]
    return as_config_dict(
        options(
            drop_fraction=drop_fraction,
            decoder_width=decoder_width,
            decoder_depth=decoder_depth,
            decoder_heads=decoder_heads,
        )
    )


def contrastive(*, hidden: int, output: int) -> ConfigDict:
    """The section `contrastive` of a stage, values of arXiv 2312.05409."""
    options = OBJECTIVES.sections()["contrastive"]
    return as_config_dict(with_values(options(), {"head": {"hidden": hidden, "output": output}}))


def train(*, duration: str, batch_size: int, learning_rate: float) -> ConfigDict:
    """The section `train` of a stage."""
    return as_config_dict(TrainConfig(duration=duration, batch_size=batch_size, learning_rate=learning_rate))
