"""Contender: reads batches of a store into host memory, with the pipeline of training."""

from typing import Any

import numpy as np

from accdistill_jax.data.pipeline import Pipeline, Sampling
from accdistill_jax.data.store.manifest import SIGNALS
from accdistill_jax.data.store.store import RemoteReading, Store

SEED = 0


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Opens the store and reads the first batches.

    Args:
        order: "store", folder or URL; "batch", segments per batch; "steps", batches per iteration; "warm_steps", batches to read
            before; "threads" and "prefetch" of the pipeline; "once", True to open the store again for every iteration, so that it
            reads every segment for the first time and compares its checksum (if "steps" are at most an epoch); "concurrency" and
            "cache_mb", see `RemoteReading`.
    """

    def open_pipeline() -> Pipeline:
        store = Store.open(order["store"], remote=RemoteReading(order["concurrency"], order["cache_mb"]))
        return Pipeline([store], Sampling(split="train", seed=SEED), batch_size=order["batch"])

    pipeline, step, steps = open_pipeline(), 0, order["steps"]

    def read(pipeline: Pipeline, first: int, count: int) -> None:
        for _ in pipeline.iterate(first, count, threads=order["threads"], prefetch=order["prefetch"]):
            pass

    def run(count: int) -> None:
        nonlocal step
        if order["once"]:
            for _ in range(count):
                read(open_pipeline(), 0, steps)
        else:
            read(pipeline, step, count * steps)
            step += count * steps

    read(pipeline, 0, order["warm_steps"])
    facts = {"segments": order["batch"] * steps, "bytes_per_segment": bytes_by_name(pipeline.batch(0))}
    return facts, run


def bytes_by_name(batch: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Bytes and dtype of each array that goes to the device, per segment; signals first."""
    arrays = {
        name: {"bytes": values.nbytes / len(values), "dtype": values.dtype.name} for name, values in batch.items()
    }
    return {name: arrays[name] for name in sorted(arrays, key=lambda name: name not in SIGNALS)}


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
