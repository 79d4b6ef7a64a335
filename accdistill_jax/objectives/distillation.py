"""Distillation of a frozen PPG teacher into an accelerometer student: contrast, regression, or both."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from accdistill_jax.config.schema import StudentConfig
from accdistill_jax.errors import UserError
from accdistill_jax.inputs import streams
from accdistill_jax.models.autoencoder import kept_count, random_order
from accdistill_jax.models.build import build_head
from accdistill_jax.models.heads import LinearHead
from accdistill_jax.models.protocol import Encoder, Head
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.base import (
    Batch,
    Branch,
    CrossModalContrast,
    Metrics,
    Objective,
    ObjectiveParts,
    StepFlops,
    embedding_health,
)

TEACHER = "teacher"  # key of a batch: the teacher's standardised embedding, where it was computed before


def standard_embedding(teacher: Encoder, frozen: Any, ppg: jax.Array) -> jax.Array:
    """A frozen teacher's embedding of presented PPG [b, time, C], standardised per dimension: [b, D] float32, no gradient."""
    z = teacher.apply({"params": frozen["params"]}, ppg)
    return jax.lax.stop_gradient((z - frozen["mean"][None]) / frozen["std"][None])


@dataclasses.dataclass(frozen=True)
class DistillationLoss:
    """The loss of a distillation.

    Attributes:
        contrast: the contrastive loss.
        contrastive_weight, regression_weight: weights of the two losses; not both 0.
        regression: "mse" (mean over dimensions) or "cosine" (1 - cosine).
    """

    contrast: CrossModalContrast
    contrastive_weight: float = 1.0
    regression_weight: float = 0.0
    regression: str = "cosine"


