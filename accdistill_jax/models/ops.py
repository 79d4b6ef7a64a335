"""Numerical building blocks whose best form depends on the backend; the only place where that choice is made."""

import jax
import jax.numpy as jnp
import numpy as np


def depthwise_conv(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """Depthwise 1-D convolution ("same" padding at stride 1) along time.

    On CPU a sum of shifted products (XLA's grouped convolution there is a scalar loop, some 30 times slower), elsewhere
    the grouped convolution. Both give the same numbers up to rounding.

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
        # the stride's phases become channels of their own, so that all shifts are by whole rows
        span = -(-taps // stride)
        rows = out_length + span - 1
        padded = jnp.pad(x, ((0, 0), (padding[0], max(rows * stride - length - padding[0], 0)), (0, 0)))
        phases = padded[:, : rows * stride].reshape(batch, rows, stride * channels)
        kernels = jnp.pad(kernel, ((0, span * stride - taps), (0, 0))).reshape(span, stride * channels)
        convolved = _shifted_sum(phases, kernels).reshape(batch, out_length, stride, channels)
        return sum(convolved[:, :, phase] for phase in range(stride))

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel[:, None, :],
            window_strides=(stride,),
            padding=(padding,),
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=channels,
        )

    return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)


@jax.custom_vjp
def _shifted_sum(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[batch, time + taps - 1, channels] and [taps, channels] -> [batch, time, channels]; for XLA on CPU.

    The loop over the batch costs nothing and keeps the sum apart: XLA would fuse it with what made `x`, or with what uses
    the result, and compute that anew for each tap (an optimisation barrier does not stop it). The kernel's gradient, a
    correlation over all of time, goes through a Fourier transform: as sums of shifted products it takes ten times as long.
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

    XLA on CPU computes the kernel's gradient three times as fast from two axes as from three.
    """
    if dimension_numbers != (((x.ndim - 1,), (0,)), ((), ())):
        raise ValueError(f"dot_rows multiplies rows by a matrix, not {dimension_numbers}")
    rows = jax.lax.dot(
        x.reshape(-1, x.shape[-1]), kernel, precision=precision, preferred_element_type=preferred_element_type
    )
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


def attention(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Softmax attention as batched products over [batch, heads]; logits and softmax in float32.

    XLA on CPU runs these products several times faster than an einsum over [batch, time, heads, dim].

    Args:
        q, k, v: [batch, heads, tokens, dim].
        bias: added to the logits, broadcastable to [batch, heads, tokens, tokens]; None is none.

    Returns:
        [batch, heads, tokens, dim], dtype of `v`.
    """
    logits = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + bias
    return jnp.matmul(jax.nn.softmax(logits, axis=-1).astype(v.dtype), v)


def gelu(x: jax.Array) -> jax.Array:
    """GELU (tanh form), kept apart from the matrix product that follows.

    Without the barrier XLA on CPU fuses it into the next product's operand and computes it anew in the backward pass.
    """
    return jax.lax.optimization_barrier(jax.nn.gelu(x))


def sinusoidal_positions(count: int, width: int) -> np.ndarray:
    """Fixed sine and cosine position codes, [count, width] float32 (Vaswani et al. 2017, section 3.5)."""
    half = width // 2
    rate = np.exp(-np.log(10_000.0) * np.arange(half) / max(half - 1, 1))
    angle = np.arange(count)[:, None] * rate[None]
    codes = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    return np.pad(codes, ((0, 0), (0, width - codes.shape[1]))).astype(np.float32)


def rotate(x: jax.Array, positions: jax.Array, *, longest: float) -> jax.Array:
    """Rotary position code: turns pairs of features by angles proportional to the token's position.

    Args:
        x: [batch, heads, tokens, dim], queries or keys; dim even.
        positions: [batch or 1, tokens] int32.
        longest: longest wavelength in tokens; the shortest is 2 pi.

    Returns:
        [batch, heads, tokens, dim], dtype of `x`.

    Source: Su et al. 2021 (RoFormer), with wavelengths up to about the segment's length.
    """
    half = x.shape[-1] // 2
    rate = np.exp(-np.log(longest) * np.arange(half) / max(half - 1, 1)).astype(np.float32)
    angle = positions[:, None, :, None].astype(jnp.float32) * rate[None, None, None]
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def distance_bias(positions: jax.Array, heads: int) -> jax.Array:
    """Penalty on attention to far tokens, -slope * |i - j|, with slopes from 1/2 to nearly none over the heads.

    Args:
        positions: [batch or 1, tokens] int32.
        heads: number of heads; slope of head h is 2^-(1 + 8 h / heads).

    Returns:
        [batch or 1, heads, tokens, tokens] float32.

    Source: Press et al. 2022 (ALiBi), symmetric.
    """
    slopes = (2.0 ** -(1.0 + 8.0 * np.arange(heads) / heads)).astype(np.float32)
    distance = jnp.abs(positions[:, None, :, None] - positions[:, None, None, :]).astype(jnp.float32)
    return -slopes[None, :, None, None] * distance
