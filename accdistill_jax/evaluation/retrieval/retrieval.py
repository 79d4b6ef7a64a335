"""Cross-modal retrieval: does the acceleration of a minute find the PPG of the same minute among others?

The rank of a query is 1 + the number of wrong candidates that score at least as high as the right one, so ties count
against it: an encoder that gives every segment the same embedding gets the worst rank, not the first. Scores are
cosine similarities in float32; two within `TIE` of each other are a tie.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import betaincinv, gammaln  # scipy.stats takes a second to import

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap

TIE = 1e-6
TOP = (1, 3, 5)
ACCEL_TO_PPG = "accel->ppg"
PPG_TO_ACCEL = "ppg->accel"


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over the bootstrap draws of the pool."""

    mean: float
    std: float


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
    """Retrieval in one direction with one pool size.

    Attributes:
        encoder: name of the accelerometer encoder.
        direction: "accel->ppg" or "ppg->accel" (query -> candidates).
        pool_size: candidates per query, the right one included.
        pool_asked: the size asked for, None for all test segments.
        queries: queries per draw.
        draws: number of draws.
        top: {1, 3, 5} -> share of queries whose right candidate is among the first k, over the draws.
        mean_rank: over the draws.
        median_rank: over the draws.
        top1: share of first places with its 95 % interval over participants.
        chance_top: {1, 3, 5} -> the same share for guessing.
        chance_rank: mean and median rank for guessing.
        note: what differs from what was asked for, or "".
    """

    encoder: str
    direction: str
    pool_size: int
    pool_asked: int | None
    queries: int
    draws: int
    top: dict[int, Spread]
    mean_rank: Spread
    median_rank: Spread
    top1: Estimate
    chance_top: dict[int, float]
    chance_rank: float
    note: str

    @property
    def times_chance(self) -> float:
        """Top-1 as a multiple of guessing."""
        return self.top[1].mean / self.chance_top[1]


@dataclasses.dataclass(frozen=True)
class WithinResult:
    """The hard case: all candidates are minutes of the same person.

    Attributes:
        encoder: name of the accelerometer encoder.
        direction: "accel->ppg" or "ppg->accel".
        participants: participants with at least two test segments.
        queries: their segments.
        mean_pool_size: mean number of candidates per query.
        top1: share of first places with its 95 % interval over participants.
        chance_top1: the same for guessing.
        relative_rank: mean of (rank - 1) / (pool - 1), 0 best, 0.5 guessing.
    """

    encoder: str
    direction: str
    participants: int
    queries: int
    mean_pool_size: float
    top1: Estimate
    chance_top1: float
    relative_rank: Estimate


def normalise(vectors: np.ndarray) -> np.ndarray:
    """L2-normalises rows [N, P] in float32; a zero row stays zero (and so ties with everything)."""
    vectors = np.asarray(vectors, np.float32)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norm > 0, norm, 1)


