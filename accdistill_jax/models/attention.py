"""Self-attention over a segment's tokens: the fastest form for each backend, and position codes."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.models.ops import block_size, in_blocks, looked_up, product, product_float32, transposed
from accdistill_jax.runtime.platform import on_cpu, platform

# Bytes of logits in a block: at least partly in a cache, and large enough that threads seldom wait for each other.
LOGITS_BYTES = 8 << 20
FEW_TOKENS = 96  # up to this many tokens, copying a transposed left side of a head's product is faster
ROTARY_LONGEST = 50.0  # longest wavelength of the rotary code over 2 pi, in tokens; the shortest is 1
BLOCKS, CUDNN, TEXTBOOK = "a few segments at a time", "cuDNN, fused", "as in textbooks"
PALLAS = "Pallas, fused"


class Places(NamedTuple):
    """Positions of tokens in their segment, for relative attention.

    Attributes:
        positions: [batch or 1, tokens] int32.
        cos, sin: [batch or 1, 1, tokens, dim / 2] float32, cosine and sine of the angles of `rotate`.
    """

    positions: jax.Array | np.ndarray
    cos: jax.Array | np.ndarray
    sin: jax.Array | np.ndarray


def places(positions: jax.Array | np.ndarray, *, count: int, dim: int) -> Places:
    """Positions with their rotary codes; constants if the positions are a numpy array.

    Call it once for all blocks of an encoder. Codes are looked up, as the compiler would compute sines again at each use.

    Args:
        positions: [batch or 1, tokens] int32, below `count`.
        count: tokens of a whole segment.
        dim: width of a head, even.
    """
    rate = np.exp(-np.log(ROTARY_LONGEST) * np.arange(dim // 2) / max(dim // 2 - 1, 1))
    angle = np.arange(count)[:, None] * rate[None]
    tables = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    if isinstance(positions, np.ndarray):
        return Places(positions, *(table[positions][:, None] for table in tables))
    return Places(positions, *(looked_up(jnp.asarray(table), positions)[:, None] for table in tables))


def three_products(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values as three products, for GPUs.

    cuDNN needs each of them contiguous; slices of a single product's result would be copied.

    Args:
        x: [batch, tokens, width].
        kernel: [width, 3 * width], of the dtype of `x`.
        bias: [3 * width], of the dtype of `x`.

    Returns:
        [batch, tokens, width] each.
    """
    width, rows = x.shape[-1], x.reshape(-1, x.shape[-1])

    def columns(part: int) -> jax.Array:
        chosen_columns = slice(part * width, (part + 1) * width)
        return (jnp.matmul(rows, kernel[:, chosen_columns]) + bias[None, chosen_columns]).reshape(x.shape)

    return columns(0), columns(1), columns(2)


def attention(
    qkv: jax.Array | tuple[jax.Array, jax.Array, jax.Array],
    *,
    heads: int,
    relative: bool = False,
    where: Places | None = None,
) -> jax.Array:
    """Softmax self-attention; logits and softmax in float32.

    On CPU, memory bandwidth is the limit: the backward pass works through a few segments at a time and recomputes their
    softmax, so that no [tokens, tokens] array leaves the cache; the sum of exponentials divides the output product, which is
    smaller than the weights. On NVIDIA GPUs in bfloat16 it is cuDNN's fused attention, if cuDNN supports the size. On TPU it is
    a kernel of this project's (`fused_attention`), if that takes the size. Elsewhere, and with position codes on accelerators,
    the compiler gets the textbook form.

    Args:
        qkv: [batch, tokens, 3 * width]: queries, keys and values, each with all heads in a row; on accelerators also three
            arrays [batch, tokens, width].
        heads: number of heads.
        relative: True for position codes: a rotary code of queries and keys, and a penalty on distance.
        where: positions of the tokens, [batch, ...]; None: all tokens in order, whose codes are then constants.

    Returns:
        [batch, tokens, width], dtype of `qkv`.
    """
    first = qkv[0] if isinstance(qkv, tuple) else qkv
    dim = first.shape[-1] // heads if isinstance(qkv, tuple) else first.shape[-1] // (3 * heads)
    form, _ = chosen_form(first.shape[1], dim, first.dtype, heads=heads, relative=relative)
    if form == BLOCKS:
        return _blocked(heads, relative, qkv, where)
    if form == CUDNN:
        return _cudnn(qkv, heads)
    if form == PALLAS and not isinstance(qkv, tuple):
        return _pallas(qkv, heads)
    q, k, v, bias = queries_keys_values(qkv, token_places(first.shape[1], dim, relative, where), heads)
    return _joined(jnp.matmul(jax.nn.softmax(_logits(q, k, bias), axis=-1).astype(v.dtype), v))


