"""Cross-modal retrieval: search the PPG of a minute among other minutes by its acceleration, and the reverse.

The rank of a query is 1 + the number of wrong candidates that score at least as high as the right one. Ties count
against the query, so an encoder that gives every segment the same embedding gets the worst rank. Scores are cosine
similarities in float32; scores within `ranks.TIE` of each other are a tie.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import betaincinv, gammaln  # scipy.stats takes a second to import

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.evaluation.retrieval.ranks import ComparedPairs, paired_ranks, unit_rows

TOP = (1, 3, 5)
ACCEL_TO_PPG = "accel->ppg"
PPG_TO_ACCEL = "ppg->accel"
MOST_BITS_BYTES = 2**30  # of compared pairs: 65 thousand segments


@dataclasses.dataclass(frozen=True)
class MeanStd:
    """Mean and standard deviation over the draws of the pool."""

    mean: float
    std: float


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
    """Retrieval in one direction with one pool size.

    Attributes:
        encoder: name of the accelerometer encoder.
        direction: "accel->ppg" or "ppg->accel" (query -> candidates).
        pool_size: candidates per query, including the right one.
        pool_asked: the requested size, None for all test segments.
        queries: queries per draw.
        draws: number of draws.
        top: k (1, 3, 5) -> share of queries with the right candidate among the first k, over the draws.
        mean_rank: mean rank of the right candidate, over the draws.
        median_rank: median rank of the right candidate, over the draws.
        top1: share of queries with the right candidate first, with its 95 % interval over participants.
        chance_top: k (1, 3, 5) -> the expected share for random ranks.
        chance_rank: expected mean and median rank for random ranks.
        note: difference from the requested pool size, or "".
    """

    encoder: str
    direction: str
    pool_size: int
    pool_asked: int | None
    queries: int
    draws: int
    top: dict[int, MeanStd]
    mean_rank: MeanStd
    median_rank: MeanStd
    top1: Estimate
    chance_top: dict[int, float]
    chance_rank: float
    note: str

    @property
    def times_chance(self) -> float:
        """Top-1 divided by the expected top-1 of random ranks."""
        return self.top[1].mean / self.chance_top[1]


@dataclasses.dataclass(frozen=True)
class WithinResult:
    """Retrieval in one direction where all candidates are minutes of the same person.

    Attributes:
        encoder: name of the accelerometer encoder.
        direction: "accel->ppg" or "ppg->accel".
        participants: participants with at least two test segments.
        queries: number of their segments.
        mean_pool_size: mean number of candidates per query.
        top1: share of queries with the right candidate first, with its 95 % interval over participants.
        chance_top1: the expected share for random ranks.
        relative_rank: mean of (rank - 1) / (pool - 1): 0 is best, 0.5 is expected for random ranks.
        first: [queries] bool, True where the right candidate is first (not in the JSON).
        participant: [queries] str, of the same queries (not in the JSON).
    """

    encoder: str
    direction: str
    participants: int
    queries: int
    mean_pool_size: float
    top1: Estimate
    chance_top1: float
    relative_rank: Estimate
    first: np.ndarray = dataclasses.field(repr=False, metadata={"json": False})
    participant: np.ndarray = dataclasses.field(repr=False, metadata={"json": False})


@dataclasses.dataclass(frozen=True)
class ProjectionPairs:
    """Projections of the acceleration and of the PPG of the same segments, L2-normalised on creation.

    Attributes:
        accel: [N, P] float32.
        ppg: [N, P] float32; row i is the same segment as row i of `accel`.
        participant: [N] str.

    Raises:
        ValueError: shapes that do not match.
    """

    accel: np.ndarray
    ppg: np.ndarray
    participant: np.ndarray

    def __post_init__(self):
        if self.accel.shape != self.ppg.shape or len(self.accel) != len(self.participant):
            shapes = f"{self.accel.shape}, {self.ppg.shape}, {len(self.participant)}"
            raise ValueError(f"retrieval needs paired projections, got {shapes}")
        object.__setattr__(self, "accel", unit_rows(self.accel))
        object.__setattr__(self, "ppg", unit_rows(self.ppg))

    def __len__(self) -> int:
        return len(self.accel)

    def in_direction(self, direction: str) -> tuple[np.ndarray, np.ndarray]:
        """Queries and candidates of "accel->ppg" or "ppg->accel"."""
        return {ACCEL_TO_PPG: (self.accel, self.ppg), PPG_TO_ACCEL: (self.ppg, self.accel)}[direction]


def top1_by_pool_size(ranks: np.ndarray, pool_sizes: np.ndarray | Sequence[int]) -> np.ndarray:
    """Expected top-1 in random pools of other sizes, exactly, from the ranks in the full pool.

    A query of rank r among N is first in a random pool of M if the pool has none of the r - 1 better candidates. The
    probability is C(N - r, M - 1) / C(N - 1, M - 1).

    Args:
        ranks: int [N], ranks in the pool of all N.
        pool_sizes: int [K], each between 1 and N.

    Returns:
        float64 [K].
    """
    n = len(ranks)
    ranks = np.asarray(ranks, np.float64)[:, None]
    m = np.asarray(pool_sizes, np.float64)[None, :]

    def log_choose(a, b):
        return gammaln(a + 1) - gammaln(b + 1) - gammaln(np.maximum(a - b, 0) + 1)

    possible = n - ranks >= m - 1
    log_p = log_choose(n - ranks, m - 1) - log_choose(n - 1, m - 1)
    return np.where(possible, np.exp(np.where(possible, log_p, 0.0)), 0.0).mean(axis=0)


def retrieve(
    pairs: ProjectionPairs,
    *,
    encoder: str = "student",
    pool_sizes: Sequence[int | str] = (100, 1000, "all"),
    draws: int = 100,
    seed: int = 0,
    full_ranks: Mapping[str, np.ndarray] | None = None,
) -> tuple[list[RetrievalResult], Mapping[str, np.ndarray]]:
    """Retrieval in both directions for each pool size.

    A pool smaller than the test set is a draw of distinct segments, each of which is query and candidate. With the pool of
    all segments the candidates are fixed, and a draw resamples the queries with replacement. A size beyond the test set
    uses all segments, with a note. Sizes that give the same pool are reported once.

    Args:
        pairs: projections of the test segments.
        encoder: name of the accelerometer encoder, for the results.
        pool_sizes: numbers, or "all".
        draws: bootstrap draws per pool size.
        seed: seed of the draws.
        full_ranks: ranks in the pool of all segments, if known (search.py computes them for large pools):
            {"accel->ppg", "ppg->accel"} -> int64 [N]. None computes them here.

    Returns:
        The results, and the ranks in the pool of all segments: {"accel->ppg", "ppg->accel"} -> int64 [N].

    Raises:
        ValueError: fewer than two segments, or `full_ranks` of other segments.
    """
    n = len(pairs)
    if n < 2:
        raise ValueError(f"retrieval needs at least two test segments, got {n}")
    ranks_among = _ranks_of_drawn(pairs, pool_sizes, draws)
    directions = (ACCEL_TO_PPG, PPG_TO_ACCEL)
    if full_ranks is None:
        full = dict(zip(directions, ranks_among(np.arange(n)), strict=True))
    else:
        full = _checked_ranks(full_ranks, n)
    people = ParticipantBootstrap(pairs.participant, seed=[seed, 11])
    results: list[RetrievalResult] = []
    seen = set()
    for asked in pool_sizes:
        size = n if asked == "all" else min(int(asked), n)
        if size in seen or size < 2:
            continue
        seen.add(size)
        note = f"a pool of {asked} was asked for, there are only {n} test segments" if _beyond(asked, n) else ""
        rng = np.random.default_rng([seed, 12, size])
        per_draw = {d: np.zeros((draws, len(TOP) + 2)) for d in full}
        firsts = {d: np.zeros((n, 2)) for d in full}
        for draw in range(draws):
            if size == n:
                rows = rng.integers(0, n, n)
                drawn = {d: r[rows] for d, r in full.items()}
            else:
                rows = rng.choice(n, size, replace=False)
                drawn = dict(zip(directions, ranks_among(rows), strict=True))
                for d, r in drawn.items():
                    firsts[d][rows] += np.stack([r == 1, np.ones(size)], axis=1)
            for d, r in drawn.items():
                per_draw[d][draw] = [*(np.mean(r <= k) for k in TOP), np.mean(r), np.median(r)]
        for d, values in per_draw.items():
            counts = np.stack([full[d] == 1, np.ones(n)], axis=1) if size == n else firsts[d]
            spread = [MeanStd(float(m), float(s)) for m, s in zip(values.mean(0), values.std(0), strict=True)]
            results.append(
                RetrievalResult(
                    encoder=encoder,
                    direction=d,
                    pool_size=size,
                    pool_asked=None if asked == "all" else int(asked),
                    queries=size,
                    draws=draws,
                    top=dict(zip(TOP, spread, strict=False)),
                    mean_rank=spread[-2],
                    median_rank=spread[-1],
                    top1=share(people, counts),
                    chance_top={k: min(k / size, 1.0) for k in TOP},
                    chance_rank=(size + 1) / 2,
                    note=note,
                )
            )
    return results, full


def _ranks_of_drawn(
    pairs: ProjectionPairs, pool_sizes: Sequence[int | str], draws: int
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Function of drawn rows -> ranks in both directions. It compares all pairs once where that is less work and fits memory."""
    n = len(pairs)
    compared = draws * sum(int(size) ** 2 for size in pool_sizes if size != "all" and int(size) < n)
    if compared > n**2 and n**2 / 4 <= MOST_BITS_BYTES:
        return ComparedPairs(pairs.accel, pairs.ppg).ranks
    return lambda rows: paired_ranks(pairs.accel[rows], pairs.ppg[rows])


