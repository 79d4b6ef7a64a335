"""A bad recording is named and the others are prepared: unforeseen errors, crashes, endless files."""

import functools
import gzip
import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import scipy.io

from accdistill_jax.data import recordings
from accdistill_jax.data.prepare.preparation import PreparationSettings, prepare_recordings
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Participant, Recording, RecordingSource, Stream
from accdistill_jax.data.recordings import troika
from accdistill_jax.data.recordings.tables import table
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.storage.folder import LocalFolder

SETTINGS = PreprocessSettings(
    segment_s=10.0, hop_s=10.0, max_motion_g=np.inf, min_ppg_quality=0.0, max_clipped_fraction=1.0
)
SECONDS = 25
# Changes to the tag of a MATLAB v5 file that make scipy read invalid memory.
CRASHES = {"SIGSEGV": {176: 150}, "SIGBUS or SIGSEGV": {177: 114, 190: 87}}


def signals(seed, rate_hz=64):
    rng = np.random.default_rng(seed)
    time = np.arange(rate_hz * SECONDS) / rate_hz
    return np.sin(7.5 * time) + rng.normal(0, 0.05, time.shape), rng.normal([0, 0, 1], 0.01, (len(time), 3))


def good(name, seed):
    ppg, accel = signals(seed)
    streams = {
        "ppg": Stream("ppg", ppg[:, None], ("green",), "a.u.", rate_hz=64.0),
        "accel": Stream("accel", accel, ("x", "y", "z"), "g", rate_hz=64.0),
    }
    return Recording(name, Participant(name), "bench", "bench", 0.0, streams)


def fail(kind, name):
    if kind == "recursion":
        return fail(kind, name)
    if kind == "huge":
        recording = good(name, 0)
        recording.streams["accel"].values[:] = 3e38  # finite before the filter, infinite after it
        return recording
    raise {
        "memory": MemoryError(),
        "overflow": OverflowError("int too large"),
        "key": KeyError("sig"),
        "assertion": AssertionError(),
        "unicode": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        "escape": ValueError("\x1b[2J\nnext"),
        "long": ValueError("1" * 5000),
    }[kind]


def sources(*bad):
    """Recordings a and z, with the bad ones between them; `bad` gives names and load functions."""
    loads = {"a": functools.partial(good, "a", 1), **dict(bad), "z": functools.partial(good, "z", 2)}
    return [RecordingSource(name, name, load) for name, load in loads.items()]


def prepared(out, *bad, workers=1, skip_bad=False, can_crash=False):
    found = recordings.Found(sources(*bad), reader="bench", can_crash=can_crash)
    return prepare_recordings(
        found, out, settings=SETTINGS, preparation=PreparationSettings(workers=workers, skip_bad=skip_bad)
    )


@pytest.mark.parametrize(
    "kind", ["recursion", "memory", "overflow", "key", "assertion", "unicode", "escape", "long", "huge"]
)
def test_every_exception_of_one_recording_is_told_in_one_line(tmp_path, kind):
    bad = ("bad", functools.partial(fail, kind, "bad"))
    with pytest.raises(UserError) as error:
        prepared(tmp_path / "s", bad)
    message = str(error.value)
    assert (
        message.startswith("recording bad: ")
        and message.count("\n") == 0
        and "\x1b" not in message
        and len(message) < 700
    )
    store = prepared(tmp_path / "s", bad, skip_bad=True)
    assert list(store.manifest["skipped"]) == ["bad"] and store.participants["participant"].to_pylist() == ["a", "z"]


@pytest.mark.slow
def test_a_parser_that_crashes_is_named_also_with_one_worker(tmp_path):
    bad = ("bad", functools.partial(signal.raise_signal, signal.SIGBUS))
    with pytest.raises(UserError, match=r"^recording bad: the process that read it died \(SIGBUS\)") as error:
        prepared(tmp_path / "s", bad, can_crash=True)
    assert "--skip-bad" in str(error.value) and "\n" not in str(error.value)
    store = prepared(tmp_path / "s", bad, can_crash=True, skip_bad=True)
    assert "SIGBUS" in store.manifest["skipped"]["bad"] and store.participants["participant"].to_pylist() == ["a", "z"]


@pytest.mark.slow
def test_several_crashes_in_two_workers_are_all_named(tmp_path):
    causes = {
        "SIGSEGV": functools.partial(signal.raise_signal, signal.SIGSEGV),
        "exit status 3": functools.partial(os._exit, 3),
        "SIGKILL: out of memory": functools.partial(signal.raise_signal, signal.SIGKILL),
    }
    store = prepared(tmp_path / "s", *causes.items(), workers=2, skip_bad=True)
    assert store.participants["participant"].to_pylist() == ["a", "z"] and len(store.manifest["skipped"]) == 3
    for cause in causes:
        assert f"died ({cause}" in store.manifest["skipped"][cause]


def test_a_full_disk_is_not_taken_for_a_bad_recording(tmp_path, monkeypatch):
    def full(self, name, data, write=LocalFolder.write, **options):
        if name.endswith(".npz"):
            raise UserError(f"{name}: the disk is full")
        write(self, name, data, **options)

    monkeypatch.setattr(LocalFolder, "write", full)
    with pytest.raises(UserError, match="the disk is full") as error:
        prepared(tmp_path / "s", skip_bad=True)
    assert "recording" not in str(error.value)


