"""Translates a traced JAX function into an ONNX graph.

It knows the operations that the encoders use and refuses any other by its name. Operations on constants are computed here,
so that the graph holds the signal's way alone. One dimension, the batch, may be symbolic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from jax.extend import core
from onnx import TensorProto, helper, numpy_helper

from accdistill_jax.export.onnx_builder import GraphBuilder, Value, batch_factor
from accdistill_jax.export.onnx_operations import translated

_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # parameters that hold the function of a call


def translate(
    closed: core.ClosedJaxpr, params: Mapping[str, np.ndarray], *, signal: str, result: str
) -> onnx.GraphProto:
    """Translates a function of parameters and a signal.

    Args:
        closed: jaxpr whose inputs are the parameters in the order of `params`, then the signal [b, samples, channels] float32.
        params: name -> value.
        signal: name of the graph's input.
        result: name of the graph's output.

    Returns:
        The graph; its batch dimension is called "batch".

    Raises:
        UserError: an operation without a translation; names it.
    """
    builder = GraphBuilder(signal)
    for name, value in params.items():
        builder.name(value, hint=name)
    known: dict[Any, Value] = dict(zip(closed.jaxpr.constvars, map(np.asarray, closed.consts), strict=True))
    known |= dict(zip(closed.jaxpr.invars, [*params.values(), signal], strict=True))
    (output,) = _run(builder, closed.jaxpr, known)
    builder.nodes.append(helper.make_node("Identity", [builder.name(output)], [result], name=result))
    shapes = [(closed.jaxpr.invars[-1].aval, signal), (closed.jaxpr.outvars[0].aval, result)]
    inputs, outputs = (
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT, ["batch" if batch_factor(size) else int(size) for size in aval.shape]
        )
        for aval, name in shapes
    )
    nodes = _needed(builder.nodes, result)
    used = {name for node in nodes for name in node.input}
    constants = [numpy_helper.from_array(v, n) for n, v in builder.initializers.items() if n in used]
    return helper.make_graph(nodes, "encoder", [inputs], [outputs], constants)


def _needed(nodes: Sequence[onnx.NodeProto], result: str) -> list[onnx.NodeProto]:
    """The nodes that the result depends on, in their order."""
    needed, kept = {result}, []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]


def _run(builder: GraphBuilder, jaxpr: core.Jaxpr, known: dict[Any, Value]) -> list[Value]:
    """Values of a jaxpr's outputs; adds the nodes that compute them."""

    def read(variable: Any) -> Value:
        return np.asarray(variable.val) if isinstance(variable, core.Literal) else known[variable]

    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        if all(isinstance(value, np.ndarray) for value in inputs) and not _depends_on_batch(equation):
            known |= zip(equation.outvars, _computed(equation, inputs), strict=True)
        elif (inner := _inner(equation)) is not None:
            body, consts = inner
            inside = dict(zip(body.constvars, map(np.asarray, consts), strict=True))
            inside |= dict(zip(body.invars, inputs, strict=True))
            known |= zip(equation.outvars, _run(builder, body, inside), strict=True)
        else:
            (out,) = equation.outvars
            aval: Any = out.aval
            empty = any(isinstance(size, int) and size == 0 for size in aval.shape)
            known[out] = _nothing(aval) if empty else translated(builder, equation, inputs)
    return [read(variable) for variable in jaxpr.outvars]


def _nothing(aval: Any) -> np.ndarray:
    return np.zeros([0 if batch_factor(size) else int(size) for size in aval.shape], aval.dtype)


def _depends_on_batch(equation: Any) -> bool:
    return any(batch_factor(size) for out in equation.outvars for size in out.aval.shape)


def _computed(equation: Any, inputs: Sequence[Value]) -> list[np.ndarray]:
    results = equation.primitive.bind(*inputs, **equation.params)
    return [np.asarray(value) for value in (results if equation.primitive.multiple_results else [results])]


def _inner(equation: Any) -> tuple[core.Jaxpr, Sequence[Any]] | None:
    """Jaxpr and constants of a call, such as of a jitted function."""
    for name in _INNER:
        body = equation.params.get(name)
        if body is not None:
            return (body.jaxpr, body.consts) if hasattr(body, "jaxpr") else (body, ())
    return None
