"""The guide to reproduce: its example of a new experiment works, and its tables are complete."""

import re
import sys
import types

import pytest

from accdistill_jax.reproduce.measure.measure import measured
from accdistill_jax.reproduce.plan import experiments, grid
from accdistill_jax.reproduce.plan.command_line import PRESETS
from tests.guides import REPOSITORY, blocks
from tests.reproduce.measure.made_up_bench import MadeUpBench

GUIDE = REPOSITORY / "accdistill_jax" / "reproduce" / "README.md"


@pytest.fixture
def example(monkeypatch):
    """The experiment of the guide, registered."""
    measuring, registration = blocks(GUIDE, "python")
    registry = dict(experiments.EXPERIMENTS)
    monkeypatch.setattr(experiments, "EXPERIMENTS", registry)
    monkeypatch.setattr(grid, "EXPERIMENTS", registry)
    module = types.ModuleType(f"{experiments.MEASURE}.my_experiment")
    exec(measuring, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(registration, dict(vars(experiments)))
    return registry["my-experiment"]


def test_the_new_experiment_is_planned(example):
    plan = grid.plan_grid("smoke", only=("my-experiment",))
    assert [planned.runs for planned in plan.experiments] == [("student-s0", "student-cold-s0")]


def test_the_new_experiment_is_measured(example):
    bench = MadeUpBench({"student": 0.1})
    part = measured(bench, example._replace(variants=("student",)))
    width = bench.arrays("student", 0)["test/embedding"].shape[1]
    assert part.numbers["my-experiment/student/width"].value == width
    assert part.section.text == ("What was done.",)


def test_the_tables_name_every_preset_and_experiment():
    cells = re.findall(r"^\| (`[^|]*`) \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"`([\w-]+)`", " ".join(cells))) == {*PRESETS, *experiments.EXPERIMENTS}
