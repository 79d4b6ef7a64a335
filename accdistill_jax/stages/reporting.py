"""The report: evaluates the embeddings on unseen participants and writes tables and plots."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from accdistill_jax.config import record
from accdistill_jax.config.tree import plain
from accdistill_jax.data.store.opening import has_test_segments, sensors_of
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.trained_on import people_seen
from accdistill_jax.encoder import Teacher
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.evaluate import SPLITS, STUDENT, TEACHER, evaluate
from accdistill_jax.evaluation.heartless import HEARTLESS_VERSION
from accdistill_jax.evaluation.predictions import PREDICTION_VERSION
from accdistill_jax.evaluation.report.finished import is_finished, mark_finished, unmark
from accdistill_jax.evaluation.report.report import write_run_report
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings
from accdistill_jax.labels import HEART_RATE
from accdistill_jax.models.build import parameter_count
from accdistill_jax.readouts.readout import Readouts
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.embedding import (
    Embedded,
    embeddings,
    hash_of,
    load_encoders,
    main_rows,
    unseen_rows,
    unseen_stores,
)
from accdistill_jax.stages.embedding_tables import write_tables
from accdistill_jax.stages.evaluated_encoders import Encoders
from accdistill_jax.stages.evaluation import fitted_readouts, readouts_of_report
from accdistill_jax.stages.heartless import heartless_embeddings
from accdistill_jax.stages.teacher import reconstruction
from accdistill_jax.training.metrics import read_metrics
from accdistill_jax.training.metrics_sums import check_records, spoilt_files

_MOST_NAMED = 6


@dataclasses.dataclass(frozen=True)
class _Report:
    """Content of one report.

    Attributes:
        folder: the report is written here.
        embedded: encoder -> split -> embeddings.
        info: facts about the run, for the last section.
        key: hash of everything the report is made from; a finished report with the same key stays.
        stores: the example segments are drawn from these.
        split: split of the example segments; None for all segments.
        curves: stage -> metrics of its training.
        readouts: of the evaluated encoder.
    """

    folder: Path
    embedded: Mapping[str, Mapping[str, SplitEmbeddings]]
    info: dict
    key: str
    stores: Sequence[Store]
    split: str | None
    curves: Mapping[str, list[dict]] = dataclasses.field(default_factory=dict)
    readouts: Readouts | None = None


def report_stage(run: Run, *, durations_s: dict[str, float]) -> None:
    """Evaluates the embeddings and writes the report, and beside it one report per unseen store.

    All processes compute missing embeddings together; process 0 evaluates and writes.

    Args:
        run: the run's context.
        durations_s: stage -> its duration in seconds.
    """
    encoders = load_encoders(run)
    main = embeddings(run, encoders, "main", run.stores, main_rows(run, encoders))
    unseen = {
        name: (store, embeddings(run, encoders, f"unseen-{name}", (store,), unseen_rows(encoders, store)))
        for name, store in unseen_stores(run).items()
    }
    heartless = heartless_embeddings(run, encoders)

    def write() -> None:
        readouts = fitted_readouts(run, encoders, main or {}, heartless)
        if "evaluation" not in run.config.stages:  # else that stage has written them
            whole = {name: (store, embedded or {}) for name, (store, embedded) in unseen.items()}
            write_tables(run, Embedded(encoders, main or {}, whole), readouts)
        write_reports(run, encoders, main or {}, unseen, durations_s, readouts)

    run.peers.from_first("report", write)


def write_reports(
    run: Run,
    encoders: Encoders,
    main: Mapping,
    unseen: Mapping,
    durations_s: dict[str, float],
    readouts: Mapping[str, Readouts],
) -> None:
    """Writes the reports, on process 0.

    Args:
        run: the run's context.
        encoders: the evaluated encoders.
        main: encoder -> split -> embeddings, of the stores that are trained on.
        unseen: name -> (store, encoder -> "test" -> embeddings), of the unseen stores.
        durations_s: stage -> its duration in seconds.
        readouts: encoder -> its read-outs.
    """
    of_report = readouts_of_report(readouts)
    curves = {name: records for name in ("teacher", "student") if (records := _curve(run, name))}
    info = _run_info(run, encoders, [store for store, _ in unseen.values()], durations_s)
    made_from = [
        encoders.key,
        PREDICTION_VERSION,
        HEARTLESS_VERSION,
        curves,
        plain(run.config.evaluation),
        info["versions"],
    ]
    made_from.append([info["separation"].get(key) for key in ("equal names", "result", "warnings")])
    for name, (store, embedded) in unseen.items():
        mixed = {e: {**main[e], "test": embedded[e]["test"]} for e in embedded if e in main}
        info_here = {**info, "data": _data_info((store,)), "probes fitted on": _data_info(run.stores)}
        info_here |= _sensors_info((store,))
        key = hash_of([made_from, store.fingerprint])
        report = _Report(run.workdir / "unseen" / name, mixed, info_here, key, (store,), None, readouts=of_report)
        _write(run, encoders.teacher if TEACHER in embedded else None, report)
    if has_test_segments(run.stores):
        report = _Report(run.workdir, main, info, hash_of(made_from), run.stores, "test", curves, of_report)
        _write(run, encoders.teacher, report)
        for line in read_summary(run.workdir):
            run.say(line)


def _curve(run: Run, stage: str) -> list[dict]:
    """The metrics of a stage; [] if they changed after the stage wrote them. Says in a line each what is wrong with them."""
    folder = run.workdir / "metrics"

    def read() -> dict[str, list]:
        return {
            "metrics": read_metrics(folder / f"{stage}.jsonl"),
            "timing": read_metrics(folder / f"{stage}.timing.jsonl"),
        }

    spoilt = spoilt_files(run.workdir, stage)
    try:
        for line in check_records(run.workdir, stage, spoilt, read=read):
            run.say(line)
    except OSError as error:
        raise UserError(f"cannot write {run.workdir / 'tensorboard'}: {error.strerror or error}") from error
    return [] if folder / f"{stage}.jsonl" in spoilt else read_metrics(folder / f"{stage}.jsonl")


def read_summary(folder: Path) -> list[str]:
    """The first lines of a written report, for the console."""
    words = json.loads((folder / "report.json").read_text())["verdict"]
    asked = [row for row in words["answers"] if "heart rate" in row[0] or "same minute" in row[0]]
    answers = [f"  {question} {answer}".replace("**", "") for question, answer in asked]
    cautions = f", {len(words['cautions'])} cautions in it" if words["cautions"] else ""
    return [words["headline"], *answers, f"report: {folder / 'report.md'}{cautions}"]


def _write(run: Run, teacher: Teacher | None, report: _Report) -> None:
    """Writes one report, unless a whole one of the same key is there."""
    folder, settings = report.folder, run.config.evaluation
    finished, damage = is_finished(folder, report.key)
    if finished:
        run.say(f"report: {folder / 'report.md'} is finished before")
        return
    if damage:
        run.say(f"report: {damage}: the report is made again")
    evaluation = evaluate(
        report.embedded,
        pool_sizes=(*settings.pool_sizes, "all"),
        bootstrap_draws=settings.bootstrap_draws,
        seed=run.config.seed,
        readouts=report.readouts,
    )
    unmark(folder)
    write_run_report(
        folder,
        evaluation,
        run_info=report.info,
        curves=report.curves,
        examples=_examples(run, teacher, report.stores, split=report.split),
        seed=run.config.seed,
    )
    mark_finished(folder, report.key)
    if folder != run.workdir:
        run.say(f"report: {folder / 'report.md'}")


def _examples(run: Run, teacher: Teacher | None, stores: Sequence[Store], *, split: str | None) -> dict | None:
    """A few segments and their reconstructions by the teacher's autoencoder, for `plots.example_segments`."""
    count = run.config.evaluation.examples
    if teacher is None or teacher.autoencoder is None or not count:
        return None
    pool = [(s, row) for s in stores for row in (s.indices(split) if split else np.arange(s.num_segments))]
    if not pool:
        return None
    chosen = np.random.default_rng([23, run.config.seed]).choice(len(pool), min(count, len(pool)), replace=False)
    parts, labels = [], []
    for store, row in (pool[i] for i in sorted(chosen)):
        batch = store.read(np.array([row]))
        accel = batch["accel"] * batch["accel_scale"][:, None] + batch["accel_offset"][:, None]
        parts.append({**reconstruction(teacher, batch, seed=run.config.seed + len(parts)), "accel": accel})
        labels.append({HEART_RATE: store.segments[HEART_RATE][row], "participant": store.segments["participant"][row]})
    stacked = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {**stacked, **{name: np.array([label[name] for label in labels]) for name in labels[0]}}


