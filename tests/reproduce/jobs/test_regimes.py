"""The experiments of the claims' regimes in the smoke preset, with real training, from data to claims."""

import numpy as np
import pytest

from accdistill_jax.reproduce.measure import measure
from accdistill_jax.reproduce.measure.results import Bench
from accdistill_jax.reproduce.report.document_markdown import document_markdown

ONLY = ("large-pool", "many-people", "repeated-minutes", "shared-motion")
CLAIMS = {
    "retrieval-large-pool",
    "student-below-baselines-many-people",
    "supervised-collapse-many-people",
    "no-augmentation-repeats",
    "no-augmentation-repeats-literal",
    "joint-drift-shared-motion",
}


@pytest.fixture(scope="module")
def done(finished_plan):
    """The plan of the regimes, and the outcomes of its jobs."""
    return finished_plan(only=ONLY)


@pytest.mark.slow
def test_a_report_starts_with_the_claims_of_the_regimes(done):
    plan, outcomes = done
    report = measure.measure_report(plan, outcomes, say=lambda line: None)
    assert not report.broken
    assert {claim.id for claim in report.claims} == CLAIMS
    assert {section.id for section in report.sections} == {"data", *ONLY}
    text = document_markdown(report)
    assert text.index("## Claims") < text.index("## The data")
    assert all("Regime: " in section.text[0] for section in report.sections if section.id != "data")
    shown = {row[0] for row in report.sections[0].tables[0].rows}
    assert {"train", "pool: test", "people: train", "shared-3: validation"} <= shown


@pytest.mark.slow
def test_an_encoder_embeds_people_that_it_was_not_trained_on(done):
    plan, outcomes = done
    bench = Bench(plan, outcomes)
    people, pool = bench.on("people"), bench.on("pool")
    splits = people.splits("student-people", 0)
    assert len(splits["train"]) == len(people.columns("train").participant) > 0
    assert splits["train"].embedding.shape[1] == bench.splits("student", 0)["train"].embedding.shape[1]
    student, teacher = pool.pair("student-pool", 0)
    assert student.shape == teacher.shape and len(student) == len(pool.columns("test").participant)
    assert not pool.splits("student-pool", 0)["train"].embedding.size  # all of these people are for the test
    accel, ppg = pool.pair("matcher-pool", 0)
    np.testing.assert_allclose(np.linalg.norm(accel, axis=1), 1, rtol=1e-4)
    assert accel.shape == ppg.shape


@pytest.mark.slow
def test_a_population_that_was_not_generated_is_named(done):
    plan, outcomes = done
    failed = outcomes | {"data-pool": outcomes["data-pool"]._replace(status="failed", reason="no space")}
    experiment = next(experiment for experiment in plan.experiments if experiment.id == "large-pool")
    part = measure.measured(Bench(plan, failed), experiment)
    assert "'pool' were not generated: no space" in part.section.text[0] and not part.numbers
