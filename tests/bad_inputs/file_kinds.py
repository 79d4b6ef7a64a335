"""Every kind of file that the program writes and reads again: functions that make a small example and read it."""

import hashlib
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from accdistill_jax.config import record as config_record
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.data.preprocessing.segments import SegmentBatch
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Participant
from accdistill_jax.data.store import shards
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.units import decode_unit, encode_unit
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.evaluation.report.finished import is_finished, mark_finished, unmark
from accdistill_jax.files import read_regular, sealed, write_atomically
from accdistill_jax.stages import embedding, view_files
from accdistill_jax.stages.view_files import Views, ViewsPlan
from accdistill_jax.storage.checked_npz import DamagedNpz
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.storage.export import load_params, save_params
from accdistill_jax.storage.folder import LocalFolder
from accdistill_jax.storage.mirror_files import Content, Journal, Known
from accdistill_jax.storage.mirror_store import parse_manifest
from accdistill_jax.training.metrics import MetricsFiles, read_metrics
from accdistill_jax.training.metrics_sums import spoilt_files, sums_path

MADE_AGAIN = "made again"  # the program discards the file and makes it again
PEOPLE = {"anna": 5, "ben": 3}
SAMPLES = 64


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        make: makes it in a folder, or replaces another version of it there; as make(folder, version).
        read: what the program takes from it, hashed, or `MADE_AGAIN`; raises UserError, in one line.
        share: how often it is damaged, in parts.
    """

    make: Callable[[Path, int], None]
    read: Callable[[Path], str]
    share: int


def digest(*values: object) -> str:
    """Hash of arrays (type, shape and bytes) and JSON-able values, also within dictionaries."""
    hashed = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, dict):
            for name in sorted(value):
                hashed.update(f"{name}\0".encode())
                add(value[name])
        elif isinstance(value, np.ndarray) and value.dtype != object:
            hashed.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        else:
            hashed.update(repr(value.tolist() if isinstance(value, np.ndarray) else value).encode())

    for value in values:
        add(value)
    return hashed.hexdigest()


def _batch(participant: str, segments: int, version: int) -> SegmentBatch:
    rng = np.random.default_rng([version, *participant.encode()])
    return SegmentBatch(
        ppg=rng.normal(3, 40, (segments, SAMPLES, 2)).astype(np.float32),
        accel=rng.normal(0, 0.01, (segments, SAMPLES, 3)).astype(np.float32),
        columns={
            "participant": np.full(segments, participant),
            "recording": np.full(segments, participant),
            "device": np.full(segments, "bench"),
            "start_unix_s": 10.0 * np.arange(segments),
            "hr_bpm": rng.uniform(50, 90, segments).astype(np.float32),
        },
        participant=Participant(participant_id=participant),
        examined=segments + 1,
        rejected={"motion": 1},
    )


def _make_unit(folder: Path, version: int) -> None:
    LocalFolder(folder).write("unit.npz", encode_unit("anna", _batch("anna", 3, version), samples=SAMPLES))


def _read_unit(folder: Path) -> str:
    try:
        unit = decode_unit(LocalFolder(folder).open("unit.npz"), signals=True)
    except DamagedNpz:
        return MADE_AGAIN
    return digest(unit.about, unit.columns, unit.arrays)


def _make_store(folder: Path, version: int) -> None:
    shards.SEGMENTS_PER_SHARD = 4
    settings = PreprocessSettings(segment_s=1.0, hop_s=1.0)
    writer = StoreWriter(folder / "store", settings=settings, source=f"version {version}", overwrite=True)
    for name, segments in PEOPLE.items():
        writer.add(name, _batch(name, segments, version))
    writer.commit(list(PEOPLE))


def _read_store(folder: Path) -> str:
    store = Store.open(folder / "store")
    manifest = {key: value for key, value in store.manifest.items() if key not in ("software", "files")}
    splits = {split: store.indices(split) for split in ("train", "validation", "test")}
    return digest(
        store.read(np.arange(store.num_segments)),
        dict(store.segments),
        store.participants.to_pydict(),
        splits,
        manifest,
    )


def _state(version: int) -> dict:
    """State of a training: parameters, and the moments and count of the optimiser."""
    rng = np.random.default_rng(version)
    params = {"encoder": {"kernel": rng.normal(size=(7, 5)).astype(np.float32), "bias": np.zeros(5, np.float32)}}
    return {
        "params": params,
        "opt_state": {"mu": params, "nu": params, "count": np.int32(version)},
        "step": np.int32(version),
    }


class _Warnings(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def _make_checkpoint(folder: Path, version: int) -> None:
    with Checkpointer(folder / "checkpoints", keep_last=2) as checkpointer:
        if not version:
            checkpointer.save(3, _state(100), meta={"version": 100})
        checkpointer.save(6 + version, _state(version), metric=0.5, meta={"version": version})


def _read_checkpoint(folder: Path) -> str:
    """The newest whole checkpoint; using an older one without a warning would hide the damage."""
    log, heard = logging.getLogger("accdistill_jax.storage.checkpoint"), _Warnings()
    log.addHandler(heard)
    log.propagate = False
    try:
        with Checkpointer(folder / "checkpoints", keep_last=2) as checkpointer:
            step = checkpointer.latest_valid_step()
            restored = checkpointer.restore(step, _state(0))
    finally:
        log.removeHandler(heard)
    return MADE_AGAIN if heard.said else digest(step, restored.state, restored.meta)


def _make_export(folder: Path, version: int) -> None:
    save_params(folder / "export", _state(version)["params"], {"version": version})


def _read_export(folder: Path) -> str:
    loaded = load_params(folder / "export", _state(0)["params"])
    return digest(loaded.state, loaded.meta)


_COUNTS = {"train": 4, "test": 3}


def _make_embeddings(folder: Path, version: int) -> None:
    rng = np.random.default_rng(version)
    arrays = {
        f"{encoder}/{split}/embedding": rng.normal(size=(count, 4)).astype(np.float32)
        for encoder in ("teacher", "student")
        for split, count in _COUNTS.items()
    }
    embedding.save_embeddings(folder / "main.npz", "key", arrays | {"student/test/rank/accel->ppg": rng.permutation(3)})


def _read_embeddings(folder: Path) -> str:
    arrays = embedding.load_embeddings(
        folder / "main.npz", "key", encoders=("teacher", "student"), counts=_COUNTS, say=lambda line: None
    )
    return MADE_AGAIN if arrays is None else digest(arrays)


def _plan(version: int) -> ViewsPlan:
    return ViewsPlan(SimpleNamespace(path="store", fingerprint="0"), np.arange(0, 20, 2), 3, 4, 4, {"version": version})


def _make_views(folder: Path, version: int) -> None:
    plan, rng = _plan(0), np.random.default_rng(version)
    (folder / view_files.RECORD).unlink(missing_ok=True)
    for part in range(plan.parts):
        count = len(plan.rows[plan.places(part)])
        content = view_files.encode(
            plan, part, rng.normal(size=(count, 3, 4)).astype(np.float32), np.arange(count, dtype=np.uint32)
        )
        view_files.write_file(folder / view_files.part_name(part), content)
    view_files.write_record(folder, plan, seconds=0.0)


def _read_views(folder: Path) -> str:
    plan = _plan(0)
    if not view_files.is_complete(folder, plan):
        return MADE_AGAIN
    return digest(
        *(
            array
            for view in range(plan.views)
            for array in Views(folder, plan).read(plan.rows, np.full(len(plan.rows), view))
        )
    )


def _make_metrics(folder: Path, version: int) -> None:
    with MetricsFiles(folder, "teacher") as writer:
        for step in range(1, 6):
            writer.write(step, "train", {"loss": version + 1 / step, "odd": math.nan}, timing={"seconds": step})


def _read_metrics(folder: Path) -> str:
    if spoilt_files(folder, "teacher") or not sums_path(folder, "teacher").exists():
        return MADE_AGAIN  # or the message names it; without checksums the stage is unfinished and continues from its checkpoint
    return digest(*(read_metrics(folder / f"metrics/teacher{end}") for end in (".jsonl", ".timing.jsonl")))


def _make_report(folder: Path, version: int) -> None:
    (folder / "report").mkdir(exist_ok=True)
    unmark(folder)
    write_atomically(folder / "report/map.png", b"\x89PNG" + bytes(500) + bytes([version]))
    write_atomically(
        folder / "report.json", json.dumps({"pictures": {"map": "report/map.png"}, "verdict": {"version": version}})
    )
    write_atomically(folder / "report.md", f"# Version {version}\n\n| a | b |\n")
    mark_finished(folder, "key")


def _read_report(folder: Path) -> str:
    whole, _ = is_finished(folder, "key")
    return (
        digest(*(read_regular(folder / name) for name in ("report.md", "report.json", "report/map.png")))
        if whole
        else MADE_AGAIN
    )


def _config(version: int):
    return changed(load_config("distill:smoke"), {"evaluation.bootstrap_draws": 10 + version})  # a key that may change


def _make_config(folder: Path, version: int) -> None:
    config_record.dump(_config(version), folder)


def _read_config(folder: Path) -> str:
    """The record is only compared with the values of the run."""
    config_record.claim(_config(0), folder)
    return "the same"


def _journal(version: int) -> Journal:
    files = {f"teacher/{number}.json": Content(number, f"{version}{number}" * 8) for number in range(5)}
    return Journal(
        "run",
        version,
        f"push {version}",
        base=files,
        known={name: Known((1, 2, 3), own) for name, own in files.items()},
    )


def _make_journal(folder: Path, version: int) -> None:
    _journal(version).save(folder)


def _read_journal(folder: Path) -> str:
    return digest(repr(Journal.load(folder)))


def _make_copy(folder: Path, version: int) -> None:
    own = _journal(version)
    about = {
        "format": 2,
        "host": "here",
        "time": "now",
        "run": own.run,
        "generation": version,
        "push": own.push,
        "files": own.base,
        "stale": [],
        "writing": "",
    }
    write_atomically(folder / "mirror.json", json.dumps(sealed(about)))


def _read_copy(folder: Path) -> str:
    return digest(repr(parse_manifest(LocalFolder(folder).read("mirror.json"), where=str(folder / "mirror.json"))))


KINDS = {
    "staged unit": Kind(_make_unit, _read_unit, 20),
    "store": Kind(_make_store, _read_store, 20),
    "checkpoint": Kind(_make_checkpoint, _read_checkpoint, 4),
    "export": Kind(_make_export, _read_export, 4),
    "embeddings": Kind(_make_embeddings, _read_embeddings, 10),
    "teacher views": Kind(_make_views, _read_views, 10),
    "metrics": Kind(_make_metrics, _read_metrics, 8),
    "report": Kind(_make_report, _read_report, 8),
    "config.json": Kind(_make_config, _read_config, 8),
    "mirror: journal": Kind(_make_journal, _read_journal, 4),
    "mirror: manifest": Kind(_make_copy, _read_copy, 4),
}
