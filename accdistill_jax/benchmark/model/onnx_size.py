"""Memory of an ONNX model's activations."""

from __future__ import annotations

import math
from typing import Any

# These give their input's values with another shape or name, so that a runtime keeps no second copy.
_VIEWS = ("Reshape", "Identity")


def activation_bytes(model: Any) -> int:
    """Largest sum of the tensors that are needed at the same time, for a batch of one segment, in bytes.

    Nodes run in the model's order. A tensor is freed after its last use. Weights, and results of weights alone, are not counted.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    sizes = {value.name: _value_bytes(value.type.tensor_type) for value in values}
    constant = {tensor.name for tensor in graph.initializer}
    buffer = {value.name: value.name for value in graph.input}  # tensor -> the tensor whose memory holds it
    last_use: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        varying = [name for name in node.input if name and name not in constant]
        if not varying:
            constant.update(node.output)
        elif node.op_type in _VIEWS:
            buffer[node.output[0]] = buffer[node.input[0]]
        else:
            buffer |= {name: name for name in node.output}
        last_use |= {buffer[name]: number for name in varying}
    last_use[buffer[graph.output[0].name]] = len(graph.node)
    live = {value.name for value in graph.input}
    held = most = sum(sizes[name] for name in live)
    for number, node in enumerate(graph.node):
        made = [name for name in node.output if buffer.get(name) == name]
        live.update(made)
        held += sum(sizes[name] for name in made)
        most = max(most, held)
        freed = [name for name in live if last_use.get(name, -1) <= number]
        live.difference_update(freed)
        held -= sum(sizes[name] for name in freed)
    return most


def _value_bytes(tensor: Any) -> int:
    import onnx

    sizes = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in tensor.shape.dim]  # the batch is 1
    return math.prod(sizes) * onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
