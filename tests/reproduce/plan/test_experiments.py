"""An experiment needs one registration: then its variants are planned, and it is measured and reported."""

import sys
import types

import pytest

from accdistill_jax.reproduce.measure.formatting import report_number
from accdistill_jax.reproduce.measure.measure import measured
from accdistill_jax.reproduce.measure.results import ReportPart
from accdistill_jax.reproduce.plan import experiments, grid
from accdistill_jax.reproduce.plan.experiments import Experiment, register
from accdistill_jax.reproduce.plan.variants import EncoderVariant
from accdistill_jax.reproduce.report.document import Section
from tests.reproduce.measure.made_up_bench import MadeUpBench

COLD = EncoderVariant("student-cold", "cold student", changes={"student.temperature": 0.01})


def measure_cold(bench, experiment):
    numbers = {f"{experiment.id}/{name}/seeds": report_number([len(bench.seeds(name))]) for name in experiment.variants}
    return ReportPart(Section(experiment.id, experiment.title, ("Measured.",)), numbers)


@pytest.fixture
def cold(monkeypatch):
    """A registered experiment that adds a variant."""
    monkeypatch.setattr(experiments, "EXPERIMENTS", dict(experiments.EXPERIMENTS))
    monkeypatch.setattr(grid, "EXPERIMENTS", experiments.EXPERIMENTS)
    module = types.ModuleType("cold_experiment")
    module.measure_cold = measure_cold
    monkeypatch.setitem(sys.modules, "cold_experiment", module)
    experiment = Experiment("cold", "Cold", ("student", COLD.name), "cold_experiment:measure_cold", adds=(COLD,))
    register(experiment)
    return experiment


def test_a_registered_experiment_is_planned(cold):
    plan = grid.plan_grid("smoke", only=("cold",))
    (planned,) = plan.experiments
    assert planned.runs == ("student-s0", "student-cold-s0")
    order = {job.name: job.order for job in plan.jobs}["student-cold-s0"]
    assert order["config"]["student"]["temperature"] == 0.01


def test_a_registered_experiment_is_measured(cold):
    part = measured(MadeUpBench({"student": 0.1}), cold._replace(variants=("student",)))
    assert part.section.text == ("Measured.",) and part.numbers["cold/student/seeds"].value == 1


def test_ids_and_variants_are_unique(cold):
    with pytest.raises(ValueError, match="'cold' is already registered"):
        register(cold)
    with pytest.raises(ValueError, match="adds a variant that exists: 'student-cold'"):
        register(cold._replace(id="colder"))
