"""Levels of noise, their scores and their tables, on numbers written out by hand."""

import dataclasses
import json

import numpy as np
import pytest

from accdistill_jax.reproduce.noise.levels import (
    ALL,
    BOOSTING,
    ENVELOPE,
    MATCHER,
    MEAN,
    OWN_MEAN,
    SLOW,
    STUDENT,
    TEACHER,
    TestMinutes,
    calm_minutes,
    noise_of_people,
    score_levels,
)
from accdistill_jax.reproduce.noise.table import draw_levels, level_tables, to_json

# two quiet people ("a" on the limit's lower side), one at the limit of 0.5, nobody between 0.15 and 0.3 or above 0.7
PERSON = np.array(["a", "a", "b", "b", "c", "c", "d"])
NOISE = np.array([0.1, 0.1, 0.14, 0.14, 0.5, 0.5, 0.4])
RATES = np.array([60.0, 62.0, 70.0, np.nan, 50.0, 54.0, np.nan])


def minutes(**changes) -> TestMinutes:
    first = {STUDENT: np.array([1, 1, 0.5, 0.5, 1, 0, 1]), MATCHER: np.array([1, 0.5, 1, 0, 0, 0, 1])}
    errors = {
        STUDENT: 1.0,
        TEACHER: 0.5,
        BOOSTING: np.array([0.0, 2, 1, 9, 4, 2, 9]),
        ENVELOPE: 3,
        MEAN: 8,
        OWN_MEAN: 2,
    }
    predicted = {route: RATES + error for route, error in errors.items()}
    return TestMinutes(PERSON, NOISE, RATES, first, predicted | changes)


def test_a_quarter_of_a_persons_minutes_is_calm_but_at_least_four():
    motion = np.array([5.0, 4, 3, 2, 1, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, np.nan, 0.1])
    person = np.array(["a"] * 20 + ["b"] * 2)
    assert calm_minutes(person, motion).tolist() == [0, 1, 2, 3, 4, 20, 21]
    assert calm_minutes(person[:10], np.r_[np.nan, motion[1:10]]).tolist() == [1, 2, 3, 4]


def test_the_noise_of_a_person_is_the_median_of_the_calm_minutes():
    person = np.array(["b", "a", "b", "b", "a"])
    noise = noise_of_people(person, np.array([0, 2, 3, 4]), np.array([0.2, 0.9, 0.3, 0.6]))
    assert noise.tolist() == [0.3, 0.6, 0.3, 0.3, 0.6]


def test_people_are_scored_by_level_and_empty_levels_are_left_out():
    quiet, middle, loud, everybody = score_levels(minutes())
    assert [level.name for level in (quiet, middle, loud, everybody)] == ["below 0.15", "0.3 to 0.5", "0.5 to 0.7", ALL]
    assert (quiet.people, quiet.minutes, quiet.rated_minutes) == (2, 4, 3)
    assert quiet.noise_mg == pytest.approx(0.12)
    assert quiet.top1[STUDENT].value == 0.75 and quiet.top1[MATCHER].value == 0.625
    assert quiet.top1_ahead.value == pytest.approx(0.125)
    assert quiet.error_bpm[STUDENT].value == 1.0 and quiet.error_bpm[BOOSTING].value == pytest.approx(1.0)
    assert loud.error_bpm[BOOSTING].value == 3.0 and loud.error_ahead_bpm.value == -2.0
    assert (everybody.people, everybody.minutes, everybody.rated_minutes) == (4, 7, 5)


def test_people_with_slow_sensors_are_a_level_without_noise(tmp_path):
    noise = np.where(PERSON == "b", np.nan, NOISE)
    scores = score_levels(dataclasses.replace(minutes(), noise_mg=noise))
    assert [level.name for level in scores] == ["below 0.15", "0.3 to 0.5", "0.5 to 0.7", SLOW, ALL]
    quiet, *_, slow, everybody = scores
    assert (quiet.people, quiet.noise_mg) == (1, 0.1) and (slow.people, slow.minutes, slow.noise_mg) == (1, 2, None)
    assert (everybody.people, everybody.noise_mg) == (4, 0.4)
    assert "| median noise of the people | 0.10 | 0.40 | 0.50 | – | 0.40 |" in level_tables(
        scores, pool=7, train_minutes=9
    )
    draw_levels(scores, tmp_path / "noise.png", pool=7)


def test_intervals_are_over_people():
    quiet, middle, loud, everybody = score_levels(minutes())
    low, high = everybody.top1[STUDENT].interval
    assert low < everybody.top1[STUDENT].value < high
    low, high = everybody.error_bpm[BOOSTING].interval
    assert 1.0 <= low < everybody.error_bpm[BOOSTING].value < high <= 3.0
    assert quiet.top1_ahead.has_interval and quiet.error_ahead_bpm.has_interval
    assert not loud.top1[STUDENT].has_interval and not loud.error_bpm[STUDENT].has_interval
    # nobody knows the heart rate of the person between 0.3 and 0.5
    assert middle.error_bpm[STUDENT].value is None and middle.top1[STUDENT].value == 1.0


def test_a_minute_without_a_prediction_is_an_error():
    with pytest.raises(ValueError, match="PPG teacher: 1 minutes without a prediction"):
        score_levels(minutes(**{TEACHER: np.where(np.arange(7) == 2, np.nan, RATES)}))


def test_tables_and_figure_show_every_level(tmp_path):
    scores = score_levels(minutes())
    text = level_tables(scores, pool=7, train_minutes=6000)
    assert "| mg/sqrt(Hz) | below 0.15 | 0.3 to 0.5 | 0.5 to 0.7 | all |" in text
    assert "| people | 2 | 1 | 1 | 4 |" in text and "| minutes with a known heart rate | 3 | 0 | 2 | 5 |" in text
    assert "among 7 minutes of all levels" in text and "6 000 minutes of training people" in text
    (student,) = [line for line in text.splitlines() if line.startswith("| student minus boosting |")]
    assert student.split(" | ")[2:4] == ["–", "−2.00"]
    plain = json.loads(json.dumps(to_json(scores, pool=7, train_minutes=6000)))
    assert plain["levels"][0]["top1"][STUDENT]["value"] == 0.75 and plain["levels"][2]["name"] == "0.5 to 0.7"
    draw_levels(scores, tmp_path / "noise.png", pool=7)
    assert (tmp_path / "noise.png").read_bytes().startswith(b"\x89PNG")
