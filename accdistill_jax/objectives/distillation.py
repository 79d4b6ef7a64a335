"""A frozen PPG teacher's knowledge into an accelerometer student: contrast, regression, or both."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from accdistill_jax.inputs.augment import Augmentation
from accdistill_jax.inputs.prepare import InputSettings, prepare
from accdistill_jax.inputs.present import STREAM_TOKENS, present, stream
from accdistill_jax.models.autoencoder import kept_count, random_order
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.base import Objective, embedding_health

TEACHER = "teacher"  # of a batch: the teacher's embedding, standardised, where it was computed before
REGRESSIONS = ("mse", "cosine")


def standard_embedding(teacher: nn.Module, frozen: Any, ppg: jax.Array) -> jax.Array:
    """A frozen teacher's embedding of presented PPG [b, time, C], standardised per dimension: [b, D] float32, no gradient."""
    z = teacher.apply({"params": frozen["params"]}, ppg)
    return jax.lax.stop_gradient((z - frozen["mean"][None]) / frozen["std"][None])


def distillation(
    student: nn.Module,
    teacher: nn.Module,
    student_head: nn.Module,
    teacher_head: nn.Module,
    *,
    student_inputs: InputSettings,
    teacher_inputs: InputSettings,
    augmentations: Mapping[str, Mapping[str, Augmentation]],
    temperature: float,
    teacher_to_student_weight: float,
    drop_fraction: float = 0.0,
    contrastive_weight: float = 1.0,
    regression_weight: float = 0.0,
    regression: str = "cosine",
    regression_head: nn.Module | None = None,
) -> Objective:
    """Both directions of InfoNCE between the student's and a frozen teacher's embedding of the same minute.

    Trained are params["encoder"] (the student), params["head"] and params["teacher_head"]; `frozen` is the teacher:
    {"params", "mean" [D], "std" [D]}, whose embedding is standardised per dimension before its head. A batch that holds
    that embedding, `TEACHER` [b, D] float32, needs no PPG, and the teacher is not run.

    With a regression weight, a further head predicts the teacher's standardised embedding from the student's
    (params["regression_head"]); with a contrastive weight of 0 that is all there is, and neither projection head exists.

    Args:
        student, teacher: encoders, [batch, time, C] -> [batch, D].
        student_head, teacher_head: projection heads onto the unit sphere.
        student_inputs, teacher_inputs: see `InputSettings`.
        augmentations: {"accel": specs, "ppg": specs}; drawn independently for the two.
        temperature: of both softmaxes.
        teacher_to_student_weight: lambda of `lambda * L(t->s) + (1 - lambda) * L(s->t)`.
        drop_fraction: share of its tokens that a Transformer student does without in training, drawn anew for every
            segment and step; 0: none.
        contrastive_weight, regression_weight: of the two losses; not both 0.
        regression: "mse" (mean over dimensions) or "cosine" (1 - cosine).
        regression_head: [batch, D student] -> [batch, D teacher]; needed where there is a regression.

    Source: arXiv 2412.11276 (cross-modal distillation); Li et al. 2023, "Scaling language-image pre-training via
    masking" (dropping tokens). Regression is not in the paper.
    """

    def views(frozen, batch, keys, *, training):
        found = {"accel": present(batch, keys, "accel", student_inputs, augmentations["accel"], training=training)}
        if TEACHER in batch:
            found["teacher"] = batch[TEACHER]
        else:
            ppg = present(batch, keys, "ppg", teacher_inputs, augmentations["ppg"], training=training)
            found["teacher"] = standard_embedding(teacher, frozen, ppg)
        if drop_fraction and training:
            tokens = found["accel"].shape[1] // student.patch
            order = random_order(stream(keys, STREAM_TOKENS), tokens)
            found["kept"] = order[:, : kept_count(tokens, drop_fraction)]
        return found

    def rows(params, views):
        kept = (views["kept"],) if "kept" in views else ()
        embedding = student.apply({"params": params["encoder"]}, views["accel"], *kept)
        found = {"embedding": embedding}
        if contrastive_weight:
            found["teacher"] = teacher_head.apply({"params": params["teacher_head"]}, views["teacher"])
            found["student"] = student_head.apply({"params": params["head"]}, embedding)
        if regression_weight:
            predicted = regression_head.apply({"params": params["regression_head"]}, embedding)
            found["regression"] = losses.regression(predicted, views["teacher"], kind=regression)
        return found

    def reduce(rows, axis_name, *, training):
        value, metrics = jnp.float32(0), {}
        if contrastive_weight:
            t, s = rows["teacher"], rows["student"]
            t_to_s = losses.info_nce(t, s, temperature=temperature, axis_name=axis_name)
            s_to_t = losses.info_nce(s, t, temperature=temperature, axis_name=axis_name)
            both = teacher_to_student_weight * t_to_s + (1.0 - teacher_to_student_weight) * s_to_t
            value = both if contrastive_weight == 1.0 else contrastive_weight * both
            metrics |= {"teacher_to_student": t_to_s, "student_to_teacher": s_to_t}
            metrics["temperature"] = jnp.float32(temperature)
        if regression_weight:
            metrics["regression"] = jnp.mean(rows["regression"])
            value = value + regression_weight * metrics["regression"]
        metrics["loss"] = value
        return value, {**metrics, **embedding_health(rows["embedding"], axis_name, spectrum=not training)}

    def init(key, batch):
        accel = prepare(batch, "accel", student_inputs)
        keys = jax.random.split(key, 3)
        encoder = student.init(keys[0], accel)["params"]
        embedding = student.apply({"params": encoder}, accel)
        if TEACHER in batch:
            width = batch[TEACHER].shape[-1]
        else:
            ppg = prepare(batch, "ppg", teacher_inputs)
            width = jax.eval_shape(lambda: teacher.init_with_output(keys[0], ppg)[0]).shape[-1]
        params = {"encoder": encoder}
        if contrastive_weight:
            params["head"] = student_head.init(keys[1], embedding)["params"]
            params["teacher_head"] = teacher_head.init(keys[2], jnp.zeros((1, width)))["params"]
        if regression_weight:
            params["regression_head"] = regression_head.init(jax.random.fold_in(key, 3), embedding)["params"]
        return params

    return Objective(init, views, rows, reduce)
