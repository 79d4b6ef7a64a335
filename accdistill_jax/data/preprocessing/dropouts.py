"""Finds dropouts: values that a sensor holds constant for seconds, which count as missing.

Samples count as held if all channels stay exactly the same for longer than a limit. A working PPG sensor never holds its value: in
210 recordings of real wrists (E4, TROIKA, EmbracePlus, Polar, Verily) the PPG never stayed constant for 2 s, not even off the wrist.
An accelerometer with fine steps never does either, because its noise is at least as large as a step. An accelerometer with coarse
steps (E4: 1/64 g) can rest within one count for up to 26 s. So there are two limits, and the step between an accelerometer's values
decides which one applies. All axes exactly zero cannot be rest if gravity is included: then the first limit applies to any sensor.
Constant samples at the end of the sensor's range count as clipped, not as held.
"""

import dataclasses

import numpy as np

from accdistill_jax.data.preprocessing.channels import in_all_channels
from accdistill_jax.data.recording import Stream

COARSE_STEP_G = 0.005
LEAST_SAMPLES = 10


def held_samples(stream: Stream, *, held_s: float, held_coarse_s: float) -> np.ndarray:
    """Finds the samples that repeat the sample before them within a held stretch.

    Args:
        stream: PPG or acceleration.
        held_s: longest time in seconds that all channels may hold their values.
        held_coarse_s: the same for an accelerometer with steps above `COARSE_STEP_G`.

    Returns:
        [samples] bool; False for the first sample of a stretch.
    """
    values = stream.values
    held = np.zeros(len(values), bool)
    same = in_all_channels(values[1:] == values[:-1])
    edges = np.diff(np.concatenate([[0], same.astype(np.int8), [0]]))
    first, last = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    duration = (
        (last - first) / stream.rate_hz if stream.rate_hz is not None else stream.stamps[last] - stream.stamps[first]
    )
    limit = np.full(len(first), held_s)
    may_be_long = (duration > min(held_s, held_coarse_s)).any()
    if stream.name == "accel" and may_be_long and _is_coarse(values):
        off = (values[first] == 0).all(1) & (stream.gravity == "included")
        limit[~off] = held_coarse_s
    long = (duration > limit) & (last - first + 1 >= LEAST_SAMPLES)
    if stream.range is not None:
        low, high = map(np.asarray, stream.range)
        long &= ~((values[first] <= low) | (values[first] >= high)).any(1)
    for begin, end in zip(first[long], last[long], strict=True):
        held[begin + 1 : end + 1] = True
    return held


def _is_coarse(values: np.ndarray) -> bool:
    steps = np.abs(np.diff(values, axis=0))
    steps = steps[steps > 0]
    return bool(steps.size) and float(np.quantile(steps, 0.01)) > COARSE_STEP_G


def without(stream: Stream, held: np.ndarray) -> Stream:
    """The stream, with NaN in place of held samples."""
    return (
        dataclasses.replace(stream, values=np.where(held[:, None], np.float32(np.nan), stream.values))
        if held.any()
        else stream
    )


def mask_on_grid(stream: Stream, mask: np.ndarray, *, start_s: float, count: int, rate_hz: float) -> np.ndarray:
    """Puts a mask of samples onto a grid.

    Args:
        stream: the stream of the mask.
        mask: [samples] bool.
        start_s: first moment of the grid, in seconds after the recording's start.
        count: number of moments in the grid.
        rate_hz: rate of the grid.

    Returns:
        [count] bool: the mask at the sample nearest to each moment; with time stamps, at the next sample after it.
    """
    moment = start_s + np.arange(count) / rate_hz
    if stream.rate_hz is not None:
        at = np.round((moment - stream.start_s) * stream.rate_hz).astype(np.int64)
    else:
        at = np.searchsorted(stream.stamps, moment, side="right")  # a gap between stamps belongs to the sample after it
    return mask[np.clip(at, 0, len(mask) - 1)]


def seconds(stream: Stream, held: np.ndarray) -> float:
    """Duration of the held samples in seconds."""
    if stream.rate_hz is not None:
        return float(held.sum() / stream.rate_hz)
    return float(np.diff(stream.stamps, prepend=stream.stamps[:1])[held].sum())
