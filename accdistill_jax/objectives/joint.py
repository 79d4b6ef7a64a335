"""Both encoders trained together from scratch: the paper's negative control."""

from collections.abc import Mapping

import flax.linen as nn
import jax

from accdistill_jax.inputs.augment import Augmentation
from accdistill_jax.inputs.prepare import InputSettings, prepare
from accdistill_jax.inputs.present import present
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.base import Objective, embedding_health


def joint_training(
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
) -> Objective:
    """The contrast of `distillation` with a PPG encoder that is trained too, and nothing frozen.

    Trained are params["encoder"], params["head"], params["teacher"] (the PPG encoder) and params["teacher_head"].

    Args:
        student, teacher: encoders of acceleration and PPG, [batch, time, C] -> [batch, D].
        student_head, teacher_head: projection heads onto the unit sphere.
        student_inputs, teacher_inputs: see `InputSettings`.
        augmentations: {"accel": specs, "ppg": specs}; drawn independently for the two.
        temperature: of both softmaxes.
        teacher_to_student_weight: lambda of `lambda * L(t->s) + (1 - lambda) * L(s->t)`.

    Source: arXiv 2412.11276 (training both encoders simultaneously, reported as far worse than distillation).
    """

    def views(frozen, batch, keys, *, training):
        return {
            "accel": present(batch, keys, "accel", student_inputs, augmentations["accel"], training=training),
            "ppg": present(batch, keys, "ppg", teacher_inputs, augmentations["ppg"], training=training),
        }

    def rows(params, views):
        accel = student.apply({"params": params["encoder"]}, views["accel"])
        ppg = teacher.apply({"params": params["teacher"]}, views["ppg"])
        return {
            "student": student_head.apply({"params": params["head"]}, accel),
            "teacher": teacher_head.apply({"params": params["teacher_head"]}, ppg),
            "embedding": accel,
            "ppg_embedding": ppg,
        }

    def reduce(rows, axis_name, *, training):
        t, s = rows["teacher"], rows["student"]
        t_to_s = losses.info_nce(t, s, temperature=temperature, axis_name=axis_name)
        s_to_t = losses.info_nce(s, t, temperature=temperature, axis_name=axis_name)
        value = teacher_to_student_weight * t_to_s + (1.0 - teacher_to_student_weight) * s_to_t
        metrics = {"loss": value, "teacher_to_student": t_to_s, "student_to_teacher": s_to_t}
        of_ppg = embedding_health(rows["ppg_embedding"], axis_name, spectrum=not training)
        metrics |= {f"ppg_{name}": value for name, value in of_ppg.items()}
        return value, {**metrics, **embedding_health(rows["embedding"], axis_name, spectrum=not training)}

    def init(key, batch):
        keys = jax.random.split(key, 4)
        found = {}
        for encoder, head, name, head_name, modality, settings, own in (
            (student, student_head, "encoder", "head", "accel", student_inputs, keys[:2]),
            (teacher, teacher_head, "teacher", "teacher_head", "ppg", teacher_inputs, keys[2:]),
        ):
            z, variables = encoder.init_with_output(own[0], prepare(batch, modality, settings))
            found[name] = variables["params"]
            found[head_name] = head.init(own[1], z)["params"]
        return found

    return Objective(init, views, rows, reduce)
