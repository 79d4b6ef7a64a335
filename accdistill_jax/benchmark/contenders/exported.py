"""Contender: an exported student in onnxruntime, a minute at a time on a single thread."""

from typing import Any

import jax
import numpy as np

from accdistill_jax.api.encoder import TrainedEncoder
from accdistill_jax.benchmark.contest import Skipped
from accdistill_jax.benchmark.model import onnx_size
from accdistill_jax.config.convert import parse_section
from accdistill_jax.config.schema import Config
from accdistill_jax.export.onnx_file import onnx_model
from accdistill_jax.export.plain import plain_encoder
from accdistill_jax.models.build import build_encoder
from accdistill_jax.objectives.base import Branch

RATE_HZ, SAMPLES, AXES = 64.0, 3840, 3


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Prepares the exported student.

    Args:
        order: "config"; "int8", True for 8-bit weights.
    """
    try:
        import onnxruntime

        from accdistill_jax.export.onnx_weights import with_int8_weights
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed; it is part of the extra `export`") from error
    encoder = student(parse_section(Config, order["config"]))
    model = onnx_model(plain_encoder(encoder))
    content = (with_int8_weights(model) if order["int8"] else model).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    signal = np.random.default_rng(0).normal(0, 0.003, (1, SAMPLES, AXES)).astype(np.float32)

    def run(count: int) -> None:
        for _ in range(count):
            session.run(None, {"signal": signal})

    run(3)
    shape = jax.eval_shape(lambda x: encoder.branch.prepare(_batch(x)), signal).shape
    facts = {
        "parameters": encoder.parameters,
        "flops": encoder.branch.encoder.flops(samples=SAMPLES, channels=shape[-1]),
        "activation_bytes": onnx_size.activation_bytes(model),
        "file_bytes": len(content),
    }
    return facts, run


def student(config: Config) -> TrainedEncoder:
    """The student of a config with random parameters, all different, in the form that evaluation sees."""
    module = build_encoder(config.student.encoder, dtype=np.dtype("float32"))
    branch = Branch("accel", module, config.inputs.accel, representation=config.evaluation.representation)
    signal = jax.ShapeDtypeStruct((1, SAMPLES, AXES), np.float32)
    x = jax.eval_shape(lambda signal: branch.prepare(_batch(signal)), signal)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.05, leaf.shape).astype(np.float32),
        jax.eval_shape(module.init, jax.random.key(0), x)["params"],
    )
    embedding = jax.eval_shape(lambda x: branch.represent(branch.encode(params, x)), x)
    return TrainedEncoder(
        path="",
        part="student",
        objective="none",
        modality="accel",
        rate_hz=RATE_HZ,
        samples=SAMPLES,
        channels=AXES,
        unit="g",
        fingerprint="untrained",
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        embedding_size=embedding.shape[-1],
        data="",
        branch=branch,
        params=params,
    )


def _batch(signal: Any) -> dict[str, Any]:
    ones = np.ones((1, AXES), np.float32)
    return {"accel": signal, "accel_scale": ones, "accel_offset": 0 * ones}


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
