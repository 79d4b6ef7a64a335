"""Heads on an encoder's embedding."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class ProjectionHead(nn.Module):
    """MLP hidden -> output on the unit sphere; float32 throughout (256 -> 1024 -> 128 in the paper preset).

    With several windows it is applied to each of them, and the projections stand in a row that has unit norm as a whole. With equal
    weighting each window has the same norm, so the product of two projections is the mean of the windows' cosines. With learned
    weighting the windows keep the norms that the head gives them: a second that says little about the heart, such as one of motion,
    counts little. Windows and weighting are our choice.

    Attributes:
        hidden: width of the hidden layer.
        output: size of the projection of the embedding, or of a window.
        windows: windows of tokens that the head reads; 1: the pooled embedding.
        weighting: of several windows, "equal" or "learned".
    """

    hidden: int
    output: int
    windows: int = 1
    weighting: str = "equal"

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Projects embeddings or windows.

        Args:
            z: [batch, D], or [batch, windows, D]; a window of zeros holds no token and does not count.

        Returns:
            [batch, windows * output] float32 of unit norm.
        """
        z = z.astype(jnp.float32)
        h = nn.gelu(nn.Dense(self.hidden, name="hidden")(z))
        h = nn.Dense(self.output, name="output")(h)
        if self.windows == 1:
            return _unit(h, (-1,))
        counts = jnp.any(z != 0, axis=-1, keepdims=True)
        if self.weighting == "learned":
            return _unit(jnp.where(counts, h, 0.0), (1, 2)).reshape(len(z), -1)
        h = _unit(h, (-1,))
        number = jnp.maximum(jnp.sum(counts, axis=1, keepdims=True), 1)
        return (jnp.where(counts, h, 0.0) * jax.lax.rsqrt(number.astype(jnp.float32))).reshape(len(z), -1)

    def flops(self, *, features: int) -> int:
        """Operations in the matrix products for one segment; `features` of the embedding, or of a window."""
        return 2 * self.windows * self.hidden * (features + self.output)


class LinearHead(nn.Module):
    """A linear map to `output` numbers, float32, for regressions on the embedding."""

    output: int

    windows = 1

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Embeddings or tokens [..., D] -> [..., output] float32."""
        return nn.Dense(self.output, name="output")(z.astype(jnp.float32))

    def flops(self, *, features: int) -> int:
        """Operations in the matrix product for one embedding of so many features."""
        return 2 * features * self.output


def _unit(h: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return h * jax.lax.rsqrt(jnp.sum(h * h, axis=axes, keepdims=True) + 1e-12)
