"""Causes of retrieval's failures: movement, poor signals, or minutes that look alike because the heart beats at the same rate.

A query fails where its right candidate is not the first (rank above 1, ties against it, as in `retrieval`). Its winner is the wrong
candidate with the highest score.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.evaluation.retrieval.retrieval import ACCEL_TO_PPG, normalise, share, thresholds
from accdistill_jax.labels import HEART_RATE

MOTION, QUALITY = "motion_g", "ppg_quality"
NEAR_BPM = 2.0
BINS = 5


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A quantity of the queries, failures against successes, over queries where it is known.

    Attributes:
        quantity: its column, for example "motion_g".
        failures, successes: how many of each have a known value.
        median_failed, median_succeeded: None without any.
        difference: mean of the failures less mean of the successes, in the quantity's unit, with its interval over participants.
        auc: probability that a failure has a higher value than a success (ties half), 0.5 where the quantity says nothing.
    """

    quantity: str
    failures: int
    successes: int
    median_failed: float | None
    median_succeeded: float | None
    difference: Estimate
    auc: float | None


@dataclasses.dataclass(frozen=True)
class Hazard:
    """Share of failures among queries whose quantity lies in a range.

    Attributes:
        low, high: the range, both ends included in the outermost bins, else [low, high).
        median: of the quantity within it.
        queries, failures: in the range.
        share: failures / queries, with its interval over participants.
    """

    low: float
    high: float
    median: float
    queries: int
    failures: int
    share: Estimate


@dataclasses.dataclass(frozen=True)
class Failures:
    """Failures of retrieval in one direction, in the pool of all segments.

    Attributes:
        encoder: name of the accelerometer encoder.
        direction: "accel->ppg" or "ppg->accel".
        queries: number of queries, which is the size of the pool.
        failures: queries that fail.
        rate: their share, with its interval over participants.
        same_participant: share of the failures whose winner is a minute of the query's own participant; None without failures.
        chance_same_participant: the same for a wrong candidate picked at random, for the same queries.
        near_failures: failures for which the heart rate of the right and of the winning minute are known.
        near: share of those whose winner's heart rate is within `near_bpm` of the right one.
        chance_near: the same for a random wrong candidate with a known heart rate, for the same queries.
        near_bpm: what counts as near.
        winner_difference_bpm: median absolute difference of the two heart rates; None where none is known.
        contrasts: quantity -> failures against successes; quantities without any known value are left out.
        hazards: quantity -> share of failures by quantiles of it, from low to high values.
        notes: what a reader must know.
        rank, winner: [N] int64, rank of the right candidate and row of the best wrong one (not in the JSON).
    """

    encoder: str
    direction: str
    queries: int
    failures: int
    rate: Estimate
    same_participant: Estimate | None
    chance_same_participant: float | None
    near_failures: int
    near: Estimate | None
    chance_near: float | None
    near_bpm: float
    winner_difference_bpm: float | None
    contrasts: dict[str, Contrast]
    hazards: dict[str, list[Hazard]]
    notes: list[str]
    rank: np.ndarray = dataclasses.field(repr=False, metadata={"json": False})
    winner: np.ndarray = dataclasses.field(repr=False, metadata={"json": False})


