"""Means of an encoder's tokens over equal windows of time."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.models import ops


class WindowMeans(NamedTuple):
    """Means of tokens in windows of time.

    Attributes:
        mean: [batch, windows, width] float32; zeros for a window without tokens.
        count: [batch, windows] float32, the tokens in each window; a token on the border of two windows counts in each by
            its overlap.
    """

    mean: jax.Array
    count: jax.Array


def window_means(
    tokens: jax.Array, windows: int, *, kept: jax.Array | None = None, count: int | None = None
) -> WindowMeans:
    """Averages tokens over equal windows of the segment, weighted by the time that they share with the window.

    With more windows than tokens, a token stands for every window inside its time.

    Args:
        tokens: [batch, K, width], evenly spaced over the segment in order of time, or those that `kept` names.
        windows: number of windows.
        kept: [batch, K] int32, places of the tokens in the segment; None: all tokens in order. Tokens that are not kept are
            absent from the means.
        count: tokens of the whole segment, with `kept`.

    Returns:
        Means and counts.
    """
    chex.assert_rank(tokens, 3)
    tokens = tokens.astype(jnp.float32)
    if kept is None:
        overlap = _overlap(tokens.shape[1], windows)
        total = np.broadcast_to(overlap.sum(axis=0), (tokens.shape[0], windows))
        mean = jnp.einsum("tw,btd->bwd", jnp.asarray(overlap / overlap.sum(axis=0)), tokens)
        return WindowMeans(mean, jnp.asarray(total))
    if count is None:
        raise ValueError("kept tokens need the count of all tokens")
    chex.assert_equal_shape_prefix([tokens, kept], 2)
    overlap = ops.looked_up(jnp.asarray(_overlap(count, windows)), kept)  # [B, K, W]
    total = jnp.sum(overlap, axis=1)
    share = overlap / jnp.where(total > 0, total, 1.0)[:, None]
    return WindowMeans(jnp.einsum("btw,btd->bwd", share, tokens), total)


def _overlap(tokens: int, windows: int) -> np.ndarray:
    """Share of each token's time that lies in each window: [tokens, windows] float32; exact in whole numbers."""
    edges, starts = np.arange(windows + 1) * tokens, np.arange(tokens)[:, None] * windows
    shared = np.minimum(edges[None, 1:], starts + windows) - np.maximum(edges[None, :-1], starts)
    return (np.maximum(shared, 0) / windows).astype(np.float32)


def token_statistics(tokens: jax.Array) -> jax.Array:
    """Mean, standard deviation and mean absolute difference of tokens over time, which hold how the signal varies.

    Args:
        tokens: [batch, tokens, width].

    Returns:
        [batch, 3 * width] float32; the difference is between a token and the next one, 0 for a single token.
    """
    tokens = tokens.astype(jnp.float32)
    mean = jnp.mean(tokens, axis=1)
    std = jnp.sqrt(jnp.mean(jnp.square(tokens - mean[:, None]), axis=1))
    if tokens.shape[1] == 1:
        difference = jnp.zeros_like(mean)
    else:
        difference = jnp.mean(jnp.abs(jnp.diff(tokens, axis=1)), axis=1)
    return jnp.concatenate([mean, std, difference], axis=1)
