"""Retrieval, its failures and embedding health, with generated embeddings of known quality."""

import math

import numpy as np
import pytest

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.retrieval.retrieval import ACCEL_TO_PPG, ProjectionPairs, retrieve, top1_by_pool_size
from accdistill_jax.reproduce.measure.embedding_health import measure_health
from accdistill_jax.reproduce.measure.retrieval import measure_failures, measure_retrieval
from accdistill_jax.reproduce.measure.search import (
    explain,
    failures_of,
    first_places,
    mean_rank,
    retrieve_pairs,
    top1_difference,
)
from accdistill_jax.reproduce.measure.tolerance import LEAST_SHARE
from accdistill_jax.reproduce.report.document import Report
from accdistill_jax.reproduce.report.write import validate_report
from tests.reproduce.measure.made_up_bench import MadeUpBench, experiment

TEACHER = "teacher-mae"


def checked(part, name):
    """Asserts that a report with this part is valid and that its numbers belong to its section; returns the part."""
    validate_report(Report("", (), part.claims, (part.section,), part.numbers, [], {}))
    assert part.section.id == name and all(number.startswith(f"{name}/") for number in part.numbers)
    assert all(math.isfinite(n.absolute) and math.isfinite(n.relative) for n in part.numbers.values())
    return part


@pytest.mark.parametrize(("noise", "holds"), [(0.0, "yes"), (0.12, "partly"), (2.0, "no")])
def test_claim_is_judged_in_a_pool_of_1000(noise, holds):
    bench = MadeUpBench({TEACHER: 0.0, "student": noise, "student-best": 0.0}, seeds=2, people=(4, 4, 110))
    part = checked(measure_retrieval(bench, experiment("retrieval", TEACHER, "student", "student-best")), "retrieval")
    (claim,) = part.claims
    top1 = part.numbers["retrieval/student/accel-ppg/1000/top-1"]
    assert claim.holds == holds, top1
    assert "pool of 1 000" in claim.measured and claim.why
    if noise == 0.0:
        assert top1.value == 1.0 and part.numbers["retrieval/student/accel-ppg/1000/mean-rank"].value == 1.0
        assert "None of 1 100 queries fails" in claim.why
    assert len(top1.seeds) == 2 and top1.absolute >= LEAST_SHARE and top1.relative == 0
    assert any("too few for pools of 10 000" in note for note in part.section.notes)
    assert part.section.pictures


def test_value_and_interval_are_of_the_mean_over_seeds():
    """The first seed finds every minute, the second one none."""
    bench = MadeUpBench({TEACHER: 0.0, "student": 0.0}, seeds=2, people=(4, 4, 40))
    pair = bench.arrays("student", 1)
    pair["test/projection"] = -pair["test/projection"]
    numbers = measure_retrieval(bench, experiment("retrieval", "student")).numbers
    for kind in ("100", "all", "one-person"):
        top1 = numbers[f"retrieval/student/accel-ppg/{kind}/top-1"]
        assert top1.seeds == pytest.approx((1.0, 0.0), abs=1e-9) and top1.value == pytest.approx(0.5)
        assert 0.3 < top1.low < 0.5 < top1.high < 0.7
    failed = measure_failures(bench, experiment("failures", "student")).numbers["failures/student/failed"]
    assert failed.value == pytest.approx(0.5) and failed.low is failed.high is None  # not the first seed's


def test_an_uninformative_encoder_is_at_chance_in_every_pool():
    bench = MadeUpBench({TEACHER: 0.0, "student": 1e6}, people=(4, 4, 60))
    part = checked(measure_retrieval(bench, experiment("retrieval", "student")), "retrieval")
    assert part.numbers["retrieval/student/accel-ppg/all/top-1"].value < 0.01
    assert part.numbers["retrieval/student/accel-ppg/100/mean-rank"].value == pytest.approx(50.5, rel=0.1)
    assert part.numbers["retrieval/student/accel-ppg/one-person/top-1"].value == pytest.approx(0.1, abs=0.05)
    (claim,) = part.claims
    assert claim.holds == "not measured" and "fewer than 1 000" in claim.why


def test_expected_mean_rank_equals_that_of_drawn_pools():
    bench = MadeUpBench({"student": 0.5}, people=(4, 4, 40))
    retrieved = retrieve_pairs(bench, "student", [0])
    accel, ppg = bench.pair("student", 0)
    drawn, _ = retrieve(ProjectionPairs(accel, ppg, bench.columns("test").participant), pool_sizes=(50,), draws=300)
    assert mean_rank(retrieved.first_ranks[ACCEL_TO_PPG], 50) == pytest.approx(drawn[0].mean_rank.mean, rel=0.03)


