"""Evaluation on unseen participants: embeddings of every split by every encoder, then numbers and the report."""

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from accdistill_jax import config as configs
from accdistill_jax.data.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.embed import embed
from accdistill_jax.evaluation.evaluate import SPLITS, STUDENT, TEACHER, UNTRAINED, SplitEmbeddings, evaluate
from accdistill_jax.evaluation.report import write_report
from accdistill_jax.files import write_atomically
from accdistill_jax.inputs import prepare
from accdistill_jax.metrics import ProgressLine, read_metrics
from accdistill_jax.models.build import parameter_count
from accdistill_jax.stages import distillation
from accdistill_jax.stages.context import Run, choose_rows, open_store, plain
from accdistill_jax.stages.pretraining import Teacher, load_teacher, reconstruction

LABELS = ("hr_bpm", "sdnn_ms", "rmssd_ms", "resp_bpm")


class Encoder(NamedTuple):
    """An encoder to evaluate: `apply(params, batch) -> {"embedding": [b, D], maybe "projection": [b, P]}`."""

    name: str
    apply: Callable
    params: object


class Encoders(NamedTuple):
    """The encoders of a run, what they are, and the key under which their embeddings are kept."""

    teacher: Teacher
    student: distillation.Student | None
    all: list[Encoder]
    key: str


def load_encoders(run: Run) -> Encoders:
    """Teacher, student (where the run has one) and an untrained encoder of the student's shape."""
    teacher = load_teacher(run)
    student = None
    if "student" in run.config.stages or (distillation.export_path(run) / "export.json").exists():
        student = distillation.load_student(run, teacher)

    def embed_ppg(params, batch):
        z = teacher.encoder.apply({"params": params["teacher"]["params"]}, prepare(batch, "ppg", teacher.inputs))
        out = {"embedding": z}
        if student is not None:
            standard = (z - params["teacher"]["mean"][None]) / params["teacher"]["std"][None]
            out["projection"] = student.teacher_head.apply({"params": params["head"]}, standard)
        return out

    ppg_params = {"teacher": teacher.frozen, "head": student.params["teacher_head"] if student else {}}
    found = [Encoder(TEACHER, embed_ppg, ppg_params)]
    if student is not None:

        def embed_accel(params, batch):
            z = student.encoder.apply({"params": params["encoder"]}, prepare(batch, "accel", student.inputs))
            return {"embedding": z, "projection": student.head.apply({"params": params["head"]}, z)}

        def embed_untrained(params, batch):
            return {"embedding": student.encoder.apply({"params": params}, prepare(batch, "accel", student.inputs))}

        one = run.stores[0].read(np.zeros(1, np.int64))
        found.append(Encoder(STUDENT, embed_accel, student.params))
        found.append(Encoder(UNTRAINED, embed_untrained, student.initial(one)))
    c = run.config.evaluation
    described = [run.data_fingerprint, teacher.fingerprint, student.fingerprint if student else "", c.train_segments]
    described += [run.config.seed, str(run.config.runtime.compute_dtype)]
    return Encoders(teacher, student, found, _hash(described))


def _hash(described: object) -> str:
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def embed_stage(run: Run) -> None:
    """Embeds the segments of every split (training: at most `train_segments`) and of the unseen stores."""
    encoders = load_encoders(run)
    _embeddings(run, encoders, "main", run.stores, _main_rows(run))
    for name, store in unseen_stores(run).items():
        _embeddings(run, encoders, f"unseen-{name}", (store,), {"test": [np.arange(store.num_segments)]})


def report_stage(run: Run, *, durations_s: dict[str, float]) -> None:
    """Evaluates the embeddings and writes the report, and one per unseen store beside it; says what came out."""
    encoders = load_encoders(run)
    main = _embeddings(run, encoders, "main", run.stores, _main_rows(run))
    curves = {name: read_metrics(run.workdir / "metrics" / f"{name}.jsonl") for name in ("teacher", "student")}
    curves = {name: records for name, records in curves.items() if records}
    info = _run_info(run, encoders, durations_s)
    made_from = [encoders.key, curves, plain(run.config.evaluation), info["versions"]]

    def examples(stores: Sequence[Store], split: str | None) -> Callable[[], dict | None]:
        return lambda: _examples(run, encoders.teacher, stores, split=split)

    for name, store in unseen_stores(run).items():
        rows = {"test": [np.arange(store.num_segments)]}
        unseen = _embeddings(run, encoders, f"unseen-{name}", (store,), rows)
        mixed = {e: {**main[e], "test": unseen[e]["test"]} for e in main}
        info_here = {**info, "data": _data_info((store,)), "probes fitted on": _data_info(run.stores)}
        folder, key = run.workdir / "unseen" / name, _hash([made_from, store.fingerprint])
        _report(run, folder, mixed, info_here, {}, examples((store,), None), key)
    if _has_test_segments(run.stores):
        _report(run, run.workdir, main, info, curves, examples(run.stores, "test"), _hash(made_from))
        for line in summary(run.workdir):
            run.say(line)


