"""ONNX forms of the operations of JAX that the encoders use."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import export as jax_export
from onnx import helper

from accdistill_jax.errors import UserError
from accdistill_jax.export.onnx_builder import GraphBuilder, Value

_FROM_END = re.compile(r"b(?: - (\d+))?")
_ELEMENTWISE = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "neg": "Neg",
    "exp": "Exp",
    "log": "Log",
    "tanh": "Tanh",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "logistic": "Sigmoid",
    "erf": "Erf",
    "pow": "Pow",
    "floor": "Floor",
    "gt": "Greater",
    "lt": "Less",
    "ge": "GreaterOrEqual",
    "le": "LessOrEqual",
    "eq": "Equal",
    "and": "And",
    "or": "Or",
    "not": "Not",
}
_REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
_SAME = ("stop_gradient", "copy", "optimization_barrier")

Translator = Callable[[GraphBuilder, Any, Sequence[Value]], str]


def translated(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    """Adds the nodes of one equation of a jaxpr; returns the name of its result.

    Raises:
        UserError: there is no ONNX form; names the operation.
    """
    name = equation.primitive.name
    if name in _SAME:
        return builder.name(inputs[0])
    if name in _ELEMENTWISE:
        return builder.node(_ELEMENTWISE[name], inputs)
    if name in _REDUCTIONS:
        return builder.node(_REDUCTIONS[name], [inputs[0], np.array(equation.params["axes"], np.int64)], keepdims=0)
    translator = _TRANSLATORS.get(name)
    if translator is None:
        raise UserError(
            f"the encoder uses the operation {name}, which has no ONNX form here; export --format stablehlo"
        )
    return translator(builder, equation, inputs)


def _translates(*names: str) -> Callable[[Translator], Translator]:
    def register(function: Translator) -> Translator:
        _TRANSLATORS.update(dict.fromkeys(names, function))
        return function

    return register


_TRANSLATORS: dict[str, Translator] = {}


@_translates("square")
def _square(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    return builder.node("Mul", [inputs[0], inputs[0]])


@_translates("rsqrt")
def _rsqrt(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    return builder.node("Reciprocal", [builder.node("Sqrt", inputs)])


@_translates("integer_pow")
def _integer_pow(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    power = equation.params["y"]
    if power < 1:
        raise UserError(f"no ONNX form of the power {power}")
    return functools.reduce(lambda a, _: builder.node("Mul", [a, inputs[0]]), range(power - 1), builder.name(inputs[0]))


@_translates("select_n")
def _select(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    which, if_false, if_true = inputs
    return builder.node("Where", [which, if_true, if_false])


@_translates("convert_element_type")
def _convert(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    dtype = np.dtype(equation.params["new_dtype"])
    return builder.node("Cast", inputs, to=helper.np_dtype_to_tensor_dtype(dtype))


@_translates("reshape", "squeeze", "expand_dims")
def _reshape(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    return builder.reshape(inputs[0], equation.outvars[0].aval.shape)


@_translates("broadcast_in_dim")
def _broadcast(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    shape, places = equation.outvars[0].aval.shape, equation.params["broadcast_dimensions"]
    source = equation.invars[0].aval.shape
    ranked = [1] * len(shape)
    for size, place in zip(source, places, strict=True):
        ranked[place] = size
    x = builder.reshape(inputs[0], ranked) if list(source) != ranked else inputs[0]
    if all(str(a) == str(b) for a, b in zip(ranked, shape, strict=True)):
        return builder.name(x)
    return builder.node("Expand", [x, builder.sizes(shape)])


@_translates("transpose")
def _transpose(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    return builder.node("Transpose", inputs, perm=list(equation.params["permutation"]))


@_translates("slice")
def _slice(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    source, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    strides = equation.params["strides"] or [1] * len(source)
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    axes = [axis for axis in range(len(source)) if str(source[axis]) != str(result[axis])]
    columns = ([_place(values[axis]) for axis in axes] for values in (starts, limits))
    first, last = (np.array(column, np.int64) for column in columns)
    steps = np.array([int(strides[axis]) for axis in axes], np.int64)
    return (
        builder.node("Slice", [inputs[0], first, last, np.array(axes, np.int64), steps])
        if axes
        else builder.name(inputs[0])
    )


def _place(index: Any) -> int:
    """An index of a slice; one that counts from the end of the batch is negative, and the end itself is the largest number."""
    if isinstance(index, int) or not jax_export.is_symbolic_dim(index):
        return int(index)
    match = _FROM_END.fullmatch(str(index))
    if match is None:
        raise UserError(f"no ONNX form of a slice at {index}")
    return -int(match[1]) if match[1] else np.iinfo(np.int64).max


@_translates("gather")
def _window(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    """A window at a constant place: JAX traces x[:, a:b] so, if another dimension is symbolic."""
    numbers, place = equation.params["dimension_numbers"], inputs[1]
    shape = equation.invars[0].aval.shape
    whole = tuple(numbers.offset_dims) == tuple(range(len(shape))) and not numbers.collapsed_slice_dims
    if not whole or not isinstance(place, np.ndarray) or place.ndim != 1:
        raise UserError("no ONNX form of a gather at places that are computed")
    axes = np.array(numbers.start_index_map, np.int64)
    sizes = np.array([int(equation.params["slice_sizes"][axis]) for axis in axes], np.int64)
    start = place.astype(np.int64)
    return builder.node("Slice", [inputs[0], start, start + sizes, axes])


@_translates("concatenate")
def _concatenate(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    parts = [value for value in inputs if isinstance(value, str) or value.size]  # padding by nothing leaves empty parts
    if len(parts) == 1:
        return builder.name(parts[0])
    return builder.node("Concat", parts, axis=int(equation.params["dimension"]))


@_translates("pad")
def _pad(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    widths = equation.params["padding_config"]
    if any(inner or low < 0 or high < 0 for low, high, inner in widths):
        raise UserError("no ONNX form of padding between or before elements")
    amounts = np.array([low for low, _, _ in widths] + [high for _, high, _ in widths], np.int64)
    return builder.node("Pad", [inputs[0], amounts, inputs[1]])


@_translates("tile")
def _tile(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    return builder.node("Tile", [inputs[0], np.array(equation.params["reps"], np.int64)])


@_translates("dot_general")
def _dot(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    """A matrix product with axes in the order that MatMul wants: batch axes, then rows, then columns."""
    (contracted, batched) = equation.params["dimension_numbers"]
    left = _matrix(builder, inputs[0], equation.invars[0].aval.shape, contracted[0], batched[0], contract_last=True)
    right = _matrix(builder, inputs[1], equation.invars[1].aval.shape, contracted[1], batched[1], contract_last=False)
    product = builder.node("MatMul", [left, right])
    return builder.reshape(product, equation.outvars[0].aval.shape)


def _matrix(
    builder: GraphBuilder,
    x: Value,
    shape: Sequence[Any],
    contracted: Sequence[int],
    batched: Sequence[int],
    *,
    contract_last: bool,
) -> str:
    """One side as [batch..., free, contracted] or [batch..., contracted, free]; several free axes of the left side become rows."""
    free = [axis for axis in range(len(shape)) if axis not in (*contracted, *batched)]
    if len(contracted) != 1 or (len(free) != 1 and not (contract_last and free and not batched)):
        raise UserError(f"no ONNX form of a product of axes {tuple(contracted)} of an array of {len(shape)} axes")
    order = [*batched, *free, *contracted] if contract_last else [*batched, *contracted, *free]
    if order == list(range(len(shape))):
        return builder.name(x)
    if isinstance(x, np.ndarray):
        return builder.name(np.ascontiguousarray(x.transpose(order)))
    return builder.node("Transpose", [x], perm=order)


@_translates("conv_general_dilated")
def _convolution(builder: GraphBuilder, equation: Any, inputs: Sequence[Value]) -> str:
    p = equation.params
    numbers, rank = p["dimension_numbers"], len(equation.invars[0].aval.shape)
    if any(size != 1 for size in p["lhs_dilation"]) or p["batch_group_count"] != 1:
        raise UserError("no ONNX form of a transposed or batch-grouped convolution")
    signal = _permuted(builder, inputs[0], numbers.lhs_spec)
    kernel = _permuted(builder, inputs[1], numbers.rhs_spec)
    low, high = zip(*p["padding"], strict=True)
    result = builder.node(
        "Conv",
        [signal, kernel],
        strides=list(p["window_strides"]),
        dilations=list(p["rhs_dilation"]),
        pads=[*map(int, low), *map(int, high)],
        group=p["feature_group_count"],
    )
    inverse = [numbers.out_spec.index(axis) for axis in range(rank)]
    return result if inverse == list(range(rank)) else builder.node("Transpose", [result], perm=inverse)


def _permuted(builder: GraphBuilder, x: Value, order: Sequence[int]) -> Value:
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(x.transpose(order))
    return x if list(order) == list(range(len(order))) else builder.node("Transpose", [x], perm=list(order))
