"""Contrastive pretraining of one modality with a momentum branch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import chex
import jax

from accdistill_jax.config.schema import StudentConfig, TeacherConfig
from accdistill_jax.inputs import streams
from accdistill_jax.models.build import build_head
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.base import (
    SECOND,
    TARGET,
    Batch,
    Branch,
    Metrics,
    Objective,
    ObjectiveParts,
    ParticipantPairs,
    Segments,
    embedding_health,
)
from accdistill_jax.objectives.registered import ContrastiveOptions


@dataclasses.dataclass(frozen=True)
class Contrastive(Objective):
    """InfoNCE between two views of one modality, and KoLeo, which spreads the embeddings out.

    Trained are params["encoder"] and params["head"]. The first view goes through them; the second through their average
    over the steps before (`frozen[TARGET]`, no gradient), or with a momentum of 0 through the parameters themselves. Views
    are augmented in validation too: without augmentation both views of a segment would be the same.

    Attributes:
        branch: the encoder that is pretrained, with a projection head onto the unit sphere; its augmentations are drawn
            independently for the two views.
        positives: "segment": both views are of one segment; "participant": the second is of another segment of the same
            participant, which the batch holds under names that begin with `SECOND`.
        temperature: of the softmax.
        koleo_weight: of the KoLeo term on the first view's projections; 0: none.
        momentum: decay of the average per step, 0.99 in the source.

    Source: arXiv 2312.05409 (participant-level positives, momentum branch, InfoNCE with KoLeo); details of the
    combination are our choice.
    """

    branch: Branch
    positives: str
    temperature: float
    koleo_weight: float
    momentum: float = 0.0

    @classmethod
    def from_config(cls, section: TeacherConfig | StudentConfig, parts: ObjectiveParts) -> "Contrastive":
        """See `Objective.from_config`; reads `ContrastiveOptions`."""
        options = section.objectives.of(ContrastiveOptions)
        branch = dataclasses.replace(parts.branch, head=build_head(options.head))
        return cls(branch, options.positives, options.temperature, options.koleo_weight, options.momentum)

    @property
    def batches(self) -> Segments | ParticipantPairs:
        """See `Objective.batches`."""
        return ParticipantPairs(self.branch.modality) if self.positives == "participant" else Segments()

    def init(self, key: jax.Array, batch: Batch) -> Any:
        """See `Objective.init`."""
        encoder, head = self.branch.init(jax.random.split(key), batch)
        return {"encoder": encoder, "head": head}

    def inputs(self, frozen: Any, batch: Batch, keys: jax.Array, *, training: bool) -> dict[str, jax.Array]:
        """See `Objective.inputs`: the first view, and the second one or its projection by the average."""
        second_keys, other = streams.stream(keys, streams.SECOND_VIEW), batch
        if self.positives == "participant":
            other = {name.removeprefix(SECOND): value for name, value in batch.items() if name.startswith(SECOND)}
        first = self.branch.present(batch, keys, training=True)
        second = self.branch.present(other, second_keys, training=True)
        if not self.momentum:
            return {"first": first, "second": second}
        return {"first": first, "key": jax.lax.stop_gradient(self._project(frozen[TARGET], second)[1])}

    def _project(self, params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        encoded = self.branch.encode(params["encoder"], x)
        return encoded.embedding, self.branch.project(params["head"], self.branch.pooled(encoded))

    def rows(self, params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See `Objective.rows`."""
        chex.assert_rank(inputs["first"], 3)
        embedding, query = self._project(params, inputs["first"])
        key = inputs["key"] if self.momentum else self._project(params, inputs["second"])[1]
        return {"query": query, "key": key, "embedding": embedding}

    def reduce(
        self, rows: Mapping[str, jax.Array], axis_name: str | None, *, training: bool
    ) -> tuple[jax.Array, Metrics]:
        """See `Objective.reduce`."""
        query, key = rows["query"], rows["key"]
        chex.assert_rank([query, rows["embedding"]], 2)
        chex.assert_equal_shape([query, key])
        nce = losses.info_nce(query, key, temperature=self.temperature, axis_name=axis_name)
        metrics, value = {"info_nce": nce}, nce
        if self.koleo_weight:
            metrics["koleo"] = losses.koleo(query, axis_name=axis_name)
            value = nce + self.koleo_weight * metrics["koleo"]
        health = embedding_health(rows["embedding"], axis_name, spectrum=not training)
        return value, {"loss": value, **metrics, **health}
