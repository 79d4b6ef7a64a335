"""The objective of a stage, built as its config section says."""

from typing import Any

import flax.linen as nn
import ml_collections
import numpy as np

from accdistill_jax.config.record import plain
from accdistill_jax.encoder import Teacher
from accdistill_jax.inputs.augment import Augmentation, augmentations
from accdistill_jax.models.build import build_autoencoder, build_encoder, build_head, compute_dtype
from accdistill_jax.models.heads import LinearHead
from accdistill_jax.objectives import (
    Objective,
    contrastive,
    distillation,
    joint_training,
    masked_autoencoding,
)
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.sources import Source, paired_source


def pretraining_objective(
    run: Run, config: Any, encoder: nn.Module, modality: str, specs: dict[str, Augmentation]
) -> Objective:
    """Masked autoencoding or contrastive pretraining of one modality.

    Args:
        run: the run's context.
        config: section "teacher" or "student": objective, autoencoder, contrastive.
        encoder: what is pretrained.
        modality: "ppg" or "accel".
        specs: augmentations.
    """
    if config.objective == "masked":
        dtype = compute_dtype(run.config.runtime.compute_dtype)
        model = build_autoencoder(encoder, config.autoencoder, samples=run.samples, dtype=dtype)
        return masked_autoencoding(model, modality=modality, inputs=run.inputs(modality), augmentations=specs)
    c = config.contrastive
    return contrastive(
        encoder,
        build_head(c.head),
        modality=modality,
        inputs=run.inputs(modality),
        augmentations=specs,
        positives=c.positives,
        temperature=c.temperature,
        koleo_weight=c.koleo_weight,
        momentum=c.momentum,
    )


def pretraining_source(run: Run, config: Any, modality: str) -> Source:
    """Source of the batches of that pretraining."""
    pairs = config.objective == "contrastive" and config.contrastive.positives == "participant"
    return paired_source(run, modality) if pairs else Source()


def needs_teacher(config: Any) -> bool:
    """True if the student of a config learns from a frozen teacher."""
    return config.student.objective == "distillation"


def encoder_shape(config: Any) -> ml_collections.ConfigDict:
    """The encoder that a "student" section trains: as it says, but for a Transformer's last layer in masked autoencoding.

    The autoencoder's decoder reads the tokens, so that a linear map of their mean would stay untrained; a probe loses
    nothing by its absence.
    """
    shape = ml_collections.ConfigDict(plain(config.encoder))
    if config.objective == "masked":
        shape.transformer.output = 0
    return shape


def distillation_objective(run: Run, encoder: nn.Module, teacher: Teacher) -> Objective:
    """Distillation of the frozen teacher into `encoder`."""
    config, head = run.config.student, build_head(run.config.student.head)
    width = len(np.asarray(teacher.frozen["mean"]))
    return distillation(
        encoder,
        teacher.encoder,
        head,
        head,
        student_inputs=run.inputs("accel"),
        teacher_inputs=teacher.inputs,
        augmentations={modality: augmentations(config.augment[modality]) for modality in ("accel", "ppg")},
        temperature=config.temperature,
        teacher_to_student_weight=config.teacher_to_student_weight,
        drop_fraction=config.drop_fraction,
        contrastive_weight=config.contrastive_weight,
        regression_weight=config.regression_weight,
        regression=config.regression,
        regression_head=LinearHead(width) if config.regression_weight else None,
    )


def joint_objective(run: Run, encoder: nn.Module) -> Objective:
    """Contrastive training of `encoder` together with a PPG encoder of the teacher's shape."""
    config, runtime, head = run.config.student, run.config.runtime, build_head(run.config.student.head)
    dtype = compute_dtype(runtime.compute_dtype)
    return joint_training(
        encoder,
        build_encoder(run.config.teacher.encoder, dtype=dtype, rematerialise=runtime.rematerialise),
        head,
        head,
        student_inputs=run.inputs("accel"),
        teacher_inputs=run.inputs("ppg"),
        augmentations={modality: augmentations(config.augment[modality]) for modality in ("accel", "ppg")},
        temperature=config.temperature,
        teacher_to_student_weight=config.teacher_to_student_weight,
    )
