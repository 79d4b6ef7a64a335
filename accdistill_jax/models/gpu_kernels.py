"""Kernels for NVIDIA GPUs (Pallas with Triton): single passes over arrays that XLA reads and writes several times.

In the paper's sizes, layer norms and GELU's gradient are bound by memory. Sums over rows, for the gradients of scales and biases,
are added up within a pass; XLA reads the array once more for them.

No kernel is used unless `used` asks for it: `benchmark gpu` compares steps with and without them. JAX has announced that it
will drop Triton from Pallas.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

NORM, GELU = "layer norms", "GELU's gradient"
EPSILON = 1e-6  # of a layer norm, as in flax
SMALLEST, LARGEST = 16, 2048  # widths of rows; Triton needs powers of two
ROWS_TOGETHER = 16  # the number of rows must be a multiple
LARGEST_BLOCK = 256  # rows of a program


def _pallas() -> tuple[Any, Any]:
    """The modules of Pallas and of its Triton part, imported only where a kernel is used: later releases may lack them."""
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    return pallas, triton


_USED: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("kernels", default=())


@contextlib.contextmanager
def used(*kernels: str) -> Iterator[None]:
    """Uses kernels in everything that is traced for a GPU inside.

    Args:
        *kernels: `NORM` or `GELU`.

    Raises:
        ValueError: no such kernel.
    """
    if unknown := set(kernels) - {NORM, GELU}:
        raise ValueError(f"no kernel {sorted(unknown)[0]!r}: {NORM!r} or {GELU!r}")
    token = _USED.set(kernels)
    try:
        yield
    finally:
        _USED.reset(token)


def chosen(kernel: str, rows: int, *widths: int) -> bool:
    """True if a kernel is used for arrays of so many rows and columns."""
    fits = all(SMALLEST <= width <= LARGEST and not width & (width - 1) for width in widths)
    return kernel in _USED.get() and fits and rows % ROWS_TOGETHER == 0


class Tiling(NamedTuple):
    """Sizes by which a kernel divides its work.

    Attributes:
        rows: rows that a program holds at once, a power of two.
        columns: columns that it holds at once, a power of two; a layer norm holds all.
        warps: warps of a program.
    """

    rows: int
    columns: int
    warps: int


NORM_TILING, GELU_TILING = Tiling(16, LARGEST, 8), Tiling(4, 256, 8)  # the fastest of those tried on an H200


def _call(kernel: Callable[..., None], tiling: Tiling, **options: Any) -> Callable[..., Any]:
    """`pl.pallas_call` by Triton; interpreted where there is no GPU."""
    pl, triton = _pallas()
    parameters = triton.CompilerParams(num_warps=tiling.warps, num_stages=2)
    return pl.pallas_call(kernel, compiler_params=parameters, interpret=jax.default_backend() != "gpu", **options)


def _largest_divisor(rows: int, *, step: int, most: int) -> int:
    return max(count for count in range(step, most + 1, step) if rows % count == 0)


def _standardised(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows with mean 0 and variance 1, and the factor [rows, 1] to it; float32."""
    x = x.astype(jnp.float32)
    centred = x - jnp.sum(x, axis=1, keepdims=True) / x.shape[1]
    factor = jax.lax.rsqrt(jnp.sum(centred * centred, axis=1, keepdims=True) / x.shape[1] + EPSILON)
    return centred * factor, factor


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def norm_beside_residual(
    x: jax.Array, scale: jax.Array, offset: jax.Array, dtype: jnp.dtype, tiling: Tiling = NORM_TILING
) -> tuple[jax.Array, jax.Array]:
    """A layer norm beside a residual connection: returns `x` and `x` normalised; statistics are float32.

    The backward pass adds the gradients of both in one pass.

    Args:
        x: [rows, width].
        scale: [width].
        offset: [width].
        dtype: of the normalised rows.
        tiling: of both passes.

    Returns:
        `x`, and [rows, width] of `dtype`.
    """
    return _normalised_forward(x, scale, offset, dtype, tiling)[0]