def _beyond(asked: int | str, segments: int) -> bool:
    return asked != "all" and int(asked) > segments


def _checked_ranks(ranks: Mapping[str, np.ndarray], segments: int) -> dict[str, np.ndarray]:
    checked = {d: np.asarray(ranks[d], np.int64) for d in (ACCEL_TO_PPG, PPG_TO_ACCEL)}
    for d, r in checked.items():
        if r.shape != (segments,) or r.min() < 1 or r.max() > segments:
            raise ValueError(f"full_ranks[{d!r}] are not ranks of {segments} segments")
    return checked


def retrieve_within_participants(
    pairs: ProjectionPairs, *, encoder: str = "student", seed: int = 0
) -> list[WithinResult]:
    """Retrieval where all candidates are minutes of the query's participant.

    Args:
        pairs: projections of the test segments. Participants with a single segment are left out.
        encoder: name of the accelerometer encoder, for the results.
        seed: seed of the bootstrap over participants.

    Returns:
        One result per direction, or none if no participant has two segments.
    """
    participant = np.asarray(pairs.participant).astype(str)
    order = np.argsort(participant, kind="stable")
    _, starts, sizes = np.unique(participant[order], return_index=True, return_counts=True)
    members = [order[start : start + size] for start, size in zip(starts, sizes, strict=True) if size > 1]
    if not members:
        return []
    ranks = [paired_ranks(pairs.accel[rows], pairs.ppg[rows]) for rows in members]
    pool = np.concatenate([np.full(len(rows), len(rows)) for rows in members])
    people_of_queries = participant[np.concatenate(members)]
    people = ParticipantBootstrap(people_of_queries, seed=[seed, 13])
    results = []
    for direction, parts in zip((ACCEL_TO_PPG, PPG_TO_ACCEL), zip(*ranks, strict=True), strict=True):
        rank = np.concatenate(parts)
        ones = np.ones(len(rank))
        results.append(
            WithinResult(
                encoder=encoder,
                direction=direction,
                participants=len(members),
                queries=len(rank),
                mean_pool_size=float(pool.mean()),
                top1=share(people, np.stack([rank == 1, ones], axis=1)),
                chance_top1=float(np.mean(1.0 / pool)),
                relative_rank=mean_over_queries(people, (rank - 1) / (pool - 1)),
                first=rank == 1,
                participant=people_of_queries,
            )
        )
    return results


