"""Transformer encoder on patches of a biosignal (after Vaswani et al. 2017 and ViT, Dosovitskiy et al. 2021)."""

import itertools
import math
from collections.abc import Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from accdistill_jax.models import gpu_kernels, ops
from accdistill_jax.models.attention import Places, attention, places, three_products
from accdistill_jax.models.protocol import Encoded
from accdistill_jax.runtime import platform


def patchify(x: jax.Array, patch: int) -> jax.Array:
    """[batch, time, channels] -> [batch, time / patch, patch * channels]; all channels of a patch together."""
    B, T, C = x.shape
    return x.reshape(B, T // patch, patch * C)


def only_patches(x: jax.Array, kept: jax.Array, patch: int) -> jax.Array:
    """The signal [batch, time, C] with all patches at zero but those that `kept` [batch, K] names.

    Zero is the mean of a normalised signal. A convolution then sees nothing of the other patches.
    """
    patches = patchify(x, patch)
    return jnp.where(ops.marked(kept, patches.shape[1])[:, :, None], patches, 0.0).reshape(x.shape)


class Attention(nn.Module):
    """Multi-head self-attention, [batch, tokens, width] -> the same.

    If `relative`, the tokens' positions (None: in order) act as a rotary code of queries and keys and as a penalty on distance
    per head.
    """

    heads: int
    dtype: jnp.dtype = jnp.float32
    relative: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, where: Places | None = None) -> jax.Array:
        D = x.shape[-1]
        if platform.platform() == "gpu":
            qkv = three_products(x.astype(self.dtype), *Weights(3 * D, self.dtype, name="qkv")(D))
        else:
            qkv = nn.Dense(3 * D, dtype=self.dtype, dot_general=ops.dot_rows, name="qkv")(x)
        out = attention(qkv, heads=self.heads, relative=self.relative, where=where)
        return nn.Dense(D, dtype=self.dtype, dot_general=ops.dot_rows, name="out")(out)


class Weights(nn.Module):
    """Kernel [inputs, outputs] and bias [outputs] of a dense layer, named and initialised as in `nn.Dense`.

    The attribute is the number of outputs; the call takes the number of inputs.
    """

    outputs: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: int) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (inputs, self.outputs))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.outputs,))
        return kernel.astype(self.dtype), bias.astype(self.dtype)


