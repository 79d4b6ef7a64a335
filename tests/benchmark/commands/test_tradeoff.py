"""The trade-off: equal time for all students, including the views; results of validation participants, which are kept."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.commands import tradeoff
from accdistill_jax.benchmark.commands.tradeoff import StepPlan, StudentVariant
from accdistill_jax.benchmark.contest import Measured
from accdistill_jax.config.load import load_config
from accdistill_jax.data.store.store import Store


def result(name: str, *, seed: int, budget_s: float = 10.0, mae: float = 5.0, views_s: float = 0.0) -> dict:
    return {
        "variant": name,
        "budget_s": budget_s,
        "seed": seed,
        "steps": 100,
        "train_s": budget_s - views_s,
        "views_s": views_s,
        "hr_mae": {"student": mae, "teacher": 1.0, "mean": 9.0},
        "sdnn_mae": {"student": 15.0, "teacher": 11.0, "mean": 18.0},
        "top1": 0.3,
        "validation_segments": 200,
    }


@pytest.fixture
def record(tmp_path) -> dict:
    results = [result("0/0", seed=seed, mae=5.0 + seed) for seed in range(3)]
    results += [result("0.5/2", seed=seed, mae=4.0, views_s=3.0) for seed in range(3)]
    return {
        "config": "configs/distill.py",
        "overrides": [],
        "pool": 100,
        "first": "0/0",
        "step_s": {"0/0": 0.1, "0.5/2": 0.04},
        "views_s": {"2": 3.0},
        "results": results,
        "left_out": [["0.5/4", 10.0]],
        "figure": str(tmp_path / "figure.png"),
    }


def test_the_table_has_medians_over_seeds_and_omitted_students(record):
    text = tradeoff.report(json.loads(json.dumps(record)))
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if "|" in line
    }
    assert rows["0% dropped, teacher in every step"] == [
        "10",
        "100",
        "1.00",
        "100",
        "0",
        "10",
        "0%",
        "6.00 (5.00 to 7.00)",
        "15.0 (15.0 to 15.0)",
        "0.300 (0.300 to 0.300)",
    ]
    assert rows["50% dropped, 2 views cached"][:6] == ["10", "40", "2.50", "100", "3", "10"]
    assert (
        "of the teacher: 1.00 bpm and 11.0 ms; of the mean: 9.00 bpm and 18.0 ms" in text
        and "0.5/4 is left out at 10 s" in text
    )


def test_at_equal_steps_times_may_differ(record):
    for student in record["results"]:
        student["budget_s"] = 0.0
    record["results"] += [student | {"steps": 200} for student in record["results"]]
    text = tradeoff.report(json.loads(json.dumps(record)))
    assert text.startswith("# Accuracy at equal steps") and "not equal" not in text
    assert text.count("| equal steps | 40 | 2.50 | 100 |") == text.count("| equal steps | 40 | 2.50 | 200 |") == 1


def test_unequal_times_are_reported(record):
    assert "not equal" not in tradeoff.report(record)
    record["results"][0]["train_s"] *= 1.3
    text = tradeoff.report(record)
    assert "a student's time deviates by 30% from the median of its budget" in text and "| 30% |" in text


def test_times_are_equal_if_all_students_take_longer_than_planned(record):
    """The loop's steps take longer than the measured steps. The comparison is fair if this holds for all students."""
    for student in record["results"]:
        student["train_s"] += 0.2 * (student["train_s"] + student["views_s"])
    text = tradeoff.report(record)
    assert "not equal" not in text and "| 12 | 0% |" in text


def test_equal_retrieval_looks_equal(record):
    for number, student in enumerate(record["results"]):
        student["top1"] = 0.998 + 1e-5 * number
    low, high = tradeoff.draw(record).axes[2].get_ylim()
    assert low == pytest.approx(0.988, abs=1e-3) and high == pytest.approx(1.005)


def test_the_figure_has_a_line_per_variant(record, tmp_path):
    figure = tradeoff.draw(record)
    figure.savefig(tmp_path / "figure.png")
    assert [len(axis.containers) for axis in figure.axes] == [2, 2, 2]
    assert "50% dropped, 2 views cached" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_budget_includes_the_views(tmp_path):
    plan = StepPlan(tmp_path, load_config("distill:smoke-mean"))
    plan.step_s, plan.views_s = {"0/0": 0.1, "0/2": 0.05}, {"2": 4.0}
    assert [plan.steps(StudentVariant(0.0, views), 10.0) for views in (0, 2)] == [100, 120]
    assert plan.steps(StudentVariant(0.0, 2), 3.0) == 0


def test_a_folder_of_another_trade_off_is_refused(tmp_path, capsys):
    StepPlan(tmp_path, load_config("distill:mean")).save()
    assert command.main(["tradeoff", f"--folder={tmp_path}", "--config=configs/distill.py:smoke-mean"]) == 2
    assert "holds a trade-off of another config" in capsys.readouterr().err


@pytest.mark.parametrize("variant", ["0.5", "1/2", "a/0", "0.5/-1"])
def test_an_invalid_variant_is_refused(variant, capsys):
    with pytest.raises(SystemExit):
        command.main(["tradeoff", "--variants", variant])
    assert "is not DROP/VIEWS such as 0.5/2" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize(
    ("preset", "budget"),
    [("smoke-mean", ("--budget-s", "1.5")), ("smoke", ("--steps", "6"))],
    ids=["mean, time", "windows, steps"],
)
def test_students_are_trained_once_and_evaluated_on_validation_participants(
    smoke_store, tmp_path, monkeypatch, capsys, preset, budget
):
    """Every measured step takes a fixed time here; the contest has its own tests."""
    store = Path(shutil.copytree(smoke_store, tmp_path / "store"))
    compete = lambda contenders, **options: {contender.name: Measured({}, [0.25], 1) for contender in contenders}
    monkeypatch.setattr(contest, "compete", compete)
    arguments = [
        "tradeoff",
        f"--folder={tmp_path / 'found'}",
        *budget,
        "--variants",
        "0/0",
        "0.5/2",
        "--seeds=1",
        f"--config=configs/distill.py:{preset}",
        f"--config.data.stores=('{store}',)",
        f"--json={tmp_path / 'found.json'}",
    ]
    monkeypatch.setattr(StepPlan, "steps", lambda plan, variant, budget_s: 6)  # views may take longer on a busy machine
    assert command.main(arguments) == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "found.json").read_text())
    plain, lean = record["results"]
    assert (plain["variant"], lean["variant"]) == ("0/0", "0.5/2") and plain["steps"] == lean["steps"] == 6
    assert plain["views_s"] == 0 < lean["views_s"] and set(record["views_s"]) == {"2"}
    opened = Store.open(store)
    assert plain["validation_segments"] == len(opened.indices("validation"))
    assert all(
        np.isfinite(student["hr_mae"]["student"] + student["sdnn_mae"]["student"]) and 0 <= student["top1"] <= 1
        for student in record["results"]
    )
    assert plain["hr_mae"]["teacher"] == lean["hr_mae"]["teacher"]
    assert Path(record["figure"]).read_bytes().startswith(b"\x89PNG")

    exports = sorted((tmp_path / "found").glob("students/*/student/export/export.json"))
    times = [os.stat(path).st_mtime_ns for path in exports]
    assert len(times) == 2 and command.main(arguments) == 0
    assert json.loads((tmp_path / "found.json").read_text())["results"] == record["results"]
    assert times == [os.stat(path).st_mtime_ns for path in exports]
