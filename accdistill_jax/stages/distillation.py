"""The student: an accelerometer encoder that learns the frozen teacher's representation."""

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections

from accdistill_jax.errors import UserError
from accdistill_jax.inputs import InputSettings, prepare
from accdistill_jax.models.build import build_encoder, build_head, compute_dtype
from accdistill_jax.objectives import distillation
from accdistill_jax.stages.context import Run, plain
from accdistill_jax.stages.pretraining import Teacher, augmentations, load_teacher
from accdistill_jax.stages.teacher_views import prepare_views
from accdistill_jax.stages.training import refuse_other, train_stage


class Student(NamedTuple):
    """A distilled accelerometer encoder.

    Attributes:
        encoder, head, teacher_head: modules.
        params: {"encoder", "head", "teacher_head"}.
        inputs: how the acceleration is presented to it.
        fingerprint: content hash of the parameters.
    """

    encoder: nn.Module
    head: nn.Module
    teacher_head: nn.Module
    params: dict[str, Any]
    inputs: InputSettings
    fingerprint: str

    def initial(self, batch: dict) -> Any:
        """Untrained parameters of the encoder's shape, for comparison; drawn by a fixed key of their own."""
        x = prepare(batch, "accel", self.inputs)
        return jax.device_get(jax.jit(self.encoder.init)(jax.random.key(20), x)["params"])


def run_stage(run: Run) -> None:
    """Distils the teacher into a student unless that is done already."""
    teacher = load_teacher(run)
    fingerprints = {"data": run.data_fingerprint, "teacher": teacher.fingerprint}
    path = export_path(run)
    if run.exists(path / "export.json"):
        refuse_other(run.load_params(path).meta["fingerprints"], fingerprints, where=str(path))
        run.say("student: finished before")
        return
    config = run.config.student
    if config.drop_fraction and run.samples < 2 * config.encoder.transformer.patch:
        raise UserError(
            f"config.student.drop_fraction = {config.drop_fraction!r}: a segment of {run.samples} samples is one token of "
            f"config.student.encoder.transformer.patch = {config.encoder.transformer.patch}, and none can be dropped"
        )
    runtime = run.config.runtime
    encoder, head = build_modules(config, compute_dtype(runtime.compute_dtype), rematerialise=runtime.rematerialise)
    objective = distillation(
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
    )
    reader = prepare_views(run, teacher) if run.config.teacher.cached_views else None
    params = train_stage(run, "student", objective, frozen=teacher.frozen, fingerprints=fingerprints, reader=reader)
    meta = {
        "kind": "student",
        "encoder": plain(config.encoder),
        "head": plain(config.head),
        "signal": run.signal_meta("accel"),
        "fingerprints": fingerprints,
    }
    run.save_params(path, params, meta)


def build_modules(config: Any, dtype, *, rematerialise: str = "none") -> tuple[nn.Module, nn.Module]:
    """Encoder and projection head of a `student` section (or of an export's metadata)."""
    return build_encoder(config.encoder, dtype=dtype, rematerialise=rematerialise), build_head(config.head)


def export_path(run: Run) -> Path:
    """Where this run's student is."""
    return run.workdir / "student" / "export"


def load_student(run: Run, teacher: Teacher) -> Student:
    """The finished student of this run.

    Raises:
        UserError: missing, damaged, or made with other data or another teacher.
    """
    path = export_path(run)
    params, meta = run.load_params(path)
    if meta.get("kind") != "student":
        raise UserError(f"{path} holds no student (kind {meta.get('kind')!r})")
    refuse_other(
        meta["fingerprints"], {"data": run.data_fingerprint, "teacher": teacher.fingerprint}, where=str(path)
    )
    dtype = compute_dtype(run.config.runtime.compute_dtype)
    encoder, head = build_modules(ml_collections.ConfigDict(meta), dtype)
    return Student(encoder, head, head, params, InputSettings(**meta["signal"]["inputs"]), meta["fingerprint"])