def test_encoders_are_compared_in_pairs_on_the_same_queries():
    bench = MadeUpBench({TEACHER: 0.0, "student": 0.5, "student-best": 0.35}, seeds=2, people=(4, 4, 60))
    part = checked(measure_retrieval(bench, experiment("retrieval", "student", "student-best")), "retrieval")
    (table,) = [table for table in part.section.tables if "on the same queries" in table.caption]
    ((_, seeds, accel, ppg),) = table.rows
    assert seeds == "0 and 1" and accel.startswith("+") and ppg.startswith("+")
    people = bench.columns("test").participant
    ours, theirs = (retrieve_pairs(bench, name, [0]).first_ranks[ACCEL_TO_PPG] for name in ("student-best", "student"))
    first, other = first_places(ours, 100), first_places(theirs, 100)
    assert first.mean() == pytest.approx(top1_by_pool_size(ours, np.array([100]))[0])
    gap = top1_difference(first, other, people)
    assert gap.value == pytest.approx(first.mean() - other.mean()) and 0 < gap.low < gap.value < gap.high
    assert top1_difference(first, first, people) == Estimate(0.0, 0.0, 0.0)


def test_missing_and_diverged_encoders_are_named():
    bench = MadeUpBench(
        {TEACHER: 0.0, "student": 0.0, "joint": np.nan, "student-best": 0.1},
        seeds=2,
        failed=("student-s0", "student-s1", "student-best-s0"),
    )
    part = checked(
        measure_retrieval(bench, experiment("retrieval", TEACHER, "student", "student-best", "joint")), "retrieval"
    )
    notes = " ".join(part.section.notes)
    assert "student-s0 and student-s1" in notes and "embeddings are not finite: joint, seed 0 and 1" in notes
    assert part.claims[0].holds == "not measured" and "no result" in part.claims[0].why
    assert len(part.numbers["retrieval/student-best/accel-ppg/all/top-1"].seeds) == 1
    nothing = checked(measure_retrieval(bench, experiment("retrieval", "student")), "retrieval")
    assert not nothing.numbers and not nothing.section.tables and "Not measured" in nothing.section.text[0]


def test_failures_with_more_motion_are_explained():
    moving = lambda minutes: minutes.columns.motion_g > np.quantile(minutes.columns.motion_g, 0.7)
    bench = MadeUpBench({TEACHER: 0.0, "student": 0.02}, seeds=2, hides={"student": moving}, people=(4, 4, 60))
    part = checked(measure_failures(bench, experiment("failures", TEACHER, "student")), "failures")
    assert part.numbers["failures/student/failed"].value == pytest.approx(0.3, abs=0.03)
    assert part.numbers["failures/student/auc-motion"].value > 0.95
    assert "Failures have more motion" in part.section.text[0]
    assert part.section.pictures and len(part.section.tables) == 3


def test_failures_with_nearly_equal_heart_rates_are_explained():
    """A student that sees only the heart rate confuses minutes of the same rate."""
    bench = MadeUpBench({"student": 0.0}, people=(4, 4, 60))
    rate = bench.columns("test").labels["hr_bpm"]
    for kind, noise in (("projection", 0.03), ("teacher_projection", 0.0)):
        angle = (rate - 70) / 40 + noise * np.random.default_rng(0).standard_normal(len(rate))
        bench.arrays("student", 0)[f"test/{kind}"] = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    failures = failures_of(bench, "student", 0)
    assert failures.near.value > 0.7 and failures.near.value > 3 * failures.chance_near
    assert "heart rate within 2 bpm" in " ".join(explain(failures))


def test_health_detects_a_collapsed_ppg_side():
    noise = {TEACHER: 0.0, "student": 0.1, "joint": 0.1, "accel-mae": 50.0}
    names = list(noise)
    part = checked(
        measure_health(MadeUpBench(noise, seeds=2, constant=("joint",)), experiment("health", *names)), "health"
    )
    text = " ".join(part.section.text)
    assert "separates minutes less than the frozen teacher" in text and "constant output" in text
    cka = {name: part.numbers[f"health/{name}/cka"].value for name in names[1:]}
    assert cka["student"] > 0.9 and abs(cka["accel-mae"]) < 0.1
    assert part.numbers["health/joint/ppg-side/variance-share"].value < 1e-6
    fine = measure_health(MadeUpBench(noise, seeds=2), experiment("health", *names))
    text = " ".join(fine.section.text)
    assert "separates minutes as well as the frozen teacher" in text and "No encoder" in text


def test_health_without_a_teacher_has_no_similarity():
    part = checked(
        measure_health(
            MadeUpBench({TEACHER: 0.0, "student": 0.1}, failed=(f"{TEACHER}-s0",)),
            experiment("health", TEACHER, "student"),
        ),
        "health",
    )
    assert "health/student/cka" not in part.numbers and "health/student/effective-rank" in part.numbers
