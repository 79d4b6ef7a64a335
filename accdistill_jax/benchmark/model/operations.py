"""Counts the work of a traced program: its matrix products by shape, and the elements of everything else."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import jaxprs_in_params

PRODUCTS = ("dot_general", "conv_general_dilated")
# a function of its own per element, not one instruction
COSTLY = ("exp", "exp2", "tanh", "log", "log1p", "logistic", "erf", "sin", "cos", "pow", "random_bits", "threefry2x32")
COSTLY_WEIGHT = 8.0
# no arithmetic: views, or copies that the compiler mostly joins with what follows
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
        primitive, parameters: as traced.
        shapes: of the operands, with dtypes.
    """

    primitive: Any
    parameters: dict[str, Any]
    shapes: tuple[jax.ShapeDtypeStruct, ...]

    def compiled(self) -> tuple[Callable, list[jax.Array]]:
        """The product as a program of its own, and operands for it."""
        rng = np.random.default_rng(0)
        operands = [jax.numpy.asarray(rng.normal(size=shape.shape), shape.dtype) for shape in self.shapes]
        return jax.jit(lambda *operands: self.primitive.bind(*operands, **self.parameters)), operands


class Operations(NamedTuple):
    """Counted operations.

    Attributes:
        products: of distinct shapes, and how often each is computed.
        elements: results of all other operations, those of `COSTLY` ones counted `COSTLY_WEIGHT` times.
    """

    products: list[tuple[Product, int]]
    elements: float


def count(jaxpr: Any, *, platform: int = 0) -> Operations:
    """Counts the operations of a traced program, loops by their length.

    Args:
        jaxpr: `jax.make_jaxpr(...)(...).jaxpr`; inside a mapped program the shapes are those of one device.
        platform: which branch of `jax.lax.platform_dependent` runs; 0 is the first, the CPU's here.
    """
    products: dict[str, tuple[Product, int]] = {}
    elements = 0.0

    def walk(jaxpr: Any, times: int) -> None:
        nonlocal elements
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            if name in PRODUCTS:
                shapes = tuple(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars)
                one = Product(equation.primitive, equation.params, shapes)
                key = f"{name} {shapes} {equation.params}"
                products[key] = (one, products.get(key, (one, 0))[1] + times)
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
