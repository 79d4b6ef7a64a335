"""Quantities of a frozen teacher that a distillation reads, as a single vector for each segment, which can be cached."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from accdistill_jax.models.protocol import Encoded, Encoder
from accdistill_jax.models.windows import window_means

TEACHER = "teacher"  # key of a batch: the vector [b, width] of `TeacherReading.joined`, where it was computed before
EMBEDDING, WINDOWS, TOKENS = "teacher", "teacher_windows", "teacher_tokens"  # keys of `TeacherReading.split`


def standardised(values: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Values [..., D] minus a mean [D], over a standard deviation [D]."""
    lead = (1,) * (values.ndim - 1)
    return (values - mean.reshape(*lead, -1)) / std.reshape(*lead, -1)


def standard_embedding(teacher: Encoder, frozen: Any, ppg: jax.Array) -> jax.Array:
    """A frozen teacher's embedding of presented PPG [b, time, C], standardised per dimension: [b, D] float32, no gradient."""
    z = teacher.apply({"params": frozen["params"]}, ppg)
    return jax.lax.stop_gradient(standardised(z, frozen["mean"], frozen["std"]))


@dataclasses.dataclass(frozen=True)
class TeacherReading:
    """The choice of a teacher's quantities.

    Attributes:
        embedding: True for the standardised embedding.
        windows: number of windows whose means of tokens are read; 1: none.
        tokens: True for all tokens; the windows are then computed from them.
    """

    embedding: bool = True
    windows: int = 1
    tokens: bool = False

    @property
    def reads_tokens(self) -> bool:
        """True if `frozen` must hold the statistics of tokens, "token_mean" [D'] and "token_std" [D']."""
        return self.tokens or self.windows > 1

    @property
    def words(self) -> str:
        """Words for a line of progress."""
        named = ["embedding"] if self.embedding else []
        if self.reads_tokens:
            named.append("all tokens" if self.tokens else f"means of tokens in {self.windows} windows")
        return " and ".join(named)

    def joined(self, teacher: Encoder, frozen: Any, ppg: jax.Array) -> jax.Array:
        """The quantities of presented PPG [b, time, C] in a row: [b, width] float32, no gradient.

        Tokens are not standardised yet, so that a cache depends on the teacher alone.
        """
        if not self.reads_tokens:
            return standard_embedding(teacher, frozen, ppg)
        encoded: Encoded = teacher.apply({"params": frozen["params"]}, ppg, method="encode")
        parts = []
        if self.embedding:
            parts.append(standardised(encoded.embedding, frozen["mean"], frozen["std"]))
        tokens = encoded.tokens if self.tokens else window_means(encoded.tokens, self.windows).mean
        parts.append(tokens.astype(jnp.float32).reshape(len(tokens), -1))
        return jax.lax.stop_gradient(jnp.concatenate(parts, axis=1))

    def width(self, teacher: Encoder, frozen: Any, ppg: Any) -> int:
        """Length of `joined`; from arrays or their shapes."""
        return jax.eval_shape(lambda frozen, ppg: self.joined(teacher, frozen, ppg), frozen, ppg).shape[-1]

    def split(self, frozen: Any, joined: jax.Array) -> Mapping[str, jax.Array]:
        """The quantities by name, standardised.

        Args:
            frozen: the teacher; read only if `reads_tokens`.
            joined: [b, width].

        Returns:
            `EMBEDDING` [b, D], `WINDOWS` [b, windows, D'], `TOKENS` [b, tokens, D'] float32, those that are read.
        """
        if not self.reads_tokens:
            return {EMBEDDING: joined}
        parts, first = {}, 0
        if self.embedding:
            first = len(frozen["mean"])
            parts[EMBEDDING] = joined[:, :first]
        width = len(frozen["token_mean"])
        tokens = joined[:, first:].reshape(len(joined), -1, width)
        tokens = standardised(tokens, frozen["token_mean"], frozen["token_std"])
        if self.tokens:
            parts[TOKENS] = tokens
        if self.windows > 1:
            parts[WINDOWS] = window_means(tokens, self.windows).mean if self.tokens else tokens
        return parts


EMBEDDING_ALONE = TeacherReading()
