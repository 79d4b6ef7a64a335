"""StableHLO by `jax.export`: one file for CPU, CUDA and TPU, for any batch size; JAX alone loads it."""

from __future__ import annotations

from pathlib import Path

import jax
from jax import export

from accdistill_jax.export.plain import PlainEncoder
from accdistill_jax.files import write_atomically
from accdistill_jax.runtime.platform import PORTABLE, tracing_for

PLATFORMS = ("cpu", "cuda", "tpu")
FILE_NAME = "encoder.stablehlo"


def exported(plain: PlainEncoder) -> export.Exported:
    """The encoder with its parameters inside, for `PLATFORMS` and any batch size."""

    def embed(signal: jax.Array) -> jax.Array:
        return plain.apply(plain.params, signal)

    with tracing_for(PORTABLE):
        return export.export(jax.jit(embed), platforms=PLATFORMS)(plain.input_shape())


def write_stablehlo(plain: PlainEncoder, folder: Path) -> list[Path]:
    """Writes the serialised encoder.

    Args:
        plain: the encoder.
        folder: existing folder.

    Returns:
        The file; `jax.export.deserialize(bytearray(path.read_bytes())).call(signal)` embeds.
    """
    path = folder / FILE_NAME
    write_atomically(path, bytes(exported(plain).serialize()))
    return [path]
