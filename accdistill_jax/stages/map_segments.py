"""Embeddings of stored segments by frozen encoders, over all devices of the run."""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from accdistill_jax.runtime.parallel import Parallel


class RowReader(Protocol):
    """A store, or the reader of other arrays of its segments."""

    def read(self, indices: np.ndarray, /) -> dict[str, np.ndarray]:
        """Arrays [b, ...] of the rows `indices` [b], in their order."""
        ...


def embed(
    apply: Callable,
    params,
    segments: Iterable[tuple[RowReader, np.ndarray]],
    *,
    batch_size: int,
    parallel: Parallel,
    on_batch: Callable[[int], None] = lambda count: None,
) -> dict[str, np.ndarray]:
    """Runs `apply(params, batch) -> {name: [b, D]}` over segments, in order.

    All processes of the run call it together. Each reads only its part of every batch; the results, which are small compared
    with the signals, are the same on all processes.

    Args:
        apply: per-device function of a batch as the pipeline yields it (without "position").
        params: parameters on the host.
        segments: stores or other readers, each with the [n] int64 rows to embed.
        batch_size: segments at a time over all devices; rounded up to a multiple of their number.
        parallel: maps the function over the devices.
        on_batch: called with the number of segments done since the last call.

    Returns:
        {name: [sum of n, D] float32}, in the order of `segments`.
    """
    size = -(-batch_size // parallel.num_devices) * parallel.num_devices
    mapped = parallel.map_rows(apply)
    placed = parallel.replicate(params)
    results: dict[str, list[np.ndarray]] = {}
    for store, store_rows in segments:
        for start in range(0, len(store_rows), size):
            chosen = store_rows[start : start + size]
            padded = np.concatenate(
                [chosen, np.repeat(chosen[-1:], size - len(chosen))]
            )  # a single shape compiles once
            rows_here = np.split(padded, parallel.num_processes)[parallel.process]
            for name, values in mapped(placed, parallel.place(store.read(rows_here))).items():
                results.setdefault(name, []).append(parallel.gather(values)[: len(chosen)])
            on_batch(len(chosen))
    return {name: np.concatenate(parts) for name, parts in results.items()}
