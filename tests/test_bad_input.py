"""Failures of a whole run: one clear line names the cause, and no half-written file counts as whole.

Broken recordings and stores by themselves: tests/data. Wrong keys and values of a config: tests/config/test_validate.py.
"""

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.data.store.manifest import manifest_fingerprint
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, unit_id, write_store
from accdistill_jax.errors import UserError
from accdistill_jax.run import run
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.storage.export import load_params

SMOKE = "--config=configs/distill.py:smoke"


def fail(config, workdir) -> str:
    """Runs, and returns the line that the user reads."""
    with pytest.raises(UserError) as caught:
        run(config, workdir)
    text = str(caught.value)
    assert "\n" not in text
    return text


def last_checkpoint(workdir: Path, stage: str = "teacher") -> int | None:
    with Checkpointer(workdir / stage / "checkpoints") as checkpointer:
        return checkpointer.latest_valid_step()


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def largest_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.fixture(scope="module")
def teacher(smoke_store, tmp_path_factory) -> Path:
    """Work directory with a finished teacher and its checkpoints of steps 3 and 6; tests must not change it."""
    workdir = tmp_path_factory.mktemp("teacher")
    changes = {"data.stores": (str(smoke_store),), "stages": ("teacher",)}
    run(changed(load_config("distill:smoke"), changes), workdir)
    return workdir


@pytest.fixture
def copy(teacher, tmp_path) -> Path:
    return Path(shutil.copytree(teacher, tmp_path / "copy"))


def population(split: dict[str, int], path: Path, **settings) -> Store:
    """A synthetic store with four segments per participant and a given number of participants in each split."""
    people = SyntheticSettings(participants=sum(split.values()), segments_per_participant=4, **settings)
    parts = [name for name, count in split.items() for _ in range(count)]
    assigned = {unit_id(people, p): part for p, part in zip(people.participant_indices, parts, strict=True)}
    return write_store(path, people, split=SplitRule(assignment=assigned))


@pytest.mark.slow
def test_shard_that_breaks_during_training(smoke_config, smoke_store, tmp_path, monkeypatch):
    store = Path(shutil.copytree(smoke_store, tmp_path / "store"))
    shard = store / "ppg" / "c" / "0" / "0" / "0"
    whole = shard.read_bytes()
    save = Checkpointer.save

    def break_and_save(self, step, *arguments, **options):
        save(self, step, *arguments, **options)
        shard.write_bytes(whole[:5000])

    config = smoke_config(
        **{"data.stores": (str(store),), "stages": ("teacher",), "teacher.train.duration": "30 steps"}
    )
    with monkeypatch.context() as once:
        once.setattr(Checkpointer, "save", break_and_save)
        text = fail(config, tmp_path / "run")
    assert str(shard) in text and f"python -m accdistill_jax.data.prepare verify {store}" in text
    assert 3 <= last_checkpoint(tmp_path / "run") < 30  # the loop reads some batches ahead
    assert not (tmp_path / "run/teacher/export").exists()
    shard.write_bytes(whole)
    run(config, tmp_path / "run")
    assert last_checkpoint(tmp_path / "run") == 30


