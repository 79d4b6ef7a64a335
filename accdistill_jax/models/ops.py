"""Numerical building blocks whose fastest form depends on the backend; only this file and attention.py choose the form."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.models import gpu_kernels
from accdistill_jax.runtime.platform import PORTABLE, on_cpu, platform

# Bytes of a hidden layer in a block: it stays in a cache, and is large enough that threads seldom wait for each other.
HIDDEN_BYTES = 4 << 20


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.matmul`, [..., m, k] @ [..., k, n], result of the operands' dtype.

    On CPU, bfloat16 products are computed in float32 and rounded afterwards, as accelerators do by themselves: XLA on CPU is
    half as fast for a product whose result is bfloat16.
    """
    return product_float32(a, b).astype(a.dtype) if on_cpu() and a.dtype == jnp.bfloat16 else jnp.matmul(a, b)


def product_float32(a: jax.Array, b: jax.Array) -> jax.Array:
    """`product` with a float32 result for operands of any dtype."""
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def rows_at(x: jax.Array, index: jax.Array) -> jax.Array:
    """The rows of each segment that an index names: x [batch, P, D] float, index [batch, K] int32, below P -> [batch, K, D].

    On TPU a product with rows of zeros and a one, as a gather, or the scatter that is its gradient, moves one row at a time.
    """
    if platform() == "tpu":
        return jnp.matmul(jax.nn.one_hot(index, x.shape[1], dtype=x.dtype), x, precision=jax.lax.Precision.HIGHEST)
    return jnp.take_along_axis(x, index[:, :, None], axis=1)


def looked_up(table: jax.Array, index: jax.Array) -> jax.Array:
    """The rows of a table that an index names, as in `rows_at`: table [P, D] float, index [...] int32 -> [..., D]."""
    if platform() == "tpu":
        return jnp.matmul(
            jax.nn.one_hot(index, len(table), dtype=table.dtype), table, precision=jax.lax.Precision.HIGHEST
        )
    return jnp.take(table, index, axis=0)


def marked(index: jax.Array, count: int) -> jax.Array:
    """[batch, count] bool, True at the places that index [batch, K] int32 names."""
    if platform() == "tpu":
        return jnp.any(jax.nn.one_hot(index, count, dtype=bool), axis=1)
    return jnp.zeros((len(index), count), bool).at[jnp.arange(len(index))[:, None], index].set(True)


