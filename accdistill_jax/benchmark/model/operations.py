"""Counts the work of a traced program: its matrix products by shape, their FLOP, and the elements of all other operations."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import jaxprs_in_params

PRODUCTS = ("dot_general", "conv_general_dilated")
KERNEL = "pallas_call"
# Each element takes a function call, not a single instruction.
COSTLY = ("exp", "exp2", "tanh", "log", "log1p", "logistic", "erf", "sin", "cos", "pow", "random_bits", "threefry2x32")
COSTLY_WEIGHT = 8.0
# No arithmetic: views, or copies that the compiler usually fuses with the next operation.
MOVING = (
    "reshape",
    "broadcast_in_dim",
    "squeeze",
    "transpose",
    "convert_element_type",
    "copy",
    "slice",
    "iota",
    "optimization_barrier",
    "stop_gradient",
)


class Product(NamedTuple):
    """A matrix product or convolution.

    Attributes:
        primitive: primitive of the traced program.
        parameters: its parameters.
        shapes: shapes and dtypes of the operands.
    """

    primitive: Any
    parameters: dict[str, Any]
    shapes: tuple[jax.ShapeDtypeStruct, ...]

    def compiled(self) -> tuple[Callable, list[jax.Array]]:
        """The product as a compiled function, and random operands for it."""
        rng = np.random.default_rng(0)
        operands = [jax.numpy.asarray(rng.normal(size=shape.shape), shape.dtype) for shape in self.shapes]
        return jax.jit(lambda *operands: self.primitive.bind(*operands, **self.parameters)), operands


class Operations(NamedTuple):
    """Counted operations.

    Attributes:
        products: distinct matrix products, and the number of times that each is computed.
        elements: elements of all other operations; those of `COSTLY` operations count `COSTLY_WEIGHT` times.
    """

    products: list[tuple[Product, int]]
    elements: float


class Kernel(NamedTuple):
    """A kernel of this project's in a program for TPU.

    Attributes:
        name: name of the kernel.
        equation: its call in the traced program.
    """

    name: str
    equation: Any

    @property
    def shapes(self) -> list[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the operands."""
        return [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in self.equation.invars]

    def alone(self, *operands: jax.Array) -> Any:
        """Calls the kernel under its name, as in the program."""
        with jax.named_scope(self.name):
            (result,) = self.equation.primitive.bind(*operands, **self.equation.params)
        return result


def find_kernels(jaxpr: Any) -> dict[str, Kernel]:
    """The distinct kernels of a traced program, by name and operands.

    Args:
        jaxpr: as for `count_operations`.
    """
    found: dict[str, Kernel] = {}
    for equation in jaxpr.eqns:
        if equation.primitive.name == KERNEL:
            kernel = Kernel(equation.params["name"], equation)
            found[f"{kernel.name} {kernel.shapes}"] = kernel
        else:
            for inner in jaxprs_in_params(equation.params):
                found |= find_kernels(inner)
    return found


def count_operations(jaxpr: Any, *, platform: int = 0) -> Operations:
    """Counts the operations of a traced program; the body of a loop counts once per iteration.

    Args:
        jaxpr: `jax.make_jaxpr(...)(...).jaxpr`; inside a mapped program the shapes are those of a single device.
        platform: branch of `jax.lax.platform_dependent` that runs; 0 is the first, in this package the CPU's.
    """
    products: dict[str, tuple[Product, int]] = {}
    elements = 0.0

    def walk(jaxpr: Any, times: int) -> None:
        nonlocal elements
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            if name in PRODUCTS:
                shapes = tuple(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars)
                product = Product(equation.primitive, equation.params, shapes)
                key = f"{name} {shapes} {equation.params}"
                products[key] = (product, products.get(key, (product, 0))[1] + times)
                continue
            if name == "cond":
                walk(equation.params["branches"][platform].jaxpr, times)
                continue
            inner = list(jaxprs_in_params(equation.params)) if name not in COSTLY else []
            for body in inner:
                walk(body, times * (equation.params["length"] if name == "scan" else 1))
            if not inner and name not in MOVING:
                size = sum(math.prod(getattr(v.aval, "shape", ())) for v in equation.outvars)
                reads = max((math.prod(getattr(v.aval, "shape", ())) for v in equation.invars), default=0)
                size = max(size, reads) if name.startswith(("reduce", "arg", "cum")) else size
                elements += times * size * (COSTLY_WEIGHT if name in COSTLY else 1.0)

    walk(jaxpr, 1)
    return Operations(list(products.values()), elements)


def traced_flops(jaxpr: Any) -> int:
    """FLOP of the matrix products and convolutions of a traced program; the body of a loop counts once per iteration.

    Of a choice by platform the last branch counts, which is not the CPU's. A kernel counts with the FLOP that it states, as its own
    products may be padded with zeros.

    Args:
        jaxpr: as for `count_operations`.
    """
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name in PRODUCTS:
            left, right = (variable.aval.shape for variable in equation.invars)
            if name == "dot_general":
                (contracted, _), _ = parameters["dimension_numbers"]
                terms = math.prod(left[axis] for axis in contracted)
            else:  # the kernel's size without its output channels
                terms = math.prod(right) // right[parameters["dimension_numbers"].rhs_spec[0]]
            total += 2 * equation.outvars[0].aval.size * terms
        elif name == "cond":
            total += traced_flops(parameters["branches"][-1].jaxpr)
        elif name == KERNEL:
            total += parameters["cost_estimate"].flops
        else:
            times = parameters["length"] if name == "scan" else 1
            total += times * sum(traced_flops(inner) for inner in jaxprs_in_params(parameters))
    return total
