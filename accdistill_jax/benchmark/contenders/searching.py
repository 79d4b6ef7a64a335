"""A contender: what the evaluation does with many embeddings; retrieval among all of them, or linear probes.

Where ranking all of them would take too long, so many queries as asked for, drawn at random, are ranked among all candidates,
in both directions, and the time of all is extrapolated: the work is the same for every query.
"""

import resource
import time
from typing import Any

import numpy as np

from accdistill_jax.runtime import host_memory

PROBE_WIDTH, SEARCH_WIDTH = 256, 128  # of embeddings and of projections, as in the paper preset
TARGETS = 4  # heart rate and the like
SEGMENTS_EACH = 200  # of a participant
QUERIES_AT_ONCE, CANDIDATES_AT_ONCE = 1024, 1024  # whose scores a processor's cache holds


def prepare(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """`order` has task ("probes", "probe target" or "retrieval"), embeddings (how many), and

    - queries: of retrieval, how many are ranked; all where there are not more;
    - draws: of the bootstrap of "probe target".
    """
    host_memory.keep_freed()  # as the command does
    tasks = {"retrieval": _retrieval, "probes": _probes, "probe target": _probe_target}
    facts, run = tasks[order["task"]](order)
    # memory that is there before the work: interpreter, libraries, the embeddings themselves
    return facts | {"before_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}, run


def _embeddings(count: int, width: int, seed: int) -> np.ndarray:
    """[count, width] float32, made without a copy in float64."""
    return np.random.default_rng(seed).standard_normal((count, width), np.float32)


def _retrieval(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    from accdistill_jax.evaluation.retrieval.search import paired_ranks_on_devices
    from accdistill_jax.runtime.parallel import Parallel

    parallel = Parallel()
    count = order["embeddings"] - order["embeddings"] % parallel.num_local
    sides = [_embeddings(count, SEARCH_WIDTH, seed) for seed in (0, 1)]
    sides[1] += sides[0]
    for side in sides:
        side /= np.sqrt(np.einsum("np,np->n", side, side))[:, None]
    valid = np.ones(count, bool)
    facts = {"input_bytes": sum(side.nbytes for side in sides), "queries": min(order["queries"], count)}
    if order["queries"] < count:
        rows = np.sort(np.random.default_rng(2).choice(count, order["queries"], replace=False))

        def run(times: int) -> None:
            for _ in range(times):
                sampled_ranks(*sides, rows)

        begin = time.perf_counter()
        sampled_ranks(*sides, rows[: QUERIES_AT_ONCE // 2])  # compiled now, so that the measurement is of the work
        facts["warmed_s"] = time.perf_counter() - begin
        return facts, run

    def run_all(times: int) -> None:
        for _ in range(times):
            paired_ranks_on_devices(*sides, parallel=parallel, valid=valid)

    return facts, run_all


def sampled_ranks(query: np.ndarray, gallery: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `evaluation.retrieval.paired_ranks`, for some rows alone: [n, P] twice and [q] -> int64 [q] twice."""
    import jax
    import jax.numpy as jnp

    from accdistill_jax.evaluation.retrieval import retrieval

    threshold = retrieval.thresholds(query, gallery)

    @jax.jit
    def count(queries, threshold, candidates, valid):
        return jnp.sum((queries @ candidates.T >= threshold[:, None]) & valid[None], axis=1, dtype=jnp.int32)

    def ranks(asking: np.ndarray, among: np.ndarray) -> np.ndarray:
        found = []
        for first in range(0, len(rows), QUERIES_AT_ONCE):
            own = rows[first : first + QUERIES_AT_ONCE]
            padded = np.resize(own, QUERIES_AT_ONCE)  # one shape, one compilation
            queries, limits = jnp.asarray(asking[padded]), jnp.asarray(threshold[padded])
            total = np.zeros(QUERIES_AT_ONCE, np.int64)
            for begin in range(0, len(among), CANDIDATES_AT_ONCE):
                some = among[begin : begin + CANDIDATES_AT_ONCE]
                valid = np.arange(CANDIDATES_AT_ONCE) < len(some)
                if len(some) < CANDIDATES_AT_ONCE:
                    some = np.pad(some, ((0, CANDIDATES_AT_ONCE - len(some)), (0, 0)))
                total += np.asarray(count(queries, limits, some, valid))
            found.append(total[: len(own)])
        return np.maximum(np.concatenate(found), 1)

    return ranks(query, gallery), ranks(gallery, query)


def _probes(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    from accdistill_jax.evaluation.probing.probes import STRENGTHS, RidgePath

    features, targets = _features_and_targets(order["embeddings"])

    def run(times: int) -> None:
        for _ in range(times):
            for target in targets:
                RidgePath(features, target, STRENGTHS).predict(features)

    return {"input_bytes": features.nbytes}, run


def _probe_target(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Measures the time of the report's numbers of one target: fit, choice of strength, answers, errors with bootstrap intervals."""
    from accdistill_jax.evaluation.probing.probes import ProbeSplit, ProbeSplits, probe_target

    count = order["embeddings"]
    features, (target, *_) = _features_and_targets(count)
    people = np.char.add("p", (np.arange(count) // SEGMENTS_EACH).astype(str))
    ends = [0, int(0.8 * count), int(0.9 * count), count]
    ends[1:3] = (end // SEGMENTS_EACH * SEGMENTS_EACH for end in ends[1:3])  # participants stay together
    parts = [slice(a, b) for a, b in zip(ends, ends[1:], strict=False)]
    splits = ProbeSplits(
        *(ProbeSplit({"student": features[part]}, target[part].astype(np.float64), people[part]) for part in parts)
    )

    def run(times: int) -> None:
        for _ in range(times):
            found = probe_target("target", splits, draws=order["draws"])
            if found.reason:
                raise ValueError(f"nothing was probed: {found.reason}")

    return {"input_bytes": features.nbytes}, run


def _features_and_targets(count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    features = _embeddings(count, PROBE_WIDTH, 0)
    return features, [features[:, k] + _embeddings(count, 1, k + 1)[:, 0] for k in range(TARGETS)]


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare)
