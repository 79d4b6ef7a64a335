"""Retrieval by the encoders of a bench, over training seeds, and what it fails on."""

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
from accdistill_jax.evaluation.retrieval.retrieval import (
    ACCEL_TO_PPG,
    PPG_TO_ACCEL,
    Pairs,
    RetrievalResult,
    WithinResult,
    mean_over_queries,
    paired_ranks,
    retrieve,
    retrieve_within_participants,
    top1_by_pool_size,
)
from accdistill_jax.labels import HEART_RATE
from accdistill_jax.reproduce.measure.probe_scores import DRAWS
from accdistill_jax.reproduce.measure.results import Bench
from accdistill_jax.reproduce.measure.wording import decimal, listed, percent, thousands

POOLS = (100, 1000, 10_000, "all")
WAYS = {ACCEL_TO_PPG: "Acceleration finds PPG", PPG_TO_ACCEL: "PPG finds acceleration"}
# quantity -> words, more of it than usual, less of it, scale, unit
QUANTITIES = {
    MOTION: ("motion", "more motion", "less motion", 1000.0, "mg"),
    QUALITY: ("PPG quality", "a better PPG", "a poorer PPG", 1.0, "of 1"),
    HEART_RATE: ("heart rate", "a higher heart rate", "a lower heart rate", 1.0, "bpm"),
}
_MANY = 10_000  # segments; on fewer, more threads cost more than they save


class EncoderRetrieval(NamedTuple):
    """Retrieval by one encoder: drawn pools with its first seed, retrieval within each person and ranks among all with every one.

    Attributes:
        results: by direction and pool size.
        within: seed -> by direction.
        ranks: seed -> direction -> int64 [N].
    """

    results: list[RetrievalResult]
    within: dict[int, list[WithinResult]]
    ranks: dict[int, dict[str, np.ndarray]]

    @property
    def first_ranks(self) -> dict[str, np.ndarray]:
        """Of the first seed."""
        return next(iter(self.ranks.values()))

    def within_one(self, way: str) -> list[WithinResult]:
        """Retrieval within each person by seed; [] where nobody has two segments."""
        return [one for own in self.within.values() for one in own if one.direction == way]

    def over_seeds(self, way: str, size: int) -> tuple[list[float], list[float]]:
        """Expected top-1 and mean rank in random pools of a size, by seed, exactly."""
        ranks = [own[way] for own in self.ranks.values()]
        return [float(top1_by_pool_size(own, [size])[0]) for own in ranks], [mean_rank(own, size) for own in ranks]

    def result(self, way: str, size: int) -> RetrievalResult | None:
        """With pools of that size."""
        return next((one for one in self.results if (one.direction, one.pool_size) == (way, size)), None)


def retrieve_pairs(bench: Bench, name: str, seeds: Sequence[int], *, split: str = "test") -> EncoderRetrieval:
    """Retrieval by one encoder in a split of at least two segments, see `Bench.columns`."""
    participant = bench.columns(split).participant
    with threadpool_limits(1 if len(participant) < _MANY else None):
        ranks, within = {}, {}
        for seed in seeds:
            pairs = Pairs(*bench.pair(name, seed, split=split), participant)
            ranks[seed] = dict(zip(WAYS, paired_ranks(pairs.accel, pairs.ppg), strict=True))
            within[seed] = retrieve_within_participants(pairs, encoder=name)
        pairs = Pairs(*bench.pair(name, seeds[0], split=split), participant)
        draws = bench.plan.base.evaluation.bootstrap_draws
        results, _ = retrieve(pairs, encoder=name, pool_sizes=POOLS, draws=draws, full_ranks=ranks[seeds[0]])
        return EncoderRetrieval(results, within, ranks)


def first_places(ranks: np.ndarray, size: int) -> np.ndarray:
    """Probability [N] that each query wins in a random pool of a size, exactly.

    A query of rank r wins in a pool of M if none of the r - 1 better ones is among the M - 1 drawn of N - 1 others.
    """
    return hypergeom.pmf(0, len(ranks) - 1, ranks - 1, size - 1)


def top1_difference(first: np.ndarray, other: np.ndarray, participant: np.ndarray) -> Estimate:
    """Difference of two encoders' top-1 on the same queries, with its interval over participants.

    Args:
        first, other: [N] from `first_places`, or means of it over training seeds.
        participant: [N] str.
    """
    people = ParticipantBootstrap(participant, draws=DRAWS, seed=0)
    return mean_over_queries(people, first - other)


def mean_rank(ranks: np.ndarray, size: int) -> float:
    """Expected mean rank in random pools of another size: of the r - 1 better ones among n - 1, each is there alike often."""
    return float(1 + np.mean(ranks - 1) * (size - 1) / (len(ranks) - 1))


def failures_of(bench: Bench, name: str, seed: int, way: str = ACCEL_TO_PPG) -> Failures:
    """Causes of failure of one encoder's retrieval among all test minutes."""
    columns = bench.columns("test")
    pairs = Pairs(*bench.pair(name, seed), columns.participant)
    quantities = {HEART_RATE: columns.labels[HEART_RATE], MOTION: columns.motion_g, QUALITY: columns.ppg_quality}
    with threadpool_limits(1 if len(pairs) < _MANY else None):
        return retrieval_failures(pairs, quantities, encoder=name, direction=way)


def explain(found: Failures) -> list[str]:
    """The failures in sentences."""
    if not found.failures:
        return [f"None of {thousands(found.queries)} queries fails among all minutes."]
    said = [f"Among all {thousands(found.queries)} minutes {percent(found.rate.value)} of queries fail."]
    winners = []
    if found.same_participant is not None:
        winners.append(
            f"of the same person in {percent(found.same_participant.value)} (any wrong minute: {percent(found.chance_same_participant)})"
        )
    if found.near is not None:
        winners.append(
            f"of a heart rate within {found.near_bpm:g} bpm in {percent(found.near.value)} (any: {percent(found.chance_near)})"
        )
    if winners:
        said.append(f"The minute that wins instead is {listed(winners)}.")
    silent = []
    for quantity, one in found.contrasts.items():
        words, more, less, scale, unit = QUANTITIES[quantity]
        if one.auc is None:
            continue
        clear = one.difference.has_interval and not one.difference.low <= 0 <= one.difference.high
        if not clear or (one.difference.value > 0) != (one.auc > 0.5):  # a few outliers can move the mean alone
            silent.append(words)
            continue
        medians = f"{decimal(one.median_failed * scale, 2)} against {decimal(one.median_succeeded * scale, 2)} {unit}"
        said.append(
            f"Failures have {more if one.difference.value > 0 else less} (median {medians}, AUC {decimal(one.auc)})."
        )
    if silent:
        said.append(
            f"By {listed(silent)} failures do not differ from successes as far as the interval over people tells."
        )
    return said
