"""Causes of failed retrieval: movement, poor signals, or minutes that resemble each other because of the same heart rate.

A query fails if its right candidate is not first (rank above 1; ties count against the query, as in `retrieval`). Its winner is
the wrong candidate with the highest score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.evaluation.retrieval.ranks import thresholds
from accdistill_jax.evaluation.retrieval.retrieval import ACCEL_TO_PPG, ProjectionPairs, share
from accdistill_jax.labels import HEART_RATE

MOTION, QUALITY = "motion_g", "ppg_quality"
NEAR_BPM = 2.0  # heart rates within this distance are close
BINS = 5  # quantile bins of a quantity


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Values of a quantity for failures and for successes, over the queries with a known value.

    Attributes:
        quantity: name, for example "motion_g".
        failures, successes: numbers of queries with a known value.
        median_failed, median_succeeded: median value; None without any.
        difference: mean of the failures minus mean of the successes, in the quantity's unit.
        auc: probability that a failure has a higher value than a success; ties count half. It is 0.5 if the quantity has
            no effect, None without failures or without successes.
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
    """Share of failures among the queries with a quantity in a range.

    Attributes:
        low, high: the range [low, high). The last range includes `high`.
        median: median of the quantity in the range.
        queries, failures: numbers in the range.
        share: failures / queries.
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
        failures: number of failed queries.
        rate: their share.
        same_participant: share of the failures with a winner of the query's participant; None without failures.
        chance_same_participant: the same share for a random wrong candidate, for the same queries.
        near_failures: failures with known heart rates of the right minute and of the winner.
        near: share of these failures with heart rates within `near_bpm` of each other.
        chance_near: the same share for a random wrong candidate with a known heart rate, for the same queries.
        near_bpm: largest difference of close heart rates.
        winner_difference_bpm: median absolute difference of the two heart rates; None if none is known.
        contrasts: quantity -> failures against successes; quantities without any known value are left out.
        hazards: quantity -> share of failures per quantile range, from low to high values.
        notes: limits of these numbers.
        rank, winner: [N] int64, rank of the right candidate and row of the best wrong candidate (not in the JSON).
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
    """Rank of the right candidate, and the best wrong candidate, of each query.

    Args:
        query: [N, P] float32, L2-normalised.
        gallery: [N, P] float32, L2-normalised; row i is right for row i of `query`.
        block: rows and columns of scores that are in memory at a time.

    Returns:
        Ranks as in `ranks.paired_ranks`, and rows of the highest wrong score (the first of equal scores): int64 [N] each.
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
            best = score[np.arange(len(score)), column]
            better = best > highest[rows]
            winner[rows] = np.where(better, j + column, winner[rows])
            highest[rows] = np.where(better, best, highest[rows])
    return rank, winner


def retrieval_failures(
    pairs: ProjectionPairs,
    quantities: Mapping[str, np.ndarray | None],
    *,
    encoder: str = "student",
    direction: str = ACCEL_TO_PPG,
    seed: int = 0,
) -> Failures:
    """Describes the failures of retrieval among all segments of a split.

    Args:
        pairs: projections of the segments.
        quantities: "hr_bpm", "motion_g" and "ppg_quality" -> [N] float of the segments, NaN where unknown; None, or no entry,
            if unknown for all.
        encoder: name of the accelerometer encoder, for the result.
        direction: "accel->ppg" or "ppg->accel".
        seed: seed of the draws of participants behind the intervals.

    Raises:
        ValueError: fewer than two segments, or quantities of another length.
    """
    n = len(pairs)
    values = {name: np.asarray(v, np.float64) for name, v in quantities.items() if v is not None}
    for name, value in values.items():
        if len(value) != n:
            raise ValueError(f"{name} has {len(value)} rows, the projections have {n}")
    if n < 2:
        raise ValueError(f"retrieval needs at least two segments, got {n}")
    rank, winner = best_wrong(*pairs.in_direction(direction))
    failed = rank > 1
    people = ParticipantBootstrap(pairs.participant, seed=[seed, 14])
    person = np.unique(np.asarray(pairs.participant).astype(str), return_inverse=True)[1]
    usable = {name: v for name, v in values.items() if np.isfinite(v).any()}
    notes = [] if failed.any() else ["no query fails"]
    notes += [f"{name} is not known" for name in (HEART_RATE, MOTION, QUALITY) if name not in usable]

    same, chance_same = None, None
    if failed.any():
        same = share(people, np.stack([failed & (person == person[winner]), failed], axis=1))
        chance_same = float(np.mean((np.bincount(person)[person] - 1)[failed] / (n - 1)))
    rates = values.get(HEART_RATE, np.full(n, np.nan))
    difference = np.abs(rates - rates[winner])
    counted = failed & np.isfinite(difference)
    near, chance_near, median_difference = None, None, None
    if counted.any():
        near = share(people, np.stack([counted & (difference <= NEAR_BPM), counted], axis=1))
        chance_near = float(np.mean(_share_near(rates)[counted]))
        median_difference = float(np.median(difference[counted]))
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
        near_bpm=NEAR_BPM,
        winner_difference_bpm=median_difference,
        contrasts={name: _contrast(name, v, failed, people) for name, v in usable.items()},
        hazards={name: _hazards(v, failed, people) for name, v in usable.items()},
        notes=notes,
        rank=rank,
        winner=winner,
    )


def _share_near(rates: np.ndarray) -> np.ndarray:
    """Share of the other segments with a rate within `NEAR_BPM` of each segment's: [N], NaN where unknown."""
    result = np.full(len(rates), np.nan)
    known = np.isfinite(rates)
    values = rates[known]
    if len(values) < 2:
        return result
    ordered = np.sort(values)
    low = np.searchsorted(ordered, values - NEAR_BPM, side="left")
    high = np.searchsorted(ordered, values + NEAR_BPM, side="right")
    result[known] = (high - low - 1) / (len(values) - 1)
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
    return Contrast(
        quantity=name,
        failures=int(bad.sum()),
        successes=int(good.sum()),
        median_failed=float(np.median(values[bad])) if bad.any() else None,
        median_succeeded=float(np.median(values[good])) if good.any() else None,
        difference=estimate,
        auc=auc,
    )


def _hazards(values: np.ndarray, failed: np.ndarray, people: ParticipantBootstrap) -> list[Hazard]:
    known = np.isfinite(values)
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, BINS + 1)))
    bin_of = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    hazards = []
    for k in range(max(len(edges) - 1, 1)):
        inside = known & (bin_of == k)
        if not inside.any():
            continue
        counts = np.stack([inside & failed, inside], axis=1)
        bounds = float(edges[k]), float(edges[min(k + 1, len(edges) - 1)])
        median = float(np.median(values[inside]))
        hazards.append(Hazard(*bounds, median, int(inside.sum()), int(counts[:, 0].sum()), share(people, counts)))
    return hazards
