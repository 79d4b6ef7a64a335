"""8-bit weights in an ONNX model: a quarter of the size, computed in float32."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_LARGEST = 127  # of a symmetric int8


def with_int8_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model whose dense layers hold int8 weights with a float32 scale for each column.

    Cast and Mul restore the weights; onnxruntime does so once, when it loads the model. Activations stay float32: their
    range over a whole batch would make the embedding of a minute depend on the other minutes. Convolutions stay float32.
    """
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    graph = rounded.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    dense = [node.input[1] for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    replaced = {name for name in dict.fromkeys(dense) if len(weights[name].dims) == 2}
    constants = [tensor for tensor in graph.initializer if tensor.name not in replaced]
    restoring = []
    for name in sorted(replaced):
        integers, scale = quantised(numpy_helper.to_array(weights[name]))
        parts = (f"{name}_int8", f"{name}_scale", f"{name}_rounded")
        constants += [numpy_helper.from_array(integers, parts[0]), numpy_helper.from_array(scale, parts[1])]
        restoring += [
            helper.make_node("Cast", [parts[0]], [parts[2]], name=parts[2], to=TensorProto.FLOAT),
            helper.make_node("Mul", [parts[2], parts[1]], [name], name=name),
        ]
    nodes = [*restoring, *graph.node]
    restored = helper.make_graph(nodes, graph.name, list(graph.input), list(graph.output), constants)
    graph.CopyFrom(restored)
    onnx.checker.check_model(rounded, full_check=True)
    return rounded


def quantised(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds a matrix [rows, columns] float32 to int8; returns it and the scale [columns] float32 of each column."""
    scale = np.abs(weights).max(axis=0).astype(np.float32) / np.float32(_LARGEST)
    scale = np.where(scale > 0, scale, np.float32(1))
    return np.round(weights / scale).astype(np.int8), scale
