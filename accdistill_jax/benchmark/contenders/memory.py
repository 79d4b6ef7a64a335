"""Contender: a few training steps, to measure their memory."""

import resource
from typing import Any

import jax

from accdistill_jax.benchmark.contenders.training import Training
from accdistill_jax.benchmark.model import program
from accdistill_jax.config.convert import parse_section
from accdistill_jax.config.schema import Config
from accdistill_jax.runtime import host_memory
from accdistill_jax.runtime.parallel import Parallel


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Prepares the training.

    Args:
        order: "config"; "stage"; "batch", segments per device.
    """
    host_memory.keep_freed()  # as the command does
    config = parse_section(Config, order["config"])
    work = program.describe_work(config, order["stage"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    training = Training(work, batch=order["batch"], parallel=Parallel(config.runtime.mapping))
    training.run(3)
    used = jax.local_devices()[0].memory_stats() or {}  # CPUs report none
    return {"before_bytes": before, "device_peak_bytes": used.get("peak_bytes_in_use")}, training.run


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