def depthwise_conv(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """Depthwise 1-D convolution ("same" padding at stride 1) along time.

    On CPU a sum of shifted products (XLA's grouped convolution is a scalar loop on CPU, some 30 times slower), elsewhere the
    grouped convolution. Both give the same numbers up to rounding.

    Args:
        x: [batch, time, channels] float.
        kernel: [taps, channels] float.
        stride: output is kept at every `stride`-th position.

    Returns:
        [batch, ceil(time / stride), channels], dtype of `x`.
    """
    taps, (batch, length, channels) = kernel.shape[0], x.shape
    out_length = -(-length // stride)
    total = max((out_length - 1) * stride + taps - length, 0)
    padding = (total // 2, total - total // 2)

    def shifted(x, kernel):
        # each phase of the stride becomes a set of channels, so that all shifts are by whole rows
        span = -(-taps // stride)
        rows = out_length + span - 1
        padded = jnp.pad(x, ((0, 0), (padding[0], max(rows * stride - length - padding[0], 0)), (0, 0)))
        phases = padded[:, : rows * stride].reshape(batch, rows, stride * channels)
        kernels = jnp.pad(kernel, ((0, span * stride - taps), (0, 0))).reshape(span, stride * channels)
        convolved = _shifted_sum(phases, kernels).reshape(batch, out_length, stride, channels)
        return sum((convolved[:, :, phase] for phase in range(stride)), start=jnp.zeros((), x.dtype))

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel[:, None, :],
            window_strides=(stride,),
            padding=(padding,),
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=channels,
        )

    if platform() == PORTABLE:
        return grouped(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)


@jax.custom_vjp
def _shifted_sum(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[batch, time + taps - 1, channels] and [taps, channels] -> [batch, time, channels]; for XLA on CPU.

    The loop over the batch costs nothing and isolates the sum: XLA would fuse it with the producer of `x`, or with the
    consumer of the result, and recompute that for each tap (an optimisation barrier does not stop it). The kernel's gradient,
    a correlation over all of time, goes through a Fourier transform: sums of shifted products take ten times as long.
    """
    taps = kernel.shape[0]
    length = x.shape[1] - taps + 1
    return jax.lax.map(lambda row: sum(row[k : k + length] * kernel[None, k] for k in range(taps)), x)


def _shifted_sum_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _shifted_sum(x, kernel), (x, kernel)


def _shifted_sum_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    taps, channels = kernel.shape
    dx = _shifted_sum(jnp.pad(dy, ((0, 0), (taps - 1, taps - 1), (0, 0))), kernel[::-1])
    points = -(-x.shape[1] // 32) * 32  # of small prime factors

    def add_row(spectrum: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        a, b = (jnp.fft.rfft(signal.astype(jnp.float32).T, points) for signal in row)
        return spectrum + a * jnp.conj(b), None

    spectrum, _ = jax.lax.scan(add_row, jnp.zeros((channels, points // 2 + 1), jnp.complex64), (x, dy))
    return dx, jnp.fft.irfft(spectrum, points)[:, :taps].T.astype(kernel.dtype)


_shifted_sum.defvjp(_shifted_sum_forward, _shifted_sum_backward)


def dot_rows(
    x: jax.Array,
    kernel: jax.Array,
    dimension_numbers: jax.lax.DotDimensionNumbers,
    precision: jax.lax.PrecisionLike = None,
    preferred_element_type: jnp.dtype | None = None,
) -> jax.Array:
    """A dense layer's product over flattened rows, for `nn.Dense(dot_general=...)`: [..., C] @ [C, D] -> [..., D].

    XLA on CPU computes the kernel's gradient three times as fast from two axes as from three; see `summed_products`.
    """
    if dimension_numbers != (((x.ndim - 1,), (0,)), ((), ())):
        raise ValueError(f"dot_rows multiplies rows by a matrix, not {dimension_numbers}")
    flat = x.reshape(-1, x.shape[-1])
    if on_cpu() and precision is None and preferred_element_type is None:
        rows = _cpu_dot(flat, kernel)
    else:
        rows = jax.lax.dot(flat, kernel, precision=precision, preferred_element_type=preferred_element_type)
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


def transposed(a: jax.Array, *, copied: bool = False) -> jax.Array:
    """[..., m, n] -> [..., n, m], as a side of a product.

    On CPU in bfloat16, or with `copied`, the result is a copy: XLA on CPU takes twice as long for a product with a transposed
    bfloat16 side, left or right, and for many small products with a transposed left side. The compiler would remove a plain
    copy, so the copy is padded with columns that are cut off again behind a barrier.
    """
    turned = a.swapaxes(-1, -2)
    if on_cpu() and (copied or a.dtype == jnp.bfloat16):
        wider = jnp.pad(turned, [(0, 0)] * (a.ndim - 1) + [(0, 8)])
        return jax.lax.optimization_barrier(wider)[..., : a.shape[-2]]
    return turned


def summed_products(a: jax.Array, b: jax.Array) -> jax.Array:
    """[n, C] and [n, D] -> the narrower array, transposed, times the wider one, float32: [C, D], or [D, C] if D < C.

    This is a dense kernel's gradient. XLA on CPU takes 1.5 times as long if the left side is the wider one.
    """
    narrow, wide = (a, b) if a.shape[1] <= b.shape[1] else (b, a)
    return product_float32(transposed(narrow), wide)


def kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Gradient of a dense kernel: inputs [n, C] and output gradients [n, D] -> [C, D] float32."""
    gradient = summed_products(x, dy)
    # the barrier keeps the compiler from swapping the product's sides again
    return gradient if x.shape[1] <= dy.shape[1] else jax.lax.optimization_barrier(gradient).T


@jax.custom_vjp
def _cpu_dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`product` whose gradients are such products too: the derived gradients would be slow for bfloat16 and for wide sides."""
    return product(x, kernel)


def _cpu_dot_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return product(dy, transposed(kernel)), kernel_gradient(x, dy).astype(kernel.dtype)


_cpu_dot.defvjp(lambda x, kernel: (product(x, kernel), (x, kernel)), _cpu_dot_backward)


def gelu(x: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
    """GELU (tanh form), cast to `dtype`; on CPU isolated from the matrix product that follows.

    Without the barrier, XLA on CPU fuses it into the next product's operand and recomputes it in the backward pass.
    """
    y = jax.nn.gelu(x).astype(dtype or x.dtype)
    return jax.lax.optimization_barrier(y) if on_cpu() else y


def repeat_row(row: jax.Array, times: int) -> jax.Array:
    """[n] -> [times * n], the row repeated.

    On CPU it is a product with a tiled identity: XLA on CPU turns a plain tile into an index computation in the consumer, and
    does not vectorise that (GELU of 128 minutes' first level: 10 ms on one core instead of 1).
    """
    if on_cpu():
        return row @ jnp.asarray(np.tile(np.eye(row.size), (1, times)), row.dtype)
    return jnp.tile(row, times)


def mlp(x: jax.Array, w_in: jax.Array, b_in: jax.Array, w_out: jax.Array, b_out: jax.Array) -> jax.Array:
    """Dense, GELU (tanh form), dense: [..., D] -> [..., D].

    On CPU it works on blocks of rows, forward and backward, so that the hidden layer stays in the cache between its products;
    the hidden layer before GELU is kept for the backward pass.

    Args:
        x: [..., D].
        w_in: [D, M], of the dtype of `x`, as all parameters.
        b_in: [M].
        w_out: [M, D].
        b_out: [D].
    """
    rows = x.reshape(-1, x.shape[-1])
    if on_cpu():
        return _blocked_mlp(rows, w_in, b_in, w_out, b_out).reshape(x.shape)
    if platform() == "gpu":
        return _kept_mlp(rows, w_in, b_in, w_out, b_out).reshape(x.shape)
    return (jnp.matmul(gelu(jnp.matmul(rows, w_in) + b_in[None]), w_out) + b_out[None]).reshape(x.shape)


@jax.custom_vjp
def _kept_mlp(x: jax.Array, w_in: jax.Array, b_in: jax.Array, w_out: jax.Array, b_out: jax.Array) -> jax.Array:
    """The form for GPUs. On TPU its barrier costs a tenth of the step, by the compiler's estimate, and saves no memory.

    The backward pass keeps the hidden layer before and after GELU, in its own dtype; a derived one would keep several parts of
    GELU's formula. The hidden layer's gradient is computed once; the compiler would compute it again for the bias's gradient.
    """
    return _kept_mlp_forward(x, w_in, b_in, w_out, b_out)[0]


def _kept_mlp_forward(x, w_in, b_in, w_out, b_out):
    hidden = jnp.matmul(x, w_in) + b_in[None]
    active = gelu(hidden)
    return jnp.matmul(active, w_out) + b_out[None], (x, w_in, w_out, hidden, active)


def _kept_mlp_backward(saved, d_out):
    x, w_in, w_out, hidden, active = saved
    d_b_out = jnp.sum(d_out, axis=0, dtype=jnp.float32).astype(d_out.dtype)
    if gpu_kernels.chosen(gpu_kernels.GELU, *hidden.shape):
        d_hidden, d_b_in = gpu_kernels.gelu_backward(jnp.matmul(d_out, w_out.T), hidden, gelu_slope)
    else:
        d_hidden = (jnp.matmul(d_out, w_out.T) * gelu_slope(hidden.astype(jnp.float32))).astype(x.dtype)
        d_hidden = jax.lax.optimization_barrier(d_hidden)
        d_b_in = jnp.sum(d_hidden, axis=0, dtype=jnp.float32)
    d_b_in = d_b_in.astype(x.dtype)
    return jnp.matmul(d_hidden, w_in.T), jnp.matmul(x.T, d_hidden), d_b_in, jnp.matmul(active.T, d_out), d_b_out


_kept_mlp.defvjp(_kept_mlp_forward, _kept_mlp_backward)


@jax.custom_vjp
def _blocked_mlp(x: jax.Array, w_in: jax.Array, b_in: jax.Array, w_out: jax.Array, b_out: jax.Array) -> jax.Array:
    return _blocked_mlp_forward(x, w_in, b_in, w_out, b_out)[0]


def _blocked_mlp_forward(x, w_in, b_in, w_out, b_out):
    def block(some: jax.Array) -> tuple[jax.Array, jax.Array]:
        # values between the products stay float32: bfloat16 would be widened and rounded at each operation
        hidden = product_float32(some, w_in) + b_in[None].astype(jnp.float32)
        out = product_float32(gelu(hidden, x.dtype), w_out) + b_out[None].astype(jnp.float32)
        return out.astype(x.dtype), hidden.astype(x.dtype)

    out, hidden = in_blocks(block, x, size=_mlp_rows(len(x), w_in))
    return out, (x, w_in, w_out, hidden)


def _blocked_mlp_backward(saved, d_out):
    x, w_in, w_out, hidden = saved
    size = _mlp_rows(len(x), w_in)
    turned_in, turned_out = transposed(w_in), transposed(w_out)

    def block(total, some):
        x, hidden, d_out = some
        active, slope = _gelu_and_slope(hidden.astype(jnp.float32))
        active, slope = jax.lax.optimization_barrier((active.astype(x.dtype), slope))
        d_hidden = jax.lax.optimization_barrier((product_float32(d_out, turned_out) * slope).astype(x.dtype))
        columns = [jnp.sum(a, axis=0, dtype=jnp.float32) for a in (d_hidden, d_out)]
        of_block = (summed_products(x, d_hidden), columns[0], summed_products(active, d_out), columns[1])
        return jax.tree.map(jnp.add, total, of_block), product(d_hidden, turned_in)

    shapes = (tuple(sorted(w_in.shape)), w_in.shape[1:], tuple(sorted(w_out.shape)), w_out.shape[1:])
    zeros = tuple(jnp.zeros(shape, jnp.float32) for shape in shapes)
    total, d_x = jax.lax.scan(
        block, zeros, jax.tree.map(lambda a: a.reshape(-1, size, a.shape[-1]), (x, hidden, d_out))
    )
    d_in, d_b_in, d_out, d_b_out = total
    d_in, d_out = (a if a.shape == w.shape else a.T for a, w in ((d_in, w_in), (d_out, w_out)))
    return d_x.reshape(x.shape), *(a.astype(x.dtype) for a in (d_in, d_b_in, d_out, d_b_out))


_blocked_mlp.defvjp(_blocked_mlp_forward, _blocked_mlp_backward)


def _mlp_rows(count: int, w_in: jax.Array) -> int:
    return block_size(count, bytes_each=4 * w_in.shape[1], bytes_at_once=HIDDEN_BYTES)


def _gelu_and_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """GELU (its tanh form is x times a logistic function) and its derivative."""
    scale, cubic = 2.0 * (2.0 / np.pi) ** 0.5, 0.044715
    share = jax.nn.sigmoid(scale * (x + cubic * x * x * x))
    return x * share, share + x * share * (1.0 - share) * scale * (1.0 + 3.0 * cubic * x * x)


def gelu_slope(x: jax.Array) -> jax.Array:
    """The derivative of GELU."""
    return _gelu_and_slope(x)[1]


def block_size(count: int, *, bytes_each: int, bytes_at_once: int) -> int:
    """Rows of a block: the largest divisor of `count` whose rows take at most `bytes_at_once`.

    All rows if only much smaller numbers divide the count, for example if it is a prime.
    """
    most = min(max(1, bytes_at_once // bytes_each), count)
    size = next(size for size in range(most, 0, -1) if count % size == 0)
    return size if 4 * size >= most else count


def in_blocks(fn: Callable[[Any], Any], rows: Any, *, size: int) -> Any:
    """Applies `fn`, which maps each row of a tree of [n, ...] arrays by itself, to `size` rows at a time (a divisor of n)."""
    count = len(jax.tree.leaves(rows)[0])
    if size == count:
        return fn(rows)
    blocks = jax.tree.map(lambda a: a.reshape(count // size, size, *a.shape[1:]), rows)
    return jax.tree.map(lambda a: a.reshape(count, *a.shape[2:]), jax.lax.map(fn, blocks))


def sinusoidal_positions(count: int, width: int) -> np.ndarray:
    """Fixed sine and cosine position codes, [count, width] float32 (Vaswani et al. 2017, section 3.5)."""
    half = width // 2
    rate = np.exp(-np.log(10_000.0) * np.arange(half) / max(half - 1, 1))
    angle = np.arange(count)[:, None] * rate[None]
    codes = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    return np.pad(codes, ((0, 0), (0, width - codes.shape[1]))).astype(np.float32)
