"""The student: an accelerometer encoder, distilled from the frozen teacher, or trained in another way as a baseline."""

from pathlib import Path
from typing import Any

from accdistill_jax.config.registry import OBJECTIVES
from accdistill_jax.config.tree import plain
from accdistill_jax.data.store.trained_on import joined, trained_on
from accdistill_jax.encoder import Student, Teacher, student_of
from accdistill_jax.errors import UserError
from accdistill_jax.models.build import compute_dtype
from accdistill_jax.objectives.base import Objective
from accdistill_jax.objectives.registered import PPG, UNNAMED
from accdistill_jax.objectives.teacher_reading import TeacherReading
from accdistill_jax.stages.build_objective import (
    build_objective,
    needs_teacher,
    objective_of,
    trained_encoder,
    trained_ppg_encoder,
)
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.fit import StageTraining, stage_signals, train_stage
from accdistill_jax.stages.sources import Source, source_of
from accdistill_jax.stages.student_start import INITIAL, load_initial, origin, starting_from
from accdistill_jax.stages.teacher import teacher_token_statistics
from accdistill_jax.stages.teacher_views import prepare_views
from accdistill_jax.stages.teachers import Teachers, load_teachers
from accdistill_jax.storage.export import refuse_other


def run_stage(run: Run) -> None:
    """Trains the student as its objective says, unless that is done already."""
    config = run.config.student
    teachers = load_teachers(run) if needs_teacher(run.config) else None
    initial = load_initial(run) if config.init else None
    fingerprints = _fingerprints(run, teachers.fingerprint if teachers else "")
    if initial is not None:
        fingerprints |= {INITIAL: initial.meta["fingerprint"]}
    path = export_path(run)
    if run.exists(path / "export.json"):
        refuse_other(run.load_params(path).meta["fingerprints"], fingerprints, where=str(path))
        run.say("student: finished before")
        return
    objective = _objective(run, teachers)
    source, frozen = source_of(run, objective.batches)
    if teachers is not None:
        source, frozen = _from_teachers(run, teachers, objective.teacher_reading, fingerprints)
    start = starting_from(run, initial) if initial is not None else None
    params = train_stage(run, "student", StageTraining(objective, frozen, fingerprints, source, start))
    meta = {
        "kind": "student",
        "objective": config.objective,
        "encoder": plain(trained_encoder(config)),
        "head": plain(config.head) if "teacher_head" in params else None,
        "signal": run.signal_meta("accel"),
        "representation": run.config.evaluation.representation,
        "fingerprints": fingerprints,
    }
    learned_from = [trained_on(run.stores), *(teacher.trained_on for teacher in (teachers.each if teachers else ()))]
    if initial is not None:
        meta["initial"] = origin(initial)
        learned_from.append(meta["initial"]["trained_on"])
    meta["trained_on"] = joined(*learned_from)
    if objective_of(config).ppg is PPG.TRAINED:
        meta |= {"ppg_encoder": plain(trained_ppg_encoder(run.config)), "ppg_signal": run.signal_meta("ppg")}
    run.save_params(path, objective.exported(params, frozen), meta)


def _objective(run: Run, teachers: Teachers | None) -> Objective:
    ppg = teachers.ppg.branch if teachers is not None and teachers.ppg is not None else None
    tables = [teacher.branch for teacher in teachers.given] if teachers is not None else []
    return build_objective(run.config, "student", samples=run.samples, teacher=ppg, tables=tables)


def _from_teachers(
    run: Run, teachers: Teachers, reading: TeacherReading, fingerprints: dict[str, str]
) -> tuple[Source, dict[str, Any]]:
    """The source of batches and the frozen arrays of an objective that learns from frozen teachers."""
    source, of_ppg = Source(), {}
    if teachers.ppg is not None:
        if reading.reads_tokens:
            of_ppg = _token_statistics(run, teachers.ppg, fingerprints)
        if run.config.teacher.cached_views:
            views = prepare_views(run, teachers.ppg, reading)
            source = Source(lambda split: views if split == "train" else None)
    if teachers.tables is not None:
        source = teachers.tables.source(source, signals=stage_signals(run, "student"))
    return source, teachers.frozen(of_ppg)


def _token_statistics(run: Run, teacher: Teacher, fingerprints: dict[str, str]) -> dict[str, Any]:
    """The statistics of the teacher's tokens, computed once for a training, which then continues with the same bits.

    Computed again on other devices, or with another `evaluation.batch_size`, they would differ in the last bits.
    """
    path = run.workdir / "student" / "teacher_tokens"
    if not run.exists(path / "export.json"):
        run.save_params(
            path, teacher_token_statistics(run, teacher), {"kind": "teacher tokens", "fingerprints": fingerprints}
        )
    statistics, meta = run.load_params(path)
    refuse_other(meta["fingerprints"], fingerprints, where=str(path))
    return statistics


def _fingerprints(run: Run, teacher: str) -> dict[str, str]:
    return {"data": run.data_fingerprint} | ({"teacher": teacher} if teacher else {})


def export_path(run: Run) -> Path:
    """Folder of this run's student."""
    return run.workdir / "student" / "export"


def load_student(run: Run, teacher: str) -> Student:
    """The finished student of this run.

    Args:
        run: the run's context.
        teacher: fingerprint of the run's teachers; "" for none.

    Raises:
        UserError: missing, damaged, or made with other data or another teacher.
    """
    path = export_path(run)
    params, meta = run.load_params(path)
    if meta.get("kind") != "student":
        raise UserError(f"{path} holds no student (kind {meta.get('kind')!r})")
    learned = OBJECTIVES.get(meta.get("objective", UNNAMED)).ppg is PPG.FROZEN
    refuse_other(meta["fingerprints"], _fingerprints(run, teacher if learned else ""), where=str(path))
    meta = meta | {"representation": run.config.evaluation.representation}
    return student_of(params, meta, dtype=compute_dtype(run.config.runtime.compute_dtype))
