"""The contest of input: all contenders read the same segments; the plain loop makes comparable minutes; the S3 service works."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.commands import input as benchmark
from accdistill_jax.benchmark.contenders import making_scipy, reading, reading_arrayrecord
from accdistill_jax.benchmark.made_up import raw_recordings
from accdistill_jax.benchmark.made_up.made_up_store import write_noise_store
from accdistill_jax.benchmark.made_up.object_store import BUCKET, serve_folder
from accdistill_jax.data import recordings
from accdistill_jax.data.prepare.preparation import PreparationSettings, prepare_recordings
from accdistill_jax.data.preprocessing.quantise import dequantise
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.store.store import RemoteReading, Store
from accdistill_jax.errors import UserError

TINY = ("--rounds=1", "--round-s=0.01", "--participants=8", "--segments=8", "--segment-s=10", "--batch=16")
ORDER = {
    "batch": 8,
    "steps": 2,
    "warm_steps": 1,
    "threads": 1,
    "prefetch": 2,
    "once": False,
    "concurrency": 8,
    "cache_mb": 1,
}
HAS_ARRAYRECORD = importlib.util.find_spec("array_record") is not None


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    return write_noise_store(tmp_path_factory.mktemp("noise") / "store", participants=8, segments=4, segment_s=10.0)


def measure(tmp_path, *arguments):
    path = tmp_path / "found.json"
    assert command.main(["input", *TINY, f"--json={path}", *arguments]) == 0
    return json.loads(path.read_text())


@pytest.mark.long
def test_reading(tmp_path, capsys):
    record = measure(tmp_path, "--only", "reading")
    results, text = record["reading"], capsys.readouterr().out
    taking_part = [measured for name, measured in results.items() if HAS_ARRAYRECORD or "ArrayRecord" not in name]
    assert all(len(measured["seconds"]) == 1 for measured in taking_part)
    arrays = results[benchmark.ours(1)]["facts"]["bytes_per_segment"]
    assert arrays["ppg"] == {"bytes": 2 * 4 * 640, "dtype": "int16"}
    assert arrays["accel"] == {"bytes": 2 * 3 * 640, "dtype": "int16"}
    assert f"go to the device: {sum(array['bytes'] for array in arrays.values()):.0f}" in text
    assert "GB/s" in text and ("Times as fast as" in text) == HAS_ARRAYRECORD


@pytest.mark.parametrize(("cores", "threads"), [(1, [1, 2]), (2, [1, 2]), (8, [1, 2, 8]), (64, [1, 2, 16])])
def test_more_cores_are_measured_with_more_threads(tmp_path, monkeypatch, cores, threads):
    measured = []
    monkeypatch.setattr(benchmark, "available_cores", lambda: cores)
    monkeypatch.setattr(contest, "compete", lambda contenders, **options: measured.extend(contenders) or {})
    arguments = command.benchmark_parser("input").parse_args(["input", *TINY])
    benchmark.measure_reading(arguments, tmp_path, print)
    assert [contender.order["threads"] for contender in measured[: len(threads)]] == threads
    assert [contender.name for contender in measured[: len(threads)]] == [benchmark.ours(count) for count in threads]


@pytest.mark.long
def test_wait(tmp_path, capsys):
    record = measure(tmp_path, "--only", "wait", "--wait-steps=2", "--segments=16", "--segment-s=60")
    assert set(record["wait"]) == set(benchmark.WAITS)
    for timings in record["wait"].values():
        (wait,) = timings["input_wait_fraction"]
        assert 0 <= wait <= 1 and timings["segments_per_s"][0] > 0
    assert "waiting for input" in capsys.readouterr().out


@pytest.mark.long
def test_making(tmp_path, capsys):
    record = measure(tmp_path, "--only", "generating", "preparing", "--people=2", "--minutes=3")
    for part in ("generating", "preparing"):
        assert [measured["facts"]["minutes"] for measured in record[part].values()] == [6, 6, 6]
    assert capsys.readouterr().out.count("minutes of signal per second") == 2


@pytest.mark.long
def test_object_store(tmp_path, capsys):
    record = measure(tmp_path, "--object-store", "--latency-ms=1")
    assert {(row["concurrency"], row["cache_mb"]) for row in record["object_store"]} >= {
        (1, 1),
        (128, 1),
        (32, 0),
        (32, 256),
    }
    assert "data.read_concurrency" in capsys.readouterr().out


def test_a_store_smaller_than_a_batch_is_refused(capsys):
    assert command.main(["input", *TINY, "--batch=512"]) == 2
    assert "the noise store is smaller than a batch" in capsys.readouterr().err


@pytest.mark.skipif(not HAS_ARRAYRECORD, reason="array_record is not installed")
def test_the_peer_reads_the_same_segments(noise, tmp_path):
    order = ORDER | {"store": noise.path, "folder": str(tmp_path), "processes": 0}
    facts, run = reading_arrayrecord.prepare_contender(order)
    run(2)
    assert facts["segments"] == reading.prepare_contender(order)[0]["segments"] == 16
    wrong = {name: values.copy() for name, values in noise.read(noise.indices("train")[:8]).items()}
    reading_arrayrecord.check_batch(wrong, noise)
    wrong["accel"][3, 5, 1] += 1
    with pytest.raises(AssertionError):
        reading_arrayrecord.check_batch(wrong, noise)


@pytest.mark.parametrize("once", [False, True])
def test_every_iteration_reads_its_batches(noise, monkeypatch, once):
    asked = []
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda self, rows: asked.append((id(self), len(rows))) or read(self, rows))
    _, run = reading.prepare_contender(ORDER | {"store": noise.path, "once": once})
    asked.clear()
    run(3)
    assert [rows for _, rows in asked] == [8] * 6
    assert len({store for store, _ in asked}) == 1 or once


def test_the_service_returns_the_folder_s_files(noise, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    rows = np.array([5, 0, 5, 3])
    with serve_folder(Path(noise.path).parent, latency_s=0.0) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        remote = Store.open(f"s3://{BUCKET}/store", remote=RemoteReading(concurrency=2, cache_mb=0))
        for name, values in remote.read(rows).items():
            np.testing.assert_array_equal(values, noise.read(rows)[name])
        with pytest.raises(UserError, match="not a store"):
            Store.open(f"s3://{BUCKET}/nothing")


def test_the_loop_prepares_the_same_signals(tmp_path):
    """PPG and acceleration are those of ours, except at the edges of minutes, where the loop's filters ring."""
    files = raw_recordings.write_recordings(tmp_path, recordings=1, minutes=3)
    settings = PreprocessSettings(max_motion_g=np.inf, min_ppg_quality=0.0, max_clipped_fraction=1.0)
    discovered = recordings.Found([raw_recordings.source(files[0])], reader="benchmark")
    store = prepare_recordings(
        discovered, tmp_path / "store", settings=settings, preparation=PreparationSettings(workers=1)
    )
    (tmp_path / "loop").mkdir()
    assert making_scipy.prepare_files(tmp_path / "loop", [str(files[0])]) == store.num_segments == 3
    ours = store.read(np.arange(3))
    with np.load(tmp_path / "loop" / files[0].name) as content:
        loop = dict(content)
    for name in ("ppg", "accel"):
        a, b = (
            dequantise(side[name], side[f"{name}_scale"], side[f"{name}_offset"])[:, 640:-640] for side in (ours, loop)
        )
        assert loop[name].dtype == np.int16
        for minute in range(3):  # the loop's band-pass is a different filter with the same band
            assert np.corrcoef(a[minute, :, 0], b[minute, :, 0])[0, 1] > 0.97


def test_the_loop_generates_minutes_with_a_pulse():
    ppg, accel, labels = making_scipy.generate_minute(np.random.default_rng(0), channels=2)
    made = making_scipy.finish_minute(ppg, accel)
    assert made["ppg"].shape == (3840, 2) and made["accel"].shape == (3840, 3) and made["ppg"].dtype == np.int16
    assert abs(made["hr_bpm"] - labels["hr_bpm"]) < 3