def _data_info(stores: Sequence[Store]) -> dict:
    """Source, counts and fingerprint of each store, for the report."""
    return {
        store.path: {
            "source": store.manifest.get("source"),
            "segments": {split: len(store.indices(split)) for split in SPLITS},
            "counts": {k: v for k, v in store.manifest["counts"].items() if k != "participants"},
            "fingerprint": store.fingerprint,
        }
        for store in stores
    }


def _sensors_info(stores: Sequence[Store]) -> dict[str, dict[str, str]]:
    """The entry "sensors": device -> its accelerometer in words; {} if no store knows its sensors."""
    sensors = {device: words for store in stores for device, words in sensors_of(store).items()}
    return {"sensors": sensors} if sensors else {}


def _separation(run: Run, encoders: Encoders, unseen: Sequence[Store]) -> dict:
    """Result of comparing the stores, with a warning if a teacher from elsewhere learned, or may have learned, from the test people."""
    result = {**run.separation, "warnings": run.separation.get("warnings", [])}
    origin = encoders.student.origin if encoders.student is not None else {}
    if origin and not set(origin["data"].split("+")) <= set(run.data_fingerprint.split("+")):
        what = f"the encoder that the student started from ({run.config.student.init})"
        result["warnings"] = [
            *result["warnings"],
            _trained_elsewhere(what, _learned_from(run, unseen, origin.get("trained_on", origin["data"]))),
        ]
    if encoders.teacher is not None and run.config.teacher.tables:
        result["warnings"] = [
            *result["warnings"],
            (
                f"the training people of the model behind {' and '.join(run.config.teacher.tables)} are not known here: none of them "
                "may be a test person"
            ),
        ]
    if encoders.teacher is not None and run.config.teacher.path and encoders.teacher.data != run.data_fingerprint:
        what = f"the teacher ({run.config.teacher.path})"
        result["warnings"] = [
            *result["warnings"],
            _trained_elsewhere(what, _learned_from(run, unseen, encoders.teacher.trained_on)),
        ]
    return result


