"""Preparation step by step, as an engine on many machines runs it, and recordings at an address."""

import importlib.util
import itertools
import pickle
import re
from pathlib import Path

import pytest

from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.prepare.batches import StoreJob, changes_of
from accdistill_jax.data.prepare.preparation import PreparationSettings, find_recordings, prepare_recordings
from accdistill_jax.data.store.manifest import read_manifest
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.errors import UserError
from accdistill_jax.storage.folder import open_folder
from tests.data.prepare.test_prepare_remarks import ALL, put
from tests.layout import imports, modules

LOCAL = PreparationSettings(workers=1, quiet=True)
WORKER_MODULES = ("batches", "staging", "addresses", "beam_engine", "preparation", "__main__")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Recordings with an inverted pulse; the third moves all the time, so the others decide its polarity."""
    root = tmp_path_factory.mktemp("recordings")
    for name, shake in (("a", 0.003), ("b", 0.003), ("moved", 0.2)):
        put(root, name, shake=shake)
    (root / "a/notes.zip").write_bytes(b"no archive")
    return root


@pytest.fixture(scope="module")
def expected(root, tmp_path_factory) -> dict[str, bytes]:
    """Files of the store that the local engine makes."""
    out = tmp_path_factory.mktemp("local") / "store"
    prepare_recordings(find_recordings("generic", [root]), out, settings=ALL, preparation=LOCAL)
    return files(out)


def files(path) -> dict[str, bytes]:
    folder = open_folder(path)
    return {name: folder.read(name) for name in folder.names()}


def job_of(out, found, *, skip_bad: bool = False) -> StoreJob:
    writer = StoreWriter(out, settings=ALL, source=found.reader, source_settings=found.options)
    return StoreJob(writer, ALL, skip_bad=skip_bad, can_crash=False)


def run_steps(job: StoreJob, found) -> None:
    """Runs the steps in the order of the engine's pipeline; each has a copy of the job, as on another machine."""
    batches = job.write_batches(found)
    copies = (pickle.loads(pickle.dumps(job)) for _ in itertools.count())
    first = [outcome for batch in batches for outcome in next(copies).prepare(batch)]
    changes = changes_of(first)
    again = [outcome for batch in batches for outcome in next(copies).prepare_again(batch, changes)]
    next(copies).finish([*again, *reversed(first)])


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_the_steps_make_the_store_of_the_local_engine(root, expected, tmp_path, place):
    out = tmp_path / "store" if place == "folder" else f"memory://{tmp_path.name}/store"
    found = find_recordings("generic", [root])
    job = job_of(out, found)
    run_steps(job, found)
    job.check()
    assert files(out) == expected
    assert not job.writer.staging.names()
    notes = {entry["unit"]: entry["notes"] for entry in read_manifest(out)["prepared"]}
    assert len(notes) == 3 and "a/notes.zip" in read_manifest(out)["not_read"]


def test_steps_that_run_twice_change_nothing(root, expected, tmp_path):
    found = find_recordings("generic", [root])
    job = job_of(tmp_path / "store", found)
    batches = job.write_batches(found)
    for _ in range(2):
        first = [outcome for batch in batches for outcome in job.prepare(batch)]
        changes = changes_of(first)
        again = [outcome for batch in batches for outcome in job.prepare_again(batch, changes or {"a": "systole_down"})]
        assert again == []
    for _ in range(2):
        job.finish(first)
    job.check()
    assert files(tmp_path / "store") == expected


def test_bad_recordings_are_refused_or_left_out_as_by_the_local_engine(root, tmp_path):
    put(tmp_path / "in", "good")
    put(tmp_path / "in", "empty")
    (tmp_path / "in/empty/data.csv").write_text("")
    found = find_recordings("generic", [tmp_path / "in"])
    job = job_of(tmp_path / "store", found)
    run_steps(job, found)
    with pytest.raises(UserError) as by_steps:
        job.check()
    with pytest.raises(UserError) as by_processes:
        prepare_recordings(found, tmp_path / "local", settings=ALL, preparation=LOCAL)
    assert str(by_steps.value) == str(by_processes.value) and "recording empty: " in str(by_steps.value)
    job = job_of(tmp_path / "store", found, skip_bad=True)
    run_steps(job, found)
    job.check()
    assert list(Store.open(tmp_path / "store").manifest["skipped"]) == ["empty"]


def test_an_error_that_is_not_of_a_recording_stops_the_preparation(root, tmp_path, monkeypatch):
    found = find_recordings("generic", [root])
    job = job_of(tmp_path / "store", found, skip_bad=True)
    batches = job.write_batches(found)

    def full(*_, **__):
        raise UserError("the disk is full")

    monkeypatch.setattr(StoreWriter, "add", full)
    outcomes = list(job.prepare(batches[0]))
    assert len(outcomes) == 3 and all(outcome.stops for outcome in outcomes)
    job.finish(outcomes)
    with pytest.raises(UserError, match="^the disk is full$"):
        job.check()
    assert read_manifest(tmp_path / "store") is None


def test_recordings_at_an_address_make_the_same_store(root, expected, tmp_path):
    address = f"memory://{tmp_path.name}/{root.name}"
    bucket = open_folder(address)
    for file in root.rglob("*"):
        if file.is_file():
            bucket.write(str(file.relative_to(root)), file.read_bytes())
    bucket.write("a/", b"")
    found = find_recordings("generic", [address])
    assert [source.recording_id for source in found] == ["a", "b", "moved"] and not found.is_local
    job = job_of(tmp_path / "store", found)
    run_steps(job, found)
    job.check()
    assert files(tmp_path / "store") == expected
    bucket.write("b/data.csv", b"")
    with pytest.raises(UserError, match=f"{address}/b/data.csv: "):
        next(source for source in found if source.recording_id == "b").load()
    bucket.write("c/../../escape.csv", b"")
    assert "its name is no path" in find_recordings("generic", [address]).not_read["c/../../escape.csv"]
    with pytest.raises(UserError, match="no object there; check the address"):
        find_recordings("generic", [f"memory://{tmp_path.name}/nothing"])
    with pytest.raises(UserError, match="is both below"):
        find_recordings("generic", [address, f"{address}/a"])


def test_the_workers_import_no_jax():
    graph, sources = imports(), modules()
    waiting = [f"accdistill_jax.data.prepare.{name}" for name in WORKER_MODULES]
    reached = set(waiting)
    while waiting:
        new = graph[waiting.pop()] - reached
        reached |= new
        waiting += new
    pattern = re.compile(r"^\s*(?:import|from) (?:jax|jaxlib|flax|optax|orbax|grain|chex)\b", re.MULTILINE)
    assert len(reached) > 30
    assert [name for name in sorted(reached) if pattern.search(sources[name].read_text())] == []


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is not None, reason="Apache Beam is installed")
def test_without_beam_the_error_names_the_lock(root, tmp_path, capsys):
    command = ["generic", str(root), "--out", str(tmp_path / "store"), "--quiet"]
    assert main([*command, "--engine=beam"]) == 2
    assert "Apache Beam is missing" in (error := capsys.readouterr().err) and "requirements-beam.lock" in error
    assert main([*command, "--beam-options=--runner=SparkRunner"]) == 2
    assert "have an effect with --engine=beam only" in capsys.readouterr().err
