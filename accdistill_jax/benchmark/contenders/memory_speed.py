"""A contender: bytes per second between a device and its memory; one large array is read and written again in its place.

In its place, since a new array would be new pages on a CPU, whose faults take longer than the memory does.
"""

from typing import Any

import jax
import jax.numpy as jnp

from accdistill_jax.runtime import host_memory

BYTES = 256 << 20  # beyond what a processor's caches hold


def prepare(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """One iteration reads `BYTES` and writes as many."""
    host_memory.keep_freed()  # as the command does
    more = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    x = jnp.zeros(BYTES // 4, jnp.float32)

    def run(count: int) -> None:
        nonlocal x
        for _ in range(count):
            x = more(x)
        jax.block_until_ready(x)

    run(2)
    return {"bytes": 2 * BYTES}, run


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare)
