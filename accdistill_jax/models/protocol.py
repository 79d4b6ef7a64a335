"""The protocol of encoders: everything that objectives, evaluation, exports and benchmarks may ask of an encoder."""

from typing import Any, NamedTuple, Protocol

import jax


class Encoded(NamedTuple):
    """Output of an encoder.

    Attributes:
        tokens: [batch, tokens, token_width] float32, features over time.
        embedding: [batch, embedding_width] float32, pooled over those tokens.
    """

    tokens: jax.Array
    embedding: jax.Array


class Module(Protocol):
    """The part of `flax.linen.Module` that other code uses; flax's own annotations are wider."""

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Initial variables, {"params": ...}."""
        ...

    def init_with_output(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Output and initial variables."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Output of `__call__`, or of `method`."""
        ...


class Head(Module, Protocol):
    """A head on the pooled embedding [batch, D], or on windows of tokens [batch, windows, D]; a flax module."""

    @property
    def output(self) -> int:
        """Features of the output, of each window."""
        ...

    @property
    def windows(self) -> int:
        """Windows of tokens that it reads; 1: the pooled embedding."""
        ...

    def flops(self, *, features: int) -> int:
        """Operations in the matrix products for one embedding of so many features."""
        ...


class Encoder(Module, Protocol):
    """An encoder of normalised segments; a flax module.

    The methods `encode` and `encode_kept` run inside `apply(variables, ..., method="encode")`. All of them create the same
    tree of parameters, so that a masked autoencoder pretrains what `__call__` reads later.
    """

    @property
    def token_width(self) -> int:
        """Features of a token."""
        ...

    @property
    def embedding_width(self) -> int:
        """Features of the pooled embedding."""
        ...

    @property
    def patch(self) -> int | None:
        """Samples of a token, for an encoder that runs on a subset of its tokens at lower cost; None for any other encoder."""
        ...

    @property
    def positions(self) -> str:
        """Position codes of a decoder that reads the tokens, one of `registered.POSITIONS`."""
        ...

    @property
    def rematerialise(self) -> bool:
        """True if the backward pass recomputes each block; a decoder follows it."""
        ...

    def __call__(self, x: jax.Array) -> jax.Array:
        """Embedding of each segment.

        Args:
            x: [batch, time, channels] float32, normalised.

        Returns:
            [batch, embedding_width] float32.
        """
        ...

    def encode(self, x: jax.Array) -> Encoded:
        """Tokens of the whole segment, in order of time, and the embedding; arguments as `__call__`."""
        ...

    def encode_kept(self, x: jax.Array, kept: jax.Array, *, patch: int) -> Encoded:
        """Tokens and embedding of some patches of each segment; neither depends on the other patches.

        Args:
            x: [batch, time, channels] float32, normalised; time a multiple of `patch`.
            kept: [batch, K] int32, indices of the patches to see.
            patch: samples of a patch; equal to the encoder's `patch` unless that is None.

        Returns:
            One token for each kept patch, in the order of `kept`, and the embedding pooled over them.
        """
        ...

    def flops(self, *, samples: int, channels: int, patch: int = 0, kept: int = 0) -> int:
        """Operations in the matrix products of a forward pass of one segment (two per multiplication and addition).

        Args:
            samples: samples of a segment.
            channels: channels of the encoder's input.
            patch: samples of a patch, with `kept`.
            kept: patches that `encode_kept` sees; 0 is a whole segment.
        """
        ...
