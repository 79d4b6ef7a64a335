"""Limits of agreement against a plain analysis of variance, and on made-up people with known spread."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from accdistill_jax.evaluation.probing.agreement import bland_altman
from accdistill_jax.evaluation.probing.probes import MEAN, ProbeSplit, ProbeSplits, probe_target
from accdistill_jax.evaluation.report.comparison_plots import bland_altman_panels


def _people(people=40, low=3, high=30, between=3.0, within=2.0, seed=0):
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(people), rng.integers(low, high, people))
    truth = 70 + 10 * rng.standard_normal(len(code))
    offset = between * rng.standard_normal(people)
    return truth, truth + 1.5 + offset[code] + within * rng.standard_normal(len(code)), code


def _reference(difference, code):
    """One-way analysis of variance with unequal groups, as in Bland and Altman 2007, person by person."""
    groups = [difference[code == c] for c in np.unique(code)]
    n, k = len(difference), len(groups)
    between = sum(len(g) * (g.mean() - difference.mean()) ** 2 for g in groups) / (k - 1)
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (n - k)
    divisor = (n**2 - sum(len(g) ** 2 for g in groups)) / ((k - 1) * n)
    return max((between - within) / divisor, 0.0), within


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_components_equal_an_analysis_of_variance(seed):
    truth, prediction, code = _people(seed=seed, people=12)
    found = bland_altman(truth, prediction, code)
    between, within = _reference(prediction - truth, code)
    assert found.sd_between**2 == pytest.approx(between, rel=1e-9)
    assert found.sd_within**2 == pytest.approx(within, rel=1e-9)
    bias, sd = np.mean(prediction - truth), np.sqrt(between + within)
    assert (found.bias.value, found.sd.value) == (pytest.approx(bias), pytest.approx(sd))
    assert found.low.value == pytest.approx(bias - 1.96 * sd)
    assert found.high.value == pytest.approx(bias + 1.96 * sd)
    slope = np.polyfit((prediction + truth) / 2, prediction - truth, 1)[0]
    assert found.slope.value == pytest.approx(slope)
    for estimate in (found.bias, found.low, found.high, found.sd, found.slope):
        assert estimate.low < estimate.value < estimate.high


def test_known_spread_is_found_and_the_limits_hold_a_new_persons_minutes():
    found = bland_altman(*_people(people=400))
    assert found.sd_between == pytest.approx(3.0, rel=0.1)
    assert found.sd_within == pytest.approx(2.0, rel=0.05)
    truth, prediction, _ = _people(people=400, seed=9)
    inside = (prediction - truth > found.low.value) & (prediction - truth < found.high.value)
    assert inside.mean() == pytest.approx(0.95, abs=0.02)


def test_one_long_recording_does_not_decide_the_limits():
    rng = np.random.default_rng(0)
    code = np.r_[np.repeat(np.arange(20), 5), np.full(900, 20)]
    offset = 5 * rng.standard_normal(21)
    difference = offset[code] + rng.standard_normal(len(code))
    found = bland_altman(np.zeros(len(code)), difference, code)
    assert found.sd.value > 1.9 * difference.std()


def test_what_is_not_known_is_none():
    truth, prediction, code = _people(people=5)
    alone = bland_altman(truth, prediction, np.zeros(len(code)))
    assert alone.sd_between is None and not alone.bias.has_interval
    assert alone.sd.value == pytest.approx(np.std(prediction - truth, ddof=1))
    singles = bland_altman(truth, prediction, np.arange(len(code)))
    assert (singles.sd_within, singles.sd_between) == (None, None)
    assert singles.sd.value == pytest.approx(np.std(prediction - truth, ddof=1))
    padded = [np.r_[x, [np.nan, 1.0]] for x in (truth, prediction)]
    padded[1][-1] = np.nan
    assert bland_altman(*padded, np.r_[code, 0, 1]) == bland_altman(truth, prediction, code)
    perfect = bland_altman(truth, truth, code)
    assert (perfect.sd.value, perfect.low.value, perfect.high.value) == (0, 0, 0)
    with pytest.raises(ValueError, match="two labelled"):
        bland_altman(np.full(3, np.nan), np.ones(3), np.arange(3))
    with pytest.raises(ValueError, match="one length"):
        bland_altman(truth, prediction[:-1], code)


def test_units_and_offsets_pass_through():
    truth, prediction, code = _people()
    one, two = (
        bland_altman(truth, prediction, code),
        bland_altman(1000 * truth, 1000 * prediction + 1e6, code),
    )
    assert two.bias.value == pytest.approx(1000 * one.bias.value + 1e6)
    assert two.sd.value == pytest.approx(1000 * one.sd.value)
    assert two.low.low == pytest.approx(1000 * one.low.low + 1e6)
    assert two.slope.value == pytest.approx(one.slope.value)


@pytest.mark.parametrize("per_person", [10, 50])
def test_panels_show_the_limits_of_each_encoder(per_person):
    rng = np.random.default_rng(0)
    splits = {}
    for split in ("train", "validation", "test"):
        participant = np.repeat([f"{split}{i}" for i in range(10)], per_person)
        state = rng.standard_normal((len(participant), 3))
        splits[split] = ProbeSplit({"student": state}, 70 + 9 * state[:, 0] + state[:, 1] ** 2, participant)
    result = probe_target("hr_bpm", ProbeSplits(**splits), draws=200)
    found = {
        n: bland_altman(result.truth, p.prediction, result.participant, draws=200) for n, p in result.probes.items()
    }
    figure = bland_altman_panels(result, found, ["student", MEAN, "absent"])
    assert isinstance(figure, Figure)
    titles = [axis.get_title(loc="left") for axis in figure.axes[:2]]
    assert titles[0].startswith("Accelerometer student") and titles[1].startswith("Mean predictor")
    for axis, name in zip(figure.axes, ("student", MEAN), strict=False):
        drawn = sorted(line.get_ydata()[0] for line in axis.lines)
        expected = [found[name].low.value, found[name].bias.value, found[name].high.value]
        assert drawn == pytest.approx(expected)
        assert axis.get_ylim()[0] < drawn[0] and drawn[2] < axis.get_ylim()[1]
    assert bland_altman_panels(result, {}, ["student"]) is None
