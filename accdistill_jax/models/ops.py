"""Numerical building blocks whose best form depends on the backend; the only place where that choice is made."""

import jax
import jax.numpy as jnp
import numpy as np


def depthwise_conv(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """Depthwise 1-D convolution ("same" padding at stride 1) along time.

    On CPU a sum of shifted products, which XLA fuses into one vectorised loop (its grouped convolution there is a
    scalar one); elsewhere the grouped convolution. Both give the same numbers up to rounding.

    Args:
        x: [batch, time, channels] float.
        kernel: [taps, channels] float.
        stride: output is kept at every `stride`-th position.

    Returns:
        [batch, ceil(time / stride), channels], dtype of `x`.
    """
    taps = kernel.shape[0]
    length = x.shape[1]
    out_length = -(-length // stride)
    total = max((out_length - 1) * stride + taps - length, 0)
    padding = (total // 2, total - total // 2)

    def shifted(x, kernel):
        padded = jnp.pad(x, ((0, 0), padding, (0, 0)))
        if stride > 1:  # polyphase: strided slices become plain slices of [batch, time / stride, stride, channels]
            need = (out_length + -(-taps // stride)) * stride
            padded = jnp.pad(padded, ((0, 0), (0, max(need - padded.shape[1], 0)), (0, 0)))[:, :need]
            phases = padded.reshape(x.shape[0], need // stride, stride, x.shape[2])
            terms = (phases[:, k // stride : k // stride + out_length, k % stride] * kernel[k] for k in range(taps))
        else:
            terms = (padded[:, k : k + out_length] * kernel[k] for k in range(taps))
        return sum(terms)

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel[:, None, :],
            window_strides=(stride,),
            padding=(padding,),
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=x.shape[2],
        )

    return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)


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
