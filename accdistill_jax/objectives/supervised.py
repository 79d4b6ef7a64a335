"""An encoder trained on a label: the supervised baseline."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from accdistill_jax.config.schema import StudentConfig
from accdistill_jax.models.heads import LinearHead
from accdistill_jax.models.protocol import Encoded, Head
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.base import (
    LABEL,
    Batch,
    Branch,
    Labelled,
    Metrics,
    Objective,
    ObjectiveParts,
    embedding_health,
)
from accdistill_jax.objectives.registered import SupervisedOptions


@dataclasses.dataclass(frozen=True)
class Supervised(Objective):
    """Regression of one label of the segment from its acceleration.

    Trained are params["encoder"] and params["label_head"]; `frozen` is {"label_mean" [], "label_std" []}, with which the
    label is standardised. The loss is Huber's (1 standard deviation), which limits the weight of wrong labels.

    Attributes:
        branch: the encoder, with a head [batch, D] -> [batch, 1].
        labels: the labelled batches to train on.

    Source: the supervised baseline of arXiv 2412.11276; its loss is our choice.
    """

    branch: Branch
    labels: Labelled

    @classmethod
    def from_config(cls, section: StudentConfig, parts: ObjectiveParts) -> "Supervised":
        """See `Objective.from_config`; reads `SupervisedOptions`."""
        options = section.objectives.of(SupervisedOptions)
        branch = dataclasses.replace(parts.branch, head=LinearHead(1))
        return cls(branch, Labelled(options.target, options.label_fraction, options.subset))

    @property
    def batches(self) -> Labelled:
        """See `Objective.batches`."""
        return self.labels

    def init(self, key: jax.Array, batch: Batch) -> Any:
        """See `Objective.init`."""
        encoder, head = self.branch.init(jax.random.split(key), batch)
        return {"encoder": encoder, "label_head": head}

    def inputs(self, frozen: Any, batch: Batch, keys: jax.Array, *, training: bool) -> dict[str, jax.Array]:
        """See `Objective.inputs`: the acceleration, the standardised label and its unit."""
        chex.assert_rank(batch[LABEL], 1)
        return {
            "accel": self.branch.present(batch, keys, training=training),
            "target": (batch[LABEL] - frozen["label_mean"]) / frozen["label_std"],
            "unit": jnp.broadcast_to(frozen["label_std"], batch[LABEL].shape),
        }

    def rows(self, params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See `Objective.rows`."""
        chex.assert_rank([inputs["accel"], inputs["target"]], [3, 1])
        z = self.branch.embed(params["encoder"], inputs["accel"])
        error = self.branch.project(params["label_head"], z)[:, 0] - inputs["target"]
        return {"loss": losses.huber(error), "absolute": jnp.abs(error) * inputs["unit"], "embedding": z}

    def reduce(
        self, rows: Mapping[str, jax.Array], axis_name: str | None, *, training: bool
    ) -> tuple[jax.Array, Metrics]:
        """See `Objective.reduce`."""
        chex.assert_rank([rows["loss"], rows["absolute"]], 1)
        value = jnp.mean(rows["loss"])
        metrics = {"loss": value, "mean_absolute_error": jnp.mean(rows["absolute"])}
        return value, {**metrics, **embedding_health(rows["embedding"], axis_name, spectrum=not training)}

    def exported(self, params: Any, frozen: Any) -> dict[str, Any]:
        """See `Objective.exported`; with the statistics that give a prediction its unit."""
        return {**params, **frozen}

    @classmethod
    def readouts(cls, branch: Branch, params: Mapping[str, Any], encoded: Encoded) -> dict[str, jax.Array]:
        """See `Objective.readouts`: the predicted label."""
        head: Head = LinearHead(1)
        standard = head.apply({"params": params["label_head"]}, encoded.embedding)[:, 0]
        return {"prediction": params["label_mean"] + params["label_std"] * standard}
