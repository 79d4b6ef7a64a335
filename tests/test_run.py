"""The stages together: what a run leaves behind, what a second one skips and what it refuses."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.data.store.store import Store
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, write_store
from accdistill_jax.errors import UserError
from accdistill_jax.labels import expected_labels
from accdistill_jax.run import run
from accdistill_jax.runtime.interrupt import Interrupted
from accdistill_jax.stages.clock import StageClock
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.storage.export import load_params
from accdistill_jax.storage.folder import open_folder
from accdistill_jax.storage.mirror import staging_folder
from accdistill_jax.training import loop
from accdistill_jax.training.metrics import read_metrics

TRAINED = ("teacher", "student")


def fingerprints(workdir: Path) -> dict[str, str]:
    return {
        stage: load_params(workdir / stage / "export").meta["fingerprint"]
        for stage in TRAINED
        if (workdir / stage / "export").exists()
    }


def numbers(node):
    """Every number below a node of report.json."""
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        return [value for item in node for value in numbers(item)]
    return [node] if isinstance(node, (int, float)) and not isinstance(node, bool) else []


def report(workdir: Path) -> dict:
    found = json.loads((workdir / "report.json").read_text())
    del found["evaluation"]["seconds"]
    return found


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_holds_a_report_of_finite_numbers(finished, smoke_store):
    found = report(finished)
    evaluation = found["evaluation"]
    assert set(evaluation["encoders"]) == {"teacher", "student", "untrained"}
    for label in expected_labels():
        probes = evaluation["targets"][label]["probes"]
        assert {"teacher", "student", "untrained", "mean"} <= probes.keys()
        for probe in probes.values():
            assert math.isfinite(probe["mae"]["value"]) and probe["mae"]["value"] > 0
    assert evaluation["retrieval"] and all(map(math.isfinite, numbers(evaluation["retrieval"])))
    assert set(found["pictures"]) >= {"heart_rate", "retrieval", "map", "curves", "examples"}
    for picture in found["pictures"].values():
        assert (finished / picture).read_bytes().startswith(b"\x89PNG")
        assert picture in (finished / "report.md").read_text()
    assert found["run"]["fingerprints"] == fingerprints(finished)
    assert list(found["run"]["data"]) == [str(smoke_store)]
    assert found["run"]["durations_s"].keys() >= {"data", "teacher", "student", "evaluation"}


def test_metrics_are_those_of_every_step_and_finite(finished):
    config = json.loads((finished / "config.json").read_text())["config"]
    for stage in TRAINED:
        records = read_metrics(finished / "metrics" / f"{stage}.jsonl")
        steps = int(config[stage]["train"]["duration"].split()[0])
        assert [r["step"] for r in records if r["kind"] == "train"] == list(range(1, steps + 1))
        assert [r["step"] for r in records if r["kind"] == "validation"] == [3, 6]
        assert all(math.isfinite(value) for r in records for name, value in r.items() if name != "kind")


def test_running_again_trains_nothing_and_changes_nothing(copy, smoke_config, no_training, capsys):
    before, files = fingerprints(copy), times(copy)
    run(smoke_config(), copy)
    assert fingerprints(copy) == before
    changed = {path.relative_to(copy).as_posix() for path, time in times(copy).items() if files.get(path) != time}
    assert changed <= {"config.json", "stages.json"}  # when and with what it ran last
    said = capsys.readouterr().out
    for line in ("teacher: finished before", "student: finished before", "report.md is finished before"):
        assert line in said


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"data": "x"}', '{"data": NaN}', '{"data": -1}', '{"data": null}', "[" * 100_000]
)
def test_unreadable_seconds_are_named_in_a_warning_and_counted_anew(tmp_path, caplog, content):
    path = tmp_path / "stages.json"
    path.write_text(content)
    clock = StageClock(tmp_path)
    assert f"{path} is unreadable" in caplog.text and clock.seconds == {}
    clock.add("data", 1.5)
    caplog.clear()
    assert StageClock(tmp_path).seconds == {"data": 1.5} and not caplog.text


@pytest.mark.slow
def test_stages_one_by_one_give_what_all_at_once_give(finished, smoke_config, tmp_path):
    for stages in (("data",), ("data", "teacher"), ("student",)):
        run(smoke_config(stages=stages), tmp_path / "run")
        made = {stage for stage in TRAINED if (tmp_path / "run" / stage / "export" / "export.json").exists()}
        assert made == {"data": set(), "teacher": {"teacher"}, "student": set(TRAINED)}[stages[-1]]
    assert fingerprints(tmp_path / "run") == fingerprints(finished)
    for stage in TRAINED:
        file = f"metrics/{stage}.jsonl"
        assert (tmp_path / "run" / file).read_bytes() == (finished / file).read_bytes()
    assert not (tmp_path / "run" / "report.md").exists()


@pytest.mark.parametrize("stage", ["student", "evaluation", "report"])
def test_a_stage_without_what_it_needs_names_it(smoke_config, tmp_path, stage):
    with pytest.raises(UserError, match="no exported parameters in .*teacher/export"):
        run(smoke_config(stages=(stage,)), tmp_path / "run")


def test_a_teacher_from_elsewhere_is_used_as_it_is(finished, smoke_config, tmp_path, capsys):
    own = fingerprints(finished)
    path = str(finished / "teacher" / "export")
    config = smoke_config(
        **{"teacher.path": path, "teacher.fingerprint": own["teacher"][:12], "stages": ("teacher", "student")}
    )
    run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "teacher").exists()
    assert fingerprints(tmp_path / "run") == {"student": own["student"]}
    assert f"teacher: {path}, fingerprint {own['teacher'][:12]}" in capsys.readouterr().out


def test_a_wrong_teacher_is_refused(finished, smoke_config, tmp_path):
    def attempt(**changes):
        with pytest.raises(UserError) as caught:
            run(smoke_config(**{"teacher.path": str(finished / "teacher" / "export"), **changes}), tmp_path / "run")
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return str(caught.value)

    own = fingerprints(finished)["teacher"]
    assert f"has fingerprint {own}, config.teacher.fingerprint asks for 0123" in attempt(
        **{"teacher.fingerprint": "0123"}
    )
    student = str(finished / "student" / "export")
    assert f"{student} holds no teacher (kind 'student')" in attempt(**{"teacher.path": student})
    assert f"no exported parameters in {finished}" in attempt(**{"teacher.path": str(finished)})
    one_channel = write_store(
        tmp_path / "one", SyntheticSettings(participants=10, segments_per_participant=1, ppg_channels=1)
    )
    assert "reads channels = 2, the data has 1" in attempt(**{"data.stores": (one_channel.path,)})


@pytest.mark.slow
def test_each_side_can_be_an_efficientnet(smoke_config, tmp_path):
    changes = {f"{stage}.encoder.architecture": "efficientnet" for stage in TRAINED}
    run(smoke_config(**changes), tmp_path / "run")
    first = [r["loss"] for r in read_metrics(tmp_path / "run/metrics/teacher.jsonl") if r["kind"] == "train"]
    assert first[-1] < first[0]
    assert set(report(tmp_path / "run")["evaluation"]["encoders"]) == {"teacher", "student", "untrained"}
    for stage in TRAINED:
        assert load_params(tmp_path / "run" / stage / "export").meta["encoder"]["architecture"] == "efficientnet"


@pytest.mark.slow
def test_as_many_checkpoints_are_kept_as_asked_for(smoke_config, tmp_path):
    """Also where a run was begun by a version without the key."""

    def go_on(**changes):
        keys = {
            "teacher.train.checkpoint_every": "1 steps",
            "teacher.train.validate_every": "100 steps",
            "stages": ("teacher",),
        }
        run(smoke_config(**keys, **changes), tmp_path / "run")
        folder = tmp_path / "run/teacher/checkpoints"
        return sorted(int(path.stem) for path in folder.glob("*.json"))

    steps = smoke_config().teacher.train.duration
    assert steps == "6 steps"
    assert go_on(**{"teacher.train.checkpoints_kept": 3}) == [4, 5, 6]
    record = json.loads((tmp_path / "run/config.json").read_text())
    del record["config"]["teacher"]["train"]["checkpoints_kept"]
    (tmp_path / "run/config.json").write_text(json.dumps(record))
    shutil.rmtree(tmp_path / "run/teacher/export")
    for step in (5, 6):
        (tmp_path / f"run/teacher/checkpoints/{step}.json").unlink()
    assert go_on(**{"teacher.train.checkpoints_kept": 1}) == [6]


def test_checkpoints_of_another_config_are_refused_where_the_record_is_lost(copy, smoke_config, no_training):
    (copy / "config.json").unlink()
    shutil.rmtree(copy / "student/export")
    with pytest.raises(UserError, match="has no config.json, and .*checkpoints is of a run with another config"):
        run(smoke_config(**{"student.temperature": 0.5, "stages": ("student",)}), copy)
    assert not (copy / "config.json").exists()
    run(smoke_config(stages=("teacher",)), copy)
    assert (copy / "config.json").exists()


@pytest.mark.slow
def test_pmap_gives_the_same_numbers(finished, smoke_config, tmp_path):
    run(smoke_config(**{"runtime.mapping": "pmap", "stages": ("teacher", "student", "evaluation")}), tmp_path / "run")
    for stage in TRAINED:
        ours, theirs = (
            [r["loss"] for r in read_metrics(folder / "metrics" / f"{stage}.jsonl")]
            for folder in (tmp_path / "run", finished)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    with (
        np.load(tmp_path / "run" / "embeddings" / "main.npz") as ours,
        np.load(finished / "embeddings" / "main.npz") as theirs,
    ):
        assert set(ours.files) == set(theirs.files)
        for name in set(ours.files) - {"key"}:
            assert ours[name].shape == theirs[name].shape
        untrained = "untrained/test/embedding"
        np.testing.assert_allclose(ours[untrained], theirs[untrained], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_several_stores_with_weights_and_unseen_ones(smoke_config, smoke_store, tmp_path):
    def make(name: str, first: int) -> str:
        population = SyntheticSettings(participants=10, segments_per_participant=4, seed=1, first_participant=first)
        return write_store(tmp_path / name, population).path

    other, unseen = make("other", 0), make("elsewhere", 10)
    binding = {"data.stores": (str(smoke_store), other), "data.weights": (1.0, 3.0), "data.participant_cap": 3}
    workdir = tmp_path / "run"
    run(smoke_config(**binding, **{"data.unseen_stores": (unseen,)}), workdir)
    assert set(report(workdir)["run"]["data"]) == {str(smoke_store), other}
    own = report(workdir / "unseen" / "elsewhere")
    assert list(own["run"]["data"]) == [unseen]
    assert own["evaluation"]["targets"]["hr_bpm"]["test_segments"] == Store.open(unseen).num_segments
    before = times(workdir / "embeddings")
    run(smoke_config(**binding), workdir)
    assert times(workdir / "embeddings") == before  # those of the training stores do not depend on unseen ones


def test_unseen_stores_that_do_not_fit_are_told_before_training(smoke_config, smoke_store, tmp_path, no_training):
    one_channel = write_store(
        tmp_path / "one",
        SyntheticSettings(participants=10, segments_per_participant=1, ppg_channels=1, first_participant=20),
    ).path
    teacher_only = {"stages": ("data", "teacher", "evaluation", "report")}
    for stores, changes, message in (
        ((one_channel,), teacher_only, "has PPG channels 1, .* has 2"),
        ((str(smoke_store),), {}, "is one of the stores trained on"),
        ((str(smoke_store.parent / "smoek"),), {}, "config.data.unseen_stores: .* no folder .*did you mean .*smoke?"),
    ):
        with pytest.raises(UserError, match=message):
            run(smoke_config(**{"data.unseen_stores": stores} | changes), tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.unseen_stores", ("no/such/store",), "config.data.unseen_stores: there is no folder"),
        ("teacher.path", "README.md", "no exported parameters in README.md"),
    ],
)
def test_what_is_named_and_not_there_is_told_before_data_is_made(smoke_config, tmp_path, key, value, message):
    with pytest.raises(UserError, match=message):
        run(smoke_config(**{"data.stores": (), key: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_config_in_the_same_folder_is_refused_naming_the_key(copy, smoke_config, no_training):
    before = times(copy)
    with pytest.raises(UserError, match=r"another config: student.temperature \(was .*, now 0.5\)"):
        run(smoke_config(**{"student.temperature": 0.5}), copy)
    assert times(copy) == before


@pytest.mark.slow
def test_another_store_under_the_same_path_is_refused(smoke_config, smoke_store, tmp_path, no_training, monkeypatch):
    path = tmp_path / "store"
    shutil.copytree(smoke_store, path)
    with monkeypatch.context() as allowed:
        allowed.setattr("accdistill_jax.stages.fit.train", loop.train)
        run(smoke_config(**{"data.stores": (str(path),), "stages": ("teacher",)}), tmp_path / "run")
    shutil.rmtree(path)
    write_store(path, SyntheticSettings(participants=12, segments_per_participant=4, seed=5, ppg_channels=2))
    changes = {"data.stores": (str(path),)}
    for stages in (("teacher",), ("student",)):
        with pytest.raises(UserError, match="teacher/export was made with another data than this run has"):
            run(smoke_config(**changes, stages=stages), tmp_path / "run")
    (tmp_path / "run/teacher/export/export.json").unlink()
    with pytest.raises(UserError, match=r"teacher: checkpoint of step 6 was made with another data"):
        run(smoke_config(**changes, stages=("teacher",)), tmp_path / "run")


@pytest.mark.slow
def test_other_evaluation_settings_evaluate_again_without_training(copy, smoke_config, no_training):
    embeddings, before = times(copy / "embeddings"), report(copy)
    run(smoke_config(**{"evaluation.bootstrap_draws": 13}), copy)
    after = report(copy)
    assert times(copy / "embeddings") == embeddings
    assert after["run"]["config"]["evaluation"]["bootstrap_draws"] == 13
    assert after["evaluation"] != before["evaluation"]
    run(smoke_config(**{"evaluation.train_segments": 20}), copy)
    assert times(copy / "embeddings") != embeddings, "other segments need other embeddings"
    assert report(copy)["evaluation"]["targets"]["hr_bpm"]["train_segments"] <= 20


@pytest.mark.slow
def test_a_report_that_was_not_finished_is_written_again(copy, smoke_config, no_training):
    (copy / "report.md").unlink()
    embeddings = copy / "embeddings" / "main.npz"
    embeddings.write_bytes(embeddings.read_bytes()[:-1000])
    before = report(copy)["evaluation"]
    run(smoke_config(), copy)
    assert (copy / "report.md").exists() and report(copy)["evaluation"] == before


@pytest.mark.slow
def test_the_command_from_nothing_to_a_report(repository, tmp_path):
    """Synthetic data and all, as a user starts it; quiet but for its own lines."""
    command = [
        sys.executable,
        "-m",
        "accdistill_jax.main",
        "--config=configs/distill.py:smoke",
        f"--workdir={tmp_path}/run",
    ]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr
    assert set(fingerprints(tmp_path / "run")) == set(TRAINED)
    assert all(map(math.isfinite, numbers(report(tmp_path / "run")["evaluation"]["retrieval"])))
    lines = done.stdout.splitlines()
    assert lines[-1].startswith(f"report: {tmp_path}/run/report.md")
    assert "heart rate" in lines[-5] or "heart-rate" in lines[-5]
    for line in done.stderr.splitlines():
        assert line.startswith(("teacher  step ", "student  step ", "embedding main  ", "embedding heartless  ")), (
            "not a line of this program"
        )


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """machines(name) moves to another machine: its own cache folder, so that nothing but the address is there."""
    return lambda name: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))


@pytest.mark.slow
def test_a_run_at_an_address_continues_on_a_new_machine(smoke_config, machines, monkeypatch, capsys):
    """Stopped in the teacher's training on one machine, finished on a second, found finished on a third."""
    address = f"memory://bucket/{id(machines)}"
    config = smoke_config(stages=("teacher",))
    machines("alone")
    run(config, "memory://bucket/undisturbed")
    expected = fingerprints(staging_folder("memory://bucket/undisturbed"))

    machines("first")
    save = Checkpointer.save

    def save_and_stop(self, step, *arguments, **options):
        save(self, step, *arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as once, pytest.raises(Interrupted, match="step 4 is saved"):
        once.setattr(Checkpointer, "save", save_and_stop)
        run(config, address)

    machines("second")
    assert not staging_folder(address).exists()
    capsys.readouterr()
    run(config, address)
    assert "continuing from step 4" in capsys.readouterr().out
    assert fingerprints(staging_folder(address)) == expected

    machines("third")
    run(config, address)
    assert "teacher: finished before" in capsys.readouterr().out
    assert fingerprints(staging_folder(address)) == expected
    remote, local = open_folder(address), staging_folder(address)
    assert {"config.json", "metrics/teacher.jsonl", "teacher/export/export.json"} < set(remote.names())
    for name in set(remote.names()) - {"mirror.json"}:
        assert remote.read(name) == (local / name).read_bytes(), name


def test_an_address_that_cannot_be_written_is_told_before_training(smoke_config, machines):
    machines("here")
    with pytest.raises(UserError, match="http://bucket/run cannot be written to"):
        run(smoke_config(stages=("teacher",)), "http://bucket/run")
