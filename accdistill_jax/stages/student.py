"""The student: an accelerometer encoder, distilled from the frozen teacher, or trained in another way as a baseline."""

from pathlib import Path

from accdistill_jax.config.record import plain
from accdistill_jax.encoder import Student, Teacher, student_of
from accdistill_jax.errors import UserError
from accdistill_jax.inputs.augment import augmentations
from accdistill_jax.models.build import build_encoder, compute_dtype
from accdistill_jax.models.heads import LinearHead
from accdistill_jax.objectives import supervised
from accdistill_jax.stages.build_objective import (
    distillation_objective,
    encoder_shape,
    joint_objective,
    needs_teacher,
    pretraining_objective,
    pretraining_source,
)
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.fit import train_stage
from accdistill_jax.stages.sources import Source, labelled_source
from accdistill_jax.stages.teacher import load_teacher
from accdistill_jax.stages.teacher_views import prepare_views
from accdistill_jax.storage.export import refuse_other


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
        objective, frozen = distillation_objective(run, encoder, teacher), teacher.frozen
        if run.config.teacher.cached_views:
            views = prepare_views(run, teacher)
            source = Source(lambda split: views if split == "train" else None)
    elif config.objective == "joint":
        objective = joint_objective(run, encoder)
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


def _fingerprints(run: Run, teacher: Teacher | None) -> dict[str, str]:
    return {"data": run.data_fingerprint} | ({"teacher": teacher.fingerprint} if teacher else {})


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
