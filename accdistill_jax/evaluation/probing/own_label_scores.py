"""Measures of a read-out of a user's label, on people who are left out of its fit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.evaluation.people.roc import roc_areas
from accdistill_jax.readouts.label_probe import probabilities

_DRAWS = 2000
_AREA_DRAWS = 500


class LeftOut(NamedTuple):
    """Predictions for rows whose people the fit did not see.

    Attributes:
        score: [n, K] scores of the model.
        truth: [n] float64 numbers, or indices of classes.
        participant: [n] str.
    """

    score: np.ndarray
    truth: np.ndarray
    participant: np.ndarray


class ProbeMeasure(NamedTuple):
    """A measure of the read-out, on people who were left out of the fit.

    Attributes:
        words: name of the measure.
        estimate: with its interval over people.
        reference: the same measure of the baseline.
        baseline: name of the baseline.
        better: True if the interval of the difference to the baseline excludes zero on the good side; None if unknown.
    """

    words: str
    estimate: Estimate
    reference: float
    baseline: str
    better: bool | None


def _ratio(drawn: ParticipantBootstrap, top: np.ndarray, bottom: np.ndarray) -> tuple[Estimate, np.ndarray]:
    """Ratio of two sums over rows, with its resampled values."""
    sums = drawn.sums(np.stack([top, bottom], axis=1))
    resampled, total = drawn.resample(sums), sums.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = resampled[:, 0] / resampled[:, 1]
        return drawn.estimate(float(total[0] / total[1]), draws), draws


def measure_number(left_out: LeftOut, constant: np.ndarray, *, per_minute: bool, seed: int) -> list[ProbeMeasure]:
    """Error and correlation of a number.

    Args:
        left_out: estimates [n, 1].
        constant: [n] mean of the people of each row's fit.
        per_minute: True adds the mean of the person's other minutes as a baseline.
        seed: seed of the draws of people.
    """
    estimated, y, people = left_out.score[:, 0], left_out.truth, left_out.participant
    drawn = ParticipantBootstrap(people, draws=_DRAWS, seed=[seed, 43])
    one = np.ones(len(y))
    error, reference = np.abs(estimated - y), np.abs(constant - y)
    references = [("mean of the other people", reference)]
    if per_minute:
        _, code = np.unique(people, return_inverse=True)
        others = np.bincount(code)[code] - 1
        own = (np.bincount(code, weights=y)[code] - y) / np.maximum(others, 1)
        references.append(("mean of the person's other minutes", np.where(others > 0, np.abs(own - y), reference)))
    measure = _ratio(drawn, error, one)[0]
    measures = []
    for words, other in references:
        difference = _ratio(drawn, error - other, one)[0]
        better = None if difference.high is None else difference.high < 0
        measures.append(ProbeMeasure("mean absolute error", measure, float(other.mean()), words, better))
    if len(y) > 2 and np.std(estimated) > 0 and np.std(y) > 0:
        columns = np.stack([one, estimated, y, estimated**2, y**2, estimated * y], axis=1)
        sums = drawn.sums(columns)
        value = _correlation(sums.sum(axis=0)[None])[0]
        estimate = drawn.estimate(float(value), _correlation(drawn.resample(sums)))
        measures.append(
            ProbeMeasure("correlation", estimate, 0.0, "constant", estimate.low is not None and estimate.low > 0)
        )
    return measures


def _correlation(sums: np.ndarray) -> np.ndarray:
    n, a, b, aa, bb, ab = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return (ab - a * b / n) / np.sqrt((aa - a * a / n) * (bb - b * b / n))


def measure_classes(left_out: LeftOut, *, classes: int, seed: int) -> list[ProbeMeasure]:
    """Balanced accuracy and accuracy of classes; of two classes the area under the ROC curve comes first.

    Args:
        left_out: scores, see `probabilities`, and indices of classes.
        classes: number of classes.
        seed: seed of the draws of people.
    """
    out, y, people = left_out.score, left_out.truth.astype(int), left_out.participant
    drawn = ParticipantBootstrap(people, draws=_DRAWS, seed=[seed, 43])
    probability = probabilities(out)
    predicted = probability.argmax(axis=1)
    per_class = np.stack([f for k in range(classes) for f in ((y == k) & (predicted == k), y == k)], axis=1)
    sums = drawn.sums(per_class)

    def balanced(total: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.mean(total[:, 0::2] / total[:, 1::2], axis=1)

    value, draws = balanced(sums.sum(axis=0)[None])[0], balanced(drawn.resample(sums))
    estimate, chance = drawn.estimate(float(value), draws), 1.0 / classes
    better = None if estimate.low is None else estimate.low > chance
    measures = [ProbeMeasure("balanced accuracy", estimate, chance, "chance", better)]
    if classes == 2 and len(np.unique(y)) == 2:
        _, code = np.unique(people, return_inverse=True)
        weights = np.concatenate([np.ones((1, len(y))), drawn.counts[:_AREA_DRAWS, code]])
        areas, _ = roc_areas(out[:, 0], weights * (y == 1), weights * (y == 0))
        fewer = ParticipantBootstrap(people, draws=len(areas) - 1)
        estimate = fewer.estimate(float(areas[0]), areas[1:])
        better = None if estimate.low is None else estimate.low > 0.5
        measures.insert(0, ProbeMeasure("area under the ROC curve", estimate, 0.5, "chance", better))
    accuracy = _ratio(drawn, (predicted == y).astype(float), np.ones(len(y)))[0]
    majority = float(np.bincount(y).max() / len(y))
    return [*measures, ProbeMeasure("accuracy", accuracy, majority, "most frequent class", None)]
