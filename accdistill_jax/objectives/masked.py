"""Masked autoencoding of one modality."""

from collections.abc import Mapping

import jax.numpy as jnp

from accdistill_jax.inputs.augment import Augmentation
from accdistill_jax.inputs.prepare import InputSettings, prepare
from accdistill_jax.inputs.present import STREAM_MASK, present, stream
from accdistill_jax.models.autoencoder import MaskedAutoencoder, dropped_patches, random_order
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.base import Objective, embedding_health


def masked_autoencoding(
    model: MaskedAutoencoder,
    *,
    modality: str,
    inputs: InputSettings,
    augmentations: Mapping[str, Augmentation],
) -> Objective:
    """Mean squared error on the dropped patches of one modality.

    Args:
        model: the autoencoder; what is kept afterwards is params["encoder"].
        modality: "ppg" or "accel".
        inputs: see `InputSettings`.
        augmentations: applied to input and target alike; {} for none.

    Source: arXiv 2412.11276 (masked autoencoder as the PPG teacher); He et al. 2022.
    """
    patch, keep = model.patch, model.keep

    def masked(frozen, batch, keys, *, training):
        x = present(batch, keys, modality, inputs, augmentations, training=training)
        return {"signal": x, "order": random_order(stream(keys, STREAM_MASK), x.shape[1] // patch)}

    def rows(params, masked):
        x, order = masked["signal"], masked["order"]
        prediction, embedding = model.apply({"params": params}, x, order)
        error = losses.masked_reconstruction(prediction, dropped_patches(x, order, patch=patch, keep=keep))
        return {"error": error, "embedding": embedding}

    def reduce(rows, axis_name, *, training):
        value = jnp.mean(rows["error"])
        return value, {"loss": value, **embedding_health(rows["embedding"], axis_name, spectrum=not training)}

    def init(key, batch):
        x = prepare(batch, modality, inputs)
        order = jnp.tile(jnp.arange(x.shape[1] // patch, dtype=jnp.int32), (x.shape[0], 1))
        return model.init(key, x, order)["params"]

    return Objective(init, masked, rows, reduce)
