"""Reductions over the channels of a long signal, channel by channel: several times faster than numpy's, which work row by row."""

import functools

import numpy as np


def in_any_channel(mask: np.ndarray) -> np.ndarray:
    """[n] bool, True where any channel of the mask [n, C] is."""
    return functools.reduce(np.logical_or, mask.T, np.zeros(len(mask), bool))


def in_all_channels(mask: np.ndarray) -> np.ndarray:
    """[n] bool, True where all channels of the mask [n, C] are."""
    return functools.reduce(np.logical_and, mask.T, np.ones(len(mask), bool))


def range_of_channels(values: np.ndarray) -> np.ndarray:
    """[C] largest minus smallest value of each channel of values [n, C]; NaN where a value is."""
    columns = np.ascontiguousarray(values.T)
    return columns.max(axis=1) - columns.min(axis=1)
