"""Bootstrap over participants: resample people, not segments, because one person's minutes resemble each other."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import ndtr, stdtrit  # scipy.stats takes a second to import


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; `low` and `high` are None where no interval can be given.

    Attributes:
        value: the number on all test segments, None where it is undefined (the correlation of a constant).
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        """True if both ends are known."""
        return self.low is not None and self.high is not None


class ParticipantBootstrap:
    """Draws of participants with replacement, shared by everything that is to be compared in pairs.

    The interval is the expanded percentile interval: with few participants the plain percentile interval is too
    short, so its tail probability is Phi(-sqrt(K / (K - 1)) * t) with t the 97.5 % point of Student's distribution
    with K - 1 degrees of freedom. Source: Hesterberg, "What Teachers Should Know About the Bootstrap", 2015.

    Args:
        participant: [segments] str, the person behind each segment.
        draws: number of resamples.
        seed: int or sequence of ints for `numpy.random.default_rng`.
    """

    def __init__(self, participant: np.ndarray, *, draws: int = 2000, seed=0):
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
        out = [np.bincount(self._code, weights=c, minlength=self.num_participants) for c in columns.T]
        return np.stack(out, axis=1)

    def resample(self, sums: np.ndarray) -> np.ndarray:
        """Totals over each draw's participants: [participants, M] -> [draws, M] float64."""
        return self._counts @ sums

    def estimate(self, value: float, draws: np.ndarray) -> Estimate:
        """Joins a value with the interval of its resampled values [draws]; no interval from one participant."""
        value = None if value is None or not np.isfinite(value) else float(value)
        draws = draws[np.isfinite(draws)]
        k = self.num_participants
        if value is None or k < 2 or len(draws) < 0.5 * self.draws:
            return Estimate(value)
        tail = ndtr(-np.sqrt(k / (k - 1)) * stdtrit(k - 1, 0.975))
        low, high = np.quantile(draws, [tail, 1.0 - tail])
        return Estimate(value, float(low), float(high))
