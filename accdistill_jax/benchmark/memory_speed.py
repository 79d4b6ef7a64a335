"""A contender: bytes per second between a device and its memory; one large array is read and another written."""

from typing import Any

import jax
import jax.numpy as jnp

BYTES = 256 << 20  # beyond what a processor's caches hold


def prepare(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """One iteration reads `BYTES` and writes as many."""
    double = jax.jit(lambda x: x * 2.0)
    x = jnp.zeros(BYTES // 4, jnp.float32)

    def run(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(double(x))

    run(2)
    return {"bytes": 2 * BYTES}, run


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare)
