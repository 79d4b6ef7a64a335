"""The public Python API: its import, `load` and `open_store` with their messages, and the examples in docstrings."""

import contextlib
import doctest
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import accdistill_jax as ad
from accdistill_jax.storage.folder import open_folder
from accdistill_jax.storage.mirror import Mirror
from tests import layout

EXAMPLES = sorted(
    name for name, path in layout.modules().items() if "\n    >>> " in path.read_text().replace("        ", "    ")
)


def refused(function, *arguments, **options) -> str:
    """The message of the UserError that a call raises."""
    with pytest.raises(ad.UserError) as raised:
        function(*arguments, **options)
    return str(raised.value)


@pytest.fixture
def folder(finished, smoke_store, tmp_path, monkeypatch) -> Path:
    """The working directory, with a finished run in runs/distill, a store in store, and watch.csv.gz: two minutes at 50 Hz, in mg."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "distill").symlink_to(finished)
    (tmp_path / "store").symlink_to(smoke_store)
    wrist = np.random.default_rng(0).normal([0, 600, 800], 2, (6000, 3))
    np.savetxt(tmp_path / "watch.csv.gz", wrist, fmt="%.1f", delimiter=",", header="x,y,z", comments="")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(path: Path, finished: Path, *parts: str, stages=("data", "teacher", "student"), teacher_path="") -> Path:
    """A work directory with some of the exports of a finished run."""
    path.mkdir()
    config = {"stages": list(stages), "teacher": {"path": teacher_path}}
    (path / "config.json").write_text(json.dumps({"config": config, "environment": {}}))
    for part in parts:
        shutil.copytree(finished / part / "export", path / part / "export")
    return path


def test_the_import_loads_no_library(repository):
    program = (
        "import sys; import accdistill_jax as ad; dir(ad)\n"
        "print({'jax', 'numpy', 'scipy', 'absl', 'pyarrow'} & set(sys.modules), [n for n in ad.__all__ if n not in dir(ad)])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("set() []\n", "")


def test_every_public_name_exists():
    for name in ad.__all__:
        assert getattr(ad, name) is not None
    with pytest.raises(AttributeError, match="module 'accdistill_jax' has no attribute 'loadd'"):
        _ = ad.loadd


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_in_docstrings_are_true(module, folder):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted and not result.failed


def test_modules_with_examples_are_found():
    assert {"accdistill_jax.api.encoder", "accdistill_jax.api.loading", "accdistill_jax.api.store"} <= set(EXAMPLES)


@pytest.mark.parametrize("part", ["teacher", "student"])
def test_embeddings_are_those_of_the_run(finished, smoke_store, part):
    encoder, store = ad.load(finished, part=part), ad.open_store(smoke_store)
    rows = store.indices("test")
    with np.load(finished / "embeddings" / "main.npz") as saved:
        wanted = saved[f"{part}/test/embedding"]
    np.testing.assert_allclose(encoder.encode(store.read(rows)), wanted, atol=1e-5)
    signals = store.read_signals(rows)
    np.testing.assert_allclose(encoder.encode(signals, batch_size=5), wanted, atol=1e-4)
    np.testing.assert_allclose(encoder.encode(signals[encoder.modality].astype(np.float64)), wanted, atol=1e-4)
    assert encoder.encode(store.read(rows[:0])).shape == (0, encoder.embedding_size)


def test_an_encoder_tells_its_contract(finished, smoke_store):
    student, teacher = ad.load(finished), ad.load(finished / "teacher")
    assert (student.part, student.modality, student.unit, student.channels) == ("student", "accel", "g", 3)
    assert (teacher.part, teacher.modality, teacher.unit, teacher.channels) == ("teacher", "ppg", "a.u.", 2)
    export = json.loads((finished / "student" / "export" / "export.json").read_text())
    leaves = {name: shape for name, (_, shape) in export["leaves"].items() if name.startswith("encoder/")}
    assert student.parameters == sum(int(np.prod(shape)) for shape in leaves.values()) > 0
    assert student.fingerprint == export["fingerprint"] and student.objective == "distillation"
    assert (student.rate_hz, student.samples) == (64.0, 3840) and student.path == f"{finished}/student/export"


def test_signals_are_read_in_physical_units(smoke_store):
    store = ad.open_store(smoke_store)
    rows = np.array([5, 0, 5])
    stored, signals = store.read(rows), store.read_signals(rows)
    for name, values in signals.items():
        wanted = stored[f"{name}_offset"][:, None] + stored[f"{name}_scale"][:, None] * stored[name].astype(np.float64)
        np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-5)
    gravity = np.linalg.norm(signals["accel"].mean(axis=1), axis=-1)
    assert np.all(np.abs(gravity - 1.0) < 0.2) and store.units == {"accel": "g", "ppg": "a.u."}


def test_a_run_at_an_address_is_loaded(finished, tmp_path):
    url = "memory://api/run"
    mirror = Mirror(url, shutil.copytree(finished, tmp_path / "work"), say=lambda line: None, patience_s=0.05)
    with contextlib.closing(mirror):
        mirror.pull()
        mirror.push()
    encoder = ad.load(url)
    assert encoder.fingerprint == ad.load(finished).fingerprint and encoder.path == f"{url}/student/export"
    assert ad.load(f"{url}/teacher/export/").part == "teacher" == ad.load(url, part="teacher").part
    assert refused(ad.load, "memory://api/other") == "memory://api/other holds no run"


def test_an_export_at_an_address_is_loaded(finished):
    url, export = "memory://exports/teacher", finished / "teacher" / "export"
    folder = open_folder(url)
    for path in filter(Path.is_file, export.rglob("*")):
        folder.write(path.relative_to(export).as_posix(), path.read_bytes())
    encoder = ad.load(url)
    assert (encoder.part, encoder.path, encoder.fingerprint) == ("teacher", url, ad.load(export).fingerprint)


def test_a_missing_folder_is_named_with_the_nearest(folder):
    assert refused(ad.load, "runs/distil") == "no folder runs/distil; did you mean runs/distill?"
    assert refused(ad.load, "run/distill") == "no folder run/distill"
    assert refused(ad.open_store, "storr") == "no folder storr; did you mean store?"
    assert refused(ad.load, "runs/distill/report.md") == "runs/distill/report.md is a file; give the folder"


def test_a_folder_without_a_run_or_store_is_refused(folder):
    assert refused(ad.load, "store").startswith(
        "store holds no run (no config.json, no export.json); give the --workdir"
    )
    assert "runs: not a store" in refused(ad.open_store, "runs")


def test_an_unfinished_run_says_what_to_do(finished, tmp_path):
    run = make_run(tmp_path / "run", finished, "teacher")
    message = refused(ad.load, run)
    assert message.startswith(f"{run}: the run has not finished its student (no student/export/export.json)")
    assert message.endswith("run the same command again, or load the finished teacher by part='teacher'")
    assert ad.load(run, part="teacher").part == "teacher"
    begun = make_run(tmp_path / "begun", finished)
    assert refused(ad.load, begun, part="teacher").endswith(
        "(no teacher/export/export.json); run the same command again"
    )
    (begun / "student" / "checkpoints").mkdir(parents=True)
    assert "the training is not finished (no export/export.json)" in refused(ad.load, begun / "student")


def test_a_part_that_the_run_does_not_have(finished, tmp_path):
    pretrained = make_run(tmp_path / "pretrained", finished, "teacher", stages=("data", "teacher"))
    assert ad.load(pretrained).part == "teacher"
    assert "is a run without a student (its stages: data, teacher)" in refused(ad.load, pretrained, part="student")
    other = make_run(tmp_path / "other", finished, "student", teacher_path="runs/teacher/export")
    assert ad.load(other).part == "student"
    assert "took its teacher from runs/teacher/export; load that folder" in refused(ad.load, other, part="teacher")
    assert "holds a student, not a teacher" in refused(ad.load, other / "student", part="teacher")
    assert refused(ad.load, other, part="studnet") == "part = 'studnet' must be 'teacher' or 'student'"


def test_damaged_files_are_named(finished, tmp_path):
    run = make_run(tmp_path / "run", finished, "student")
    (run / "config.json").write_text("{")
    assert f"{run}/config.json cannot be read" in refused(ad.load, run)
    export = run / "student" / "export" / "export.json"
    export.write_text(export.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    assert "are damaged" in refused(ad.load, run / "student")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda s: s["accel"][:, ::2],
            r"accel has shape [2, 1920, 3]; the student reads [batch, 3840, 3]: 60 s at 64 Hz",
        ),
        (lambda s: s["accel"][0], "accel has shape [3840, 3]"),
        (lambda s: s["ppg"], "accel has shape [2, 3840, 2]"),
        (lambda s: {"ppg": s["ppg"]}, "the student reads accel; the segments have ppg"),
        (lambda s: (1000 * s["accel"]).astype(np.int16), "accel has dtype int16; give float values in g"),
        (
            lambda s: np.where(np.arange(2)[:, None, None] == 1, np.nan, s["accel"]),
            "NaN or infinite values, first in segment 1",
        ),
    ],
)
def test_segments_that_do_not_fit_are_refused(finished, smoke_store, make, message):
    signals = ad.open_store(smoke_store).read_signals(np.arange(2))
    assert message in refused(ad.load(finished).encode, make(signals))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: {"accel": b["accel"].astype(np.float32)}, "accel has float values and a scale and offset"),
        (
            lambda b: {"accel_scale": b["accel_scale"][0]},
            "accel_scale has shape [3]; finite numbers of shape [batch, channels], [2, 3]",
        ),
        (lambda b: {"accel_scale": np.float32(1)}, "accel_scale has shape []; finite"),
        (lambda b: {"accel_offset": b["accel_offset"] + np.nan}, "accel_offset has shape [2, 3]; finite numbers"),
    ],
)
def test_stored_segments_with_wrong_scales_are_refused(finished, smoke_store, change, message):
    batch = ad.open_store(smoke_store).read(np.arange(2))
    assert message in refused(ad.load(finished).encode, batch | change(batch))


def test_a_batch_size_below_one_is_refused(finished, smoke_store):
    batch = ad.open_store(smoke_store).read(np.arange(2))
    assert refused(ad.load(finished).encode, batch, batch_size=0) == "batch_size = 0 must be a positive integer"