@dataclasses.dataclass(frozen=True)
class Distillation(Objective):
    """Both directions of InfoNCE between the student's and a frozen teacher's embedding of the same minute.

    Trained are params["encoder"] (the student), params["head"] and params["teacher_head"]; `frozen` is the teacher:
    {"params", "mean" [D], "std" [D]}, whose embedding is standardised per dimension before its head. A batch that holds
    that embedding, `TEACHER` [b, D] float32, needs no PPG, and the teacher is not run.

    With a regression weight, a linear head predicts the teacher's standardised embedding from the student's
    (params["regression_head"]); with a contrastive weight of 0 neither projection head exists.

    Attributes:
        student, teacher: the branches, with projection heads onto the unit sphere; augmentations are drawn independently.
        loss_terms: weights and kinds of the losses.
        drop_fraction: share of its tokens that the student leaves out in training, drawn anew for every segment and step;
            0: none. Above 0 for encoders with a `patch` only.

    Source: arXiv 2412.11276 (cross-modal distillation); Li et al. 2023, "Scaling language-image pre-training via
    masking" (dropping tokens). Regression is not in the paper.
    """

    student: Branch
    teacher: Branch
    loss_terms: DistillationLoss
    drop_fraction: float = 0.0

    @classmethod
    def from_config(cls, section: StudentConfig, parts: ObjectiveParts) -> "Distillation":
        """See `Objective.from_config`."""
        if parts.ppg is None:
            raise ValueError("distillation needs a frozen teacher")
        patch = parts.branch.encoder.patch
        if section.drop_fraction and (patch is None or parts.samples < 2 * patch):
            raise UserError(
                f"config.student.drop_fraction = {section.drop_fraction!r}: a segment of {parts.samples} samples has a single "
                "token, and none can be dropped; set it to 0.0, or choose an encoder with shorter tokens"
            )
        head = build_head(section.head)
        terms = DistillationLoss(
            CrossModalContrast(section.temperature, section.teacher_to_student_weight),
            section.contrastive_weight,
            section.regression_weight,
            section.regression,
        )
        return cls(
            dataclasses.replace(parts.branch, head=head),
            dataclasses.replace(parts.ppg, head=head),
            terms,
            section.drop_fraction,
        )

    def init(self, key: jax.Array, batch: Batch) -> Any:
        """See `Objective.init`."""
        keys = jax.random.split(key, 3)
        embedding, variables = self.student.encoder.init_with_output(keys[0], self.student.prepare(batch))
        if TEACHER in batch:
            width = batch[TEACHER].shape[-1]
        else:
            ppg = self.teacher.prepare(batch)
            width = jax.eval_shape(lambda: self.teacher.encoder.init_with_output(keys[0], ppg)[0]).shape[-1]
        params = {"encoder": variables["params"]}
        if self.loss_terms.contrastive_weight:
            params["head"] = self.student.required_head.init(keys[1], embedding)["params"]
            params["teacher_head"] = self.teacher.required_head.init(keys[2], jnp.zeros((1, width)))["params"]
        if self.loss_terms.regression_weight:
            head_key = jax.random.fold_in(key, 3)
            params["regression_head"] = LinearHead(width).init(head_key, embedding)["params"]
        return params

    def inputs(self, frozen: Any, batch: Batch, keys: jax.Array, *, training: bool) -> dict[str, jax.Array]:
        """See `Objective.inputs`: the acceleration, the teacher's standardised embedding, and the tokens to keep."""
        views = {"accel": self.student.present(batch, keys, training=training)}
        if TEACHER in batch:
            views["teacher"] = batch[TEACHER]
        else:
            ppg = self.teacher.present(batch, keys, training=training)
            views["teacher"] = standard_embedding(self.teacher.encoder, frozen, ppg)
        if self.drop_fraction and training:
            if self.student.encoder.patch is None:
                raise ValueError("the student's encoder has no tokens to drop")
            tokens = views["accel"].shape[1] // self.student.encoder.patch
            order = random_order(streams.stream(keys, streams.TOKENS), tokens)
            views["kept"] = order[:, : kept_count(tokens, self.drop_fraction)]
        return views

    def flops(self, *, samples: int, channels: Mapping[str, int], cached: bool) -> StepFlops | None:
        """See `Objective.flops`; a regression is not counted."""
        if self.loss_terms.regression_weight or not self.loss_terms.contrastive_weight:
            return None
        student, teacher = self.student.encoder, self.teacher.encoder
        kept = {}
        if self.drop_fraction and student.patch:
            kept = {"patch": student.patch, "kept": kept_count(samples // student.patch, self.drop_fraction)}
        trained = student.flops(samples=samples, channels=channels["accel"], **kept)
        trained += self.student.required_head.flops(features=student.embedding_width)
        trained += self.teacher.required_head.flops(features=teacher.embedding_width)
        frozen = 0 if cached else teacher.flops(samples=samples, channels=channels["ppg"])
        return StepFlops(trained, frozen, self.student.required_head.output, student.embedding_width)

    def rows(self, params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See `Objective.rows`."""
        chex.assert_rank([inputs["accel"], inputs["teacher"]], [3, 2])
        chex.assert_equal_shape_prefix([inputs["accel"], inputs["teacher"]], 1)
        embedding = self.student.embed(params["encoder"], inputs["accel"], inputs.get("kept"))
        rows = {"embedding": embedding}
        if self.loss_terms.contrastive_weight:
            rows["teacher"] = self.teacher.project(params["teacher_head"], inputs["teacher"])
            rows["student"] = self.student.project(params["head"], embedding)
        if self.loss_terms.regression_weight:
            predicted = predict(params["regression_head"], embedding)
            rows["regression"] = losses.regression(predicted, inputs["teacher"], kind=self.loss_terms.regression)
        return rows

    def reduce(
        self, rows: Mapping[str, jax.Array], axis_name: str | None, *, training: bool
    ) -> tuple[jax.Array, Metrics]:
        """See `Objective.reduce`."""
        terms, value, metrics = self.loss_terms, jnp.float32(0), {}
        if terms.contrastive_weight:
            chex.assert_rank(rows["student"], 2)
            chex.assert_equal_shape([rows["student"], rows["teacher"]])
            both, metrics = terms.contrast(rows["teacher"], rows["student"], axis_name)
            value = both if terms.contrastive_weight == 1.0 else terms.contrastive_weight * both
            metrics["temperature"] = jnp.float32(terms.contrast.temperature)
        if terms.regression_weight:
            chex.assert_rank(rows["regression"], 1)
            metrics["regression"] = jnp.mean(rows["regression"])
            value = value + terms.regression_weight * metrics["regression"]
        metrics["loss"] = value
        return value, {**metrics, **embedding_health(rows["embedding"], axis_name, spectrum=not training)}

    @classmethod
    def readouts(cls, branch: Branch, params: Mapping[str, Any], pooled: jax.Array) -> dict[str, jax.Array]:
        """See `Objective.readouts`: the projection is the head's, or the predicted embedding of the teacher."""
        if branch.head is not None:
            return {"projection": branch.project(params["head"], pooled)}
        if "regression_head" in params:
            return {"projection": unit(predict(params["regression_head"], pooled))}
        return {}

    @classmethod
    def project_teacher(cls, branch: Branch, params: Mapping[str, Any], standard: jax.Array) -> jax.Array:
        """See `Objective.project_teacher`."""
        return unit(standard) if branch.head is None else branch.project(params["teacher_head"], standard)


def predict(params: Any, embedding: jax.Array) -> jax.Array:
    """The teacher's standardised embedding [b, D teacher] as a linear head's parameters predict it from [b, D]."""
    head: Head = LinearHead(params["output"]["bias"].shape[-1])
    return head.apply({"params": params}, embedding)


def unit(z: jax.Array) -> jax.Array:
    """Rows [b, D] at unit norm."""
    return z * jax.lax.rsqrt((z * z).sum(axis=-1, keepdims=True) + 1e-12)
