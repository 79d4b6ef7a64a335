"""Embeddings of stored segments by frozen encoders, over all devices of the run."""

from collections.abc import Callable, Sequence

import numpy as np

from accdistill_jax.data.store.store import Store
from accdistill_jax.runtime.parallel import Parallel


def embed(
    apply: Callable,
    params,
    stores: Sequence[Store],
    rows: Sequence[np.ndarray],
    *,
    batch_size: int,
    parallel: Parallel,
    on_batch: Callable[[int], None] = lambda count: None,
) -> dict[str, np.ndarray]:
    """Runs `apply(params, batch) -> {name: [b, D]}` over segments, in order.

    All processes of the run call it together. Each reads its part of every batch only; the results, small beside the
    signals, are the same on all of them.

    Args:
        apply: per-device function of a batch as the pipeline yields it (without "position").
        params: host parameters.
        stores: where the segments lie.
        rows: per store, [n] int64 rows to embed.
        batch_size: segments at a time over all devices; rounded up to a multiple of them.
        parallel: maps the function over the devices.
        on_batch: called with the number of segments done since the last call.

    Returns:
        {name: [sum of n, D] float32}, in the order of stores and rows.
    """
    size = -(-batch_size // parallel.num_devices) * parallel.num_devices
    mapped = parallel.map_rows(apply)
    placed = parallel.replicate(params)
    results: dict[str, list[np.ndarray]] = {}
    for store, own in zip(stores, rows, strict=True):
        for start in range(0, len(own), size):
            chosen = own[start : start + size]
            padded = np.concatenate([chosen, np.repeat(chosen[-1:], size - len(chosen))])  # one shape, one compilation
            own_part = np.split(padded, parallel.num_processes)[parallel.process]
            for name, values in mapped(placed, parallel.place(store.read(own_part))).items():
                results.setdefault(name, []).append(parallel.gather(values)[: len(chosen)])
            on_batch(len(chosen))
    return {name: np.concatenate(parts) for name, parts in results.items()}
