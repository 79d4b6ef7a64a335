"""Collects the nodes and constants of an ONNX graph whose first dimension, the batch, has any size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from jax import export as jax_export
from onnx import helper

from accdistill_jax.errors import UserError

_BATCH = re.compile(r"(?:(\d+)\*)?b")

Value = np.ndarray | str  # a constant, or the name of a tensor of the graph


class GraphBuilder:
    """Collects nodes and constants of an ONNX graph.

    Args:
        signal: name of the graph's input; its first dimension is the batch.
    """

    def __init__(self, signal: str):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}
        self._constants: dict[tuple, str] = {}
        self._count = 0
        self._batch: str | None = None
        self._signal = signal

    def node(self, operator: str, inputs: Sequence[Value], **attributes: Any) -> str:
        """Adds a node with one output; returns the output's name."""
        self._count += 1
        output = f"{operator.lower()}_{self._count}"
        names = [self.name(value) for value in inputs]
        self.nodes.append(helper.make_node(operator, names, [output], name=output, **attributes))
        return output

    def name(self, value: Value, hint: str = "constant") -> str:
        """Name of a tensor; stores a constant once."""
        if isinstance(value, str):
            return value
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = f"{hint}_{len(self._constants)}"
            self.initializers[self._constants[key]] = value
        return self._constants[key]

    def sizes(self, shape: Sequence[Any]) -> Value:
        """A shape as int64 values; computed from the signal's batch size where a dimension depends on it."""
        factors = [batch_factor(size) for size in shape]
        if not any(factors):
            return np.array([int(size) for size in shape], np.int64)
        if self._batch is None:
            first = self.node("Shape", [self._signal], start=0, end=1)
            self._batch = first
        parts = [
            self.node("Mul", [self._batch, np.array([factor], np.int64)])
            if factor
            else self.name(np.array([int(size)], np.int64))
            for factor, size in zip(factors, shape, strict=True)
        ]
        return self.node("Concat", parts, axis=0)

    def reshape(self, x: Value, shape: Sequence[Any]) -> str:
        """Reshape; -1 stands for the one dimension that depends on the batch size."""
        target = [-1 if batch_factor(size) else int(size) for size in shape]
        if target.count(-1) > 1:
            raise UserError(
                f"no ONNX form of a reshape to {tuple(map(str, shape))}: two dimensions depend on the batch"
            )
        return self.node("Reshape", [x, np.array(target, np.int64)])


def batch_factor(size: Any) -> int:
    """K of a dimension k times the batch size; 0 for a plain number."""
    if isinstance(size, int) or not jax_export.is_symbolic_dim(size):
        return 0
    match = _BATCH.fullmatch(str(size))
    if match is None:
        raise UserError(f"no ONNX form of a dimension of size {size}")
    return int(match[1] or 1)
