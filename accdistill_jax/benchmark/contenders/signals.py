"""Contender: embeds a long signal as a user's program does, resampled and cut by the code that prepares stores."""

from typing import Any

import numpy as np

from accdistill_jax.api.loading import load
from accdistill_jax.runtime import host_memory


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Loads the encoder and makes the signal.

    Args:
        order: "encoder", folder or shipped name; "minutes" of signal; "rate_hz".
    """
    host_memory.keep_freed()  # as the command does
    encoder, rate_hz = load(order["encoder"], part="student"), order["rate_hz"]
    noise = np.random.default_rng(0).normal(0.0, 0.002, (order["minutes"] * 60 * rate_hz, 3))
    signal = (noise + np.array([0.0, 0.6, 0.8])).astype(np.float32)

    def run(count: int) -> None:
        for _ in range(count):
            encoder.embed(signal, rate_hz)

    run(2)
    return {"parameters": encoder.parameters, "embedding": encoder.embedding_size}, run


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
