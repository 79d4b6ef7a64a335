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


def statistics_with_autocovariance(tokens: jax.Array) -> jax.Array:
    """`token_statistics`, and the autocovariance of tokens at lags of 0, 1, 2 and 3 s.

    The variability of heart rate is in how a token resembles those of the next seconds.

    Args:
        tokens: [batch, tokens, width], evenly spaced over a minute.

    Returns:
        [batch, 7 * width] float32; a lag is at least one token longer than the one before; 0 at lags that the tokens do not reach.
    """
    tokens = tokens.astype(jnp.float32)
    count = tokens.shape[1]
    deviation = tokens - jnp.mean(tokens, axis=1, keepdims=True)
    at_lags = [
        jnp.mean(deviation[:, : count - lag] * deviation[:, lag:], axis=1)
        if lag < count
        else jnp.zeros_like(tokens[:, 0])
        for lag in autocovariance_lags(count)
    ]
    return jnp.concatenate([token_statistics(tokens), *at_lags], axis=1)


def autocovariance_lags(count: int) -> list[int]:
    """Lags of `statistics_with_autocovariance` in tokens, for a number of tokens per minute."""
    return [lag * max(1, round(count / 60)) for lag in range(4)]


OF_TOKENS = {"statistics": token_statistics, "autocovariance": statistics_with_autocovariance}
"""Representations of an encoder's tokens, [batch, tokens, width] -> [batch, D], by name in `config.evaluation.representation`."""
