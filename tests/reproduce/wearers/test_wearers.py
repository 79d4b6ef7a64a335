"""Each wearer is left out in turn, of a store that the starting run has not seen."""

import json

import pytest

from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, write_store
from accdistill_jax.reproduce.wearers.__main__ import main, parse


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "wearers"
    population = SyntheticSettings(participants=3, segments_per_participant=8, seed=7, ppg_channels=2)
    write_store(path, population, split=SplitRule(fractions=(1.0, 0.0, 0.0)))
    return path


@pytest.mark.slow
def test_students_are_trained_on_the_others_and_measured_on_the_one_left_out(copy, store, tmp_path, capsys):
    out = tmp_path / "out"
    line = [str(store), "--start", str(copy), "--out", str(out), "--steps", "3", "--batch-size", "8"]
    untouched = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert main(line) == 0
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == untouched
    results = json.loads((out / "wearers.json").read_text())
    assert len(results["heart_rate"]) == 8 and len(results["retrieval"]) == 6
    for scores in (*results["heart_rate"].values(), *results["retrieval"].values()):
        assert len(scores) == 3 and {score["minutes"] for score in scores.values()} == {8}
    assert {score["pool"] for score in results["retrieval"]["student, zero shot"].values()} == {24}
    configs = [json.loads(path.read_text())["config"] for path in sorted(out.glob("*/config.json"))]
    assert len(configs) == 7
    configs = [config for config in configs if "student" in config["stages"]]
    people = results["retrieval"]["student, zero shot"]
    assert sorted(config["data"]["held_out"][0] for config in configs) == sorted([*people, *people])
    assert sum(bool(config["student"]["init"]) for config in configs) == 3
    assert "| PPG teacher, zero shot |" in (out / "wearers.md").read_text() and (out / "wearers.png").stat().st_size
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/student/export/*")}
    capsys.readouterr()
    assert main(line) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/student/export/*")} == before
    described = copy / "student" / "export" / "export.json"
    described.write_text(described.read_text() + "\n")
    assert main(line) == 2
    assert "is of another student" in capsys.readouterr().err


@pytest.mark.parametrize("variants", [[], ["alone"]])
def test_a_store_with_other_ppg_channels_than_the_teacher_reads_is_refused(copy, tmp_path, capsys, variants):
    store = tmp_path / "one"
    population = SyntheticSettings(participants=3, segments_per_participant=6, seed=7, ppg_channels=1)
    write_store(store, population, split=SplitRule(fractions=(1.0, 0.0, 0.0)))
    line = [str(store), "--start", str(copy), "--out", str(tmp_path / "out"), "--variants", *variants]
    assert main(line) == 2
    assert f"{store} has 1 PPG channels, and the teacher of {copy} reads 2" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["22", "a-b", "22-25", "-1-3"])
def test_hours_are_two_hours(text, capsys):
    with pytest.raises(SystemExit):
        parse(["s", "--start", "r", "--out", "o", f"--hours={text}"], "prog")
    assert "must be two hours from 0 to 24" in capsys.readouterr().err


def test_a_folder_without_a_finished_run_is_refused(store, tmp_path, capsys):
    assert main([str(store), "--start", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "give the work directory of a finished run of distillation" in capsys.readouterr().err
