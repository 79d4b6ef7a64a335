"""Errors of heart rate, and retrieval, of each method for each wearer that was left out."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from accdistill_jax.data.store.store import Store
from accdistill_jax.evaluation.classical.classical import FEATURES, classical_features
from accdistill_jax.evaluation.classical.matcher import accel_curves, best_lag, ppg_curves
from accdistill_jax.evaluation.probing.probes import ProbeSplit, ProbeSplits, fit_probes, own_mean
from accdistill_jax.evaluation.retrieval.ranks import paired_ranks, unit_rows

NEAR_BPM = 3.0
_AT_ONCE = 256
SensorRows = tuple[np.ndarray, np.ndarray]
"""Rows [N, P] of acceleration and of PPG, of the same minutes."""


@dataclasses.dataclass(frozen=True)
class WearerMinutes:
    """The minutes of a store.

    Attributes:
        wearer: [N] str.
        hr_bpm: [N] float, NaN where unknown.
        shown: [N] bool, minutes that count.
    """

    wearer: np.ndarray
    hr_bpm: np.ndarray
    shown: np.ndarray

    def of(self, wearer: str) -> np.ndarray:
        """Rows of a wearer's minutes that count."""
        return np.flatnonzero((self.wearer == wearer) & self.shown)


@dataclasses.dataclass(frozen=True)
class RateScore:
    """Heart-rate errors of one method for one wearer.

    Attributes:
        mae_bpm: mean absolute error.
        near: share of the minutes within `NEAR_BPM`.
        minutes: number of minutes with a known heart rate.
    """

    mae_bpm: float
    near: float
    minutes: int


@dataclasses.dataclass(frozen=True)
class SearchScore:
    """Retrieval of one method for one wearer.

    Attributes:
        among_all: share of the wearer's minutes whose PPG is first among the minutes of all wearers.
        pool: number of these.
        within: the same among the wearer's own minutes.
        minutes: number of the wearer's minutes.
    """

    among_all: float
    pool: int
    within: float
    minutes: int


def rate_score(predicted: np.ndarray, minutes: WearerMinutes, wearer: str) -> RateScore | None:
    """Errors of predictions [N] for a wearer's minutes; None without a known heart rate."""
    rows = minutes.of(wearer)
    rows = rows[np.isfinite(minutes.hr_bpm[rows])]
    if not len(rows):
        return None
    error = np.abs(predicted[rows] - minutes.hr_bpm[rows])
    if not np.isfinite(error).all():
        raise ValueError(f"{wearer}: {np.count_nonzero(~np.isfinite(error))} minutes without a prediction")
    return RateScore(float(error.mean()), float((error <= NEAR_BPM).mean()), len(rows))


def search_score(accel: np.ndarray, ppg: np.ndarray, minutes: WearerMinutes, wearer: str) -> SearchScore:
    """Retrieval of a wearer's minutes by rows [N, P] of both signals, which are compared by their cosine."""
    return search_together([(accel, ppg)], minutes, wearer)


def lag_of_others(accel: np.ndarray, lagged: Sequence[np.ndarray], minutes: WearerMinutes, wearer: str) -> int:
    """Position in `lagged` of the lag of the PPG that finds most minutes of the other wearers; of equal ones, that with the lowest mean rank.

    Args:
        accel: [N, P], rows of acceleration.
        lagged: for each lag, [N, P], rows of PPG.
        minutes: the minutes.
        wearer: the one that is left out.
    """
    others = np.flatnonzero(minutes.wearer != wearer)
    ranks = [paired_ranks(unit_rows(accel[others]), unit_rows(ppg[others]))[0] for ppg in lagged]
    return max(range(len(lagged)), key=lambda place: ((ranks[place] == 1).mean(), -ranks[place].mean()))


def search_together(pairs: Sequence[SensorRows], minutes: WearerMinutes, wearer: str) -> SearchScore:
    """Retrieval of a wearer's minutes by the sum of several methods' cosines.

    Each method's cosines are divided by their standard deviation over the gallery, for every query, so that no method outweighs
    another by its scale alone; nothing is fitted.

    Args:
        pairs: for each method, rows [N, P] of acceleration and of PPG; P may differ between methods.
        minutes: the minutes.
        wearer: the one that is searched for.
    """
    pool, own = np.flatnonzero(minutes.shown), minutes.of(wearer)
    ranks, inside = (paired_ranks(*_joined(pairs, rows))[0] for rows in (pool, own))
    first = ranks[np.isin(pool, own)] == 1
    return SearchScore(float(first.mean()), len(pool), float((inside == 1).mean()), len(own))


