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
from accdistill_jax.models.protocol import Encoded, Head
from accdistill_jax.models.windows import window_means
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.base import (
    PROGRESS,
    Batch,
    Branch,
    Metrics,
    Objective,
    ObjectiveParts,
    Segments,
    StepFlops,
    embedding_health,
)
from accdistill_jax.objectives.contrast import CrossModalContrast
from accdistill_jax.objectives.given import GivenBranch
from accdistill_jax.objectives.teacher_reading import EMBEDDING, TEACHER, TOKENS, WINDOWS, TeacherReading, standardised

TOKEN_STATISTICS = "teacher_tokens"  # part of an export's arrays: {"mean" [D'], "std" [D']} of the teacher's tokens


@dataclasses.dataclass(frozen=True)
class DistillationLoss:
    """The loss of a distillation.

    Attributes:
        contrast: the contrastive loss.
        contrastive_weight, regression_weight: weights of the two losses; not both 0.
        regression: "mse" (mean over dimensions) or "cosine" (1 - cosine).
        token_weight: weight of the regression onto the teacher's tokens; 0: none.
        token_schedule: "constant", or "linear": that weight falls linearly to 0 over the training.
    """

    contrast: CrossModalContrast
    contrastive_weight: float = 1.0
    regression_weight: float = 0.0
    regression: str = "cosine"
    token_weight: float = 0.0
    token_schedule: str = "constant"


