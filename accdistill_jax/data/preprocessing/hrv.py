"""Heart rate and its variability from beat intervals, for many segments at once.

The rules for every segment, in order:

1. An interval belongs to the segment if it begins and ends inside it.
2. It counts as a normal-to-normal (NN) interval if it lasts 0.3 to 2.0 s and deviates by at most 20 % from the median of the
   (up to) 11 intervals around it: the usual guard against ectopic, missed and extra beats.
3. Coverage is the summed duration of the NN intervals, divided by the segment's duration.
4. If coverage reaches `min_coverage`: heart rate is 60 / mean NN, SDNN is the sample standard deviation of NN, and RMSSD is the
   root mean square of the differences between NN intervals that follow each other without a removed or missing beat between
   them (at least `min_pairs` differences). Otherwise the labels are NaN.

Source: Task Force of the ESC and NASPE, "Heart rate variability: standards of measurement, physiological interpretation
and clinical use", Circulation 93:1043-1065, 1996 (definitions; the 20 % rule). 30 s are enough for SDNN and 10 s for
RMSSD: Munoz et al., "Validity of (ultra-)short recordings for heart rate variability measurements", PLoS ONE 10(9):
e0138921, 2015.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.data.recording import Beats, HeartRateWindows

INTERVAL_RANGE_S = (0.3, 2.0)
ECTOPIC_DEVIATION = 0.2
MEDIAN_WIDTH = 11
# Intervals count as successive if the next one begins within this time after the end of the one before: far above the rounding of
# time stamps, far below the duration of a beat.
ADJACENT_S = 0.1


class Hrv(NamedTuple):
    """Labels of N segments: hr_bpm, sdnn_ms, rmssd_ms [N] float32 (NaN where unknown); coverage [N] float32, 0 to 1."""

    hr_bpm: np.ndarray
    sdnn_ms: np.ndarray
    rmssd_ms: np.ndarray
    coverage: np.ndarray


def normal_intervals(interval_s: np.ndarray) -> np.ndarray:
    """Finds the normal intervals: within the physiological range and close to the local median.

    Args:
        interval_s: [N, beats] float, seconds; each row is in order of time and padded with NaN at its end.

    Returns:
        [N, beats] bool; False for NaN.
    """
    low, high = INTERVAL_RANGE_S
    with np.errstate(invalid="ignore"):
        plausible = (interval_s >= low) & (interval_s <= high)
    half = MEDIAN_WIDTH // 2
    padded = np.pad(np.where(plausible, interval_s, np.nan), ((0, 0), (half, half)), constant_values=np.nan)
    window = np.sort(np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_WIDTH, axis=1), axis=-1)  # NaN last
    count = MEDIAN_WIDTH - np.isnan(window).sum(-1)
    lower = np.take_along_axis(window, np.maximum(count - 1, 0)[..., None] // 2, -1)[..., 0]
    upper = np.take_along_axis(window, np.minimum(count // 2, MEDIAN_WIDTH - 1)[..., None], -1)[..., 0]
    median = (lower + upper) / 2
    with np.errstate(invalid="ignore"):
        return plausible & (np.abs(interval_s - median) <= ECTOPIC_DEVIATION * median)


def hrv(beats: Sequence[Beats | None], *, segment_s: float, min_coverage: float, min_pairs: int = 10) -> Hrv:
    """Heart rate, SDNN and RMSSD of N segments by the rules of the module.

    Args:
        beats: one entry per segment, with `time_s` in seconds after the segment's start; None if no beats are known.
        segment_s: duration of a segment in seconds.
        min_coverage: smallest coverage by NN intervals (0 to 1) that gives labels.
        min_pairs: smallest number of successive NN pairs that gives RMSSD.

    Source: see the module.
    """
    count = len(beats)
    sizes = np.array([0 if b is None else len(b.time_s) for b in beats], dtype=np.int64)
    if not sizes.any():
        unknown = np.full(count, np.nan, np.float32)
        return Hrv(unknown, unknown.copy(), unknown.copy(), np.zeros(count, np.float32))
    present = [b for b in beats if b is not None]
    flat_time = np.concatenate([b.time_s for b in present])
    flat_interval = np.concatenate([b.interval_s for b in present])
    row = np.repeat(np.arange(count), sizes)
    inside = (flat_time - flat_interval >= -1e-6) & (flat_time <= segment_s + 1e-6)
    flat_time, flat_interval, row = flat_time[inside], flat_interval[inside], row[inside]
    sizes = np.bincount(row, minlength=count)
    column = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    time = np.full((count, max(int(sizes.max()), 1)), np.nan)
    interval = time.copy()
    time[row, column] = flat_time
    interval[row, column] = flat_interval

    normal = normal_intervals(interval)
    nn = np.where(normal, interval, 0.0)
    n = normal.sum(1)
    coverage = nn.sum(1) / segment_s
    known = (coverage >= min_coverage) & (n >= 2)
    mean = nn.sum(1) / np.maximum(n, 1)
    variance = np.where(normal, (interval - mean[:, None]) ** 2, 0.0).sum(1) / np.maximum(n - 1, 1)

    with np.errstate(invalid="ignore"):
        successive = (
            normal[:, 1:] & normal[:, :-1] & (np.abs(time[:, 1:] - interval[:, 1:] - time[:, :-1]) <= ADJACENT_S)
        )
    pairs = successive.sum(1)
    squares = np.where(successive, np.diff(interval, axis=1) ** 2, 0.0).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Hrv(
            hr_bpm=np.where(known, 60.0 / mean, np.nan).astype(np.float32),
            sdnn_ms=np.where(known, 1000 * np.sqrt(variance), np.nan).astype(np.float32),
            rmssd_ms=np.where(known & (pairs >= min_pairs), 1000 * np.sqrt(squares / pairs), np.nan).astype(np.float32),
            coverage=coverage.astype(np.float32),
        )


def beats_of_segments(beats: Beats | None, start_s: np.ndarray, segment_s: float) -> list[Beats | None]:
    """Cuts the beats of a recording into segments; times become relative to each segment's start.

    Args:
        beats: times in seconds after the recording's start.
        start_s: [N] start of each segment, seconds after the recording's start.
        segment_s: duration of a segment in seconds.
    """
    if beats is None:
        return [None] * len(start_s)
    first = np.searchsorted(beats.time_s, start_s, side="left")
    last = np.searchsorted(beats.time_s, np.asarray(start_s) + segment_s, side="right")
    return [
        Beats(beats.time_s[i:j] - start, beats.interval_s[i:j])
        for i, j, start in zip(first, last, start_s, strict=True)
    ]


def window_heart_rate(
    windows: HeartRateWindows | None, start_s: np.ndarray, segment_s: float, *, min_coverage: float
) -> np.ndarray:
    """Mean reference heart rate of each segment, over the windows of which at least half lies inside it.

    Args:
        windows: reference windows, seconds after the recording's start.
        start_s: [N] start of each segment, seconds after the recording's start.
        segment_s: duration of a segment in seconds.
        min_coverage: smallest fraction of the segment (0 to 1) that those windows must cover together.

    Returns:
        [N] float32 bpm, NaN where unknown.
    """
    result = np.full(len(start_s), np.nan, np.float32)
    if windows is None:
        return result
    known = np.isfinite(windows.hr_bpm)
    order = np.argsort(windows.start_s[known], kind="stable")
    begin, hr = windows.start_s[known][order], windows.hr_bpm[known][order]
    for i, start in enumerate(start_s):
        left = np.clip(begin, start, start + segment_s)
        right = np.clip(begin + windows.duration_s, start, start + segment_s)
        use = right - left >= min(windows.duration_s, segment_s) / 2 - 1e-9
        if not use.any():
            continue
        left, right = left[use], right[use]
        covered = np.maximum(right - np.maximum(left, np.concatenate([[-np.inf], right[:-1]])), 0).sum()
        if covered >= min_coverage * segment_s - 1e-9:
            result[i] = hr[use].mean()
    return result
