"""A contender: what the evaluation does with many embeddings; retrieval among all of them, or linear probes."""

import resource
from typing import Any

import numpy as np

PROBE_WIDTH, SEARCH_WIDTH = 256, 128  # of embeddings and of projections, as in the paper preset
TARGETS = 4  # heart rate and the like


def prepare(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """`order` has task ("probes" or "retrieval") and embeddings (how many)."""
    count = order["embeddings"]
    if order["task"] == "retrieval":
        arrays, run = _retrieval(count)
    else:
        arrays, run = _probes(count)
    # memory that is there before the work: interpreter, libraries, the embeddings themselves
    return {"input_bytes": arrays, "before_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}, run


def _embeddings(count: int, width: int, seed: int) -> np.ndarray:
    """[count, width] float32, made without a copy in float64."""
    return np.random.default_rng(seed).standard_normal((count, width), np.float32)


def _retrieval(count: int) -> tuple[int, Any]:
    from accdistill_jax.evaluation.search import paired_ranks
    from accdistill_jax.parallel import Parallel

    parallel = Parallel()
    count -= count % parallel.num_local
    sides = [_embeddings(count, SEARCH_WIDTH, seed) for seed in (0, 1)]
    sides[1] += sides[0]
    for side in sides:
        side /= np.sqrt(np.einsum("np,np->n", side, side))[:, None]
    valid = np.ones(count, bool)

    def run(times: int) -> None:
        for _ in range(times):
            paired_ranks(*sides, parallel=parallel, valid=valid)

    return sum(side.nbytes for side in sides), run


def _probes(count: int) -> tuple[int, Any]:
    from accdistill_jax.evaluation.probes import STRENGTHS, RidgePath

    features = _embeddings(count, PROBE_WIDTH, 0)
    targets = [features[:, k] + _embeddings(count, 1, k)[:, 0] for k in range(TARGETS)]

    def run(times: int) -> None:
        for _ in range(times):
            for target in targets:
                RidgePath(features, target, STRENGTHS).predict(features)

    return features.nbytes, run


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare)
