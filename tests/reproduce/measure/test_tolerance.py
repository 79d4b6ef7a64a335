"""By how much numbers may differ: pooled over encoders, neither to be exceeded by chance nor so wide that all passes."""

import numpy as np
import pytest

from accdistill_jax.reproduce.measure.formatting import report_number
from accdistill_jax.reproduce.measure.tolerance import (
    ALONE,
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
    """HR errors of twelve encoders at two shares of labels, and their top-1, as trained once on some machine."""
    values = {}
    for k, name in enumerate(NAMES):
        for fraction, wider in (("0.001", 3.0), ("1", 1.0)):
            errors = (2 + k) * (1 + wider * spread * rng.standard_normal(seeds))
            values[f"labels/hr_bpm/{fraction}/{name}/mae"] = report_number(errors)
        values[f"retrieval/{name}/1000/top-1"] = report_number(
            0.5 + 0.4 * spread * rng.standard_normal(seeds), share=True
        )
    return pooled(values, NAMES)


def test_training_again_is_no_alarm_and_a_change_is_one():
    alarms, changes = 0, 0
    for trial in range(60):
        first, again = (grid(np.random.default_rng([trial, k])) for k in (0, 1))
        reports = [
            {"settings": {}, "claims": [], "numbers": {n: one._asdict() for n, one in own.items()}}
            for own in (first, again)
        ]
        alarms += len(compare_reports(*reports))
        for one in reports[1]["numbers"].values():
            one["value"] *= 1.4  # what a mistake in the code does
        changes += len(compare_reports(*reports))
    tests = 60 * len(first)
    assert alarms <= 3 and changes > 0.6 * tests


def test_a_kind_is_what_numbers_share_but_for_the_encoder():
    narrow, wide, alone = report_number([1.0, 1.001, 0.999]), report_number([2.0, 2.2, 1.8]), report_number([4.0])
    found = pooled({"s/a/mae": narrow, "s/b/mae": wide, "s/c/mae": alone, "s/a/other": alone}, {"a", "b", "c"})
    std = np.sqrt((0.001**2 + 0.1**2) / 2)
    assert found["s/a/mae"].absolute == pytest.approx(SIGMAS * np.sqrt(2 / 3) * std, rel=1e-6)
    assert found["s/b/mae"].absolute == wide.absolute == pytest.approx(allowed(0.2, 3))  # its own is the wider
    assert (found["s/c/mae"].relative, found["s/c/mae"].absolute) == (LEAST, pytest.approx(allowed(4 * std, 1)))
    assert found["s/a/other"] == alone and alone.relative == ALONE


def test_shares_differ_by_points():
    several, alone = report_number([0.5, 0.51, 0.49], share=True), report_number([0.9], share=True)
    assert alone.relative == 0 and alone.absolute == ALONE_SHARE
    found = pooled({"s/a/top-1": several, "s/b/top-1": several, "s/c/top-1": alone}, {"a", "b", "c"})
    assert found["s/c/top-1"].absolute == pytest.approx(allowed(0.01, 1))
    assert found["s/c/top-1"].absolute < ALONE_SHARE
    assert report_number([0.5, 0.5, 0.5], share=True).absolute == LEAST_SHARE


def test_a_number_that_could_not_be_measured_stays_so():
    lost = report_number([None, 1.0])
    assert lost.value is None
    assert (
        pooled(
            {"s/a/mae": lost, "s/b/mae": report_number([1.0, 1.1]), "s/c/mae": report_number([1.0, 1.2, 0.9, 1.1])},
            {"a", "b", "c"},
        )["s/a/mae"]
        == lost
    )