def thresholds(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Score above which a wrong candidate comes before the right one: float32 [N], from rows [N, P] of right pairs."""
    return np.einsum("np,np->n", query, gallery) - np.float32(TIE)


def paired_ranks(query: np.ndarray, gallery: np.ndarray, *, block: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of row i of the gallery for row i of the query, and the other way round.

    The similarity matrix is computed in blocks of `block` x `block`, each used for both directions, so that memory
    does not grow with N squared.

    Args:
        query: [N, P] float32, L2-normalised.
        gallery: [N, P] float32, L2-normalised; row i belongs to row i of `query`.
        block: rows and columns per block.

    Returns:
        (query -> gallery, gallery -> query): int64 [N] each, 1 is best, N is worst, ties pessimistic.
    """
    n = len(query)
    threshold = thresholds(query, gallery)
    forward, backward = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for i in range(0, n, block):
        rows = slice(i, min(i + block, n))
        for j in range(0, n, block):
            columns = slice(j, min(j + block, n))
            score = query[rows] @ gallery[columns].T
            if i == j:
                np.fill_diagonal(score, np.inf)
            forward[rows] += np.count_nonzero(score >= threshold[rows, None], axis=1)
            backward[columns] += np.count_nonzero(score >= threshold[None, columns], axis=0)
    return forward, backward


def top1_by_pool_size(ranks: np.ndarray, pool_sizes: np.ndarray) -> np.ndarray:
    """Expected share of first places in random pools of other sizes, exactly, from the ranks in the full pool.

    A query of rank r among N wins in a random pool of M if the pool holds none of the r - 1 better candidates:
    probability C(N - r, M - 1) / C(N - 1, M - 1).

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
    accel: np.ndarray,
    ppg: np.ndarray,
    participant: np.ndarray,
    *,
    encoder: str = "student",
    pool_sizes: Sequence[int | str] = (100, 1000, "all"),
    draws: int = 100,
    seed: int = 0,
    full_ranks: Mapping[str, np.ndarray] | None = None,
) -> tuple[list[RetrievalResult], dict[str, np.ndarray]]:
    """Retrieval both ways for each pool size.

    A draw of a pool smaller than the test set is that many distinct segments, each of which is query and candidate.
    With the pool of all segments the candidates are fixed and a draw resamples the queries with replacement. A size
    beyond the test set uses all segments and says so; sizes that come to the same pool are reported once.

    Args:
        accel: [N, P] float, projections of the acceleration.
        ppg: [N, P] float, projections of the PPG of the same segments.
        participant: [N] str.
        encoder: name of the accelerometer encoder, for the results.
        pool_sizes: numbers, or "all".
        draws: bootstrap draws per pool size.
        seed: seed of the draws.
        full_ranks: the ranks in the pool of all segments where they are known (see search.py for large pools):
            {"accel->ppg", "ppg->accel"} -> int64 [N]; None computes them here.

    Returns:
        The results, and the ranks in the pool of all segments: {"accel->ppg", "ppg->accel"} -> int64 [N].

    Raises:
        ValueError: fewer than two segments, shapes that do not match, or `full_ranks` of other segments.
    """
    if accel.shape != ppg.shape or len(accel) != len(participant):
        raise ValueError(f"retrieval needs paired projections, got {accel.shape}, {ppg.shape}, {len(participant)}")
    n = len(accel)
    if n < 2:
        raise ValueError(f"retrieval needs at least two test segments, got {n}")
    accel, ppg = normalise(accel), normalise(ppg)
    directions = (ACCEL_TO_PPG, PPG_TO_ACCEL)
    if full_ranks is None:
        full = dict(zip(directions, paired_ranks(accel, ppg), strict=True))
    else:
        full = {d: np.asarray(full_ranks[d], np.int64) for d in directions}
        for d, r in full.items():
            if r.shape != (n,) or r.min() < 1 or r.max() > n:
                raise ValueError(f"full_ranks[{d!r}] are not ranks of {n} segments")
    people = ParticipantBootstrap(participant, seed=[seed, 11])
    results, seen = [], set()
    for asked in pool_sizes:
        size = n if asked == "all" else min(int(asked), n)
        if size in seen or size < 2:
            continue
        seen.add(size)
        note = f"asked for {asked}, only {n} test segments" if asked != "all" and int(asked) > n else ""
        rng = np.random.default_rng([seed, 12, size])
        per_draw = {d: np.zeros((draws, len(TOP) + 2)) for d in full}
        firsts = {d: np.zeros((n, 2)) for d in full}
        for draw in range(draws):
            if size == n:
                rows = rng.integers(0, n, n)
                drawn = {d: r[rows] for d, r in full.items()}
            else:
                rows = rng.choice(n, size, replace=False)
                drawn = dict(zip(full, paired_ranks(accel[rows], ppg[rows]), strict=True))
                for d, r in drawn.items():
                    firsts[d][rows] += np.stack([r == 1, np.ones(size)], axis=1)
            for d, r in drawn.items():
                per_draw[d][draw] = [*(np.mean(r <= k) for k in TOP), np.mean(r), np.median(r)]
        for d, values in per_draw.items():
            counts = np.stack([full[d] == 1, np.ones(n)], axis=1) if size == n else firsts[d]
            spread = [Spread(float(m), float(s)) for m, s in zip(values.mean(0), values.std(0), strict=True)]
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


def retrieve_within_participants(
    accel: np.ndarray, ppg: np.ndarray, participant: np.ndarray, *, encoder: str = "student", seed: int = 0
) -> list[WithinResult]:
    """Retrieval where every candidate is a minute of the query's own participant.

    Args:
        accel: [N, P] float, projections of the acceleration.
        ppg: [N, P] float, projections of the PPG of the same segments.
        participant: [N] str; participants with a single segment are left out.
        encoder: name of the accelerometer encoder, for the results.
        seed: seed of the bootstrap over participants.

    Returns:
        One result per direction, or none where no participant has two segments.
    """
    accel, ppg = normalise(accel), normalise(ppg)
    participant = np.asarray(participant).astype(str)
    order = np.argsort(participant, kind="stable")
    names, start, size = np.unique(participant[order], return_index=True, return_counts=True)
    rows, ranks, pools = [], ([], []), []
    for first, count in zip(start, size, strict=True):
        if count < 2:
            continue
        member = order[first : first + count]
        both = paired_ranks(accel[member], ppg[member])
        rows.append(member)
        pools.append(np.full(count, count))
        for store, value in zip(ranks, both, strict=True):
            store.append(value)
    if not rows:
        return []
    pool = np.concatenate(pools)
    people = ParticipantBootstrap(participant[np.concatenate(rows)], seed=[seed, 13])
    results = []
    for direction, parts in zip((ACCEL_TO_PPG, PPG_TO_ACCEL), ranks, strict=True):
        rank = np.concatenate(parts)
        ones = np.ones(len(rank))
        results.append(
            WithinResult(
                encoder=encoder,
                direction=direction,
                participants=len(rows),
                queries=len(rank),
                mean_pool_size=float(pool.mean()),
                top1=share(people, np.stack([rank == 1, ones], axis=1)),
                chance_top1=float(np.mean(1.0 / pool)),
                relative_rank=share(people, np.stack([(rank - 1) / (pool - 1), ones], axis=1), hits=False),
            )
        )
    return results


def share(people: ParticipantBootstrap, counts: np.ndarray, *, hits: bool = True) -> Estimate:
    """Ratio of the sums of two columns [N, 2] (hits, queries) with its interval over participants.

    Rare hits leave the bootstrap with nothing to resample, and none at all would give the interval [0, 0]; so for
    shares of hits the interval is at least the exact (Clopper-Pearson) one of as many independent queries.
    """
    sums = people.sums(counts)
    total = sums.sum(0)
    drawn = people.resample(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = people.estimate(total[0] / total[1], drawn[:, 0] / drawn[:, 1])
    if not hits or not estimate.has_interval:
        return estimate
    queries = np.count_nonzero(counts[:, 1])
    count = estimate.value * queries
    low = betaincinv(count, queries - count + 1, 0.025) if count > 0 else 0.0
    high = betaincinv(count + 1, queries - count, 0.975) if count < queries else 1.0
    return Estimate(estimate.value, min(estimate.low, float(low)), max(estimate.high, float(high)))
