"""Contender: evaluation of many embeddings, either retrieval among all of them or linear probes.

Ranking all queries can take too long. A random sample of queries is then ranked among all candidates, in both directions, and the
report extrapolates the time: the work is the same for every query.
"""

import resource
import time
from typing import Any

import numpy as np

from accdistill_jax.runtime import host_memory

PROBE_WIDTH, SEARCH_WIDTH = 256, 128  # of embeddings and of projections, as in the paper preset
TARGETS = 4  # such as heart rate
SEGMENTS_EACH = 200  # segments per participant
QUERIES_AT_ONCE, CANDIDATES_AT_ONCE = 1024, 1024  # a processor's cache holds the scores of such a block


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Generates the embeddings of a task.

    Args:
        order: "task" ("probes", "probe target" or "retrieval"); "embeddings", their number; "queries", number of ranked queries of
            retrieval, at most all; "draws" of the bootstrap of "probe target".
    """
    host_memory.keep_freed()  # as the command does
    tasks = {"retrieval": _retrieval, "probes": _probes, "probe target": _probe_target}
    facts, run = tasks[order["task"]](order)
    # memory before the work: interpreter, libraries, the embeddings themselves
    return facts | {"before_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}, run


def _embeddings(count: int, width: int, seed: int) -> np.ndarray:
    """Random embeddings, [count, width] float32, generated without a copy in float64."""
    return np.random.default_rng(seed).standard_normal((count, width), np.float32)


def _retrieval(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    from accdistill_jax.evaluation.retrieval.search import paired_ranks_on_devices
    from accdistill_jax.runtime.parallel import Parallel

    parallel = Parallel()
    count = order["embeddings"] - order["embeddings"] % parallel.num_local
    query, gallery = (_embeddings(count, SEARCH_WIDTH, seed) for seed in (0, 1))
    gallery += query
    for side in (query, gallery):
        side /= np.sqrt(np.einsum("np,np->n", side, side))[:, None]
    valid = np.ones(count, bool)
    facts = {"input_bytes": query.nbytes + gallery.nbytes, "queries": min(order["queries"], count)}
    if order["queries"] < count:
        rows = np.sort(np.random.default_rng(2).choice(count, order["queries"], replace=False))

        def run(times: int) -> None:
            for _ in range(times):
                sampled_ranks(query, gallery, rows)

        begin = time.perf_counter()
        sampled_ranks(query, gallery, rows[: QUERIES_AT_ONCE // 2])  # compiles, so that measurements do not
        facts["warmed_s"] = time.perf_counter() - begin
        return facts, run

    def run_all(times: int) -> None:
        for _ in range(times):
            paired_ranks_on_devices(query, gallery, parallel=parallel, valid=valid)

    return facts, run_all


def sampled_ranks(query: np.ndarray, gallery: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks as `ranks.paired_ranks`, for a sample of rows.

    Args:
        query: [N, P] float32, rows of length 1.
        gallery: [N, P] float32, rows of length 1; row i is the right candidate of query i.
        rows: [Q] integers, the ranked rows.

    Returns:
        Ranks of queries in the gallery and of gallery rows among the queries, [Q] int64 each.
    """
    import jax
    import jax.numpy as jnp

    from accdistill_jax.evaluation.retrieval.ranks import thresholds

    threshold = thresholds(query, gallery)

    @jax.jit
    def count(queries, threshold, candidates, valid):
        return jnp.sum((queries @ candidates.T >= threshold[:, None]) & valid[None], axis=1, dtype=jnp.int32)

    def ranks(asking: np.ndarray, among: np.ndarray) -> np.ndarray:
        counts = []
        for first in range(0, len(rows), QUERIES_AT_ONCE):
            block = rows[first : first + QUERIES_AT_ONCE]
            padded = np.resize(block, QUERIES_AT_ONCE)  # a single shape, compiled once
            queries, limits = jnp.asarray(asking[padded]), jnp.asarray(threshold[padded])
            total = np.zeros(QUERIES_AT_ONCE, np.int64)
            for begin in range(0, len(among), CANDIDATES_AT_ONCE):
                candidates = among[begin : begin + CANDIDATES_AT_ONCE]
                valid = np.arange(CANDIDATES_AT_ONCE) < len(candidates)
                if len(candidates) < CANDIDATES_AT_ONCE:
                    candidates = np.pad(candidates, ((0, CANDIDATES_AT_ONCE - len(candidates)), (0, 0)))
                total += np.asarray(count(queries, limits, candidates, valid))
            counts.append(total[: len(block)])
        return np.maximum(np.concatenate(counts), 1)

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
    """The report's numbers of a target: fit, choice of strength, predictions, errors with bootstrap intervals."""
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
            probed = probe_target("target", splits, draws=order["draws"])
            if probed.reason:
                raise ValueError(f"the target was not probed: {probed.reason}")

    return {"input_bytes": features.nbytes}, run


def _features_and_targets(count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    features = _embeddings(count, PROBE_WIDTH, 0)
    return features, [features[:, k] + _embeddings(count, 1, k + 1)[:, 0] for k in range(TARGETS)]


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
