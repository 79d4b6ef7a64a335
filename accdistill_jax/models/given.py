"""An encoder whose output is given: it passes on vectors that another model made."""

import jax
from flax import linen as nn

from accdistill_jax.models.protocol import Encoded


class GivenEmbedding(nn.Module):
    """Passes on vectors [batch, width]; it has no parameters.

    Attributes:
        width: features of a vector.
    """

    width: int
    positions: str = "none"
    rematerialise: bool = False

    @property
    def embedding_width(self) -> int:
        """See `Encoder.embedding_width`."""
        return self.width

    @property
    def token_width(self) -> int:
        """See `Encoder.token_width`."""
        return self.width

    @property
    def patch(self) -> None:
        """See `Encoder.patch`."""
        return

    def __call__(self, x: jax.Array) -> jax.Array:
        """The vectors [batch, width] themselves."""
        return x

    def encode(self, x: jax.Array) -> Encoded:
        """The vectors as the single token of each segment, and as its embedding."""
        return Encoded(x[:, None, :], x)

    def encode_kept(self, x: jax.Array, kept: jax.Array, *, patch: int) -> Encoded:
        """Not possible: raises ValueError."""
        raise ValueError("a given vector has no tokens to leave out")

    def flops(self, *, samples: int, channels: int, patch: int = 0, kept: int = 0) -> int:
        """No operations."""
        return 0
