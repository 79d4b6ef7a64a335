"""Errors and correlations of predictions for test participants. All of them share the draws of people."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap


@dataclasses.dataclass(frozen=True)
class Probe:
    """Scores of one encoder (or constant) on one target, on the test participants.

    Attributes:
        encoder: its name; "mean" and "median" are constants.
        strength: ridge strength, penalty per segment on standardised features; None for constants.
        mae, rmse: mean absolute error and root mean squared error, in the target's unit.
        r: Pearson correlation over all test segments.
        r_within: correlation after each participant's mean is removed from truth and prediction. It measures changes from
            minute to minute.
        r2: 1 - squared error / variance around the test mean.
        prediction: [N] float64, in the target's unit (not in the JSON).
        note: a doubt about the strength, or "".
    """

    encoder: str
    strength: float | None
    mae: Estimate
    rmse: Estimate
    r: Estimate
    r_within: Estimate
    r2: Estimate
    prediction: np.ndarray = dataclasses.field(repr=False, metadata={"json": False})
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Difference:
    """Paired comparison of two encoders by their MAE on the same test segments.

    Attributes:
        encoder: name of the first encoder.
        reference: name of the encoder it is compared with.
        difference: MAE of `encoder` minus MAE of `reference`, in the target's unit; negative if `encoder` is better.
        ratio: MAE of `encoder` divided by MAE of `reference`.
    """

    encoder: str
    reference: str
    difference: Estimate
    ratio: Estimate

    @property
    def outcome(self) -> str:
        """Result of the comparison: "better" or "worse" if the interval excludes zero, else "same"; "unknown" without one."""
        interval = self.difference.interval
        if interval is None:
            return "unknown"
        low, high = interval
        return "better" if high < 0 else "worse" if low > 0 else "same"


class Measures(NamedTuple):
    """MAE, RMSE, r, r within participants and R2, in this order.

    Attributes:
        value: [5] float64 on all test segments, NaN where undefined.
        drawn: [5, draws] float64, the same measures on each draw of participants.
    """

    value: np.ndarray
    drawn: np.ndarray


def mean_measures(measures: Sequence[Measures]) -> Measures:
    """Mean over several predictions for one test split.

    An undefined correlation (of a constant) counts as 0, unless it is undefined for all predictions.
    """
    value = np.stack([m.value for m in measures])
    drawn = np.stack([m.drawn for m in measures])
    undefined = np.isnan(value).all(axis=0)
    mean = Measures(np.nan_to_num(value, nan=0.0).mean(axis=0), np.nan_to_num(drawn, nan=0.0).mean(axis=0))
    mean.value[undefined] = np.nan
    mean.drawn[np.isnan(drawn).all(axis=0)] = np.nan
    return mean


class Scorer:
    """Scores predictions on one test split.

    Args:
        truth: [N] float, labels of the test segments.
        participant: [N] str.
        draws: draws of participants behind each interval.
        seed: seed of the draws. Scorers with the same split and seed draw the same people.
    """

    def __init__(self, truth: np.ndarray, participant: np.ndarray, *, draws: int, seed: int):
        self._truth = np.asarray(truth, np.float64)
        self._people = ParticipantBootstrap(participant, draws=draws, seed=[seed, 22])

    def measure(self, prediction: np.ndarray) -> Measures:
        """Measures of one prediction [N]."""
        error = prediction - self._truth
        # Moments about the overall means, so that sums of squares keep their precision.
        y, p = self._truth - self._truth.mean(), prediction - prediction.mean()
        if np.ptp(prediction) <= 1e-9 * (np.abs(prediction).max() + 1):
            p = np.zeros_like(p)
        columns = np.stack([np.ones_like(y), np.abs(error), error**2, y, p, y * y, p * p, y * p], axis=1)
        sums = self._people.sums(columns)
        n, sy, sp, syy, spp, syp = (sums[:, k] for k in (0, 3, 4, 5, 6, 7))
        within = np.stack([syy - sy * sy / n, spp - sp * sp / n, syp - sy * sp / n], axis=1)
        sums = np.concatenate([sums, within], axis=1)
        value, drawn = _metrics(sums.sum(axis=0)), _metrics(self._people.resample(sums))
        return Measures(np.array(value, np.float64), np.stack(drawn))

    def estimates(self, measures: Measures) -> list[Estimate]:
        """MAE, RMSE, r, r within participants and R2, with their intervals over participants."""
        return [self._people.estimate(float(v), d) for v, d in zip(*measures, strict=True)]

    def compare(self, encoder: str, reference: str, measured: dict[str, Measures]) -> Difference:
        """Compares two entries of `measured` by their MAE, in pairs."""
        a, b = measured[encoder], measured[reference]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self._people.estimate(np.divide(a.value[0], b.value[0]), a.drawn[0] / b.drawn[0])
        difference = self._people.estimate(a.value[0] - b.value[0], a.drawn[0] - b.drawn[0])
        return Difference(encoder, reference, difference, ratio)


def _metrics(sums: np.ndarray) -> tuple[np.ndarray, ...]:
    """MAE, RMSE, r, r within participants and R2 from totals [..., 11] (the columns of `Scorer.measure`)."""
    n, absolute, squared, sy, sp, syy, spp, syp, wyy, wpp, wyp = np.moveaxis(sums, -1, 0)
    vyy, vpp, vyp = syy - sy * sy / n, spp - sp * sp / n, syp - sy * sp / n

    def ratio(numerator, denominator):
        return np.where(denominator > 1e-9, numerator / np.where(denominator > 1e-9, denominator, 1.0), np.nan)

    r = ratio(vyp, np.sqrt(np.maximum(vyy, 0) * np.maximum(vpp, 0)))
    r_within = ratio(wyp, np.sqrt(np.maximum(wyy, 0) * np.maximum(wpp, 0)))
    return absolute / n, np.sqrt(squared / n), r, r_within, 1.0 - ratio(squared, vyy)