def mat(changes=None):
    buffer = io.BytesIO()
    ppg, accel = signals(len(changes or ()), 125)
    scipy.io.savemat(buffer, {"sig": np.stack([ppg, ppg, *accel.T])})
    content = bytearray(buffer.getvalue())
    for place, value in (changes or {}).items():
        content[place] = value
    return content


def command(repository, *arguments):
    loose = "--max-motion-g inf --min-ppg-quality 0 --max-clipped-fraction 1 --segment-s 10 --hop-s 10".split()
    return subprocess.run(
        [sys.executable, "-m", "accdistill_jax.data.prepare", *map(str, arguments), *loose, "--quiet"],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize("changes", CRASHES.values(), ids=CRASHES)
def test_a_matlab_file_that_crashes_its_parser(tmp_path, repository, changes):
    root = tmp_path / "in"
    root.mkdir()
    (root / "TEST_S01_T01.mat").write_bytes(mat())
    (root / "TEST_S02_T01.mat").write_bytes(mat(changes))
    done = command(repository, "troika", root, "--out", tmp_path / "s", "--workers", 1, "--skip-bad")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(Store.open(tmp_path / "s").manifest["skipped"]) == ["TEST_S02_T01"]


def test_data_in_a_folder_whose_name_is_no_utf8_are_read(tmp_path):
    folder = tmp_path / os.fsdecode(b"Ren\xe9")
    generic(folder, "p01")
    rows = (folder / "a.csv").read_text()
    (folder / "b.csv.gz").write_bytes(gzip.compress(rows.encode()))
    table = np.loadtxt(rows.splitlines(), delimiter=",", skiprows=1)
    pyarrow.parquet.write_table(pyarrow.table(dict(zip("pxyz", table.T, strict=True))), tmp_path / "c.parquet")
    (tmp_path / "c.parquet").rename(folder / "c.parquet")
    description = folder / "recording.json"
    text = description.read_text()
    for name in ("a.csv", "b.csv.gz", "c.parquet"):
        description.write_text(text.replace("a.csv", name))
        (source,) = recordings.find("generic", tmp_path)
        assert source.recording_id == "Ren-xe9"
        np.testing.assert_allclose(source.load().streams["accel"].values, table[:, 1:], rtol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_more_numbers_than_any_recording_holds_are_refused_before_they_are_unpacked(tmp_path, monkeypatch, packed):
    monkeypatch.setattr(troika, "MOST_NUMBERS", 5 * 1000)
    scipy.io.savemat(tmp_path / "TEST_S01_T01.mat", {"sig": np.zeros((5, 1001))}, do_compression=packed)
    with pytest.raises(
        UserError, match=r"TEST_S01_T01.mat: 'sig' of shape \(5, 1001\) is larger than the 5000 numbers"
    ):
        recordings.find("troika", tmp_path)[0].load()
    monkeypatch.setattr(table, "MOST_ROWS", 1000)
    generic(tmp_path / "r", "p01")
    pyarrow.parquet.write_table(pyarrow.table({name: np.zeros(1001) for name in "pxyz"}), tmp_path / "r/a.parquet")
    description = tmp_path / "r/recording.json"
    description.write_text(description.read_text().replace("a.csv", "a.parquet"))
    with pytest.raises(UserError, match="a.parquet: has 1001 rows; at most 1000 are allowed"):
        recordings.find("generic", tmp_path)[0].load()


def test_readers_that_can_crash_are_known():
    pure = [name for name in recordings.names() if not recordings.reader(name).can_crash]
    assert pure == ["axivity", "banglejs", "edf", "empatica_e4", "geneactiv", "polar", "verily_tsdf", "wfdb"]


def generic(folder, name, **changes):
    folder.mkdir(parents=True)
    ppg, accel = signals(len(name))
    (folder / "a.csv").write_text(
        "p,x,y,z\n" + "".join(f"{p},{x},{y},{z}\n" for p, (x, y, z) in zip(ppg, accel, strict=True))
    )
    table = {"file": "a.csv", "rate_hz": 64}
    streams = {"ppg": table | {"columns": ["p"]}, "accel": table | {"columns": ["x", "y", "z"]}}
    (folder / "recording.json").write_text(json.dumps({"participant": name, "streams": streams} | changes))


@pytest.mark.slow
def test_numbers_pipes_and_depths_that_nobody_foresaw(tmp_path, repository):
    root = tmp_path / "in"
    generic(root / "good", "p01")
    huge = int("9" * 400)
    generic(root / "start", "p02", start=huge)
    generic(root / "age", "p03", participant={"id": "p03", "age_years": huge})
    generic(root / "deep", "p04")
    (root / "deep/recording.json").write_text('{"streams":' + "[" * 100_000)
    generic(root / "rows", "p05")
    (root / "rows/a.csv").write_text(f"p,x,y,z\n{huge},0,0,1\n" * 2)
    generic(root / "pipe", "p06")
    (root / "pipe/a.csv").unlink()
    os.mkfifo(root / "pipe/a.csv")
    generic(root / "zero", "p07")
    (root / "zero/a.csv").unlink()
    (root / "zero/a.csv").symlink_to("/dev/zero")
    done = command(repository, "generic", root, "--out", tmp_path / "s", "--workers", 1, "--skip-bad")
    assert (done.returncode, done.stderr) == (0, "")
    store = Store.open(tmp_path / "s")
    assert sorted(store.manifest["skipped"]) == ["age", "deep", "pipe", "rows", "start", "zero"]
    assert store.participants["participant"].to_pylist() == ["p01"]
    assert "a named pipe, not a file" in store.manifest["skipped"]["pipe"]