def best_wrong(query: np.ndarray, gallery: np.ndarray, *, block: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the right candidate and the best wrong one of each query; memory is one block of scores.

    Args:
        query: [N, P] float32, L2-normalised.
        gallery: [N, P] float32, L2-normalised; row i is right for row i of `query`.
        block: rows and columns per block.

    Returns:
        ranks as `retrieval.paired_ranks` counts them, and rows of the highest wrong score (the first of equals): int64 [N].
    """
    n = len(query)
    threshold = thresholds(query, gallery)
    rank, winner = np.ones(n, np.int64), np.zeros(n, np.int64)
    highest = np.full(n, -np.inf, np.float32)
    for i in range(0, n, block):
        rows = slice(i, min(i + block, n))
        for j in range(0, n, block):
            score = query[rows] @ gallery[j : j + block].T
            if i == j:
                np.fill_diagonal(score, -np.inf)
            rank[rows] += np.count_nonzero(score >= threshold[rows, None], axis=1)
            column = score.argmax(axis=1)
            found = score[np.arange(len(score)), column]
            better = found > highest[rows]
            winner[rows] = np.where(better, j + column, winner[rows])
            highest[rows] = np.where(better, found, highest[rows])
    return rank, winner


def retrieval_failures(
    query: np.ndarray,
    gallery: np.ndarray,
    participant: np.ndarray,
    *,
    hr_bpm: np.ndarray | None = None,
    motion_g: np.ndarray | None = None,
    ppg_quality: np.ndarray | None = None,
    encoder: str = "student",
    direction: str = ACCEL_TO_PPG,
    near_bpm: float = NEAR_BPM,
    bins: int = BINS,
    block: int = 2048,
    draws: int = 2000,
    seed: int = 0,
) -> Failures:
    """Describes the failures of retrieval among all segments of a split.

    Args:
        query: [N, P] float, projections of one signal.
        gallery: [N, P] float, projections of the other signal of the same segments, row by row.
        participant: [N] str.
        hr_bpm, motion_g, ppg_quality: [N] float of the segments, NaN where unknown, or None.
        encoder: name of the accelerometer encoder, for the result.
        direction: what the query is, for the result.
        near_bpm: how near two heart rates are to count as near-ties.
        bins: quantile bins of the hazard; fewer where values repeat.
        block: rows and columns of scores at a time.
        draws: bootstrap draws over participants.
        seed: seed of the draws.

    Raises:
        ValueError: fewer than two segments, or arrays of different lengths.
    """
    n = len(query)
    known = {HEART_RATE: hr_bpm, MOTION: motion_g, QUALITY: ppg_quality}
    quantities = {k: np.asarray(v, np.float64) for k, v in known.items() if v is not None}
    if query.shape != gallery.shape or any(len(v) != n for v in (participant, *quantities.values())):
        lengths = ", ".join(f"{k} {len(v)}" for k, v in quantities.items())
        raise ValueError(f"failures need rows that belong together, got {query.shape}, {gallery.shape}, {lengths}")
    if n < 2:
        raise ValueError(f"retrieval needs at least two segments, got {n}")
    rank, winner = best_wrong(normalise(query), normalise(gallery), block=block)
    failed = rank > 1
    people = ParticipantBootstrap(participant, draws=draws, seed=[seed, 14])
    who = np.unique(np.asarray(participant).astype(str), return_inverse=True)[1]
    notes = [] if failed.any() else ["no query fails"]
    notes += [f"{name} is not known" for name in known if not np.isfinite(quantities.get(name, np.nan)).any()]

    same, chance_same = None, None
    if failed.any():
        same = share(people, np.stack([failed & (who == who[winner]), failed], axis=1))
        chance_same = float(np.mean((np.bincount(who)[who] - 1)[failed] / (n - 1)))
    rates = quantities.get(HEART_RATE, np.full(n, np.nan))
    apart = np.abs(rates - rates[winner])
    counted = failed & np.isfinite(apart)
    near, chance_near, typical = None, None, None
    if counted.any():
        near = share(people, np.stack([counted & (apart <= near_bpm), counted], axis=1))
        chance_near = float(np.mean(_share_near(rates, near_bpm)[counted]))
        typical = float(np.median(apart[counted]))
    usable = {name: v for name, v in quantities.items() if np.isfinite(v).any()}
    return Failures(
        encoder=encoder,
        direction=direction,
        queries=n,
        failures=int(failed.sum()),
        rate=share(people, np.stack([failed, np.ones(n)], axis=1)),
        same_participant=same,
        chance_same_participant=chance_same,
        near_failures=int(counted.sum()),
        near=near,
        chance_near=chance_near,
        near_bpm=near_bpm,
        winner_difference_bpm=typical,
        contrasts={name: _contrast(name, v, failed, people) for name, v in usable.items()},
        hazards={name: _hazards(v, failed, people, bins) for name, v in usable.items()},
        notes=notes,
        rank=rank,
        winner=winner,
    )


def _share_near(rates: np.ndarray, near_bpm: float) -> np.ndarray:
    """Share of the other segments with known rates whose rate is within `near_bpm` of each segment's: [N], NaN where unknown."""
    result = np.full(len(rates), np.nan)
    known = np.isfinite(rates)
    own = rates[known]
    if len(own) < 2:
        return result
    ordered = np.sort(own)
    low = np.searchsorted(ordered, own - near_bpm, side="left")
    high = np.searchsorted(ordered, own + near_bpm, side="right")
    result[known] = (high - low - 1) / (len(own) - 1)
    return result


def _contrast(name: str, values: np.ndarray, failed: np.ndarray, people: ParticipantBootstrap) -> Contrast:
    known = np.isfinite(values)
    bad, good = known & failed, known & ~failed
    value = np.where(known, values, 0.0)
    columns = np.stack([bad, bad * value, good, good * value], axis=1)
    sums = people.sums(columns)

    def difference(totals: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return totals[..., 1] / totals[..., 0] - totals[..., 3] / totals[..., 2]

    estimate = people.estimate(float(difference(sums.sum(axis=0))), difference(people.resample(sums)))
    auc = None
    if bad.any() and good.any():
        ordered = np.sort(values[good])
        below = np.searchsorted(ordered, values[bad], side="left")
        not_above = np.searchsorted(ordered, values[bad], side="right")
        auc = float(np.mean(below + not_above) / (2 * len(ordered)))
    medians = [float(np.median(values[rows])) if rows.any() else None for rows in (bad, good)]
    return Contrast(name, int(bad.sum()), int(good.sum()), *medians, estimate, auc)


def _hazards(values: np.ndarray, failed: np.ndarray, people: ParticipantBootstrap, bins: int) -> list[Hazard]:
    known = np.isfinite(values)
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, bins + 1)))
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    hazards = []
    for k in range(max(len(edges) - 1, 1)):
        inside = known & (place == k)
        if not inside.any():
            continue
        counts = np.stack([inside & failed, inside], axis=1)
        bounds = float(edges[k]), float(edges[min(k + 1, len(edges) - 1)])
        median = float(np.median(values[inside]))
        hazards.append(Hazard(*bounds, median, int(inside.sum()), int(counts[:, 0].sum()), share(people, counts)))
    return hazards