def _learned_from(run: Run, unseen: Sequence[Store], trained: str) -> list[str]:
    """Test people of the stores, and people of the unseen stores, whom an encoder was trained on (`trained_on.people_seen`)."""
    known = {who for store in unseen for who in people_seen(store, trained)}
    for store in run.stores:
        names, splits = (store.participants[key].to_pylist() for key in ("participant", "split"))
        tested = {name for name, split in zip(names, splits, strict=True) if split == "test"}
        known |= tested & people_seen(
            Store.open(store.path), trained
        )  # opened again: `data.held_out` may have changed the split
    return sorted(known)


def _trained_elsewhere(what: str, learned_from: Sequence[str]) -> str:
    if learned_from:
        more = len(learned_from) - _MOST_NAMED
        names = ", ".join(learned_from[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        return f"{what} was trained on test people of this report: {names}; the figures flatter it"
    return f"{what} was trained on other stores than these, and its people were not compared: none of them may be a test person here"


def _run_info(run: Run, encoders: Encoders, unseen: Sequence[Store], durations_s: dict[str, float]) -> dict:
    """Facts about the run for the report: config, versions, hardware, data, encoders."""
    environment = record.environment()
    parameters, fingerprints = {}, {}
    if encoders.teacher is not None:
        if encoders.teacher.frozen["params"]:
            parameters[TEACHER] = parameter_count(encoders.teacher.frozen["params"])
        fingerprints[TEACHER] = encoders.teacher.fingerprint
    if encoders.student is not None:
        parameters[STUDENT] = parameter_count(encoders.student.params["encoder"])
        fingerprints[STUDENT] = encoders.student.fingerprint
        if encoders.student.origin:
            fingerprints["student.init"] = encoders.student.origin["fingerprint"]
    return {
        "config": plain(run.config),
        "versions": environment["versions"] | {"python": environment["python"]},
        "hardware": {k: environment[k] for k in ("device_kind", "device_count", "cpu_count", "machine")},
        "commit": environment["git_commit"],
        "durations_s": durations_s,
        "data": _data_info(run.stores),
        "separation": _separation(run, encoders, unseen),
        "parameters": parameters,
        "fingerprints": fingerprints,
        **_sensors_info(run.stores),
    }