def summary(folder: Path) -> list[str]:
    """The head of a written report in a few lines for the console."""
    words = json.loads((folder / "report.json").read_text())["verdict"]
    asked = [row for row in words["answers"] if "heart rate" in row[0] or "same minute" in row[0]]
    answers = [f"  {question} {answer}".replace("**", "") for question, answer in asked]
    cautions = f", {len(words['cautions'])} cautions in it" if words["cautions"] else ""
    return [words["headline"], *answers, f"report: {folder / 'report.md'}{cautions}"]


def check_stores(run: Run) -> None:
    """Raises UserError where the evaluation has nothing to work on; cheap, so that it is told before training."""
    if not unseen_stores(run) and not _has_test_segments(run.stores):
        raise UserError(
            "no participant of config.data.stores is in the test split, and config.data.unseen_stores is empty: nothing "
            "to evaluate on; prepare with more participants, another --split-seed or a --split-file"
        )


def _has_test_segments(stores: Sequence[Store]) -> bool:
    return any(len(store.indices("test")) for store in stores)


def unseen_stores(run: Run) -> dict[str, Store]:
    """The stores of `config.data.unseen_stores` by folder name.

    Raises:
        UserError: one that does not fit the training stores, or two of one name.
    """
    found: dict[str, Store] = {}
    for path in run.config.data.unseen_stores:
        store, name = open_store(path, key="data.unseen_stores"), Path(path.rstrip("/")).name
        if name in found:
            raise UserError(f"config.data.unseen_stores names two stores called {name!r}; rename one folder")
        if store.fingerprint in {own.fingerprint for own in run.stores}:
            raise UserError(f"config.data.unseen_stores: {path} is one of the stores trained on")
        first = run.stores[0]
        for what, own, other in (
            ("rate", first.rate_hz, store.rate_hz),
            ("samples per segment", first.samples, store.samples),
            ("PPG channels", len(first.channels["ppg"]), len(store.channels["ppg"])),
        ):
            if own != other:
                raise UserError(f"config.data.unseen_stores: {path} has {what} {other}, {first.path} has {own}")
        found[name] = store
    return found


def _main_rows(run: Run) -> dict[str, list[np.ndarray]]:
    limits = {"train": run.config.evaluation.train_segments, "validation": None, "test": None}
    return {split: choose_rows(run.stores, split, limits[split], seed=run.config.seed) for split in SPLITS}


def _embeddings(
    run: Run, encoders: Encoders, name: str, stores: Sequence[Store], rows: dict[str, list[np.ndarray]]
) -> dict[str, dict[str, SplitEmbeddings]]:
    """encoder -> split -> embeddings; read from `embeddings/` where they are there already for the same encoders."""
    path = run.workdir / "embeddings" / f"{name}.npz"
    key = _hash([encoders.key, [store.fingerprint for store in stores]])
    arrays = _load(path, key)
    if arrays is None:
        arrays = _compute(run, encoders, name, stores, rows)
        content = io.BytesIO()
        np.savez(content, key=key, **arrays)
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, content.getvalue())
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    columns = {split: _columns(stores, own) for split, own in rows.items()}
    return {
        encoder.name: {
            split: SplitEmbeddings(
                embedding=arrays[f"{encoder.name}/{split}/embedding"],
                projection=arrays.get(f"{encoder.name}/{split}/projection"),
                participant=columns[split]["participant"],
                labels={label: columns[split][label] for label in LABELS},
                motion_g=columns[split]["motion_g"],
                ppg_quality=columns[split]["ppg_quality"],
            )
            for split in rows
        }
        for encoder in encoders.all
    }


