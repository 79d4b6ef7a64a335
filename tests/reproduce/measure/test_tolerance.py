"""Tolerances pooled over encoders: repeated training stays within them, and a real change does not."""

import numpy as np
import pytest

from accdistill_jax.reproduce.measure.formatting import correlation_number, report_number
from accdistill_jax.reproduce.measure.tolerance import (
    ALONE,
    ALONE_CORRELATION,
    ALONE_SHARE,
    LEAST,
    LEAST_SHARE,
    SIGMAS,
    allowed,
    pooled,
)
from accdistill_jax.reproduce.report.check import compare_reports

NAMES = [f"encoder{k}" for k in range(12)]


def grid(rng, *, spread=0.05, seeds=3):
    """HR errors of twelve encoders at two shares of the labels, and their top-1, as from one run of the grid."""
    values = {}
    for k, name in enumerate(NAMES):
        for fraction, wider in (("0.001", 3.0), ("1", 1.0)):
            errors = (2 + k) * (1 + wider * spread * rng.standard_normal(seeds))
            values[f"labels/hr_bpm/{fraction}/{name}/mae"] = report_number(errors)
        values[f"retrieval/{name}/1000/top-1"] = report_number(
            0.5 + 0.4 * spread * rng.standard_normal(seeds), share=True
        )
    return pooled(values, NAMES)


def test_repeated_training_agrees_and_a_change_is_detected():
    alarms, changes = 0, 0
    for trial in range(60):
        first, again = (grid(np.random.default_rng([trial, k])) for k in (0, 1))
        reports = [
            {"settings": {}, "claims": [], "numbers": {name: number._asdict() for name, number in numbers.items()}}
            for numbers in (first, again)
        ]
        alarms += len(compare_reports(*reports))
        for number in reports[1]["numbers"].values():
            number["value"] *= 1.4  # as an error in the code would
        changes += len(compare_reports(*reports))
    tests = 60 * len(first)
    assert alarms <= 3 and changes > 0.6 * tests


def test_numbers_that_differ_only_in_the_encoder_are_pooled():
    narrow, wide, alone = report_number([1.0, 1.001, 0.999]), report_number([2.0, 2.2, 1.8]), report_number([4.0])
    tolerances = pooled({"s/a/mae": narrow, "s/b/mae": wide, "s/c/mae": alone, "s/a/other": alone}, {"a", "b", "c"})
    std = np.sqrt((0.001**2 + 0.1**2) / 2)
    assert tolerances["s/a/mae"].absolute == pytest.approx(SIGMAS * np.sqrt(2 / 3) * std, rel=1e-6)
    assert (
        tolerances["s/b/mae"].absolute == wide.absolute == pytest.approx(allowed(0.2, 3))
    )  # its own spread is wider than the pooled spread
    assert (tolerances["s/c/mae"].relative, tolerances["s/c/mae"].absolute) == (
        LEAST,
        pytest.approx(allowed(4 * std, 1)),
    )
    assert tolerances["s/a/other"] == alone and alone.relative == ALONE


def test_shares_have_absolute_tolerances():
    several, alone = report_number([0.5, 0.51, 0.49], share=True), report_number([0.9], share=True)
    assert alone.relative == 0 and alone.absolute == pytest.approx(0.3 * ALONE_SHARE)
    tolerances = pooled({"s/a/top-1": several, "s/b/top-1": several, "s/c/top-1": alone}, {"a", "b", "c"})
    assert tolerances["s/c/top-1"].absolute == pytest.approx(allowed(0.01, 1) * 0.3 / 0.5)
    assert tolerances["s/c/top-1"].absolute < alone.absolute
    assert report_number([0.5, 0.5, 0.5], share=True).absolute == LEAST_SHARE


def test_a_share_near_its_end_has_a_smaller_tolerance_than_one_in_the_middle():
    low, high = report_number([0.20, 0.23, 0.17], share=True), report_number([0.99, 0.992, 0.988], share=True)
    tolerances = pooled({"s/a/top-1": low, "s/b/top-1": high, "s/c/top-1": report_number([0.99], share=True)}, "abc")
    assert tolerances["s/a/top-1"].absolute == pytest.approx(allowed(0.03, 3))
    assert max(tolerances[f"s/{name}/top-1"].absolute for name in "bc") < 0.04
    assert report_number([0.99], share=True).absolute < 0.02 < 0.06 < report_number([0.2], share=True).absolute
    negative = correlation_number([-0.2, 0.2, 0.0])  # a correlation is no proportion: it spreads most near 0
    assert pooled({"s/a/r": negative, "s/b/r": correlation_number([0.0])}, "ab")["s/b/r"].absolute == ALONE_CORRELATION
    assert negative.absolute == pytest.approx(allowed(0.2, 3)) and not negative.share


def test_constants_are_not_pooled_with_trained_encoders():
    trained = {f"s/{name}/mae": report_number([2.0, 3.0, 1.0]) for name in "ab"}
    constants = {f"s/{name}/mae": report_number([10.0, 10.0, 10.0]) for name in ("mean", "median")}
    tolerances = pooled(trained | constants, "ab", constants=("mean", "median"))
    assert tolerances["s/mean/mae"].absolute == 0.0 and tolerances["s/mean/mae"].relative == LEAST
    assert tolerances["s/a/mae"].absolute == pytest.approx(allowed(1.0, 3))


def test_a_number_without_a_value_stays_without():
    lost = report_number([None, 1.0])
    assert lost.value is None
    assert (
        pooled(
            {"s/a/mae": lost, "s/b/mae": report_number([1.0, 1.1]), "s/c/mae": report_number([1.0, 1.2, 0.9, 1.1])},
            {"a", "b", "c"},
        )["s/a/mae"]
        == lost
    )