def _joined(pairs: Sequence[SensorRows], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of unit norm whose cosine ranks the gallery as the sum of the methods' standardised cosines does."""
    if len(pairs) == 1:
        ((accel, ppg),) = pairs
        return unit_rows(accel[rows]), unit_rows(ppg[rows])
    queries, galleries = [], []
    for accel, ppg in pairs:
        query, gallery = unit_rows(accel[rows]), unit_rows(ppg[rows])
        centred = gallery - gallery.mean(axis=0)
        spread = np.sqrt(np.maximum(((query @ (centred.T @ centred / len(rows))) * query).sum(axis=1), 1e-12))
        queries.append(query / spread[:, None])
        galleries.append(gallery)
    return unit_rows(np.concatenate(queries, axis=1)), unit_rows(np.concatenate(galleries, axis=1))


def ridge_on_others(features: np.ndarray, minutes: WearerMinutes, wearer: str) -> np.ndarray:
    """Heart rate [N] by ridge regression on [N, D] embeddings, fitted on the other wearers; NaN for them.

    The strength is cross-validated over the other wearers.
    """
    known = np.isfinite(minutes.hr_bpm)
    others, own = np.flatnonzero(known & (minutes.wearer != wearer)), np.flatnonzero(minutes.wearer == wearer)

    def part(rows: np.ndarray) -> ProbeSplit:
        return ProbeSplit({"x": features[rows]}, minutes.hr_bpm[rows].astype(np.float64), minutes.wearer[rows])

    fitted = fit_probes(ProbeSplits(part(others), part(others[:0]), part(own)))
    predicted = np.full(len(known), np.nan)
    predicted[own] = fitted["x"].prediction
    return predicted


def constants(minutes: WearerMinutes, wearer: str) -> dict[str, np.ndarray]:
    """Predictions [N] that no signal enters: the mean of the other wearers, and the mean of the wearer's other minutes."""
    known = np.isfinite(minutes.hr_bpm)
    others = known & (minutes.wearer != wearer)
    of_others = float(minutes.hr_bpm[others].mean())
    rows = np.flatnonzero(known & (minutes.wearer == wearer) & minutes.shown)
    own = np.full(len(known), of_others)
    if len(rows):
        own[rows] = own_mean(ProbeSplit({}, minutes.hr_bpm[rows], minutes.wearer[rows]), otherwise=of_others)
    return {"mean of the other wearers": np.full(len(known), of_others), "the wearer's own mean": own}


@dataclasses.dataclass(frozen=True)
class Classical:
    """Results of signal processing alone for all minutes.

    Attributes:
        rate_bpm: [N] heart rate by the periodicity of the acceleration's envelope.
        accel: [N, n] float32, curves of the acceleration, see `matcher.accel_curves`.
        ppg: [N, n] float32, curves of the PPG.
    """

    rate_bpm: np.ndarray
    accel: np.ndarray
    ppg: np.ndarray

    @classmethod
    def of(cls, store: Store) -> "Classical":
        """Reads every segment of a store, in parts that fit memory."""
        parts = np.array_split(np.arange(store.num_segments), -(-store.num_segments // _AT_ONCE))
        columns = []
        for rows in parts:
            signals = store.read_signals(rows)
            rates = classical_features(signals["accel"], rate_hz=store.rate_hz)[:, FEATURES.index("rate_bpm")]
            curves = (
                accel_curves(signals["accel"], rate_hz=store.rate_hz),
                ppg_curves(signals["ppg"], rate_hz=store.rate_hz),
            )
            columns.append((rates.astype(np.float64), *curves))
        return cls(*(np.concatenate(column) for column in zip(*columns, strict=True)))

    def rows(self, minutes: WearerMinutes, wearer: str) -> SensorRows:
        """Curves of both sensors, where those of the acceleration are moved by the PPG's best lag of the other wearers."""
        others = minutes.wearer != wearer
        return np.roll(self.accel, best_lag(self.accel[others], self.ppg[others]), axis=1), self.ppg