def chosen_form(tokens: int, dim: int, dtype: jnp.dtype, *, heads: int, relative: bool) -> tuple[str, str]:
    """The form of attention for the platform that is traced for, and the reason why it is not a faster one.

    Args:
        tokens: tokens of a segment.
        dim: width of a head.
        dtype: compute dtype.
        heads: number of heads.
        relative: True for position codes.

    Returns:
        `BLOCKS`, `CUDNN`, `PALLAS` or `TEXTBOOK`, and a reason, "" if there is nothing to explain.
    """
    form = _FORCED.get()
    if form is not None:
        return form, "as asked for"
    if on_cpu():
        return BLOCKS, ""
    if platform() not in ("gpu", "tpu"):
        return TEXTBOOK, ""
    fused = CUDNN if platform() == "gpu" else PALLAS
    if relative:
        return TEXTBOOK, f"no position codes in the form {fused!r}"
    if fused == CUDNN:
        reason = _cudnn_refusal(tokens, dim, jnp.dtype(dtype))
    else:
        reason = _pallas_refusal(tokens, dim, heads, jnp.dtype(dtype))
    return (TEXTBOOK, reason) if reason else (fused, "")


_FORCED: contextvars.ContextVar[str | None] = contextvars.ContextVar("form", default=None)


@contextlib.contextmanager
def forced(form: str) -> Iterator[None]:
    """Forces a form of attention for everything that is traced inside, to compare forms on one device.

    Args:
        form: `BLOCKS`, `CUDNN`, `PALLAS` (interpreted unless traced for TPU) or `TEXTBOOK`.

    Raises:
        ValueError: no such form.
    """
    if form not in (BLOCKS, CUDNN, PALLAS, TEXTBOOK):
        raise ValueError(f"no form of attention {form!r}: {BLOCKS!r}, {CUDNN!r}, {PALLAS!r} or {TEXTBOOK!r}")
    token = _FORCED.set(form)
    try:
        yield
    finally:
        _FORCED.reset(token)


def token_places(count: int, dim: int, relative: bool, where: Places | None) -> Places | None:
    """Positions of the tokens, constants for tokens in order; None for attention without position codes."""
    if not relative:
        return None
    return places(np.arange(count, dtype=np.int32)[None], count=count, dim=dim) if where is None else where


def _count_and_dim(qkv: jax.Array, heads: int) -> tuple[int, int]:
    return qkv.shape[1], qkv.shape[2] // (3 * heads)


