"""Scores of leave-one-wearer-out on numbers written out by hand."""

import numpy as np
import pytest

from accdistill_jax.data.store.store import Store
from accdistill_jax.reproduce.wearers.scores import (
    Classical,
    WearerMinutes,
    constants,
    lag_of_others,
    rate_score,
    ridge_on_others,
    search_score,
    search_together,
)

WEARER = np.array(["a", "a", "b", "b", "b"])
RATES = np.array([60.0, 70.0, 50.0, np.nan, 54.0])
ALL = WearerMinutes(WEARER, RATES, np.ones(5, bool))


def test_errors_are_of_the_wearers_known_minutes():
    score = rate_score(np.array([61.0, 66.0, 50.0, 0.0, 60.0]), ALL, "a")
    assert (score.mae_bpm, score.near, score.minutes) == (2.5, 0.5, 2)
    assert rate_score(np.zeros(5), ALL, "b").minutes == 2
    with pytest.raises(ValueError, match="a: 1 minutes without a prediction"):
        rate_score(np.array([61.0, np.nan, 50.0, 0.0, 60.0]), ALL, "a")
    assert rate_score(np.zeros(5), WearerMinutes(WEARER, np.full(5, np.nan), ALL.shown), "a") is None


def test_a_minute_that_does_not_count_is_neither_searched_for_nor_found():
    accel = np.eye(5, dtype=np.float32)
    ppg = accel[[1, 0, 2, 3, 4]]  # the minutes of "a" are exchanged
    everything = search_score(accel, ppg, ALL, "a")
    assert (everything.among_all, everything.pool, everything.within, everything.minutes) == (0.0, 5, 0.0, 2)
    assert search_score(accel, ppg, ALL, "b").among_all == 1.0
    some = WearerMinutes(WEARER, RATES, np.array([True, False, True, True, True]))
    score = search_score(accel[[0, 1, 2, 3, 4]], accel, some, "a")
    assert (score.among_all, score.pool, score.within, score.minutes) == (1.0, 4, 1.0, 1)


def test_the_lag_is_that_of_the_other_wearers():
    accel = np.eye(5, dtype=np.float32)
    good_for_b, good_for_a = accel[[1, 0, 2, 3, 4]], accel[[0, 1, 3, 2, 4]]
    assert lag_of_others(accel, [good_for_b, good_for_a], ALL, "a") == 0
    assert lag_of_others(accel, [good_for_b, good_for_a], ALL, "b") == 1


def test_of_lags_that_find_as_many_the_one_with_the_lowest_mean_rank_is_taken():
    accel = np.eye(5, dtype=np.float32)
    far, near = np.roll(accel[2:], 1, axis=0), np.roll(accel[2:], 1, axis=0) + 0.9 * accel[2:]
    lagged = [np.concatenate([accel[:2], rows]) for rows in (far, near)]
    assert lag_of_others(accel, lagged, ALL, "a") == 1


def test_two_methods_together_find_what_each_confuses():
    rng = np.random.default_rng(0)
    person, beat = np.repeat(np.eye(5, dtype=np.float32), 4, axis=0), np.tile(np.eye(4, dtype=np.float32), (5, 1))
    minutes = WearerMinutes(np.repeat(list("abcde"), 4), np.full(20, 60.0), np.ones(20, bool))
    noise = rng.normal(0, 1e-3, (20, 4)).astype(np.float32)
    knows_person, knows_beat = (person, person), (beat + noise, beat)
    alone = [search_score(*pair, minutes, "a").among_all for pair in (knows_person, knows_beat)]
    assert max(alone) == 0.0  # ties count against the query
    together = search_together([knows_person, knows_beat], minutes, "a")
    assert (together.among_all, together.within, together.pool, together.minutes) == (1.0, 1.0, 20, 4)


def test_no_method_outweighs_another_by_its_spread():
    rng = np.random.default_rng(1)
    minutes = WearerMinutes(np.repeat(list("ab"), 50), np.full(100, 60.0), np.ones(100, bool))
    common = 30 * np.ones((1, 8))  # leaves the cosines of this method little room
    right = rng.normal(size=(100, 8))
    narrow = right + 0.3 * rng.normal(size=right.shape) + common, right + common
    wrong = rng.normal(size=(100, 8)), rng.normal(size=(100, 8))
    query, gallery = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in narrow)
    chance, plain = wrong[0] @ wrong[1].T, query @ gallery.T
    assert plain.std() < 0.01 * chance.std()
    assert search_together([narrow, wrong], minutes, "a").among_all > 0.1


def test_a_rate_is_read_with_the_labels_of_the_other_wearers_alone():
    rng = np.random.default_rng(0)
    wearer = np.repeat(["a", "b", "c", "d"], 30)
    rates = rng.uniform(50, 90, 120)
    features = np.stack([rates + rng.normal(0, 0.1, 120), rng.normal(size=120)], axis=1)
    shifted = np.where(wearer == "a", rates + 1000, rates)  # labels of "a" would give it away
    minutes = WearerMinutes(wearer, shifted, np.ones(120, bool))
    predicted = ridge_on_others(features, minutes, "a")
    assert np.isnan(predicted[30:]).all()
    assert np.abs(predicted[:30] - rates[:30]).max() < 2


def test_the_constants_leave_out_what_they_are_compared_with():
    made = constants(ALL, "a")
    np.testing.assert_array_equal(made["mean of the other wearers"], 52.0)
    np.testing.assert_array_equal(made["the wearer's own mean"][:2], [70.0, 60.0])


@pytest.mark.slow
def test_without_learning_the_pulse_of_clean_people_is_found(smoke_store):
    store = Store.open(smoke_store)
    classical = Classical.of(store)
    wearer = np.asarray(store.segments["participant"]).astype(str)
    minutes = WearerMinutes(wearer, store.segments["hr_bpm"].astype(float), np.ones(len(wearer), bool))
    one = sorted(set(wearer))[0]
    assert rate_score(classical.rate_bpm, minutes, one).mae_bpm < 3
    assert search_score(*classical.rows(minutes, one), minutes, one).among_all > 0.5  # by chance 1 of 88
