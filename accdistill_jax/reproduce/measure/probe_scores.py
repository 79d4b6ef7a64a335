"""Errors of probes over training seeds, with intervals over test participants, and ratios of two encoders' errors.

All predictions of a target are judged on the same draws of participants. The error of each draw is averaged over training
seeds; an interval is that of the average. A ratio is the quotient of two averages, over the seeds that both encoders have.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.probing.scoring import Measures, Scorer, mean_measures
from accdistill_jax.reproduce.measure.results import over_seeds

DRAWS = 2000
_MAE, _R, _R_WITHIN = 0, 2, 3  # places in `scoring.Measures`


class Score(NamedTuple):
    """A number over training seeds.

    Attributes:
        estimate: its mean over seeds (never None), with the 95 % interval over test participants.
        seeds: the value of each training seed.
    """

    estimate: Estimate
    seeds: tuple[float, ...]

    @property
    def value(self) -> float:
        """The mean over seeds."""
        value = self.estimate.value
        assert value is not None  # `Scores` makes no score of an unknown value
        return value

    @property
    def std(self) -> float:
        """Standard deviation over seeds; 0 for one."""
        return over_seeds(self.seeds)[1]

    @property
    def below_1(self) -> bool:
        """True if the whole interval is below 1."""
        return self.estimate.high is not None and self.estimate.high < 1

    @property
    def above_1(self) -> bool:
        """True if the whole interval is above 1."""
        return self.estimate.low is not None and self.estimate.low > 1


class TestLabels(NamedTuple):
    """Labels [N] of a target's labelled test segments, and their participants [N]."""

    label: np.ndarray
    participant: np.ndarray


class Scores:
    """Predictions on one test split, by target, fraction of labels, encoder and training seed, and their errors.

    Args:
        truth: target -> labels.
        draws: number of draws of participants behind each interval.
    """

    def __init__(self, truth: Mapping[str, TestLabels], *, draws: int = DRAWS):
        self.truth = dict(truth)
        self._scorers = {target: Scorer(*labels, draws=draws, seed=0) for target, labels in truth.items()}
        self._measured: dict[tuple[str, float, str], dict[int, Measures]] = {}
        self._predicted: dict[tuple[str, float, str, int], np.ndarray] = {}

    def add(self, target: str, fraction: float, name: str, seed: int, prediction: np.ndarray) -> None:
        """Adds a prediction [N] of the labelled test segments, in the target's unit; a second one of the same seed is ignored."""
        by_seed = self._measured.setdefault((target, fraction, name), {})
        if seed not in by_seed:
            by_seed[seed] = self._scorers[target].measure(np.asarray(prediction, np.float64))
            self._predicted[target, fraction, name, seed] = prediction

    def seeds(self, target: str, fraction: float, name: str) -> list[int]:
        """The training seeds with a prediction."""
        return sorted(self._measured.get((target, fraction, name), ()))

    def prediction(self, target: str, fraction: float, name: str, seed: int) -> np.ndarray:
        """The prediction [N], as it was added."""
        return self._predicted[target, fraction, name, seed]

    def estimates(self, target: str, fraction: float, name: str, seed: int) -> list[Estimate]:
        """MAE, RMSE, r, r within participants and R2 of one seed."""
        return self._scorers[target].estimates(self._measured[target, fraction, name][seed])

    def error(self, target: str, fraction: float, name: str, *, seeds: Iterable[int] | None = None) -> Score | None:
        """Mean absolute error over the given seeds (None: all); None without a prediction."""
        return self._score(target, fraction, name, _MAE, seeds)

    def correlation(self, target: str, fraction: float, name: str, *, within: bool = False) -> Score | None:
        """Pearson correlation, with `within` after each participant's mean is removed; None if it is undefined."""
        return self._score(target, fraction, name, _R_WITHIN if within else _R, None)

    def ratio(
        self, target: str, fraction: float, name: str, reference: str, *, seeds: Iterable[int] | None = None
    ) -> Score | None:
        """Mean absolute error divided by that of `reference`, on the same test participants; None if they share no seed."""
        return self._paired(target, fraction, name, reference, seeds, ratio=True)

    def difference(
        self, target: str, fraction: float, name: str, reference: str, *, seeds: Iterable[int] | None = None
    ) -> Score | None:
        """Mean absolute error minus that of `reference`, in the target's unit, on the same test participants."""
        return self._paired(target, fraction, name, reference, seeds, ratio=False)

    def _paired(
        self, target: str, fraction: float, name: str, reference: str, seeds: Iterable[int] | None, *, ratio: bool
    ) -> Score | None:
        both = [self._measured.get((target, fraction, encoder), {}) for encoder in (name, reference)]
        common = _common(both, seeds)
        if not common:
            return None
        a, b = ([by_seed[seed] for seed in common] for by_seed in both)
        combine = np.divide if ratio else np.subtract
        with np.errstate(divide="ignore", invalid="ignore"):
            values = tuple(float(combine(x.value[_MAE], y.value[_MAE])) for x, y in zip(a, b, strict=True))
        compared = self._scorers[target].compare("a", "b", {"a": mean_measures(a), "b": mean_measures(b)})
        estimate = compared.ratio if ratio else compared.difference
        return None if estimate.value is None else Score(estimate, values)

    def _score(self, target: str, fraction: float, name: str, place: int, seeds: Iterable[int] | None) -> Score | None:
        by_seed = self._measured.get((target, fraction, name), {})
        chosen = _common([by_seed], seeds)
        if not chosen:
            return None
        estimate = self._scorers[target].estimates(mean_measures([by_seed[seed] for seed in chosen]))[place]
        values = tuple(float(by_seed[seed].value[place]) for seed in chosen)
        return None if estimate.value is None else Score(estimate, values)


def _common(several: Sequence[Mapping[int, Measures]], seeds: Iterable[int] | None) -> list[int]:
    shared = set.intersection(*map(set, several))
    return sorted(shared if seeds is None else shared & set(seeds))
