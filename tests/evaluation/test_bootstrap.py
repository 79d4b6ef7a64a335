"""The intervals cover what they claim to cover."""

import numpy as np
import pytest

from accdistill_jax.evaluation.bootstrap import ParticipantBootstrap


@pytest.mark.parametrize(("people", "lowest"), [(25, 0.91), (6, 0.89)])
def test_intervals_cover_the_truth_although_minutes_of_a_person_resemble_each_other(people, lowest):
    rng = np.random.default_rng(0)
    participant = np.repeat(np.arange(people), 20)
    repeats, covered, naive = 400, 0, 0
    for repeat in range(repeats):
        value = 3.0 + rng.standard_normal(people)[participant] + 0.5 * rng.standard_normal(len(participant))
        bootstrap = ParticipantBootstrap(participant, draws=600, seed=repeat)
        sums = bootstrap.sums(np.stack([value, np.ones_like(value)], axis=1))
        drawn = bootstrap.resample(sums)
        estimate = bootstrap.estimate(value.mean(), drawn[:, 0] / drawn[:, 1])
        covered += estimate.low <= 3.0 <= estimate.high
        half = 1.96 * value.std() / np.sqrt(len(value))
        naive += abs(value.mean() - 3.0) <= half
    assert lowest <= covered / repeats <= 0.995
    assert naive / repeats < 0.75  # what resampling segments instead of people would claim


def test_resampling_equals_an_explicit_loop_over_people():
    participant = np.array(["a", "b", "a", "c", "c", "c"])
    values = np.arange(6.0)
    bootstrap = ParticipantBootstrap(participant, draws=50, seed=3)
    totals = bootstrap.resample(bootstrap.sums(np.stack([values, np.ones(6)], axis=1)))
    per_person = {"a": (2.0, 2), "b": (1.0, 1), "c": (12.0, 3)}
    counts = np.random.default_rng(3).multinomial(3, [1 / 3] * 3, size=50)
    expected = [
        [sum(c * per_person[p][k] for c, p in zip(count, "abc", strict=True)) for k in (0, 1)] for count in counts
    ]
    np.testing.assert_allclose(totals, expected)


def test_one_person_gives_no_interval_and_undefined_values_stay_undefined():
    one = ParticipantBootstrap(np.array(["a"] * 9), draws=100)
    estimate = one.estimate(1.5, np.full(100, 1.5))
    assert estimate.value == 1.5
    assert not estimate.has_interval
    two = ParticipantBootstrap(np.array(["a", "b"]), draws=100)
    assert two.estimate(float("nan"), np.full(100, np.nan)).value is None
    assert not two.estimate(1.0, np.r_[np.full(90, np.nan), np.ones(10)]).has_interval
