"""Retrieval by the encoders of a bench over training seeds, and the analysis of its failures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import hypergeom
from threadpoolctl import threadpool_limits

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.evaluation.retrieval.failures import (
    MOTION,
    QUALITY,
    Failures,
    retrieval_failures,
)
from accdistill_jax.evaluation.retrieval.ranks import paired_ranks
from accdistill_jax.evaluation.retrieval.retrieval import (
    ACCEL_TO_PPG,
    PPG_TO_ACCEL,
    ProjectionPairs,
    RetrievalResult,
    WithinResult,
    mean_over_queries,
    retrieve,
    retrieve_within_participants,
    share,
    top1_by_pool_size,
)
from accdistill_jax.labels import HEART_RATE
from accdistill_jax.reproduce.measure.formatting import decimal, joined_words, percent, thousands
from accdistill_jax.reproduce.measure.probe_scores import DRAWS
from accdistill_jax.reproduce.measure.results import Bench

POOLS = (100, 1000, 10_000, "all")
WAYS = {ACCEL_TO_PPG: "Acceleration finds PPG", PPG_TO_ACCEL: "PPG finds acceleration"}
# quantity -> words, words for a higher value, for a lower value, scale, unit
QUANTITIES = {
    MOTION: ("motion", "more motion", "less motion", 1000.0, "mg"),
    QUALITY: ("PPG quality", "a better PPG", "a poorer PPG", 1.0, "on a scale from 0 to 1"),
    HEART_RATE: ("heart rate", "a higher heart rate", "a lower heart rate", 1.0, "bpm"),
}
_MANY = 10_000  # segments from which several threads are worth their cost


class EncoderRetrieval(NamedTuple):
    """Retrieval by one encoder.

    Attributes:
        results: in drawn pools, for each direction and pool size; first seed.
        within: seed -> retrieval among the minutes of the same person, for each direction.
        ranks: seed -> direction -> ranks among all segments, int64 [N].
        participant: [N] str, of the segments.
    """

    results: list[RetrievalResult]
    within: dict[int, list[WithinResult]]
    ranks: dict[int, dict[str, np.ndarray]]
    participant: np.ndarray

    @property
    def first_ranks(self) -> dict[str, np.ndarray]:
        """The ranks of the first seed."""
        return next(iter(self.ranks.values()))

    def within_one(self, direction: str) -> list[WithinResult]:
        """Retrieval within each person, for each seed; [] if no person has two segments."""
        return [result for results in self.within.values() for result in results if result.direction == direction]

    def over_seeds(self, way: str, size: int) -> tuple[list[float], list[float]]:
        """Exact expectations of top-1 and mean rank in random pools of a size, for each seed."""
        of_seeds = [by_direction[way] for by_direction in self.ranks.values()]
        top1 = [float(top1_by_pool_size(ranks, np.array([size]))[0]) for ranks in of_seeds]
        return top1, [mean_rank(ranks, size) for ranks in of_seeds]

    def top1(self, way: str, size: int) -> Estimate:
        """Mean over seeds of the expected top-1 in random pools of a size, with the interval of this mean over participants."""
        return _top1([first_places(of_seed[way], size) for of_seed in self.ranks.values()], self.participant)

    def top1_within_one(self, way: str) -> Estimate:
        """Mean over seeds of top-1 within each person, with the interval of this mean; some person must have two segments."""
        of_seeds = self.within_one(way)
        return _top1([result.first for result in of_seeds], of_seeds[0].participant)

    def result(self, way: str, size: int) -> RetrievalResult | None:
        """The result with pools of a size; None if there is none."""
        return next((result for result in self.results if (result.direction, result.pool_size) == (way, size)), None)


def retrieve_pairs(bench: Bench, name: str, seeds: Sequence[int], *, split: str = "test") -> EncoderRetrieval:
    """Runs retrieval with one encoder, in a split of at least two segments; all `seeds` must have pairs."""
    participant = bench.columns(split).participant
    with threadpool_limits(1 if len(participant) < _MANY else None):
        ranks, within = {}, {}
        for seed in seeds:
            pairs = _pairs(bench, name, seed, split)
            ranks[seed] = dict(zip(WAYS, paired_ranks(pairs.accel, pairs.ppg), strict=True))
            within[seed] = retrieve_within_participants(pairs, encoder=name)
        pairs = _pairs(bench, name, seeds[0], split)
        draws = bench.plan.base.evaluation.bootstrap_draws
        results, _ = retrieve(pairs, encoder=name, pool_sizes=POOLS, draws=draws, full_ranks=ranks[seeds[0]])
        return EncoderRetrieval(results, within, ranks, participant)


def _top1(of_seeds: Sequence[np.ndarray], participant: np.ndarray) -> Estimate:
    """Mean over seeds of the share of first places [N], with its interval over participants [N]."""
    first = np.mean(np.stack(of_seeds), axis=0)
    people = ParticipantBootstrap(participant, draws=DRAWS, seed=0)
    return share(people, np.stack([first, np.ones(len(first))], axis=1))


def _pairs(bench: Bench, name: str, seed: int, split: str = "test") -> ProjectionPairs:
    pair = bench.pair(name, seed, split=split)
    if pair is None:
        raise ValueError(f"{name}, seed {seed}, has no pair of projections in the split {split}")
    return ProjectionPairs(*pair, bench.columns(split).participant)


def first_places(ranks: np.ndarray, size: int) -> np.ndarray:
    """Exact probability [N] that each query's match comes first in a random pool.

    A match of rank r comes first in a pool of M if none of the r - 1 better candidates is among the M - 1 drawn from N - 1.
    """
    return hypergeom.pmf(0, len(ranks) - 1, ranks - 1, size - 1)


def top1_difference(first: np.ndarray, other: np.ndarray, participant: np.ndarray) -> Estimate:
    """Difference of two encoders' top-1 on the same queries, with its interval over participants.

    Args:
        first: [N] from `first_places`, or its mean over training seeds.
        other: [N], subtracted from `first`.
        participant: [N] str.
    """
    people = ParticipantBootstrap(participant, draws=DRAWS, seed=0)
    return mean_over_queries(people, first - other)


def mean_rank(ranks: np.ndarray, size: int) -> float:
    """Expected mean rank in random pools of another size, where each better candidate is equally likely to be drawn."""
    return float(1 + np.mean(ranks - 1) * (size - 1) / (len(ranks) - 1))


def failures_of(bench: Bench, name: str, seed: int, way: str = ACCEL_TO_PPG) -> Failures:
    """Analyses the failures of one encoder's retrieval among all test minutes."""
    columns = bench.columns("test")
    pairs = _pairs(bench, name, seed)
    quantities = {HEART_RATE: columns.labels[HEART_RATE], MOTION: columns.motion_g, QUALITY: columns.ppg_quality}
    with threadpool_limits(1 if len(pairs) < _MANY else None):
        return retrieval_failures(pairs, quantities, encoder=name, direction=way)


