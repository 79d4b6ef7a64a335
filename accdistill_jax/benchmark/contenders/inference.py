"""Contender: computes a student's embeddings of stored segments, from int16 to the embedding."""

import time
from typing import Any

import jax
import numpy as np

from accdistill_jax.benchmark.model import segments
from accdistill_jax.config.convert import parse_section
from accdistill_jax.config.schema import Config
from accdistill_jax.inputs.prepare import prepare_inputs as prepare_inputs
from accdistill_jax.models.build import build_encoder, compute_dtype, parameter_count
from accdistill_jax.runtime import host_memory
from accdistill_jax.runtime.parallel import Parallel

LATENCY_CALLS = 300


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Prepares the encoder.

    Args:
        order: "config"; "batch", segments over all devices; "latency", True to time single calls too.
    """
    host_memory.keep_freed()  # as the command does
    config = parse_section(Config, order["config"])
    parallel, settings = Parallel(), config.inputs.accel
    encoder = build_encoder(config.student.encoder, dtype=compute_dtype(config.runtime.compute_dtype))
    rng, rows = np.random.default_rng(0), order["batch"]
    batch = {
        name: (1000 * rng.normal(size=shape.shape)).astype(shape.dtype)
        if shape.dtype == np.int16
        else np.ones(shape.shape, shape.dtype)
        for name, shape in segments.signal_shapes(config, rows, ["accel"]).items()
    }
    x = jax.eval_shape(lambda b: prepare_inputs(b, "accel", settings), batch)
    params = jax.jit(lambda key: encoder.init(key, np.zeros((1, *x.shape[1:]), np.float32))["params"])(
        jax.random.key(0)
    )
    params = parallel.replicate(jax.device_get(params))
    apply = parallel.map_rows(lambda params, b: encoder.apply({"params": params}, prepare_inputs(b, "accel", settings)))

    def once() -> np.ndarray:
        return jax.device_get(apply(params, parallel.place(batch)))

    def run(count: int) -> None:
        for _ in range(count):
            once()

    run(2)
    facts = {
        "device": jax.devices()[0].device_kind,
        "parameters": parameter_count(params),
        "flops": encoder.flops(samples=x.shape[1], channels=x.shape[2]),
        "embedding": once().shape[1],
    }
    if order["latency"]:
        seconds = []
        for _ in range(LATENCY_CALLS):
            start = time.perf_counter()
            once()
            seconds.append(time.perf_counter() - start)
        facts["latency_s"] = {f"p{q}": float(np.percentile(seconds, q)) for q in (50, 95)}
    return facts, run


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
