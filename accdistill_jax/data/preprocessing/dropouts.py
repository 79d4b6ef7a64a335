"""Values that a sensor holds for seconds: dropouts, to be treated as missing.

A stretch counts as held if all channels stay exactly the same for longer than a limit. A pulse never does: in 210 recordings
of real wrists (E4, TROIKA, EmbracePlus, Polar, Verily) the PPG never held for 2 s, not even off the wrist. An accelerometer of fine steps never does
either, as its noise is no smaller than its step; one of coarse steps (E4: 1/64 g) rests within one count for up to 26 s. So there
are two limits, and which one holds for an accelerometer, the step between its values decides. All axes exactly zero
is no rest at all where gravity is included: there the first limit holds for any sensor. Stretches at the end of the
sensor's range are left to the count of clipped samples.
"""

import dataclasses

import numpy as np

from accdistill_jax.data.recording import Stream

COARSE_STEP_G = 0.005
LEAST_SAMPLES = 10


def held_samples(stream: Stream, *, held_s: float, held_coarse_s: float) -> np.ndarray:
    """Which samples repeat the one before them within a held stretch; the first of a stretch is none of them.

    Args:
        stream: PPG or acceleration.
        held_s: longest time in seconds that all channels may hold their values.
        held_coarse_s: the same for an accelerometer of steps above `COARSE_STEP_G`.

    Returns:
        [samples] bool.
    """
    values = stream.values
    held = np.zeros(len(values), bool)
    same = (np.diff(values, axis=0) == 0).all(1)
    edges = np.diff(np.concatenate([[0], same.astype(np.int8), [0]]))
    first, last = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    duration = (
        (last - first) / stream.rate_hz if stream.rate_hz is not None else stream.time_s[last] - stream.time_s[first]
    )
    limit = np.full(len(first), held_s)
    if stream.name == "accel" and _is_coarse(values):
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
    """The stream with NaN in place of held samples."""
    return (
        dataclasses.replace(stream, values=np.where(held[:, None], np.float32(np.nan), stream.values))
        if held.any()
        else stream
    )


def mask_on_grid(stream: Stream, mask: np.ndarray, *, start_s: float, count: int, rate_hz: float) -> np.ndarray:
    """[count] bool: the mask at the sample nearest before or at each moment start_s + k / rate_hz."""
    moment = start_s + np.arange(count) / rate_hz
    if stream.rate_hz is not None:
        at = np.round((moment - stream.start_s) * stream.rate_hz).astype(np.int64)
    else:
        at = np.searchsorted(stream.time_s, moment, side="right")  # a gap of stamps counts with the sample that ends it
    return mask[np.clip(at, 0, len(mask) - 1)]


def seconds(stream: Stream, held: np.ndarray) -> float:
    """Seconds that the held samples stand for."""
    if stream.rate_hz is not None:
        return float(held.sum() / stream.rate_hz)
    return float(np.diff(stream.time_s, prepend=stream.time_s[0])[held].sum())
