"""A contender: the same segments copied into batches from memory, by numpy in one thread. What reading could at most reach."""

from typing import Any

import numpy as np

from accdistill_jax.benchmark.contenders.reading import SEED
from accdistill_jax.data.store.store import Store


def prepare(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """`order` has store, batch, steps (batches of an iteration)."""
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

    serve(prepare)
