"""Heads on an encoder's embedding."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class ProjectionHead(nn.Module):
    """MLP hidden -> output on the unit sphere; float32 throughout (256 -> 1024 -> 128 in the paper preset).

    Attributes:
        hidden: width of the hidden layer.
        output: size of the projection.
    """

    hidden: int
    output: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Embedding [batch, D] -> projection [batch, output] float32 of unit norm."""
        h = nn.gelu(nn.Dense(self.hidden, name="hidden")(z.astype(jnp.float32)))
        h = nn.Dense(self.output, name="output")(h)
        return h * jax.lax.rsqrt(jnp.sum(h * h, axis=-1, keepdims=True) + 1e-12)

    def flops(self, *, features: int) -> int:
        """Operations in the matrix products for one embedding of so many features."""
        return 2 * self.hidden * (features + self.output)


class LinearHead(nn.Module):
    """A linear map to `output` numbers, float32, for regressions on the embedding."""

    output: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Embedding [batch, D] -> [batch, output] float32."""
        return nn.Dense(self.output, name="output")(z.astype(jnp.float32))

    def flops(self, *, features: int) -> int:
        """Operations in the matrix product for one embedding of so many features."""
        return 2 * features * self.output
