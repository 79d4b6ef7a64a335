"""An encoder trained on a label: the supervised baseline."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from accdistill_jax.inputs.augment import Augmentation
from accdistill_jax.inputs.prepare import InputSettings, prepare
from accdistill_jax.inputs.present import present
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.base import Objective, embedding_health

LABEL = "label"  # of a batch: [b] float32, in the target's unit, all known


def supervised(
    encoder: nn.Module,
    head: nn.Module,
    *,
    inputs: InputSettings,
    augmentations: Mapping[str, Augmentation],
) -> Objective:
    """Regression of one label of the segment from its acceleration.

    Trained are params["encoder"] and params["label_head"]; `frozen` is {"label_mean" [], "label_std" []}, with which the
    label is standardised. The loss is Huber's (1 standard deviation), so that a wrong label does not lead.

    Args:
        encoder: [batch, time, C] -> [batch, D].
        head: [batch, D] -> [batch, 1].
        inputs: see `InputSettings`.
        augmentations: of the acceleration; {} for none.

    Source: the supervised baseline of arXiv 2412.11276; its loss is our choice.
    """

    def views(frozen, batch, keys, *, training):
        return {
            "accel": present(batch, keys, "accel", inputs, augmentations, training=training),
            "target": (batch[LABEL] - frozen["label_mean"]) / frozen["label_std"],
            "unit": jnp.broadcast_to(frozen["label_std"], batch[LABEL].shape),
        }

    def rows(params, views):
        z = encoder.apply({"params": params["encoder"]}, views["accel"])
        error = head.apply({"params": params["label_head"]}, z)[:, 0] - views["target"]
        return {"loss": losses.huber(error), "absolute": jnp.abs(error) * views["unit"], "embedding": z}

    def reduce(rows, axis_name, *, training):
        value = jnp.mean(rows["loss"])
        metrics = {"loss": value, "mean_absolute_error": jnp.mean(rows["absolute"])}
        return value, {**metrics, **embedding_health(rows["embedding"], axis_name, spectrum=not training)}

    def init(key, batch):
        keys = jax.random.split(key)
        z, variables = encoder.init_with_output(keys[0], prepare(batch, "accel", inputs))
        return {"encoder": variables["params"], "label_head": head.init(keys[1], z)["params"]}

    return Objective(init, views, rows, reduce)
