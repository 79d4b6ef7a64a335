"""Contender: bytes per second between a device and its memory. A large array is read and overwritten in place.

A new array would need new pages on a CPU, and page faults take longer than the memory access itself.
"""

from typing import Any

import jax
import jax.numpy as jnp

from accdistill_jax.runtime import host_memory

BYTES = 256 << 20  # more than a processor's caches hold


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Prepares the array. An iteration reads `BYTES` and writes `BYTES`; the order is empty."""
    host_memory.keep_freed()  # as the command does
    add_one = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    x = jnp.zeros(BYTES // 4, jnp.float32)

    def run(count: int) -> None:
        nonlocal x
        for _ in range(count):
            x = add_one(x)
        jax.block_until_ready(x)

    run(2)
    return {"bytes": 2 * BYTES}, run


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
