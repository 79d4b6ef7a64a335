"""Contender: large matrix products alone, the peak rate of this machine's matrix units with JAX."""

from typing import Any

import jax
import jax.numpy as jnp

from accdistill_jax.runtime import host_memory

SIZES = {"cpu": 2048, "default": 8192}


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Prepares the products. An iteration is a chain of products of square matrices; each takes the result of the previous.

    Args:
        order: "dtype" of the matrices.
    """
    host_memory.keep_freed()  # as the command does
    size = SIZES.get(jax.default_backend(), SIZES["default"])
    a, b = (
        jax.random.normal(key, (size, size), order["dtype"]) * size**-0.5 for key in jax.random.split(jax.random.key(0))
    )
    products = 8

    @jax.jit
    def chain(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, products, lambda _, x: jnp.matmul(x, b), a)

    def run(count: int) -> None:
        x = a
        for _ in range(count):
            x = chain(x, b)
        jax.block_until_ready(x)

    run(1)
    return {"flops": products * 2 * size**3, "shape": f"{size} x {size} x {size}, {order['dtype']}"}, run


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