def queries_keys_values(
    qkv: jax.Array | tuple[jax.Array, ...], where: Places | None, heads: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | np.ndarray | None]:
    """Queries (scaled), keys and values, [batch, heads, tokens, dim], and the bias of the logits, or None."""
    if on_cpu() and not isinstance(qkv, tuple):
        B, P, _ = qkv.shape
        q, k, v = qkv.reshape(B, P, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    else:
        q, k, v = (_split(a, heads) for a in _thirds(qkv))
    bias = None
    if where is not None:
        q, k = (rotate(a, where.cos, where.sin) for a in (q, k))
        bias = distance_bias(where.positions, heads)
    return q * q.shape[-1] ** -0.5, k, v, bias


def _thirds(qkv: jax.Array | tuple[jax.Array, ...]) -> Sequence[jax.Array]:
    """Queries, keys and values, [batch, tokens, width] each; slices of the last axis unless they are three arrays already.

    An accelerator's compiler reads slices in place. It would copy an array of five axes into another layout and back: on TPU, by
    the compiler's estimate, a sixth of the paper-sized step.
    """
    if isinstance(qkv, tuple):
        return qkv
    width = qkv.shape[-1] // 3
    return [qkv[..., i * width : (i + 1) * width] for i in range(3)]


def _logits(q: jax.Array, k: jax.Array, bias: jax.Array | np.ndarray | None) -> jax.Array:
    logits = product_float32(q, transposed(k))
    return logits if bias is None else logits + bias


def _joined(out: jax.Array) -> jax.Array:
    """[batch, heads, tokens, dim] -> [batch, tokens, heads * dim]."""
    B, H, P, D = out.shape
    return out.transpose(0, 2, 1, 3).reshape(B, P, H * D)


def _split(out: jax.Array, heads: int) -> jax.Array:
    """[batch, tokens, heads * dim] -> [batch, heads, tokens, dim]."""
    return out.reshape(*out.shape[:2], heads, -1).transpose(0, 2, 1, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _blocked(heads: int, relative: bool, qkv: jax.Array, where: Places | None) -> jax.Array:
    return _blocked_forward(heads, relative, qkv, where)[0]


def _blocked_forward(heads, relative, qkv, where):
    q, k, v, bias = queries_keys_values(qkv, token_places(*_count_and_dim(qkv, heads), relative, where), heads)
    logits = _logits(q, k, bias)
    largest = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = product_float32(weights.astype(v.dtype), v) / total
    out = _joined(out.astype(qkv.dtype))
    return out, (qkv, where, out, largest + jnp.log(total))


def _blocked_backward(heads, relative, saved, d_out):
    qkv, places_of_each, out, normaliser = saved

    def block(some):
        qkv, out, normaliser, d_out, where = some
        where = token_places(*_count_and_dim(qkv, heads), relative, where)
        q, k, v, bias = queries_keys_values(qkv, where, heads)
        g = _split(d_out, heads)
        # the derivative of a softmax subtracts the part that all of its weights share
        shared = jnp.sum(_split(d_out * out, heads).astype(jnp.float32), axis=-1, keepdims=True)
        # keys by queries: a product with a transposed left side is slow, and this way there is one of them instead of two
        logits = _logits(k, q, None if bias is None else bias.swapaxes(-1, -2))
        weights = jnp.exp(logits - normaliser.swapaxes(-1, -2))
        d_weights = product_float32(v, transposed(g))
        d_logits = (weights * (d_weights - shared.swapaxes(-1, -2))).astype(q.dtype)
        weights, d_logits = jax.lax.optimization_barrier((weights.astype(v.dtype), d_logits))
        d_k, d_v = product(d_logits, q), product(weights, g)
        d_q = product(transposed(k, copied=qkv.shape[1] <= FEW_TOKENS), d_logits).swapaxes(-1, -2) * q.shape[-1] ** -0.5
        if where is not None:
            d_q, d_k = (rotate(a, where.cos, -where.sin) for a in (d_q, d_k))  # the same angles, backwards
        return jnp.concatenate([_joined(a) for a in (d_q, d_k, d_v)], axis=-1)

    B, P, _ = qkv.shape
    size = block_size(B, bytes_each=4 * heads * P * P, bytes_at_once=LOGITS_BYTES)
    rows = (qkv, out, normaliser, d_out, places_of_each if relative else None)
    return in_blocks(block, rows, size=size), None


_blocked.defvjp(_blocked_forward, _blocked_backward)


def _cudnn(qkv: jax.Array | tuple[jax.Array, ...], heads: int) -> jax.Array:
    q, k, v = (a.reshape(*a.shape[:2], heads, -1) for a in _thirds(qkv))
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn").reshape(*q.shape[:2], -1)


@functools.cache
def _cudnn_refusal(tokens: int, dim: int, dtype: jnp.dtype) -> str:
    """Reason why this GPU's cuDNN has no fused attention of this size, forward and backward; "" if it has. Compiles it once."""
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN's takes no {dtype.name}"
    if tokens % 2 or dim % 8:
        return f"cuDNN's takes an even number of tokens and heads of a multiple of 8, not {tokens} and {dim}"
    if jax.default_backend() != "gpu":
        return "there is no GPU for cuDNN's"
    shape = jax.ShapeDtypeStruct((1, tokens, 3 * dim), dtype)
    return refusal(jax.grad(lambda a: jnp.sum(_cudnn(a, 1).astype(jnp.float32))), shape)


def _pallas(qkv: jax.Array, heads: int) -> jax.Array:
    from accdistill_jax.models import fused_attention  # only TPUs need Pallas, which takes 0.2 s to import

    return fused_attention.fused(heads, platform() != "tpu", qkv)


@functools.cache
def _pallas_refusal(tokens: int, dim: int, heads: int, dtype: jnp.dtype) -> str:
    """Reason why there is no fused kernel of this size for TPU, "" if there is one. Compiles it once if there is a TPU."""
    from accdistill_jax.models import fused_attention

    reason = fused_attention.refused_size(tokens, dim, heads, dtype)
    if reason or jax.default_backend() != "tpu":
        return reason
    # as many segments as any batch has in a grid step
    shape = jax.ShapeDtypeStruct((fused_attention.SEGMENTS, tokens, 3 * heads * dim), dtype)
    return refusal(jax.grad(lambda a: jnp.sum(_pallas(a, heads).astype(jnp.float32))), shape)


def refusal(fn: Callable[..., Any], *shapes: jax.ShapeDtypeStruct) -> str:
    """Reason why this backend does not compile a function, "" if it does; works while another function is traced."""

    def attempt() -> str:
        try:
            jax.jit(fn).lower(*shapes).compile()
        except Exception as error:  # any kind: no library, an old library, an unsupported device
            return f"{type(error).__name__}: {(str(error).strip() or 'no reason').splitlines()[0]}"
        return ""

    with ThreadPoolExecutor(1) as outside:  # another thread is outside the current trace, its mesh and its axes
        return outside.submit(attempt).result()


def rotate(x: jax.Array, cos: jax.Array | np.ndarray, sin: jax.Array | np.ndarray) -> jax.Array:
    """Rotary position code: turns pairs of features by angles proportional to the token's position.

    Args:
        x: [batch, heads, tokens, dim], queries or keys; dim even.
        cos: [batch or 1, 1, tokens, dim / 2] float32, cosines of the angles; see `places`.
        sin: their sines.

    Returns:
        [batch, heads, tokens, dim], dtype of `x`.

    Source: Su et al. 2021 (RoFormer), with wavelengths up to about the segment's length.
    """
    half = x.shape[-1] // 2
    cos, sin = (jnp.asarray(code, x.dtype) for code in (cos, sin))
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def distance_bias(positions: jax.Array | np.ndarray, heads: int) -> jax.Array | np.ndarray:
    """Penalty on attention to far tokens, -slope * |i - j|, with slopes from 1/2 to nearly none over the heads.

    Args:
        positions: [batch or 1, tokens] int32.
        heads: number of heads; slope of head h is 2^-(1 + 8 h / heads).

    Returns:
        [batch or 1, heads, tokens, tokens] float32.

    Source: Press et al. 2022 (ALiBi), symmetric.
    """
    slopes = (2.0 ** -(1.0 + 8.0 * np.arange(heads) / heads)).astype(np.float32)
    distance = abs(positions[:, None, :, None] - positions[:, None, None, :]).astype(np.float32)
    return -slopes[None, :, None, None] * distance
