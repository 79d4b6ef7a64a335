"""1-D EfficientNet encoder (inverted bottlenecks with squeeze and excitation, after Tan and Le 2019).

Normalisation is layer or group normalisation, so that the encoder is a pure function without batch statistics.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.models import ops
from accdistill_jax.models.protocol import Encoded
from accdistill_jax.models.transformer import only_patches


class Stage(NamedTuple):
    """`depth` blocks of `width` channels; the first has the stride. Kernel in samples, expansion as a factor."""

    width: int
    depth: int
    stride: int
    kernel: int
    expansion: int


class DepthwiseConv(nn.Module):
    """Learned depthwise convolution, [batch, time, channels] -> [batch, time / stride, channels]."""

    kernel: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=0, out_axis=())
        kernel = self.param("kernel", init, (self.kernel, x.shape[-1]))
        return ops.depthwise_conv(x, kernel.astype(x.dtype), stride=self.stride)


class MBConv(nn.Module):
    """Inverted bottleneck: expand, depthwise, squeeze and excitation, project; residual where shapes agree."""

    stage: Stage
    stride: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inside = x.shape[-1] * self.stage.expansion
        h = nn.LayerNorm(name="norm_in")(x).astype(self.dtype)
        h = ops.gelu(nn.Dense(inside, dtype=self.dtype, dot_general=ops.dot_rows, name="expand")(h))
        h = DepthwiseConv(self.stage.kernel, self.stride, name="depthwise")(h)
        h = ops.gelu(nn.LayerNorm(name="norm_depthwise")(h)).astype(self.dtype)
        squeezed = jnp.mean(h.astype(jnp.float32), axis=1)
        gate = nn.Dense(max(x.shape[-1] // 4, 4), name="squeeze")(squeezed)
        gate = nn.sigmoid(nn.Dense(inside, name="excite")(nn.silu(gate)))
        h = h * gate[:, None].astype(h.dtype)
        h = nn.Dense(self.stage.width, dtype=self.dtype, dot_general=ops.dot_rows, name="project")(h)
        return x + h if x.shape == h.shape else h


class EfficientNetEncoder(nn.Module):
    """Strided stem, stages of inverted bottlenecks, mean over time, dense output.

    Attributes:
        stem: (width, kernel in samples, stride).
        stages: rows of (width, depth, stride, kernel, expansion).
        head: width of the last pointwise layer before pooling.
        output: embedding size.
        dtype: compute dtype; parameters and norms stay float32.
        rematerialise: True keeps only each block's input for the backward pass, which recomputes the block.
    """

    stem: tuple[int, int, int]
    stages: Sequence[Stage]
    head: int
    output: int
    dtype: jnp.dtype = jnp.float32
    rematerialise: bool = False

    # convolutions run on the whole segment; relative positions let a decoder learn from a patch's neighbours at once
    patch = None
    positions = "relative"

    @property
    def token_width(self) -> int:
        """Features of a token."""
        return self.head

    @property
    def embedding_width(self) -> int:
        """Features of the pooled embedding."""
        return self.output

    def __call__(self, x: jax.Array) -> jax.Array:
        """Embedding of each segment: [batch, time, channels] normalised signal -> [batch, output] float32."""
        return self.encode(x).embedding

    @nn.compact
    def encode(self, x: jax.Array) -> Encoded:
        """The last feature map [batch, time / strides, head] and the embedding; see `protocol.Encoder`."""
        chex.assert_rank(x, 3)
        width, kernel, stride = self.stem
        h = nn.Conv(width, (kernel,), strides=(stride,), dtype=self.dtype, name="stem")(x.astype(self.dtype))
        block = nn.remat(MBConv) if self.rematerialise else MBConv
        for s, stage in enumerate(self.stages):
            stage = Stage(*stage)
            for b in range(stage.depth):
                stride = stage.stride if b == 0 else 1
                h = block(stage, stride, self.dtype, name=f"stage_{s}_block_{b}")(h)
        h = nn.LayerNorm(name="norm_head")(h)
        h = nn.Dense(self.head, dtype=self.dtype, dot_general=ops.dot_rows, name="head")(h)
        h = ops.gelu(h).astype(jnp.float32)
        return Encoded(h, nn.Dense(self.output, name="output")(jnp.mean(h, axis=1)))

    def encode_kept(self, x: jax.Array, kept: jax.Array, *, patch: int) -> Encoded:
        """Dense masking: runs on the whole segment with the other patches at zero, and averages the features per kept patch.

        Our choice; arguments and result as `protocol.Encoder`.
        """
        chex.assert_rank([x, kept], [3, 2])
        encoded = self.encode(only_patches(x, kept, patch))
        features = average_parts(encoded.tokens, x.shape[1] // patch)
        return Encoded(ops.rows_at(features, kept), encoded.embedding)

    def flops(self, *, samples: int, channels: int, patch: int = 0, kept: int = 0) -> int:
        """Operations in the matrix products of a forward pass of one segment; see `protocol.Encoder`."""
        width, kernel, stride = self.stem
        length = math.ceil(samples / stride)
        total = 2 * length * kernel * channels * width
        for stage in (Stage(*stage) for stage in self.stages):
            for block in range(stage.depth):
                inside, squeezed = width * stage.expansion, max(width // 4, 4)
                total += 2 * length * width * inside + 4 * inside * squeezed
                length = math.ceil(length / stage.stride) if block == 0 else length
                total += 2 * length * inside * (stage.kernel + stage.width)
                width = stage.width
        total += 2 * length * width * self.head + 2 * self.head * self.output
        return total + (2 * (samples // patch) * length * self.head if kept else 0)  # features averaged per patch


def average_parts(h: jax.Array, parts: int) -> jax.Array:
    """Averages [batch, time, D] over `parts` equal stretches of time, also where time is no multiple of them.

    Returns:
        [batch, parts, D]; a sample on the border of two stretches counts in each by its overlap.
    """
    edges = np.arange(parts + 1) * h.shape[1] / parts
    sample = np.arange(h.shape[1])
    overlap = np.minimum(edges[1:, None], sample + 1) - np.maximum(edges[:-1, None], sample)
    weights = np.maximum(overlap, 0.0) * parts / h.shape[1]
    return jnp.einsum("pt,btd->bpd", jnp.asarray(weights, h.dtype), h)
