"""Self-attention on TPU as one kernel forward and one backward (Pallas), without position codes.

Both kernels read queries, keys and values as their layer's product leaves them, and keep every [tokens, tokens] array in fast memory.
Nothing is saved but the input: the backward kernel computes the softmax again.

A TPU's registers and matrix units are 128 lanes wide and a head is narrower, so all heads of the same 128 lanes are worked on at
once: one side of a product is a stack of copies, each with the lanes of one head and zeros elsewhere. Logits of several heads
then lie side by side, and sums over heads are part of the products.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128
HEAD_WIDTHS = (32, 64, 128)
SEGMENTS = 4  # segments of a grid step at most; with more, or fewer, the scheduled code takes more cycles
BLOCK_BYTES = 6 << 20  # of a grid step's inputs and results, each held twice; a core has 16 MiB for them and the logits
LOGITS_BYTES = 1 << 20  # of the heads of 128 lanes, float32; several such arrays live at the same time
ROWS_BY_COLUMNS = (((1,), (0,)), ((), ()))
ROWS_BY_ROWS = (((1,), (1,)), ((), ()))
COLUMNS_BY_COLUMNS = (((0,), (0,)), ((), ()))


def refused_size(tokens: int, dim: int, heads: int, dtype: jnp.dtype) -> str:
    """Reason why the kernels do not take a size, "" if they do.

    Args:
        tokens: tokens of a segment.
        dim: width of a head.
        heads: number of heads.
        dtype: compute dtype.
    """
    if dtype not in (jnp.bfloat16, jnp.float32):
        return f"the fused kernel takes bfloat16 and float32, not {dtype.name}"
    if dim not in HEAD_WIDTHS or heads * dim % LANES:
        return f"the fused kernel takes heads of 32, 64 or 128 that fill 128 lanes, not {heads} of {dim}"
    rows = _padded(tokens, dtype)
    if _block_bytes(1, rows, heads * dim, dtype) > BLOCK_BYTES or 4 * rows**2 * (LANES // dim) > LOGITS_BYTES:
        return f"{tokens} tokens of {heads} heads of {dim} do not fit the fused kernel's memory"
    return ""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def fused(heads: int, interpret: bool, qkv: jax.Array) -> jax.Array:
    """Softmax self-attention; logits and softmax in float32.

    Args:
        heads: number of heads, each a multiple of whose width fills 128 lanes; see `refused_size`.
        interpret: True for any platform, False to compile for TPU.
        qkv: [batch, tokens, 3 * width]: queries, keys and values, each with all heads in a row.

    Returns:
        [batch, tokens, width], dtype of `qkv`.
    """
    return _forward(heads, interpret, qkv)[0]


def _forward(heads: int, interpret: bool, qkv: jax.Array) -> tuple[jax.Array, jax.Array]:
    batch, tokens, columns = qkv.shape
    result = jax.ShapeDtypeStruct((batch, tokens, columns // 3), qkv.dtype)
    return _call(_forward_kernel, heads, interpret, (qkv,), result, products=2), qkv


def _backward(heads: int, interpret: bool, qkv: jax.Array, d_out: jax.Array) -> tuple[jax.Array]:
    result = jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)
    return (_call(_backward_kernel, heads, interpret, (qkv, d_out), result, products=5),)


fused.defvjp(_forward, _backward)


def _call(kernel, heads: int, interpret: bool, arrays, result: jax.ShapeDtypeStruct, *, products: int) -> jax.Array:
    """Runs a kernel on a few segments at a time.

    Args:
        kernel: `_forward_kernel` or `_backward_kernel`.
        heads: number of heads.
        interpret: as in `fused`.
        arrays: [batch, tokens, columns] each; the first is `qkv`.
        result: shape of the result, [batch, tokens, columns].
        products: matrix products of each head.
    """
    batch, tokens, columns = arrays[0].shape
    width, rows = columns // 3, _padded(tokens, result.dtype)
    fits = BLOCK_BYTES // _block_bytes(1, rows, width, result.dtype)
    segments = max(count for count in range(1, max(min(SEGMENTS, fits, batch), 1) + 1) if batch % count == 0)

    def block(shape: tuple[int, ...]) -> pl.BlockSpec:
        return pl.BlockSpec((segments, rows, shape[-1]), lambda step: (step, 0, 0))

    elements = batch * heads * tokens**2
    moved = sum(math.prod(each.shape) * each.dtype.itemsize for each in (*arrays, result))
    run = pl.pallas_call(
        functools.partial(kernel, tokens=tokens, dim=width // heads),
        grid=(batch // segments,),
        in_specs=[block(each.shape) for each in arrays],
        out_specs=block(result.shape),
        out_shape=result,
        interpret=interpret,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        cost_estimate=pl.CostEstimate(
            flops=2 * products * elements * (width // heads), transcendentals=elements, bytes_accessed=moved
        ),
        name=kernel.__name__.strip("_").replace("kernel", "attention"),
    )
    return run(*arrays)


def _forward_kernel(qkv_ref, out_ref, *, tokens: int, dim: int) -> None:
    """Logits are queries by keys. The keys of all heads lie side by side, so that the product with the stacked values joins the heads."""
    rows, width = out_ref.shape[1:]
    for segment in range(out_ref.shape[0]):
        for lanes in range(0, width, LANES):
            q, k, v = (_read(qkv_ref, segment, part * width + lanes, tokens) for part in range(3))
            logits = _product(_scaled(q, dim), _stacked(k, dim), ROWS_BY_ROWS)
            largest = _each_head(jnp.max, -jnp.inf, logits, tokens, dim)
            weights = jnp.exp(logits - _spread(largest, logits.shape, rows))
            totals = _each_head(jnp.sum, 0.0, weights, tokens, dim)
            if rows != tokens:
                weights = jnp.where(_in_tokens(weights.shape, rows, tokens), weights, 0.0)
            out = _product(weights.astype(v.dtype), _stacked(v, dim), ROWS_BY_COLUMNS)
            out = out / _spread(totals, out.shape, dim)
            out_ref[segment, :, lanes : lanes + LANES] = out.astype(out_ref.dtype)


def _backward_kernel(qkv_ref, d_out_ref, d_qkv_ref, *, tokens: int, dim: int) -> None:
    """Logits are keys by queries: sums over keys are sums of rows, and only the gradient of the queries needs a transposed product."""
    rows, width = d_out_ref.shape[1:]
    for segment in range(d_out_ref.shape[0]):
        for lanes in range(0, width, LANES):
            q, k, v = (_read(qkv_ref, segment, part * width + lanes, tokens) for part in range(3))
            q = _stacked(_scaled(q, dim), dim)
            d_out = _stacked(_read(d_out_ref, segment, lanes, tokens), dim)
            logits = _product(k, q, ROWS_BY_ROWS)
            if rows != tokens:
                logits = jnp.where(jax.lax.broadcasted_iota(jnp.int32, logits.shape, 0) < tokens, logits, -jnp.inf)
            weights = jnp.exp(logits - jnp.max(logits, axis=0, keepdims=True))
            weights = weights * (1.0 / jnp.sum(weights, axis=0, keepdims=True))
            d_logits = weights * _product(v, d_out, ROWS_BY_ROWS)
            d_logits = (d_logits - weights * jnp.sum(d_logits, axis=0, keepdims=True)).astype(q.dtype)
            # in another order of these three the scheduled code takes up to a sixth more cycles
            d_v = _product(weights.astype(q.dtype), d_out, ROWS_BY_COLUMNS)
            d_k = _product(d_logits, q, ROWS_BY_COLUMNS)
            d_q = _unstacked(_product(d_logits, k, COLUMNS_BY_COLUMNS), dim) * dim**-0.5
            for part, gradient in enumerate((d_q, d_k, d_v)):
                start = part * width + lanes
                d_qkv_ref[segment, :, start : start + LANES] = gradient.astype(d_qkv_ref.dtype)


def _read(ref, segment: int, start: int, tokens: int) -> jax.Array:
    """128 columns of a segment, [rows, 128]; rows beyond the tokens are not defined in memory and read as zeros."""
    x = ref[segment, :, start : start + LANES]
    if len(x) == tokens:
        return x
    return jnp.where(jax.lax.broadcasted_iota(jnp.int32, x.shape, 0) < tokens, x, jnp.zeros_like(x))


def _scaled(q: jax.Array, dim: int) -> jax.Array:
    """Queries times 1 / sqrt(dim); by way of float32, as libtpu 0.0.42 cannot count the code of a bfloat16 product on v6e."""
    return (q.astype(jnp.float32) * dim**-0.5).astype(q.dtype)


def _product(a: jax.Array, b: jax.Array, dimensions: jax.lax.DotDimensionNumbers) -> jax.Array:
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _stacked(x: jax.Array, dim: int) -> jax.Array:
    """[rows, 128] -> [heads * rows, 128]: a copy for each head, with zeros in the lanes of other heads."""
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    heads = range(0, LANES, dim)
    return jnp.concatenate([jnp.where((lane >= first) & (lane < first + dim), x, jnp.zeros_like(x)) for first in heads])


def _unstacked(x: jax.Array, dim: int) -> jax.Array:
    """[heads * rows, 128] -> [rows, 128]: the lanes of each head from its copy."""
    copies = jnp.split(x, LANES // dim)
    return _spread(copies, copies[0].shape, dim)


def _each_head(reduce, fill: float, x: jax.Array, tokens: int, dim: int) -> list[jax.Array]:
    """Reduces the columns of each head: [rows, heads * rows] -> [rows, 1] each.

    Args:
        reduce: `jnp.max` or `jnp.sum`.
        fill: value that changes no result.
        x: float32.
        tokens: columns of each head that count.
        dim: width of a head.
    """
    rows, columns = x.shape
    results = []
    for first in range(0, columns, rows):
        # whole registers; the columns of other heads in the first and the last of them are masked
        start, stop = first // LANES * LANES, min(-(-(first + tokens) // LANES) * LANES, columns)
        part = x[:, start:stop]
        if (start, stop) != (first, first + tokens):
            column = jax.lax.broadcasted_iota(jnp.int32, part.shape, 1) + start
            part = jnp.where((column >= first) & (column < first + tokens), part, fill)
        results.append(reduce(part, axis=1, keepdims=True))
    return results


def _spread(of_heads: list[jax.Array], shape: tuple[int, ...], size: int) -> jax.Array:
    """Chooses among arrays of the heads by column, `size` columns each; `shape` is that of the result."""
    column = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    chosen = of_heads[0]
    for head, own in enumerate(of_heads[1:], start=1):
        chosen = jnp.where(column >= head * size, own, chosen)
    return chosen


def _in_tokens(shape: tuple[int, ...], rows: int, tokens: int) -> jax.Array:
    """True in the first `tokens` of every `rows` columns."""
    column = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    inside = column < tokens
    for first in range(rows, shape[1], rows):
        inside = inside | ((column >= first) & (column < first + tokens))
    return inside


def _padded(tokens: int, dtype: jnp.dtype) -> int:
    """Tokens with those that fill the last register: 8 float32, 16 bfloat16."""
    packed = 8 * 4 // jnp.dtype(dtype).itemsize
    return -(-tokens // packed) * packed


def _block_bytes(segments: int, rows: int, width: int, dtype: jnp.dtype) -> int:
    """Bytes of the backward kernel's inputs and results of a grid step, each twice."""
    return 2 * segments * rows * 7 * width * jnp.dtype(dtype).itemsize
