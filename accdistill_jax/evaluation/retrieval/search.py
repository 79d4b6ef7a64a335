"""Retrieval ranks in a pool that is split over all devices of a run, for pools that are too large for one machine.

Every device keeps its rows of both sides. One sub-block of each device's gallery rows at a time travels around the ring of
devices, with its thresholds, its valid flags and its counts. Each device scores it against its queries, and after as many steps
as there are devices it is back. Each score counts for both directions, and the ranks equal `ranks.paired_ranks`. Sending
sub-blocks instead of all rows of a device transfers the same bytes, needs less memory and keeps the devices' waits short.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from accdistill_jax.evaluation.retrieval.ranks import thresholds
from accdistill_jax.runtime.parallel import AXIS, Parallel


def paired_ranks_on_devices(
    query: np.ndarray, gallery: np.ndarray, *, parallel: Parallel, valid: np.ndarray, block: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of row i of the gallery for query row i, and of query row i for row i of the gallery, over all devices of the run.

    Every process calls this with its rows; no process or device has the whole pool. A device with m rows of width P holds
    m * (8 * P + 5) bytes of input and 8 * m bytes of output, and needs besides them at most

        bytes = 4 * (3.5 * block^2 + 2 * (m + block) * P + 4 * block * P + 16 * (m + block))

    for any size of the pool: score blocks, both sides padded to whole sub-blocks, the travelling sub-block, and thresholds and
    counts. The search is compiled once per shape. Ranks equal `ranks.paired_ranks` except where float32 rounding moves a
    score over the threshold (up to 50 000 rows: one or two ranks in a thousand differ by 1).

    Args:
        query: [n, P] float32, L2-normalised rows of this process; n is the same on every process.
        gallery: [n, P] float32, L2-normalised; row i belongs to row i of `query`.
        parallel: the devices.
        valid: [n] bool; False for padding rows, which are neither queries nor candidates.
        block: maximum rows and columns of a block of scores. None is 1024 on CPUs (such a block fits their caches), else 4096.

    Returns:
        (query -> gallery, gallery -> query): int64 [n] each, for this process's rows. 1 is best, the number of valid rows of
        all processes is worst, ties count against the query; 0 where not valid.

    Raises:
        ValueError: shapes that do not match, or a number of rows that the process's devices do not divide.
    """
    if query.ndim != 2 or query.shape != gallery.shape or valid.shape != query.shape[:1]:
        raise ValueError(f"a search needs paired rows, got {query.shape}, {gallery.shape}, {valid.shape}")
    if not len(query) or len(query) % parallel.num_local:
        raise ValueError(f"{len(query)} rows cannot be split evenly over {parallel.num_local} devices")
    if block is None:
        block = 1024 if parallel.devices[0].platform == "cpu" else 4096
    threshold = thresholds(query, gallery)
    split = NamedSharding(parallel.mesh, PartitionSpec(AXIS))
    placed = [jax.make_array_from_process_local_data(split, a) for a in (query, gallery, threshold, valid)]
    forward, backward = search_program(parallel.mesh, block)(*placed)
    return _local_rows(forward), _local_rows(backward)


def _local_rows(counts: jax.Array) -> np.ndarray:
    """This process's rows of a distributed array, in order, as int64."""
    shards = sorted(counts.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards]).astype(np.int64)


@functools.lru_cache(maxsize=8)
def search_program(mesh: Mesh, block: int):
    """The search over all devices of a mesh, jitted: (query, gallery, threshold, valid) -> both ranks, split over the devices."""
    split = PartitionSpec(AXIS)
    ranks = functools.partial(_ranks, devices=mesh.size, block=block)
    return jax.jit(jax.shard_map(ranks, mesh=mesh, in_specs=split, out_specs=(split, split), check_vma=False))


def _ranks(query, gallery, threshold, valid, *, devices: int, block: int):
    """Ranks of one device's rows: [m, P], [m, P], [m], [m] -> int32 [m] twice."""
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
        """Scores one sub-block of the gallery against the queries of all devices."""
        home, *candidates = candidates

        def step(steps, carry):
            forward, backward, (g, g_threshold, g_valid) = carry

            def count(backward, queries):
                i, q, q_threshold, q_valid, forward = queries
                # Full float32: by default TPUs multiply in bfloat16, with an error far above TIE.
                score = lax.dot_general(q, g, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
                # The right pair always counts once, whatever the rounding of its score.
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