def explain(analysis: Failures) -> list[str]:
    """Describes failures in sentences."""
    if not analysis.failures:
        return [f"None of {thousands(analysis.queries)} queries fails among all minutes."]
    sentences = [f"Among all {thousands(analysis.queries)} minutes {percent(analysis.rate.value)} of queries fail."]
    winners = []
    if analysis.same_participant is not None:
        winners.append(
            f"of the same person in {percent(analysis.same_participant.value)} of failures (by chance: "
            f"{percent(analysis.chance_same_participant)})"
        )
    if analysis.near is not None:
        winners.append(
            f"of a heart rate within {analysis.near_bpm:g} bpm in {percent(analysis.near.value)} (by chance: "
            f"{percent(analysis.chance_near)})"
        )
    if winners:
        sentences.append(f"The wrong minute that ranks first is {joined_words(winners)}.")
    no_difference = []
    for quantity, contrast in analysis.contrasts.items():
        words, higher, lower, scale, unit = QUANTITIES[quantity]
        difference, failed, succeeded = contrast.difference, contrast.median_failed, contrast.median_succeeded
        if contrast.auc is None or difference.value is None or failed is None or succeeded is None:
            continue
        clear = (
            difference.low is not None and difference.high is not None and not difference.low <= 0 <= difference.high
        )
        if not clear or (difference.value > 0) != (contrast.auc > 0.5):  # a few outliers can move the mean alone
            no_difference.append(words)
            continue
        medians = f"{decimal(failed * scale, 2)} against {decimal(succeeded * scale, 2)} {unit}"
        sentences.append(
            f"Failures have {higher if difference.value > 0 else lower} (median {medians}, AUC {decimal(contrast.auc)})."
        )
    if no_difference:
        sentences.append(
            f"In {joined_words(no_difference)}, failures do not differ from successes beyond the interval over people."
        )
    return sentences