def share(people: ParticipantBootstrap, counts: np.ndarray) -> Estimate:
    """Share of hits with its interval over participants.

    With few hits the bootstrap has little to resample, and without any it would give the interval [0, 0]. So the interval
    is at least the exact (Clopper-Pearson) interval for as many independent queries.

    Args:
        people: bootstrap over the participants of the queries.
        counts: [N, 2] hits and queries of each segment.
    """
    estimate = _ratio_of_sums(people, counts)
    if estimate.value is None or estimate.interval is None:
        return estimate
    queries = np.count_nonzero(counts[:, 1])
    hits = estimate.value * queries
    low = betaincinv(hits, queries - hits + 1, 0.025) if hits > 0 else 0.0
    high = betaincinv(hits + 1, queries - hits, 0.975) if hits < queries else 1.0
    return Estimate(estimate.value, min(estimate.interval[0], float(low)), max(estimate.interval[1], float(high)))


def mean_over_queries(people: ParticipantBootstrap, values: np.ndarray) -> Estimate:
    """Mean of the values [N] of all queries, with its interval over participants."""
    return _ratio_of_sums(people, np.stack([values, np.ones(len(values))], axis=1))


def _ratio_of_sums(people: ParticipantBootstrap, columns: np.ndarray) -> Estimate:
    sums = people.sums(columns)
    total = sums.sum(0)
    drawn = people.resample(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return people.estimate(total[0] / total[1], drawn[:, 0] / drawn[:, 1])
