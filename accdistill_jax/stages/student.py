"""The student: an accelerometer encoder, distilled from the frozen teacher, or trained in another way as a baseline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from accdistill_jax.errors import UserError
from accdistill_jax.inputs.prepare import InputSettings, prepare
from accdistill_jax.models.build import build_encoder, build_head, compute_dtype
from accdistill_jax.models.heads import LinearHead
from accdistill_jax.objectives import Objective, distillation, joint_training, supervised
from accdistill_jax.stages.context import Run, plain
from accdistill_jax.stages.fit import refuse_other, train_stage
from accdistill_jax.stages.sources import Source, labelled_source
from accdistill_jax.stages.teacher import (
    Teacher,
    augmentations,
    load_teacher,
    pretraining_objective,
    pretraining_source,
)
from accdistill_jax.stages.teacher_views import prepare_views


class Student(NamedTuple):
    """A trained accelerometer encoder.

    Attributes:
        encoder: module, [batch, time, C] -> [batch, D].
        params: {"encoder"} and what its objective trained besides: {"head", "teacher_head"}, {"regression_head"},
            {"teacher"}, {"label_head", "label_mean", "label_std"}.
        inputs: how the acceleration is presented to it.
        fingerprint: content hash of the parameters.
        objective: how it was trained.
        head: projection head of student and teacher alike, or None where retrieval compares otherwise or not at all.
        ppg: the PPG encoder that was trained with it and how the PPG is presented to that, or None.
    """

    encoder: nn.Module
    params: dict[str, Any]
    inputs: InputSettings
    fingerprint: str
    objective: str
    head: nn.Module | None
    ppg: tuple[nn.Module, InputSettings] | None

    def initial(self, batch: dict) -> Any:
        """Untrained parameters of the encoder's shape, for comparison; drawn by a fixed key of their own."""
        x = prepare(batch, "accel", self.inputs)
        return jax.device_get(jax.jit(self.encoder.init)(jax.random.key(20), x)["params"])

    def represent(self, params: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """What the student makes of a batch of the pipeline's form.

        Returns:
            embedding [b, D]; projection [b, P] of unit norm, where it was trained with a PPG encoder; prediction [b], in the
            label's unit, where it was trained on a label.
        """
        z = self.encoder.apply({"params": params["encoder"]}, prepare(batch, "accel", self.inputs))
        found = {"embedding": z}
        if self.head is not None:
            found["projection"] = self.head.apply({"params": params["head"]}, z)
        elif "regression_head" in params:
            found["projection"] = unit(_linear(params["regression_head"]).apply({"params": params["regression_head"]}, z))
        elif "label_head" in params:
            standard = LinearHead(1).apply({"params": params["label_head"]}, z)[:, 0]
            found["prediction"] = params["label_mean"] + params["label_std"] * standard
        return found

    def project_teacher(self, params: Mapping[str, Any], standard: jax.Array) -> jax.Array | None:
        """What the frozen teacher's standardised embedding [b, D] is compared as: [b, P] of unit norm, or None."""
        if self.objective != "distillation":
            return None
        return unit(standard) if self.head is None else self.head.apply({"params": params["teacher_head"]}, standard)

    def represent_ppg(self, params: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """As `represent`, of the PPG by the encoder that was trained with the student (`ppg` is not None)."""
        encoder, inputs = self.ppg
        z = encoder.apply({"params": params["teacher"]}, prepare(batch, "ppg", inputs))
        return {"embedding": z, "projection": self.head.apply({"params": params["teacher_head"]}, z)}


def unit(z: jax.Array) -> jax.Array:
    """Rows [b, D] at unit norm."""
    return z * jax.lax.rsqrt((z * z).sum(axis=-1, keepdims=True) + 1e-12)


def _linear(params: Mapping[str, Any]) -> LinearHead:
    return LinearHead(params["output"]["bias"].shape[-1])


def needs_teacher(config: Any) -> bool:
    """Whether the student of a config learns from a frozen teacher."""
    return config.student.objective == "distillation"


def run_stage(run: Run) -> None:
    """Trains the student as its objective says, unless that is done already."""
    config, runtime = run.config.student, run.config.runtime
    teacher = load_teacher(run) if needs_teacher(run.config) else None
    fingerprints = _fingerprints(run, teacher)
    path = export_path(run)
    if run.exists(path / "export.json"):
        refuse_other(run.load_params(path).meta["fingerprints"], fingerprints, where=str(path))
        run.say("student: finished before")
        return
    if config.drop_fraction and run.samples < 2 * config.encoder.transformer.patch:
        raise UserError(
            f"config.student.drop_fraction = {config.drop_fraction!r}: a segment of {run.samples} samples is one token of "
            f"config.student.encoder.transformer.patch = {config.encoder.transformer.patch}, and none can be dropped"
        )
    dtype, shape = compute_dtype(runtime.compute_dtype), encoder_shape(config)
    encoder = build_encoder(shape, dtype=dtype, rematerialise=runtime.rematerialise)
    source, frozen, kept = Source(), {}, {}
    if config.objective == "distillation":
        objective, frozen = _distillation(run, encoder, teacher), teacher.frozen
        if run.config.teacher.cached_views:
            views = prepare_views(run, teacher)
            source = Source(lambda split: views if split == "train" else None)
    elif config.objective == "joint":
        objective = _joint(run, encoder)
    elif config.objective == "supervised":
        s = config.supervised
        source, frozen = labelled_source(run, target=s.target, fraction=s.label_fraction, subset=s.subset)
        specs, kept = augmentations(config.augment.accel), frozen
        objective = supervised(encoder, LinearHead(1), inputs=run.inputs("accel"), augmentations=specs)
    else:
        specs = augmentations(config.augment.accel)
        objective = pretraining_objective(run, config, encoder, "accel", specs)
        source = pretraining_source(run, config, "accel")
    params = train_stage(run, "student", objective, frozen=frozen, fingerprints=fingerprints, source=source)
    params = {name: value for name, value in params.items() if name != "decoder"} | kept
    meta = {
        "kind": "student",
        "objective": config.objective,
        "encoder": plain(shape),
        "head": plain(config.head) if "teacher_head" in params else None,
        "signal": run.signal_meta("accel"),
        "fingerprints": fingerprints,
    }
    if config.objective == "joint":
        meta |= {"ppg_encoder": plain(run.config.teacher.encoder), "ppg_signal": run.signal_meta("ppg")}
    run.save_params(path, params, meta)


def encoder_shape(config: Any) -> ml_collections.ConfigDict:
    """The encoder that a "student" section trains: as it says, but for a Transformer's last layer in masked autoencoding.

    The autoencoder's decoder reads the tokens, so that a linear map of their mean would stay untrained; a probe loses
    nothing by its absence.
    """
    shape = ml_collections.ConfigDict(plain(config.encoder))
    if config.objective == "masked":
        shape.transformer.output = 0
    return shape


def _fingerprints(run: Run, teacher: Teacher | None) -> dict[str, str]:
    return {"data": run.data_fingerprint} | ({"teacher": teacher.fingerprint} if teacher else {})


def _distillation(run: Run, encoder: nn.Module, teacher: Teacher) -> Objective:
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


def _joint(run: Run, encoder: nn.Module) -> Objective:
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


def export_path(run: Run) -> Path:
    """Where this run's student is."""
    return run.workdir / "student" / "export"


def load_student(run: Run, teacher: Teacher | None) -> Student:
    """The finished student of this run.

    Raises:
        UserError: missing, damaged, or made with other data or another teacher.
    """
    path = export_path(run)
    params, meta = run.load_params(path)
    if meta.get("kind") != "student":
        raise UserError(f"{path} holds no student (kind {meta.get('kind')!r})")
    objective = meta.get("objective", "distillation")
    now = _fingerprints(run, teacher if objective == "distillation" else None)
    refuse_other(meta["fingerprints"], now, where=str(path))
    return student_of(params, meta, dtype=compute_dtype(run.config.runtime.compute_dtype))


def student_of(params: Any, meta: Mapping[str, Any], *, dtype) -> Student:
    """A student from an export's parameters and metadata."""
    ppg = None
    if "ppg_encoder" in meta:
        inputs = InputSettings(**meta["ppg_signal"]["inputs"])
        ppg = (build_encoder(ml_collections.ConfigDict(meta["ppg_encoder"]), dtype=dtype), inputs)
    return Student(
        build_encoder(ml_collections.ConfigDict(meta["encoder"]), dtype=dtype),
        params,
        InputSettings(**meta["signal"]["inputs"]),
        meta["fingerprint"],
        meta.get("objective", "distillation"),
        build_head(ml_collections.ConfigDict(meta["head"])) if "teacher_head" in params else None,
        ppg,
    )