def _load(path: Path, key: str) -> dict[str, np.ndarray] | None:
    try:
        with path.open("rb") as file, np.load(file) as saved:
            return {name: saved[name] for name in saved.files if name != "key"} if str(saved["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # not there, or not whole: computed again


def _compute(run, encoders: Encoders, name: str, stores, rows) -> dict[str, np.ndarray]:
    total = len(encoders.all) * sum(len(r) for own in rows.values() for r in own)
    done, arrays = 0, {}
    with ProgressLine(f"embedding {name}", total, enabled=jax.process_index() == 0, stream=sys.stderr) as progress:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress.update(done)

        for encoder in encoders.all:
            for split, own in rows.items():
                if not sum(map(len, own)):
                    arrays |= _empty(arrays, encoder.name, split)
                    continue
                values = embed(
                    encoder.apply,
                    encoder.params,
                    stores,
                    own,
                    batch_size=run.config.evaluation.batch_size,
                    parallel=run.parallel,
                    on_batch=advance,
                )
                arrays |= {f"{encoder.name}/{split}/{what}": value for what, value in values.items()}
    return arrays


def _empty(arrays: dict[str, np.ndarray], encoder: str, split: str) -> dict[str, np.ndarray]:
    """Zero rows of the widths that the encoder has on the training split (which is never empty)."""
    first = f"{encoder}/train/"
    return {
        f"{encoder}/{split}/{key.removeprefix(first)}": np.zeros((0, value.shape[1]), np.float32)
        for key, value in arrays.items()
        if key.startswith(first)
    }


def _columns(stores: Sequence[Store], rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of the segment tables; participants of several stores are kept apart by the store's number."""

    def joined(name: str) -> np.ndarray:
        parts = [store.segments[name][own] for store, own in zip(stores, rows, strict=True)]
        if name == "participant" and len(stores) > 1:
            parts = [np.array([f"{number}/{person}" for person in part], dtype=str) for number, part in enumerate(parts)]
        return np.concatenate(parts)

    numbers = {name: joined(name).astype(np.float32) for name in (*LABELS, "motion_g", "ppg_quality")}
    return {"participant": joined("participant"), **numbers}


def _report(run: Run, folder: Path, embeddings, info: dict, curves: dict, examples: Callable, key: str) -> None:
    """Writes one report unless the one there was made from the same (`report/made_from`, written last, holds the key)."""
    c = run.config.evaluation
    mark = folder / "report" / "made_from"
    if mark.exists() and mark.read_text() == key and (folder / "report.md").exists():
        run.say(f"report: {folder / 'report.md'} is finished before")
        return
    evaluation = evaluate(
        embeddings, pool_sizes=(*c.pool_sizes, "all"), bootstrap_draws=c.bootstrap_draws, seed=run.config.seed
    )
    mark.unlink(missing_ok=True)
    write_report(folder, evaluation, run_info=info, curves=curves, examples=examples(), seed=run.config.seed)
    try:
        write_atomically(mark, key)
    except OSError as error:
        raise UserError(f"cannot write {mark}: {error.strerror or error}") from error
    if folder != run.workdir:
        run.say(f"report: {folder / 'report.md'}")


def _examples(run: Run, teacher: Teacher, stores: Sequence[Store], *, split: str | None) -> dict | None:
    """A few segments with what the teacher's autoencoder makes of them, as `plots.example_segments` wants them."""
    count = run.config.evaluation.examples
    if teacher.autoencoder is None or not count:
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
        labels.append({"hr_bpm": store.segments["hr_bpm"][row], "participant": store.segments["participant"][row]})
    stacked = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {**stacked, **{name: np.array([label[name] for label in labels]) for name in labels[0]}}


def _data_info(stores: Sequence[Store]) -> dict:
    """What a store holds, for the report."""
    return {
        store.path: {
            "source": store.manifest.get("source"),
            "segments": {split: len(store.indices(split)) for split in SPLITS},
            "counts": {k: v for k, v in store.manifest["counts"].items() if k != "participants"},
            "fingerprint": store.fingerprint,
        }
        for store in stores
    }


def _run_info(run: Run, encoders: Encoders, durations_s: dict[str, float]) -> dict:
    environment = configs.environment()
    parameters = {TEACHER: parameter_count(encoders.teacher.frozen["params"])}
    if encoders.student is not None:
        parameters[STUDENT] = parameter_count(encoders.student.params["encoder"])
    return {
        "config": plain(run.config),
        "versions": environment["versions"] | {"python": environment["python"]},
        "hardware": {k: environment[k] for k in ("device_kind", "device_count", "cpu_count", "machine")},
        "commit": environment["git_commit"],
        "durations_s": durations_s,
        "data": _data_info(run.stores),
        "parameters": parameters,
        "fingerprints": {TEACHER: encoders.teacher.fingerprint}
        | ({STUDENT: encoders.student.fingerprint} if encoders.student else {}),
    }
