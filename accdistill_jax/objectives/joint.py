"""Both encoders trained together from scratch: the paper's negative control."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import chex
import jax

from accdistill_jax.config.schema import StudentConfig
from accdistill_jax.models.build import build_head
from accdistill_jax.models.protocol import Encoded
from accdistill_jax.objectives.base import (
    Batch,
    Branch,
    Metrics,
    Objective,
    ObjectiveParts,
    Segments,
    embedding_health,
)
from accdistill_jax.objectives.contrast import CrossModalContrast


@dataclasses.dataclass(frozen=True)
class JointTraining(Objective):
    """The contrast of `Distillation` with a PPG encoder that is trained too, and nothing frozen.

    Trained are params["encoder"], params["head"], params["teacher"] (the PPG encoder), params["teacher_head"], and the
    scalars of the loss if it has any (`CrossModalContrast`).

    Attributes:
        student, teacher: the branches of acceleration and PPG, with projection heads onto the unit sphere; augmentations are
            drawn independently.
        contrast: the loss.

    Source: arXiv 2412.11276 (training both encoders simultaneously, reported as far worse than distillation).
    """

    student: Branch
    teacher: Branch
    contrast: CrossModalContrast

    @classmethod
    def from_config(cls, section: StudentConfig, parts: ObjectiveParts) -> "JointTraining":
        """See `Objective.from_config`."""
        if parts.ppg is None:
            raise ValueError("joint training needs a PPG encoder")
        head = build_head(section.head)
        return cls(
            dataclasses.replace(parts.branch, head=head),
            dataclasses.replace(parts.ppg, head=head),
            CrossModalContrast.from_config(section),
        )

    @property
    def batches(self) -> Segments:
        """See `Objective.batches`."""
        return self.contrast.batches

    def init(self, key: jax.Array, batch: Batch) -> Any:
        """See `Objective.init`."""
        keys = jax.random.split(key, 4)
        encoder, head = self.student.init(keys[:2], batch)
        teacher, teacher_head = self.teacher.init(keys[2:], batch)
        params = {"encoder": encoder, "head": head, "teacher": teacher, "teacher_head": teacher_head}
        return self.contrast.with_scalars(params)

    def inputs(self, frozen: Any, batch: Batch, keys: jax.Array, *, training: bool) -> dict[str, jax.Array]:
        """See `Objective.inputs`: both modalities."""
        return {
            "accel": self.student.present(batch, keys, training=training),
            "ppg": self.teacher.present(batch, keys, training=training),
        }

    def rows(self, params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See `Objective.rows`."""
        chex.assert_rank([inputs["accel"], inputs["ppg"]], 3)
        accel = self.student.encode(params["encoder"], inputs["accel"])
        ppg = self.teacher.encode(params["teacher"], inputs["ppg"])
        return {
            "student": self.student.project(params["head"], self.student.pooled(accel)),
            "teacher": self.teacher.project(params["teacher_head"], self.teacher.pooled(ppg)),
            "embedding": accel.embedding,
            "ppg_embedding": ppg.embedding,
            **self.contrast.rows(params, len(inputs["accel"])),
        }

    def reduce(
        self, rows: Mapping[str, jax.Array], axis_name: str | None, *, training: bool
    ) -> tuple[jax.Array, Metrics]:
        """See `Objective.reduce`."""
        chex.assert_rank(rows["student"], 2)
        chex.assert_equal_shape([rows["student"], rows["teacher"]])
        value, parts = self.contrast(rows, axis_name)
        metrics = {"loss": value, **parts}
        of_ppg = embedding_health(rows["ppg_embedding"], axis_name, spectrum=not training)
        metrics |= {f"ppg_{name}": value for name, value in of_ppg.items()}
        return value, {**metrics, **embedding_health(rows["embedding"], axis_name, spectrum=not training)}

    def constrained(self, params: Any) -> dict[str, Any]:
        """See `Objective.constrained`."""
        return self.contrast.constrained(params)

    @classmethod
    def readouts(cls, branch: Branch, params: Mapping[str, Any], encoded: Encoded) -> dict[str, jax.Array]:
        """See `Objective.readouts`."""
        return {"projection": branch.project(params["head"], branch.pooled(encoded))}

    @classmethod
    def represent_ppg(cls, branch: Branch, params: Mapping[str, Any], batch: Batch) -> dict[str, jax.Array]:
        """See `Objective.represent_ppg`."""
        encoded = branch.encode(params["teacher"], branch.prepare(batch))
        projection = branch.project(params["teacher_head"], branch.pooled(encoded))
        return {"embedding": branch.represent(encoded), "projection": projection}
