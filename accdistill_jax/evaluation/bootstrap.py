"""Bootstrap over participants: it resamples people, not segments, because one person's minutes resemble each other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, stdtrit  # scipy.stats takes a second to import


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over participants.

    Attributes:
        value: the number on all test segments, None where it is undefined (the correlation of a constant).
        low: lower end of the interval, None without an interval.
        high: upper end of the interval, None without an interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        """True if both ends are known."""
        return self.interval is not None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, or None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low, self.high

    @property
    def number(self) -> float:
        """The value as a float; NaN where it is undefined."""
        return math.nan if self.value is None else self.value


class ParticipantBootstrap:
    """Draws participants with replacement. Numbers estimated with one instance share the draws, so they compare in pairs.

    The interval is the expanded percentile interval. With few participants the plain percentile interval is too short,
    so the tail probability is Phi(-sqrt(K / (K - 1)) * t), where t is the 97.5 % point of Student's distribution with
    K - 1 degrees of freedom and K is the number of participants.

    Source: Hesterberg, "What Teachers Should Know About the Bootstrap", 2015.

    Args:
        participant: [segments] str, the person behind each segment.
        draws: number of resamples.
        seed: int or ints for `numpy.random.default_rng`.
    """

    def __init__(self, participant: np.ndarray, *, draws: int = 2000, seed: int | Sequence[int] = 0):
        names, self._code = np.unique(np.asarray(participant).astype(str), return_inverse=True)
        self.num_participants = len(names)
        self.draws = draws
        k = max(self.num_participants, 1)
        rng = np.random.default_rng(seed)
        self._counts = rng.multinomial(k, np.full(k, 1.0 / k), size=draws).astype(np.float64)

    @property
    def counts(self) -> np.ndarray:
        """Counts of each participant in each draw, in the order of `np.unique`: [draws, participants] float64."""
        return self._counts

    def sums(self, columns: np.ndarray) -> np.ndarray:
        """Adds up [segments, M] columns within each participant: [participants, M] float64."""
        columns = np.asarray(columns, np.float64)
        totals = [np.bincount(self._code, weights=c, minlength=self.num_participants) for c in columns.T]
        return np.stack(totals, axis=1)

    def resample(self, sums: np.ndarray) -> np.ndarray:
        """Totals over each draw's participants: [participants, M] -> [draws, M] float64."""
        return self._counts @ sums

    def estimate(self, value: float, draws: np.ndarray) -> Estimate:
        """Joins a value with the interval of its resampled values.

        Args:
            value: the number on all segments; NaN where it is undefined.
            draws: [draws] the number on each draw; values that are not finite are left out.

        Returns:
            The estimate. It has no interval with one participant, or where most draws are undefined.
        """
        if not np.isfinite(value):
            return Estimate(None)
        draws = draws[np.isfinite(draws)]
        k = self.num_participants
        if k < 2 or len(draws) < 0.5 * self.draws:
            return Estimate(float(value))
        tail = ndtr(-np.sqrt(k / (k - 1)) * stdtrit(k - 1, 0.975))
        low, high = np.quantile(draws, [tail, 1.0 - tail])
        return Estimate(float(value), float(low), float(high))