@pytest.mark.slow
def test_the_line_and_status_of_a_bad_store_on_the_command_line(repository, smoke_store, tmp_path):
    """A newer format (also as text in place of a tuple), a folder without a store, and a misspelled path."""
    newer = Path(shutil.copytree(smoke_store, tmp_path / "newer"))
    manifest = json.loads((newer / "manifest.json").read_text()) | {"format_version": 3}
    (newer / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": manifest_fingerprint(manifest)}))
    (tmp_path / "empty").mkdir()
    for value, message in (
        (
            str(newer),
            f"{newer}/manifest.json: the store has format version 3, this program reads version 2; update accdistill_jax",
        ),
        (f"('{tmp_path}/empty',)", f"{tmp_path}/empty: not a store (no manifest.json there)"),
        (
            f"('{tmp_path}/newr',)",
            f"config.data.stores: there is no folder {tmp_path}/newr; did you mean {tmp_path}/newer?",
        ),
    ):
        command = [
            sys.executable,
            "-m",
            "accdistill_jax.main",
            SMOKE,
            f"--workdir={tmp_path}/run",
            f"--config.data.stores={value}",
        ]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
        assert not (tmp_path / "run").exists(), "a typing error must not claim the work directory"


def test_workdir_that_cannot_be_written(repository, tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "accdistill_jax.main", SMOKE, f"--workdir={tmp_path}/file/run"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr == f"error: {tmp_path}/file/run: cannot be written (Not a directory)\n"


def test_loss_that_is_not_finite_stops_with_step_and_cause(smoke_config, tmp_path):
    config = smoke_config(
        **{
            "stages": ("teacher",),
            "teacher.train.learning_rate": 1e38,
            "teacher.train.clip_norm": 0.0,
            "teacher.train.warmup": "5 steps",
            "teacher.train.checkpoint_every": "1 steps",
        }
    )
    text = fail(config, tmp_path / "run")
    step = int(text.split("training stopped at step ")[1].split(":")[0])
    assert "loss" in text and "not finite" in text and "train.learning_rate" in text
    kept = last_checkpoint(tmp_path / "run")
    assert kept == step - 1 and f"the checkpoint of step {kept} is kept" in text
    assert not (tmp_path / "run/teacher/export").exists()


# Starts a run in a process whose files cannot grow beyond a limit; the system reports this much like a full disk.
LIMITED = """
import resource, sys
from absl import app
import accdistill_jax.main as main
import jax
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop()), resource.RLIM_INFINITY))
app.run(main.main, flags_parser=main.parse_flags)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no file size limit on this system")
@pytest.mark.parametrize("limit", [50_000, 2_000])
def test_full_disk_during_training_and_then_room(repository, copy, smoke_store, limit):
    """The checkpoint of step 3 of the finished teacher exists; later files do not fit."""
    expected = load_params(copy / "teacher/export").meta["fingerprint"]
    shutil.rmtree(copy / "teacher/export")
    for name in ("6", "6.json"):
        shutil.rmtree(copy / "teacher/checkpoints/6", ignore_errors=True)
        (copy / "teacher/checkpoints" / name).unlink(missing_ok=True)
    arguments = [SMOKE, f"--workdir={copy}", f"--config.data.stores=('{smoke_store}',)", "--config.stages=('teacher',)"]
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}

    def start(limit: int):
        return subprocess.run(
            [sys.executable, "-c", LIMITED, *arguments, str(limit)],
            cwd=repository,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )

    done = start(limit)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and str(copy) in lines[0] and "Traceback" not in done.stderr, done.stderr
    assert not (copy / "teacher/export/export.json").exists()
    assert last_checkpoint(copy) == 3
    done = start(-1)
    assert done.returncode == 0, done.stderr
    assert load_params(copy / "teacher/export").meta["fingerprint"] == expected


@pytest.mark.slow
def test_damaged_newest_checkpoint_is_named_and_the_one_before_used(copy, smoke_config, caplog, capsys):
    expected = load_params(copy / "teacher/export").meta["fingerprint"]
    metrics = (copy / "metrics/teacher.jsonl").read_bytes()
    shutil.rmtree(copy / "teacher/export")
    damage(largest_file(copy / "teacher/checkpoints/6"))
    with caplog.at_level(logging.WARNING):
        run(smoke_config(stages=("teacher",)), copy)
    assert f"checkpoint {copy}/teacher/checkpoints/6 is damaged" in caplog.text
    assert "continuing from step 3" in capsys.readouterr().out
    assert load_params(copy / "teacher/export").meta["fingerprint"] == expected
    assert (copy / "metrics/teacher.jsonl").read_bytes() == metrics


@pytest.mark.slow
def test_stopped_after_the_last_step_before_the_export(copy, smoke_config, monkeypatch):
    expected = load_params(copy / "teacher/export").meta["fingerprint"]
    shutil.rmtree(copy / "teacher/export")
    monkeypatch.setattr(
        "accdistill_jax.training.loop.make_step", lambda *a, **k: lambda *b: pytest.fail("a step was taken")
    )
    run(smoke_config(stages=("teacher",)), copy)
    assert load_params(copy / "teacher/export").meta["fingerprint"] == expected


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_damaged_teacher_export_is_named(copy, smoke_config, how):
    file = largest_file(copy / "teacher/export/params")
    if how == "flipped":
        damage(file)
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        file.unlink()
    for config, workdir in (
        (smoke_config(stages=("teacher",)), copy),
        (smoke_config(**{"teacher.path": str(copy / "teacher/export"), "stages": ("student",)}), copy.parent / "other"),
    ):
        text = fail(config, workdir)
        assert f"{copy}/teacher/export" in text and file.name in text and "damaged" in text


def test_store_without_training_participants(smoke_config, tmp_path):
    store = population({"validation": 1, "test": 2}, tmp_path / "store")
    text = fail(smoke_config(**{"data.stores": (store.path,)}), tmp_path / "run")
    assert f"{store.path}: split 'train' has no segment" in text


@pytest.mark.slow
def test_store_without_validation_participants_says_so(smoke_config, tmp_path, capsys):
    store = population({"train": 4, "test": 2}, tmp_path / "store")
    run(smoke_config(**{"data.stores": (store.path,)}), tmp_path / "run")
    assert "teacher: no validation segments in any store, so no validation" in capsys.readouterr().out
    assert '"validation"' not in (tmp_path / "run/metrics/teacher.jsonl").read_text()
    assert (tmp_path / "run/report.md").exists()


@pytest.mark.slow
def test_store_without_test_participants_needs_an_unseen_one(smoke_config, tmp_path):
    store = population({"train": 4, "validation": 2}, tmp_path / "store")
    text = fail(smoke_config(**{"data.stores": (store.path,)}), tmp_path / "run")
    assert "no participant of config.data.stores is in the test split" in text and "--split-file" in text
    assert not (tmp_path / "run/teacher").exists(), "it must be told before training"
    other = population({"test": 2}, tmp_path / "other", seed=7)
    run(smoke_config(**{"data.stores": (store.path,), "data.unseen_stores": (other.path,)}), tmp_path / "run")
    assert (tmp_path / "run/unseen/other/report.md").exists() and not (tmp_path / "run/report.md").exists()


@pytest.mark.slow
def test_batch_larger_than_the_data(smoke_config, smoke_store, tmp_path):
    """A batch contains the end of an epoch and the start of the next one."""
    segments = len(Store.open(smoke_store).indices("train"))
    batch_size = 4 * (segments // 4 + 1)
    assert batch_size > segments
    config = smoke_config(
        **{
            "stages": ("teacher",),
            "teacher.train.batch_size": batch_size,
            "teacher.train.duration": "2 epochs",
            "teacher.train.warmup": "1 steps",
            "teacher.train.validation_batches": 0,
        }
    )
    run(config, tmp_path / "run")
    assert last_checkpoint(tmp_path / "run") == -(-2 * segments // batch_size)


def test_batch_that_does_not_divide_over_the_devices(smoke_config, tmp_path):
    text = fail(smoke_config(**{"student.train.batch_size": 18}), tmp_path / "run")
    assert "config.student.train.batch_size = 18 does not divide over 4 devices: choose a multiple of 4" in text
