"""Retrieval ranks in a pool that is split over all devices of a run, for pools that no single machine would search.

Every device keeps its own rows of both sides. One sub-block of its gallery rows at a time goes around the ring of devices,
with its thresholds, its flags and its counts, is scored against the rows of each device and is home again after as many
steps as there are devices. Each score counts for both directions, as in `retrieval.paired_ranks`, whose results these are.
Sub-blocks rather than whole parts travel: the same bytes in all, but less memory, and devices never wait long for each other.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from accdistill_jax.evaluation.retrieval import retrieval
from accdistill_jax.runtime.parallel import AXIS, Parallel


def paired_ranks(
    query: np.ndarray, gallery: np.ndarray, *, parallel: Parallel, valid: np.ndarray, block: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of row i of the gallery for row i of the query, and the other way round, over all devices of the run.

    Every process calls this with its own rows; no process or device sees the whole pool. A device with m rows of width P holds
    m * (8 * P + 5) bytes of input and 8 * m of output, and needs beside them at most

        bytes = 4 * (3.5 * block^2 + 2 * (m + block) * P + 4 * block * P + 16 * (m + block))

    whatever the size of the pool: score blocks, both sides padded to whole sub-blocks, the sub-block on its way around the
    ring, and thresholds and counts. Compiled once per shape. Ranks equal `retrieval.paired_ranks` but for scores that float32
    rounding carries over the threshold (up to 50 000 rows, one or two ranks in a thousand, by 1).

    Args:
        query: [n, P] float32, L2-normalised: this process's rows, as many on every process.
        gallery: [n, P] float32, L2-normalised; row i belongs to row i of `query`.
        parallel: the devices.
        valid: [n] bool; False for rows of padding, which are neither queries nor candidates.
        block: most rows and columns per block of scores; None is 1024 on CPUs, whose caches hold that much, else 4096.

    Returns:
        (query -> gallery, gallery -> query): int64 [n] each, for this process's rows. 1 is best, the number of valid rows of
        all processes is worst, ties pessimistic; 0 where not valid.

    Raises:
        ValueError: shapes that do not match, or rows that do not divide over the process's devices.
    """
    if query.ndim != 2 or query.shape != gallery.shape or valid.shape != query.shape[:1]:
        raise ValueError(f"a search needs paired rows, got {query.shape}, {gallery.shape}, {valid.shape}")
    if not len(query) or len(query) % parallel.num_local:
        raise ValueError(f"{len(query)} rows do not divide over {parallel.num_local} devices")
    if block is None:
        block = 1024 if parallel.devices[0].platform == "cpu" else 4096
    threshold = retrieval.thresholds(query, gallery)
    split = NamedSharding(parallel.mesh, PartitionSpec(AXIS))
    placed = [jax.make_array_from_process_local_data(split, a) for a in (query, gallery, threshold, valid)]
    forward, backward = _mapped(parallel.mesh, block)(*placed)
    return _local_rows(forward), _local_rows(backward)


def _local_rows(counts: jax.Array) -> np.ndarray:
    """This process's rows of a split array, in order, as int64."""
    shards = sorted(counts.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards]).astype(np.int64)


@functools.lru_cache(maxsize=8)
def _mapped(mesh: Mesh, block: int):
    """`_ranks` over the mesh, jitted."""
    split = PartitionSpec(AXIS)
    ranks = functools.partial(_ranks, devices=mesh.size, block=block)
    return jax.jit(jax.shard_map(ranks, mesh=mesh, in_specs=split, out_specs=(split, split), check_vma=False))


def _ranks(query, gallery, threshold, valid, *, devices: int, block: int):
    """Per device: [m, P], [m, P], [m], [m] -> int32 [m] twice."""
    rows = len(query)
    blocks = -(-rows // block)
    size = -(-rows // blocks)
    padding = blocks * size - rows

    def in_blocks(array):
        padded = jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1))
        return padded.reshape(blocks, size, *array.shape[1:])

    query, gallery, threshold, valid = map(in_blocks, (query, gallery, threshold, valid))
    number = jnp.arange(blocks)
    pairs = jnp.eye(size, dtype=bool)
    ring = [(device, (device + 1) % devices) for device in range(devices)]

    def search(forward, candidates):
        """One sub-block of the gallery against the queries of all devices."""
        home, *candidates = candidates

        def step(steps, carry):
            forward, backward, (g, g_threshold, g_valid) = carry

            def count(backward, queries):
                i, q, q_threshold, q_valid, forward = queries
                # In full float32: TPUs would multiply in bfloat16, whose error is far beyond TIE.
                score = lax.dot_general(q, g, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
                # The right pair counts once, however its score was rounded.
                score = jnp.where(pairs & (steps == 0) & (i == home), jnp.inf, score)
                hits = (score >= q_threshold[:, None]) & g_valid[None, :]
                forward += jnp.sum(hits, axis=1, dtype=jnp.int32)
                hits = (score >= g_threshold[None, :]) & q_valid[:, None]
                return backward + jnp.sum(hits, axis=0, dtype=jnp.int32), forward

            backward, forward = lax.scan(count, backward, (number, query, threshold, valid, forward))
            backward, candidates = lax.ppermute((backward, (g, g_threshold, g_valid)), AXIS, ring)
            return forward, backward, candidates

        start = (forward, jnp.zeros(size, jnp.int32), tuple(candidates))
        forward, backward, _ = lax.fori_loop(0, devices, step, start)
        return forward, backward

    forward = jnp.zeros((blocks, size), jnp.int32)
    forward, backward = lax.scan(search, forward, (number, gallery, threshold, valid))
    return tuple(jnp.where(valid, counts, 0).reshape(-1)[:rows] for counts in (forward, backward))
