"""Masked autoencoders: the PPG teacher's pretraining models (after He et al. 2022)."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from accdistill_jax.models import ops
from accdistill_jax.models.attention import places
from accdistill_jax.models.protocol import Encoder
from accdistill_jax.models.transformer import Block, block_flops, patchify


def random_order(keys: jax.Array, count: int) -> jax.Array:
    """A random order of `count` tokens for each segment: keys [batch] -> [batch, count] int32."""
    return jnp.argsort(jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys), axis=1).astype(jnp.int32)


def kept_count(tokens: int, drop_fraction: float) -> int:
    """Number of a segment's tokens to keep when a share is dropped: at least one, and not all."""
    return min(max(1, round(tokens * (1.0 - drop_fraction))), tokens - 1)


class Decoder(nn.Module):
    """Light Transformer decoder from the encoded tokens to the dropped patches; no export of a student holds it.

    Attributes:
        width, depth, heads: its size.
        patch_values: samples times channels of a patch.
        positions: the encoder's, see `protocol.Encoder`.
        dtype: compute dtype.
        rematerialise: the encoder's.
    """

    width: int
    depth: int
    heads: int
    patch_values: int
    positions: str
    dtype: jnp.dtype = jnp.float32
    rematerialise: bool = False

    @nn.compact
    def __call__(self, seen: jax.Array, order: jax.Array) -> jax.Array:
        """Predicts the dropped patches.

        Args:
            seen: [batch, keep, D], encoded kept tokens in the order of order[:, :keep].
            order: [batch, tokens] int32, a permutation per segment.

        Returns:
            [batch, tokens - keep, patch_values] float32 in the order of order[:, keep:].
        """
        (B, P), keep = order.shape, seen.shape[1]
        codes = jnp.asarray(ops.sinusoidal_positions(P, self.width))
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,))
        seen = nn.Dense(self.width, dtype=self.dtype, name="in")(seen).astype(jnp.float32)
        hidden = jnp.broadcast_to(mask_token[None, None], (B, P - keep, self.width))
        h = jnp.concatenate([seen, hidden], axis=1) + ops.looked_up(codes, order)
        where = places(order, count=P, dim=self.width // self.heads) if "relative" in self.positions else None
        block = nn.remat(Block) if self.rematerialise else Block
        for i in range(self.depth):
            h = block(self.heads, 4 * self.width, self.dtype, "relative" in self.positions, name=f"block_{i}")(h, where)
        h = nn.LayerNorm(name="norm")(h[:, keep:])
        return nn.Dense(self.patch_values, name="out")(h).astype(jnp.float32)


class MaskedAutoencoder(nn.Module):
    """Encoder on the kept patches, light decoder, prediction of the dropped patches.

    Attributes:
        encoder: the encoder that is kept after pretraining; its parameters live under "encoder".
        patch: samples of a patch; equal to the encoder's `patch`, if that is not None.
        keep: number of patches that the encoder sees, fixed so that shapes are fixed.
        decoder_width, decoder_depth, decoder_heads: size of the decoder.
        dtype: compute dtype.
    """

    encoder: Encoder
    patch: int
    keep: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, order: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Predicts the dropped patches.

        Args:
            x: [batch, time, channels], normalised signal; time a multiple of `patch`.
            order: [batch, tokens] int32, a permutation per segment: the first `keep` are seen, the rest dropped.

        Returns:
            prediction [batch, tokens - keep, patch * channels] float32 of the dropped patches in the order of
            order[:, keep:], and the embedding [batch, D] pooled over the kept ones.
        """
        chex.assert_shape(order, (x.shape[0], x.shape[1] // self.patch))
        seen, embedding = self.encoder.encode_kept(x, order[:, : self.keep], patch=self.patch)
        decoder = Decoder(
            self.decoder_width,
            self.decoder_depth,
            self.decoder_heads,
            self.patch * x.shape[-1],
            self.encoder.positions,
            self.dtype,
            self.encoder.rematerialise,
            name="decoder",
        )
        return decoder(seen, order), embedding

    def flops(self, *, samples: int, channels: int) -> int:
        """Operations in the matrix products of a forward pass of one segment: encoder and decoder."""
        patches, width = samples // self.patch, self.decoder_width
        total = self.encoder.flops(samples=samples, channels=channels, patch=self.patch, kept=self.keep)
        total += 2 * self.keep * self.encoder.token_width * width
        total += block_flops(tokens=patches, width=width, mlp=4 * width, depth=self.decoder_depth)
        return total + 2 * (patches - self.keep) * width * self.patch * channels

    def reconstruct(self, x: jax.Array, keys: jax.Array) -> dict[str, jax.Array]:
        """Replaces a random part of each segment's patches by the prediction.

        Args:
            x: [batch, time, channels], normalised signal.
            keys: [batch] random keys of the masks.

        Returns:
            ppg [batch, time, channels] (the input), reconstruction of the same shape, dropped [batch, tokens] bool.
        """
        patches = patchify(x, self.patch)
        order = random_order(keys, patches.shape[1])
        prediction, _ = self(x, order)
        rows, dropped = jnp.arange(x.shape[0])[:, None], order[:, self.keep :]
        return {
            "ppg": x,
            "reconstruction": patches.at[rows, dropped].set(prediction).reshape(x.shape),
            "dropped": jnp.zeros(order.shape, bool).at[rows, dropped].set(True),
        }


def dropped_patches(x: jax.Array, order: jax.Array, *, patch: int, keep: int) -> jax.Array:
    """The true dropped patches, [batch, tokens - keep, patch * channels], in the order of order[:, keep:]."""
    return ops.rows_at(patchify(x, patch), order[:, keep:])
