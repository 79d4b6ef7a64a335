"""Scores on shared draws of people."""

import numpy as np
import pytest

from accdistill_jax.evaluation.probing.scoring import Measures, Scorer, mean_measures


def test_means_over_predictions():
    one = Measures(np.array([2.0, np.nan, np.nan]), np.array([[1.0, 3.0], [np.nan, np.nan], [np.nan, np.nan]]))
    two = Measures(np.array([4.0, 0.5, np.nan]), np.array([[3.0, 5.0], [0.4, 0.6], [np.nan, np.nan]]))
    mean = mean_measures([one, two])
    np.testing.assert_array_equal(mean.value, [3.0, 0.25, np.nan])
    np.testing.assert_allclose(mean.drawn, [[2.0, 4.0], [0.2, 0.3], [np.nan, np.nan]])


def test_comparisons_are_paired():
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(12), 20)
    truth = 70 + 10 * rng.standard_normal(240)
    error = (1 + 3 * rng.random(12))[person] * rng.standard_normal(240)
    scorer = Scorer(truth, person, draws=500, seed=0)
    measured = {name: scorer.measure(truth + k * error) for name, k in (("good", 1.0), ("twice", 2.0))}
    found = scorer.compare("twice", "good", measured)
    # People differ in how hard they are, but not in how much harder one encoder finds them.
    assert (found.ratio.value, found.ratio.low, found.ratio.high) == pytest.approx((2, 2, 2))
    assert found.difference.value == pytest.approx(np.abs(error).mean())
    assert found.difference.low < 0.9 * found.difference.value < 1.1 * found.difference.value < found.difference.high
    assert (found.outcome, scorer.compare("good", "twice", measured).outcome) == ("worse", "better")