def _normalised_forward(x, scale, offset, dtype, tiling):
    (rows, width), (pl, _) = x.shape, _pallas()

    def kernel(x_ref, scale_ref, offset_ref, out_ref):
        standard, _ = _standardised(x_ref[...])
        out = standard * scale_ref[...].astype(jnp.float32)[None] + offset_ref[...].astype(jnp.float32)[None]
        out_ref[...] = out.astype(out_ref.dtype)

    of_rows, whole = pl.BlockSpec((tiling.rows, width), lambda i: (i, 0)), pl.BlockSpec((width,), lambda i: (0,))
    normalise = _call(
        kernel,
        tiling,
        out_shape=jax.ShapeDtypeStruct((rows, width), dtype),
        grid=(rows // tiling.rows,),
        in_specs=[of_rows, whole, whole],
        out_specs=of_rows,
    )
    return (x, normalise(x, scale, offset)), (x, scale)


def _normalised_backward(dtype, tiling, saved, gradients):
    (x, scale), (d_kept, d_out) = saved, gradients
    (rows, width), (pl, _) = x.shape, _pallas()
    block = _largest_divisor(rows, step=tiling.rows, most=LARGEST_BLOCK)

    def kernel(*refs):
        x_ref, scale_ref, d_kept_ref, d_out_ref, d_x_ref, d_scale_ref, d_offset_ref = refs
        weights = scale_ref[...].astype(jnp.float32)[None]

        def some(i, sums):
            at = pl.ds(i * tiling.rows, tiling.rows)
            standard, factor = _standardised(x_ref[at, :])
            d_out = d_out_ref[at, :].astype(jnp.float32)
            g = d_out * weights
            mean = jnp.sum(g, axis=1, keepdims=True) / width
            along = jnp.sum(g * standard, axis=1, keepdims=True) / width
            d_x = d_kept_ref[at, :].astype(jnp.float32) + factor * (g - mean - standard * along)
            d_x_ref[at, :] = d_x.astype(d_x_ref.dtype)
            return sums[0] + d_out * standard, sums[1] + d_out

        zeros = jnp.zeros((tiling.rows, width), jnp.float32)
        d_scale, d_offset = jax.lax.fori_loop(0, block // tiling.rows, some, (zeros, zeros))
        d_scale_ref[...] = jnp.sum(d_scale, axis=0)[None]
        d_offset_ref[...] = jnp.sum(d_offset, axis=0)[None]

    of_rows, whole = pl.BlockSpec((block, width), lambda i: (i, 0)), pl.BlockSpec((width,), lambda i: (0,))
    of_block, sums = (
        pl.BlockSpec((1, width), lambda i: (i, 0)),
        jax.ShapeDtypeStruct((rows // block, width), jnp.float32),
    )
    differentiate = _call(
        kernel,
        tiling,
        out_shape=(jax.ShapeDtypeStruct(x.shape, x.dtype), sums, sums),
        grid=(rows // block,),
        in_specs=[of_rows, whole, of_rows, of_rows],
        out_specs=(of_rows, of_block, of_block),
    )
    d_x, d_scale, d_offset = differentiate(x, scale, d_kept, d_out)
    return d_x, jnp.sum(d_scale, axis=0).astype(scale.dtype), jnp.sum(d_offset, axis=0).astype(scale.dtype)


norm_beside_residual.defvjp(_normalised_forward, _normalised_backward)


def gelu_backward(
    d_active: jax.Array,
    hidden: jax.Array,
    slope: Callable[[jax.Array], jax.Array],
    tiling: Tiling = GELU_TILING,
) -> tuple[jax.Array, jax.Array]:
    """The gradient before a GELU, and its sum over rows, in one pass.

    Args:
        d_active: [rows, width], the gradient after the GELU.
        hidden: [rows, width], the GELU's input.
        slope: derivative of the GELU.
        tiling: of the pass.

    Returns:
        [rows, width] of the dtype of `hidden`, and [width] float32.
    """
    (rows, width), (pl, _) = hidden.shape, _pallas()
    block, columns = _largest_divisor(rows, step=tiling.rows, most=LARGEST_BLOCK), min(tiling.columns, width)

    def kernel(d_active_ref, hidden_ref, d_hidden_ref, sums_ref):
        def some(i, total):
            at = pl.ds(i * tiling.rows, tiling.rows)
            d_hidden = d_active_ref[at, :].astype(jnp.float32) * slope(hidden_ref[at, :].astype(jnp.float32))
            d_hidden_ref[at, :] = d_hidden.astype(d_hidden_ref.dtype)
            return total + d_hidden

        total = jax.lax.fori_loop(0, block // tiling.rows, some, jnp.zeros((tiling.rows, columns), jnp.float32))
        sums_ref[...] = jnp.sum(total, axis=0)[None]

    of_rows = pl.BlockSpec((block, columns), lambda i, j: (i, j))
    multiply = _call(
        kernel,
        tiling,
        out_shape=(
            jax.ShapeDtypeStruct(hidden.shape, hidden.dtype),
            jax.ShapeDtypeStruct((rows // block, width), jnp.float32),
        ),
        grid=(rows // block, width // columns),
        in_specs=[of_rows, of_rows],
        out_specs=(of_rows, pl.BlockSpec((1, columns), lambda i, j: (i, j))),
    )
    d_hidden, sums = multiply(d_active, hidden)
    return d_hidden, jnp.sum(sums, axis=0)
