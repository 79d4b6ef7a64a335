"""Levels of sensor noise, and the scores of every route in a level, with intervals over people."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.evaluation.retrieval.retrieval import mean_over_queries, share

LIMITS_MG = (0.15, 0.3, 0.5, 0.7)
"""Limits between levels, in mg/sqrt(Hz). A person at a limit belongs to the level above it."""
CALM_SHARE, LEAST_CALM = 0.25, 4
STUDENT, TEACHER = "student", "PPG teacher"
MATCHER = "classical matcher, no learning"
BOOSTING = "classical features, gradient boosting"
ENVELOPE = "acceleration's envelope, no learning"
MEAN, OWN_MEAN = "mean of the training people", "person's own mean"
ALL = "all"
SLOW = "slow sensors"
"""Level of people whose sensor cannot show its noise at 20 to 30 Hz; it is not on the scale."""


@dataclasses.dataclass(frozen=True)
class TestMinutes:
    """The minutes of the test people, and the results of every route for them.

    Attributes:
        participant: [N] str.
        noise_mg: [N] float, noise density of the person's sensor in mg/sqrt(Hz); NaN for a sensor that is too slow to tell.
        hr_bpm: [N] float, NaN where unknown.
        first: route -> [N] float, probability that the minute's PPG is first in a random pool.
        predicted_bpm: route -> [N] float, heart rate; finite where `hr_bpm` is.
    """

    __test__ = False  # no test class, whatever its name says to pytest

    participant: np.ndarray
    noise_mg: np.ndarray
    hr_bpm: np.ndarray
    first: Mapping[str, np.ndarray]
    predicted_bpm: Mapping[str, np.ndarray]


class LevelScores(NamedTuple):
    """Scores in one level of noise.

    Attributes:
        name: range of the noise density, `SLOW` or `ALL`.
        people: number of people.
        minutes: number of their minutes.
        rated_minutes: number of these with a known heart rate.
        noise_mg: median over the people whose noise is known; None without any.
        top1: route -> share of minutes whose PPG is first.
        top1_ahead: top-1 of the student minus that of the classical matcher, over the same minutes.
        error_bpm: route -> mean absolute error of the heart rate.
        error_ahead_bpm: error of the student minus that of classical features with boosting; below 0 the student is better.
    """

    name: str
    people: int
    minutes: int
    rated_minutes: int
    noise_mg: float | None
    top1: Mapping[str, Estimate]
    top1_ahead: Estimate
    error_bpm: Mapping[str, Estimate]
    error_ahead_bpm: Estimate


def calm_minutes(participant: np.ndarray, motion_g: np.ndarray) -> np.ndarray:
    """Rows of each person's calmest quarter of minutes, but at least four (all, if the person has fewer), in order.

    Args:
        participant: [N] str.
        motion_g: [N] float, motion in g; minutes where it is unknown (NaN) come last.
    """
    chosen = []
    for name in np.unique(participant):
        rows = np.flatnonzero(participant == name)
        count = max(round(CALM_SHARE * len(rows)), LEAST_CALM)
        chosen.append(rows[np.argsort(motion_g[rows], kind="stable")[:count]])
    return np.sort(np.concatenate(chosen))


def noise_of_people(participant: np.ndarray, calm: np.ndarray, noise_mg: np.ndarray) -> np.ndarray:
    """The noise of the person of each minute: the median over the person's calm minutes.

    Args:
        participant: [N] str.
        calm: [n] rows of minutes that were measured, some of every person.
        noise_mg: [n] float, noise density of these in mg/sqrt(Hz).

    Returns:
        [N] float64, in mg/sqrt(Hz).
    """
    people, code = np.unique(participant, return_inverse=True)
    of_calm = code[calm]
    medians = np.array([np.median(noise_mg[of_calm == number]) for number in range(len(people))], np.float64)
    return medians[code]


def level_names() -> list[str]:
    """Names of the levels, from low to high noise."""
    between = [f"{low:g} to {high:g}" for low, high in zip(LIMITS_MG, LIMITS_MG[1:], strict=False)]
    return [f"below {LIMITS_MG[0]:g}", *between, f"{LIMITS_MG[-1]:g} and more"]


def score_levels(minutes: TestMinutes) -> list[LevelScores]:
    """Scores of every level that has people, from low to high noise, and of all minutes."""
    level = np.searchsorted(LIMITS_MG, minutes.noise_mg, side="right")
    level[np.isnan(minutes.noise_mg)] = len(LIMITS_MG) + 1
    names = [*level_names(), SLOW]
    scores = [_scores(names[number], np.flatnonzero(level == number), minutes) for number in np.unique(level)]
    return [*scores, _scores(ALL, np.arange(len(level)), minutes)]


def _scores(name: str, rows: np.ndarray, minutes: TestMinutes) -> LevelScores:
    participant = minutes.participant[rows]
    people = ParticipantBootstrap(participant)
    first = {route: values[rows] for route, values in minutes.first.items()}
    rated = rows[np.isfinite(minutes.hr_bpm[rows])]
    errors = {route: np.abs(values[rated] - minutes.hr_bpm[rated]) for route, values in minutes.predicted_bpm.items()}
    for route, error in errors.items():
        if not np.isfinite(error).all():
            raise ValueError(f"{route}: {np.count_nonzero(~np.isfinite(error))} minutes without a prediction")
    _, index = np.unique(participant, return_index=True)
    noise = minutes.noise_mg[rows][index]
    known = noise[np.isfinite(noise)]
    return LevelScores(
        name=name,
        people=len(index),
        minutes=len(rows),
        rated_minutes=len(rated),
        noise_mg=float(np.median(known)) if len(known) else None,
        top1={route: share(people, np.stack([values, np.ones(len(rows))], axis=1)) for route, values in first.items()},
        top1_ahead=mean_over_queries(people, first[STUDENT] - first[MATCHER]),
        error_bpm={route: _mean(error, minutes.participant[rated]) for route, error in errors.items()},
        error_ahead_bpm=_mean(errors[STUDENT] - errors[BOOSTING], minutes.participant[rated]),
    )


def _mean(values: np.ndarray, participant: np.ndarray) -> Estimate:
    """Mean over minutes; no value without any."""
    return mean_over_queries(ParticipantBootstrap(participant), values) if len(values) else Estimate(None)