@dataclasses.dataclass(frozen=True)
class Distillation(Objective):
    """Both directions of InfoNCE between the student's and a frozen teacher's embedding of the same minute.

    Trained are params["encoder"] (the student), params["head"] and params["teacher_head"]; `frozen` is the teacher:
    {"params", "mean" [D], "std" [D]}, whose embedding is standardised per dimension before its head. A batch that holds
    `TEACHER`, the quantities of `teacher_reading`, needs no PPG, and the teacher is not run.

    The loss may be another one than InfoNCE, and may train scalars of its own, params["contrast"]: see `CrossModalContrast`.

    With a regression weight, a linear head predicts the teacher's standardised embedding from the student's
    (params["regression_head"]); with a contrastive weight of 0 neither projection head exists.

    Heads with several windows read the means of tokens in windows of time in place of the embedding, on both sides. With a
    token weight, a linear head predicts each of the teacher's tokens from the student's tokens of the same time
    (params["token_head"]); the loss is the mean squared error, 1 for a student that knows nothing. The teacher's tokens are
    standardised per dimension for both; `frozen` then holds "token_mean" [D'] and "token_std" [D'] too.

    Attributes:
        student, teacher: the branches, with projection heads onto the unit sphere; augmentations are drawn independently.
        loss_terms: weights and kinds of the losses.
        drop_fraction: share of its tokens that the student leaves out in training, drawn anew for every segment and step;
            0: none. Above 0 for encoders with a `patch` only.

    Source: arXiv 2412.11276 (cross-modal distillation); Li et al. 2023, "Scaling language-image pre-training via
    masking" (dropping tokens). Regression, windows and tokens are not in the paper.
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
        given = isinstance(parts.ppg, GivenBranch)  # a vector has no windows and no tokens
        head = build_head(dataclasses.replace(section.head, windows=1) if given else section.head)
        terms = DistillationLoss(
            CrossModalContrast.from_config(section),
            section.contrastive_weight,
            section.regression_weight,
            section.regression,
            0.0 if given else section.token_weight,
            section.token_schedule,
        )
        return cls(
            dataclasses.replace(parts.branch, head=head),
            dataclasses.replace(parts.ppg, head=head),
            terms,
            section.drop_fraction,
        )

    @property
    def windows(self) -> int:
        """Windows that the projection heads read; 1: none."""
        return self.teacher.required_head.windows if self.loss_terms.contrastive_weight else 1

    @property
    def teacher_reading(self) -> TeacherReading:
        """See `Objective.teacher_reading`."""
        terms = self.loss_terms
        by_contrast = bool(terms.contrastive_weight) and self.windows == 1
        return TeacherReading(by_contrast or bool(terms.regression_weight), self.windows, bool(terms.token_weight))

    @property
    def batches(self) -> Segments:
        """See `Objective.batches`."""
        return self.loss_terms.contrast.batches

    def init(self, key: jax.Array, batch: Batch) -> Any:
        """See `Objective.init`."""
        keys = jax.random.split(key, 3)
        x = self.student.prepare(batch)
        encoded, variables = self.student.encoder.init_with_output(keys[0], x, method="encode")
        teacher, terms = self.teacher.encoder, self.loss_terms
        params = {"encoder": variables["params"]}
        if terms.contrastive_weight:
            params["head"] = self.student.required_head.init(keys[1], self.student.pooled(encoded))["params"]
            read = jnp.zeros((1, teacher.embedding_width))
            if self.windows > 1:
                read = jnp.zeros((1, self.windows, teacher.token_width))
            params["teacher_head"] = self.teacher.required_head.init(keys[2], read)["params"]
            params = terms.contrast.with_scalars(params)
        if terms.regression_weight:
            head_key, head = jax.random.fold_in(key, 3), LinearHead(teacher.embedding_width)
            params["regression_head"] = head.init(head_key, encoded.embedding)["params"]
        if terms.token_weight:
            head_key, head = jax.random.fold_in(key, 4), LinearHead(teacher.token_width)
            params["token_head"] = head.init(head_key, encoded.tokens)["params"]
        return params

    def inputs(self, frozen: Any, batch: Batch, keys: jax.Array, *, training: bool) -> dict[str, jax.Array]:
        """See `Objective.inputs`: the acceleration, the teacher's standardised quantities, and the tokens to keep."""
        views = {"accel": self.student.present(batch, keys, training=training)}
        if TEACHER in batch:
            joined = batch[TEACHER]
        else:
            ppg = self.teacher.present(batch, keys, training=training)
            joined = self.teacher_reading.joined(self.teacher.encoder, frozen, ppg)
        views |= self.teacher_reading.split(frozen, joined)
        if self.loss_terms.token_weight:
            left = 1.0 - frozen[PROGRESS] if self.loss_terms.token_schedule == "linear" else 1.0
            weight = jnp.float32(self.loss_terms.token_weight * left)
            views["token_weight"] = jnp.broadcast_to(weight, joined.shape[:1])
        if self.drop_fraction and training:
            tokens = self._token_count(views["accel"])
            order = random_order(streams.stream(keys, streams.TOKENS), tokens)
            views["kept"] = order[:, : kept_count(tokens, self.drop_fraction)]
        return views

    def _token_count(self, accel: jax.Array) -> int:
        """Tokens of a whole segment of presented acceleration [b, time, C]."""
        if self.student.encoder.patch is None:
            raise ValueError("the student's encoder has no tokens to drop")
        return accel.shape[1] // self.student.encoder.patch

    def flops(self, *, samples: int, channels: Mapping[str, int], cached: bool) -> StepFlops | None:
        """See `Objective.flops`; means over windows do not count. None for tokens of an unknown number, and for the sigmoid loss."""
        terms, student, teacher = self.loss_terms, self.student.encoder, self.teacher.encoder
        if terms.contrastive_weight and terms.contrast.loss == "sigmoid":
            return None
        kept = {}
        if self.drop_fraction and student.patch:
            kept = {"patch": student.patch, "kept": kept_count(samples // student.patch, self.drop_fraction)}
        trained = student.flops(samples=samples, channels=channels["accel"], **kept)
        projection = 0
        if terms.contrastive_weight:
            projection = self.windows * self.student.required_head.output
            for branch in (self.student, self.teacher):
                encoder = branch.encoder
                features = encoder.token_width if self.windows > 1 else encoder.embedding_width
                trained += branch.required_head.flops(features=features)
        if terms.regression_weight:
            trained += LinearHead(teacher.embedding_width).flops(features=student.embedding_width)
        if terms.token_weight:
            if teacher.patch is None:
                return None
            tokens = samples // teacher.patch
            trained += tokens * LinearHead(teacher.token_width).flops(features=student.token_width)
        frozen = 0 if cached else teacher.flops(samples=samples, channels=channels["ppg"])
        return StepFlops(trained, frozen, projection, student.embedding_width)

    def rows(self, params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See `Objective.rows`."""
        chex.assert_equal_shape_prefix(list(inputs.values()), 1)
        return self.rows_of(params, inputs, self.encode_student(params, inputs))

    def encode_student(self, params: Any, inputs: Mapping[str, jax.Array]) -> Encoded:
        """The student's tokens and embedding, the first half of `rows`."""
        chex.assert_rank(inputs["accel"], 3)
        return self.student.encode(params["encoder"], inputs["accel"], inputs.get("kept"))

    def rows_of(self, params: Any, inputs: Mapping[str, jax.Array], encoded: Encoded) -> dict[str, jax.Array]:
        """The heads' outputs for the student's encoded segments, the second half of `rows`."""
        chex.assert_equal_shape_prefix(list(inputs.values()), 1)
        kept, terms = inputs.get("kept"), self.loss_terms
        count = None if kept is None else self._token_count(inputs["accel"])
        rows = {"embedding": encoded.embedding}
        if terms.contrastive_weight:
            read = inputs[WINDOWS if self.windows > 1 else EMBEDDING]
            rows["teacher"] = self.teacher.project(params["teacher_head"], read)
            rows["student"] = self.student.project(params["head"], self.student.pooled(encoded, kept, count=count))
            rows |= terms.contrast.rows(params, len(encoded.embedding))
        if terms.regression_weight:
            predicted = predict(params["regression_head"], encoded.embedding)
            rows["regression"] = losses.regression(predicted, inputs[EMBEDDING], kind=terms.regression)
        if terms.token_weight:
            target = inputs[TOKENS]
            # the teacher's tokens may be shorter or longer than the student's
            same_time = window_means(encoded.tokens, target.shape[1], kept=kept, count=count)
            predicted = predict(params["token_head"], same_time.mean)
            rows["token"] = losses.mean_square_where(predicted, target, same_time.count > 0)
            rows["token_weight"] = inputs["token_weight"]
        return rows

    def reduce(
        self, rows: Mapping[str, jax.Array], axis_name: str | None, *, training: bool
    ) -> tuple[jax.Array, Metrics]:
        """See `Objective.reduce`."""
        terms, value, metrics = self.loss_terms, jnp.float32(0), {}
        if terms.contrastive_weight:
            chex.assert_rank(rows["student"], 2)
            chex.assert_equal_shape([rows["student"], rows["teacher"]])
            both, metrics = terms.contrast(rows, axis_name)
            value = both if terms.contrastive_weight == 1.0 else terms.contrastive_weight * both
        if terms.regression_weight:
            chex.assert_rank(rows["regression"], 1)
            metrics["regression"] = jnp.mean(rows["regression"])
            value = value + terms.regression_weight * metrics["regression"]
        if terms.token_weight:
            chex.assert_rank([rows["token"], rows["token_weight"]], 1)
            metrics["token_regression"] = jnp.mean(rows["token"])
            metrics["token_weight"] = jnp.mean(rows["token_weight"])
            value = value + jnp.mean(rows["token_weight"] * rows["token"])
        metrics["loss"] = value
        return value, {**metrics, **embedding_health(rows["embedding"], axis_name, spectrum=not training)}

    def constrained(self, params: Any) -> Any:
        """See `Objective.constrained`."""
        terms = self.loss_terms
        return terms.contrast.constrained(params) if terms.contrastive_weight else params

    def exported(self, params: Any, frozen: Any) -> dict[str, Any]:
        """See `Objective.exported`; with the statistics of the teacher's tokens if its head reads them."""
        if self.windows == 1:
            return dict(params)
        return {**params, TOKEN_STATISTICS: {"mean": frozen["token_mean"], "std": frozen["token_std"]}}

    @classmethod
    def readouts(cls, branch: Branch, params: Mapping[str, Any], encoded: Encoded) -> dict[str, jax.Array]:
        """See `Objective.readouts`: the projection is the head's, or the predicted embedding of the teacher."""
        if branch.head is not None:
            return {"projection": branch.project(params["head"], branch.pooled(encoded))}
        if "regression_head" in params:
            return {"projection": unit(predict(params["regression_head"], encoded.embedding))}
        return {}

    @classmethod
    def read_teacher(
        cls, branch: Branch, params: Mapping[str, Any], frozen: Mapping[str, Any], encoded: Encoded
    ) -> jax.Array:
        """See `Objective.read_teacher`."""
        if branch.head is None or branch.head.windows == 1:
            return super().read_teacher(branch, params, frozen, encoded)
        statistics = params[TOKEN_STATISTICS]
        tokens = standardised(encoded.tokens, statistics["mean"], statistics["std"])
        return window_means(tokens, branch.head.windows).mean

    @classmethod
    def project_teacher(cls, branch: Branch, params: Mapping[str, Any], standard: jax.Array) -> jax.Array:
        """See `Objective.project_teacher`."""
        return unit(standard) if branch.head is None else branch.project(params["teacher_head"], standard)


def predict(params: Any, z: jax.Array) -> jax.Array:
    """The teacher's standardised embedding or tokens [..., D teacher] as a linear head's parameters predict them from [..., D]."""
    head: Head = LinearHead(params["output"]["bias"].shape[-1])
    return head.apply({"params": params}, z)


def unit(z: jax.Array) -> jax.Array:
    """Rows [b, D] at unit norm."""
    return z * jax.lax.rsqrt((z * z).sum(axis=-1, keepdims=True) + 1e-12)
