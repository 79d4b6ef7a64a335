"""Contender: numpy copies the same segments from memory into batches, in a single thread; an upper limit for reading."""

from typing import Any

import numpy as np

from accdistill_jax.benchmark.contenders.reading import SEED
from accdistill_jax.data.store.store import Store


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Reads all training segments into memory.

    Args:
        order: "store"; "batch", segments per batch; "steps", batches per iteration.
    """
    store = Store.open(order["store"])
    everything = store.read(store.indices("train"))
    rows = np.random.default_rng(SEED).permutation(len(everything["ppg"]))

    def run(count: int) -> None:
        for step in range(count * order["steps"]):
            chosen = rows.take(np.arange(step * order["batch"], (step + 1) * order["batch"]), mode="wrap")
            for values in everything.values():
                values[chosen]

    run(1)
    return {"segments": order["batch"] * order["steps"]}, run


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
