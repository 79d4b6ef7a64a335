"""Opens a store with a large table, orders and reads it, and prints the time and the memory of each step as JSON."""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from accdistill_jax.config.schema import SAME_NAMES
from accdistill_jax.data.pipeline import Pipeline, Sampling
from accdistill_jax.data.store.separation import check_separation
from accdistill_jax.data.store.store import Store

BATCH, BATCHES = 256, 200
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def with_memory(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result of some work, with its seconds, the largest memory meanwhile and the memory held afterwards, in MB."""
    _CLEAR.write_text("5")  # the largest memory counts from here
    begin = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - begin
    status = {
        name: int(kb) / 1e3 for name, kb in re.findall(r"^(Vm\w+):\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    }
    return result, {"seconds": seconds, "peak_mb": status["VmHWM"], "held_mb": status["VmRSS"]}


def main(path: str) -> None:
    """Prints {step: measures}."""
    steps: dict[str, dict] = {}
    _, steps["imports"] = with_memory(lambda: None)
    store, steps["open"] = with_memory(lambda: Store.open(path))
    _, steps["check separation"] = with_memory(lambda: check_separation([store], [], same_names=SAME_NAMES[0]))
    pipeline, steps["rows of a split"] = with_memory(
        lambda: Pipeline([store], Sampling("train", seed=0), batch_size=BATCH)
    )
    _, steps["order of an epoch"] = with_memory(lambda: pipeline.global_indices(0))
    last = pipeline.num_segments // BATCH

    def read() -> None:
        for step in np.linspace(0, last, BATCHES).astype(int).tolist():
            pipeline.batch(step)

    _, steps[f"read {BATCHES} batches of {BATCH}"] = with_memory(read)
    _, steps["a column of labels"] = with_memory(lambda: store.segments["hr_bpm"])
    print(json.dumps(steps))


if __name__ == "__main__":
    main(sys.argv[1])
