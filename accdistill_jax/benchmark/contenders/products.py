"""Contender: the matrix products of a training step alone. Each runs as a separate program, as often as the step has it."""

from typing import Any

import jax

from accdistill_jax.benchmark.contenders.training import Training
from accdistill_jax.benchmark.model import operations, program
from accdistill_jax.config.convert import parse_section
from accdistill_jax.config.schema import Config
from accdistill_jax.runtime import host_memory
from accdistill_jax.runtime.parallel import Parallel


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Prepares the products. An iteration is all products of a training step on a single device.

    Args:
        order: "config"; "stage"; "batch", segments per device.
    """
    host_memory.keep_freed()  # as the command does
    config = parse_section(Config, order["config"])
    work, parallel = (
        program.describe_work(config, order["stage"]),
        Parallel(config.runtime.mapping, devices=jax.devices()[:1]),
    )
    training = Training(work, batch=order["batch"], parallel=parallel)
    counted = operations.count_operations(training.traced())
    programs = [(*product.compiled(), times) for product, times in counted.products]

    def run(count: int) -> None:
        for _ in range(count):
            for compiled, operands, times in programs:
                result = compiled(*operands)
                for _ in range(times - 1):
                    result = compiled(*operands)
                result.block_until_ready()

    run(1)
    return {"elements": counted.elements, "products": sum(times for _, times in counted.products)}, run


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