class Block(nn.Module):
    """Pre-norm Transformer block: attention and MLP, each with a residual; `relative` and positions as in `Attention`."""

    heads: int
    mlp: int
    dtype: jnp.dtype = jnp.float32
    relative: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, where: Places | None = None) -> jax.Array:
        attention = Attention(self.heads, self.dtype, self.relative, name="attention")
        x, h = self._normalised(x, "norm_attention")
        x = x + attention(h, where)
        x, h = self._normalised(x, "norm_mlp")
        inner = Weights(self.mlp, self.dtype, name="mlp_in")(x.shape[-1])
        outer = Weights(x.shape[-1], self.dtype, name="mlp_out")(self.mlp)
        return x + ops.mlp(h.astype(self.dtype), *inner, *outer)

    def _normalised(self, x: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
        """The tokens, for the residual connection, and a layer norm of them."""
        rows = x.reshape(-1, x.shape[-1])
        if platform.platform() != "gpu" or not gpu_kernels.chosen(gpu_kernels.NORM, *rows.shape):
            return x, nn.LayerNorm(name=name)(x)
        scale, offset = NormWeights(name=name)(x.shape[-1])
        kept, h = gpu_kernels.norm_beside_residual(rows, scale, offset, self.dtype)
        return kept.reshape(x.shape), h.reshape(x.shape)


class NormWeights(nn.Module):
    """Scale and offset [width] of a layer norm, named and initialised as in `nn.LayerNorm`."""

    @nn.compact
    def __call__(self, width: int) -> tuple[jax.Array, jax.Array]:
        return (
            self.param("scale", nn.initializers.ones_init(), (width,)),
            self.param("bias", nn.initializers.zeros_init(), (width,)),
        )


class ConvolutionalStem(nn.Module):
    """Strided convolutions over the whole signal, each with a layer norm and a GELU.

    [batch, time, channels] -> [batch, time / product of strides, last width]; edges are padded with zeros. Rows are (width,
    kernel, stride).

    Source: Xiao et al. 2021, "Early convolutions help transformers see better", arXiv 2106.14881 (there in two dimensions,
    with batch norm and ReLU).
    """

    levels: Sequence[tuple[int, int, int]]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = x.astype(self.dtype)
        for i, (width, kernel, stride) in enumerate(self.levels):
            h = nn.Conv(width, (kernel,), strides=(stride,), dtype=self.dtype, name=f"conv_{i}")(h)
            h = ops.gelu(nn.LayerNorm(name=f"norm_{i}")(h)).astype(self.dtype)
        return h


class TransformerEncoder(nn.Module):
    """Patches -> tokens -> blocks -> mean-pooled embedding.

    Attributes:
        patch: samples per token (paper preset 20, so 192 tokens a minute).
        width: token width D.
        depth, heads, mlp: blocks, attention heads and MLP width of each.
        tokenizer: levels (samples, width) inside a patch, finest first. Each level maps every stretch of `samples` to `width`
            features (dense, GELU) before the patch is mapped to a token, so that a token holds the position of the energy
            inside it. () is the linear tokenizer (paper). Our choice.
        stem: levels (width, kernel, stride) of a `ConvolutionalStem` before the patches, in place of a tokenizer: a token then
            sees a little beyond its patch. There are as many tokens as without. () is none (paper). Our choice.
        positions: "sinusoidal" adds fixed codes to the tokens (paper); "relative" gives attention the tokens' distance
            (rotary code and distance penalty; our choice: masked autoencoding then learns from neighbours at once).
        output: embedding size; 0 keeps `width` without a further layer.
        dtype: compute dtype; parameters, norms and softmax stay float32.
        rematerialise: True keeps only each block's input for the backward pass, which recomputes the block.
        residual: dtype of the tokens between blocks, to which each block adds; statistics of norms are always float32.
    """

    patch: int
    width: int
    depth: int
    heads: int
    mlp: int
    tokenizer: Sequence[tuple[int, int]] = ()
    stem: Sequence[tuple[int, int, int]] = ()
    positions: str = "sinusoidal"
    output: int = 0
    dtype: jnp.dtype = jnp.float32
    rematerialise: bool = False
    residual: jnp.dtype = jnp.float32

    def setup(self):
        self.levels = [Weights(width, self.dtype, name=f"tokenizer_{i}") for i, (_, width) in enumerate(self.tokenizer)]
        if self.stem:
            self.convolutions = ConvolutionalStem(self.stem, self.dtype)
        self.token = nn.Dense(self.width, dtype=self.dtype, dot_general=ops.dot_rows)
        block = nn.remat(Block) if self.rematerialise else Block
        self.blocks = [
            block(self.heads, self.mlp, self.dtype, "relative" in self.positions, name=f"block_{i}")
            for i in range(self.depth)
        ]
        self.norm = nn.LayerNorm()
        if self.output:
            self.projection = nn.Dense(self.output)

    def tokens(self, x: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """Encoded tokens.

        Args:
            x: [batch, time, channels], normalised signal; time a multiple of `patch`.
            kept: [batch, K] int32, the tokens to run on; None is all of them. The others cost nothing, except in a stem, which
                sees zeros in their place: no token holds anything of a patch that is not kept.

        Returns:
            [batch, K, width] float32 in the order of `kept`.
        """
        patches = self._patches(x, kept)  # [B, P, patch * C], samples slowest
        codes = jnp.asarray(ops.sinusoidal_positions(patches.shape[1], self.width))
        where = None
        if kept is not None:
            if "relative" in self.positions:
                where = places(kept, count=patches.shape[1], dim=self.width // self.heads)
            patches = ops.rows_at(patches, kept)
        h = self.token(self.refined(patches.astype(self.dtype))).astype(jnp.float32)
        if "sinusoidal" in self.positions:
            h = h + (codes[None] if kept is None else ops.looked_up(codes, kept))
        h = h.astype(self.residual)
        for block in self.blocks:
            h = block(h, where)
        return self.norm(h).astype(jnp.float32)

    def _patches(self, x: jax.Array, kept: jax.Array | None) -> jax.Array:
        """The patches of the signal, or of the stem's features: [batch, tokens, values]."""
        if not self.stem:
            return patchify(x, self.patch)
        features = self.convolutions(x if kept is None else only_patches(x, kept, self.patch))
        return patchify(features, self.patch // math.prod(stride for _, _, stride in self.stem))

    def refined(self, patches: jax.Array) -> jax.Array:
        """The tokenizer's levels: [batch, tokens, values] -> [batch, tokens, features], the input of the token layer.

        Raises:
            ValueError: a level's samples do not divide the next one's, or the patch.
        """
        B, P, _ = patches.shape
        h, sizes = patches, [*(samples for samples, _ in self.tokenizer), self.patch]
        for (samples, larger), layer in zip(itertools.pairwise(sizes), self.levels, strict=True):
            together, rest = divmod(larger, samples)  # stretches of this level in a stretch of the next level
            if rest:
                raise ValueError(
                    f"a tokenizer's stretches of {samples} samples do not divide the next ones of {larger}"
                )
            rows = h.reshape(-1, h.size * samples // (B * P * self.patch))
            kernel, bias = layer(rows.shape[1])
            h = ops.dot_rows(rows, kernel, (((1,), (0,)), ((), ()))).reshape(-1, together * bias.size)
            h = ops.gelu(h + ops.repeat_row(bias, together)[None])
        return h.reshape(B, P, -1)

    @property
    def token_width(self) -> int:
        """Features of a token."""
        return self.width

    @property
    def embedding_width(self) -> int:
        """Features of the pooled embedding."""
        return self.output or self.width

    def __call__(self, x: jax.Array) -> jax.Array:
        """Embedding of each segment: [batch, time, channels] -> [batch, output or width] float32."""
        return self.encode(x).embedding

    def encode(self, x: jax.Array) -> Encoded:
        """All tokens [batch, time / patch, width] and their pooled embedding; see `protocol.Encoder`."""
        chex.assert_rank(x, 3)
        return self._pooled(self.tokens(x))

    def encode_kept(self, x: jax.Array, kept: jax.Array, *, patch: int) -> Encoded:
        """The kept tokens [batch, K, width] and their pooled embedding; see `protocol.Encoder`."""
        chex.assert_rank([x, kept], [3, 2])
        if patch != self.patch:
            raise ValueError(f"patches of {patch} samples, but the encoder's tokens have {self.patch}")
        return self._pooled(self.tokens(x, kept))

    def _pooled(self, tokens: jax.Array) -> Encoded:
        mean = jnp.mean(tokens, axis=1)
        return Encoded(tokens, self.projection(mean) if self.output else mean)

    def flops(self, *, samples: int, channels: int, patch: int = 0, kept: int = 0) -> int:
        """Operations in the matrix products of a forward pass of one segment; see `protocol.Encoder`."""
        tokens, stem, tokenizer = kept or samples // self.patch, 0, 0
        values = self.patch * channels  # that a token is made of
        length, features = samples, channels
        for width, kernel, stride in self.stem:  # runs on the whole segment
            length //= stride
            stem += 2 * length * kernel * features * width
            features = width
            values = self.patch * length // samples * width
        for span, width in self.tokenizer:
            tokenizer += 2 * values * width
            values = self.patch // span * width
        total = stem + tokens * (tokenizer + 2 * values * self.width)
        total += block_flops(tokens=tokens, width=self.width, mlp=self.mlp, depth=self.depth)
        return total + 2 * self.width * self.output


def block_flops(*, tokens: int, width: int, mlp: int, depth: int) -> int:
    """Operations in the matrix products of `depth` blocks on one segment's tokens: attention with its four layers, and MLP."""
    dense = 2 * width * (4 * width + 2 * mlp)
    attention = 4 * tokens * width
    return depth * tokens * (dense + attention)
