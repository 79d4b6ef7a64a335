"""Means of tokens in windows of time, and statistics of tokens, against plain numpy."""

import numpy as np
import pytest

from accdistill_jax.models.windows import statistics_with_autocovariance, token_statistics, window_means


def make_tokens(count, seed=0):
    return np.random.default_rng(seed).normal(size=(3, count, 5)).astype(np.float32)


def reference(tokens, windows, kept=None, count=None):
    """A window's mean over a fine grid of moments, each of which belongs to a single token and a single window."""
    batch, _, width = tokens.shape
    count = count or tokens.shape[1]
    kept = np.tile(np.arange(count), (batch, 1)) if kept is None else kept
    moments = count * windows
    mean, amount = np.zeros((batch, windows, width)), np.zeros((batch, windows))
    for b in range(batch):
        place = {int(token): k for k, token in enumerate(kept[b])}
        for window in range(windows):
            seen = [place[m // windows] for m in range(moments) if m // count == window and m // windows in place]
            amount[b, window] = len(seen) / windows
            if seen:
                mean[b, window] = tokens[b, seen].mean(axis=0)
    return mean, amount


@pytest.mark.parametrize("count,windows", [(12, 1), (12, 4), (60, 12), (10, 4), (7, 3), (4, 6), (5, 5)])
def test_windows_are_means_over_the_time_that_tokens_share_with_them(count, windows):
    tokens = make_tokens(count)
    mean, amount = reference(tokens, windows)
    found = window_means(tokens, windows)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.count, amount, rtol=1e-6)


@pytest.mark.parametrize("windows", [2, 4, 5, 12, 16])
def test_dropped_tokens_are_absent_and_empty_windows_are_zero_with_a_count_of_zero(windows):
    rng = np.random.default_rng(1)
    kept = np.stack([rng.permutation(12)[:4] for _ in range(3)]).astype(np.int32)
    tokens = make_tokens(4)
    mean, amount = reference(tokens, windows, kept, 12)
    found = window_means(tokens, windows, kept=kept, count=12)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.count, amount, rtol=1e-6)
    empty = np.asarray(found.count) == 0
    assert (np.asarray(found.mean)[empty] == 0).all() and (windows < 12 or empty.any())


def test_the_order_of_kept_tokens_does_not_matter_and_keeping_all_is_dropping_none():
    tokens, order = make_tokens(12), np.random.default_rng(2).permutation(12)
    shuffled = window_means(tokens[:, order], 5, kept=np.tile(order.astype(np.int32), (3, 1)), count=12)
    whole = window_means(tokens, 5)
    np.testing.assert_allclose(shuffled.mean, whole.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shuffled.count, whole.count, rtol=1e-6)


def test_kept_tokens_need_the_count_of_all():
    with pytest.raises(ValueError, match="need the count"):
        window_means(make_tokens(2), 2, kept=np.zeros((3, 2), np.int32))


@pytest.mark.parametrize("count", [1, 2, 9])
def test_token_statistics_are_mean_deviation_and_difference(count):
    tokens = make_tokens(count).astype(np.float64)
    difference = np.abs(np.diff(tokens, axis=1)).mean(axis=1) if count > 1 else np.zeros((3, 5))
    expected = np.concatenate([tokens.mean(axis=1), tokens.std(axis=1), difference], axis=1)
    np.testing.assert_allclose(token_statistics(tokens.astype(np.float32)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "lags"), [(2, [0, 1, 2, 3]), (60, [0, 1, 2, 3]), (192, [0, 3, 6, 9]), (100, [0, 2, 4, 6])]
)
def test_autocovariances_are_those_at_0_to_3_seconds(count, lags):
    tokens = make_tokens(count).astype(np.float64)
    deviation = tokens - tokens.mean(axis=1, keepdims=True)
    expected = [
        (deviation[:, : count - lag] * deviation[:, lag:]).mean(axis=1) if lag < count else np.zeros((3, 5))
        for lag in lags
    ]
    found = statistics_with_autocovariance(tokens.astype(np.float32))
    np.testing.assert_allclose(found[:, :15], token_statistics(tokens.astype(np.float32)))
    np.testing.assert_allclose(found[:, 15:], np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-6)
