"""ONNX files of an encoder: float32, and with int8 weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accdistill_jax.errors import UserError
from accdistill_jax.export.arrays import named_weights
from accdistill_jax.export.plain import PlainEncoder
from accdistill_jax.files import write_atomically

OPSETS = (18, 23)
INPUT, OUTPUT = "signal", "embedding"
_IR_VERSIONS = {18: 8, 23: 11}
_INSTALL = "pip install 'accdistill_jax[export]'"


def onnx_model(plain: PlainEncoder, *, opset: int = OPSETS[0]) -> Any:
    """The encoder as an `onnx.ModelProto`, checked; the contract is in its metadata.

    Raises:
        UserError: onnx is not installed, or the encoder has an operation without a translation.
    """
    if opset not in OPSETS:
        raise UserError(f"opset {opset} is not one of {', '.join(map(str, OPSETS))}")
    try:
        import onnx
    except ImportError as error:
        raise UserError(f"ONNX needs the package onnx: {_INSTALL}") from error
    from accdistill_jax.export.onnx_graph import translate

    graph = translate(plain.traced(), named_weights(plain), signal=INPUT, result=OUTPUT)
    model = onnx.helper.make_model(
        graph,
        producer_name="accdistill_jax",
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=_IR_VERSIONS[opset],
    )
    onnx.helper.set_model_props(model, plain.contract.as_texts())
    onnx.checker.check_model(model, full_check=True)
    return model


def write_onnx(plain: PlainEncoder, folder: Path, *, opset: int = OPSETS[0], int8: bool = False) -> list[Path]:
    """Writes encoder.onnx, and encoder.int8.onnx with 8-bit weights if asked for.

    Args:
        plain: the encoder.
        folder: existing folder.
        opset: version of the operators.
        int8: also writes a file with int8 weights; see `onnx_weights.with_int8_weights`.

    Returns:
        The files.

    Raises:
        UserError: onnx is not installed, or the encoder cannot be translated.
    """
    model = onnx_model(plain, opset=opset)
    path = folder / "encoder.onnx"
    write_atomically(path, model.SerializeToString())
    if not int8:
        return [path]
    from accdistill_jax.export.onnx_weights import with_int8_weights

    small = folder / "encoder.int8.onnx"
    write_atomically(small, with_int8_weights(model).SerializeToString())
    return [path, small]
