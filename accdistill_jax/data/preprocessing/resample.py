"""Resamples a stream to a regular grid, with anti-aliasing, sub-sample alignment and a mask of missing samples."""

import fractions
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported by their first use: scipy.signal takes a second

from accdistill_jax.data.preprocessing.channels import in_any_channel
from accdistill_jax.data.recording import RATES_HZ, Stream
from accdistill_jax.errors import UserError

MAX_DAYS = 31
MAX_DENOMINATOR = 1000
MAX_DRIFT_SAMPLES = 0.1
DELAY_HALF_TAPS = 24
LOWPASS_HALF_TAPS = 32
LOWPASS_BETA = 9.0
LOWPASS_CUTOFF = 0.91
FINE_POINTS = 2**22
MOST_FINE_PER_KNOT = 1000
_NOUNS = {"ppg": "PPG", "accel": "acceleration"}


class OnGrid(NamedTuple):
    """Values [n, C] float32 without NaN; missing [n] bool, True where the value is interpolated over a gap."""

    values: np.ndarray
    missing: np.ndarray


def covered_until(stream: Stream) -> float:
    """End of a stream in seconds after the recording's start: one sample distance after the last sample."""
    period = 1 / stream.rate_hz if stream.rate_hz is not None else _usual_distance(stream)
    return stream.end_s + period


def common_grid(streams: Sequence[Stream], rate_hz: float) -> tuple[float, int]:
    """Start (seconds after the recording's start) and number of samples of the time that all streams cover.

    The grid begins at a sample of the first stream if the rates are equal.

    Raises:
        UserError: the streams do not overlap, one lasts more than `MAX_DAYS`, or the time stamps have a rate outside `RATES_HZ`.
    """
    for stream in streams:
        if stream.rate_hz is None and not RATES_HZ[0] <= 1.001 / _usual_distance(stream) <= 1.002 * RATES_HZ[1]:
            raise UserError(
                f"stream {stream.name!r}: its samples are usually {_usual_distance(stream):.4g} s apart, which is no rate of "
                f"{RATES_HZ[0]:g} to {RATES_HZ[1]:g} Hz: check time_unit (s, ms, us or ns)"
            )
    ends = {stream.name: covered_until(stream) for stream in streams}
    for stream in streams:
        days = (ends[stream.name] - stream.start_s) / 86_400
        if days > MAX_DAYS:
            raise UserError(
                f"stream {stream.name!r} lasts {days:.0f} days, but at most {MAX_DAYS} are allowed: correct its time stamps or "
                "rate, or split the recording"
            )
    start, end, first = max(stream.start_s for stream in streams), min(ends.values()), streams[0].start_s
    if end <= start:
        spans = " and ".join(f"{_NOUNS[s.name]} ({s.start_s:.1f} to {ends[s.name]:.1f} s)" for s in streams)
        raise UserError(f"{spans} do not overlap: check their start times and clock offsets")
    start = first + math.ceil((start - first) * rate_hz - 1e-6) / rate_hz
    return start, max(math.floor((end - start) * rate_hz + 1e-6), 0)


def to_grid(stream: Stream, *, start_s: float, count: int, rate_hz: float, gap_s: float) -> OnGrid:
    """Resamples a stream to `count` samples at start_s + k / rate_hz.

    A polyphase filter changes a constant rate (scipy's resample_poly with the taps of `lowpass`; the ratio has a denominator of at
    most 1000), and a windowed-sinc fractional delay shifts by the rest of a sample between the starts of stream and grid. Cubic
    splines interpolate irregular stamps, and ratios that would drift by more than a tenth of a sample; samples closer than a quarter
    of the usual distance are averaged before. If the stream is faster than the grid, the splines go to a multiple of the grid's rate
    that is not slower than the stream, and the polyphase filter from there to the grid.

    Args:
        stream: covers the grid; NaN marks missing samples, which are interpolated and marked in `missing`.
        start_s: first time of the grid, in seconds after the recording's start.
        count: number of grid points.
        rate_hz: rate of the grid.
        gap_s: larger distances between irregular stamps are gaps; the limit is at least 2.5 usual distances.
    """
    if stream.rate_hz is not None:
        ratio = fractions.Fraction(rate_hz / stream.rate_hz).limit_denominator(MAX_DENOMINATOR)
        length = len(stream.values) * rate_hz / stream.rate_hz
        if ratio > 0 and abs(float(ratio) * stream.rate_hz / rate_hz - 1) * length <= MAX_DRIFT_SAMPLES:
            return _from_constant_rate(stream, stream.rate_hz, ratio, start_s=start_s, count=count, rate_hz=rate_hz)
    return _from_stamps(stream, start_s, count, rate_hz, gap_s)


def lowpass(up: int, down: int) -> np.ndarray:
    """Taps of the anti-alias filter for resample_poly: it passes up to 0.82 of the lower Nyquist frequency, and stops at it.

    scipy's default filter (Kaiser, beta 5) attenuates images by only 66 dB: gravity alone would add a tone of 0.5 mg at the old
    Nyquist frequency, as strong as a heartbeat at the wrist. This filter attenuates by 90 dB.
    """
    slower = max(up, down)
    return scipy.signal.firwin(
        2 * LOWPASS_HALF_TAPS * slower + 1, LOWPASS_CUTOFF / slower, window=("kaiser", LOWPASS_BETA)
    )


def _from_constant_rate(
    stream: Stream, stream_hz: float, ratio: fractions.Fraction, *, start_s: float, count: int, rate_hz: float
) -> OnGrid:
    bad = in_any_channel(np.isnan(stream.values))
    values = _interpolate_over(stream.values, bad)
    if ratio != 1:
        values = scipy.signal.resample_poly(
            values,
            ratio.numerator,
            ratio.denominator,
            axis=0,
            padtype="line",
            window=lowpass(ratio.numerator, ratio.denominator),
        )
    values = _advance(values, (start_s - stream.start_s) * rate_hz, count)
    nearest = np.round((start_s - stream.start_s + np.arange(count) / rate_hz) * stream_hz).astype(np.int64)
    return OnGrid(values.astype(np.float32), bad[np.clip(nearest, 0, len(bad) - 1)])


def _interpolate_over(values: np.ndarray, bad: np.ndarray) -> np.ndarray:
    if not bad.any():
        return values
    if bad.all():
        raise UserError("no sample has a number in every channel; check the columns")
    at = np.arange(len(values))
    return np.stack([np.interp(at, at[~bad], column[~bad]) for column in values.T], axis=1).astype(values.dtype)


def _advance(values: np.ndarray, shift: float, count: int) -> np.ndarray:
    """Values at shift + 0, 1, .. count - 1 samples; beyond the ends the first or last value is repeated."""
    whole = int(np.floor(shift + 1e-3))
    fraction = shift - whole
    if abs(fraction) < 1e-3 and 0 <= whole <= len(values) - count:
        return values[whole : whole + count]
    half = DELAY_HALF_TAPS
    before = max(half - whole, 0)
    after = max(whole + count + half + 1 - len(values), 0)
    padded = np.pad(values, ((before, after), (0, 0)), mode="edge")
    begin = whole + before
    if abs(fraction) < 1e-3:
        return padded[begin : begin + count]
    taps = np.arange(-half, half + 1)
    weight = np.sinc(taps - fraction) * np.i0(8 * np.sqrt(np.clip(1 - ((taps - fraction) / (half + 1)) ** 2, 0, 1)))
    weight /= weight.sum()
    shifted = (w * padded[begin + k : begin + k + count] for k, w in zip(taps, weight, strict=True))
    return functools.reduce(np.add, shifted, np.zeros(1, padded.dtype))


def _usual_distance(stream: Stream) -> float:
    distance = np.diff(stream.stamps)
    distance = distance[distance > 0]
    if not distance.size:
        raise UserError(
            f"stream {stream.name!r}: all samples have the same time stamp; check the column of time stamps"
        )
    return float(np.median(distance))


def _from_stamps(stream: Stream, start_s: float, count: int, rate_hz: float, gap_s: float) -> OnGrid:
    if stream.rate_hz is not None:
        time = stream.start_s + np.arange(len(stream.values)) / stream.rate_hz
        usual = 1 / stream.rate_hz
    else:
        time, usual = stream.stamps, _usual_distance(stream)
    good = ~in_any_channel(np.isnan(stream.values))
    if not good.any():
        raise UserError(f"stream {stream.name!r}: no sample has a number in every channel; check the columns")
    time, values, lost_before = time[good], stream.values[good].astype(np.float64), np.cumsum(~good)[good]
    first = np.flatnonzero(np.diff(time, prepend=-np.inf) >= usual / 4)
    per_knot = np.diff(np.append(first, len(time)))
    knots = np.add.reduceat(time, first) / per_knot
    values = np.add.reduceat(values, first, axis=0) / per_knot[:, None]
    empty = (np.diff(knots) > max(gap_s, 2.5 * usual)) | (np.diff(lost_before[first]) > 0)

    multiple = max(int(np.ceil(1 / usual / rate_hz - 0.01)), 1)
    if 1 / usual > RATES_HZ[1] or count * multiple > MOST_FINE_PER_KNOT * (len(knots) + MOST_FINE_PER_KNOT):
        raise UserError(
            f"stream {stream.name!r}: most of its time stamps are {usual:.3g} s apart, far too close for {len(knots)} samples in "
            f"{count / rate_hz:.0f} s: give rate_hz and start in place of time stamps, or a different time stamp for each sample"
        )
    spline = scipy.interpolate.make_interp_spline(knots, values, k=3, axis=0) if len(knots) > 3 else None

    def block(first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Values and mask of the grid points `first` to `end`, at the multiple of the grid's rate, before the filter."""
        grid = start_s + np.arange(first * multiple, end * multiple) / (rate_hz * multiple)
        inside = np.clip(grid, knots[0], knots[-1])
        fine = spline(inside) if spline is not None else _linear(inside, knots, values)
        right = np.searchsorted(knots, grid, side="left")
        missing = (grid < knots[0] - usual) | (grid > knots[-1] + usual)
        between = (right > 0) & (right < len(knots))
        between[between] = (grid[between] < knots[right[between]]) & empty[right[between] - 1]
        missing |= between
        fine[missing] = _linear(inside[missing], knots, values)  # a spline overshoots in a gap
        return fine, missing

    if multiple == 1:
        fine, missing = block(0, count)
        return OnGrid(fine.astype(np.float32), missing)
    on_grid, lost = [], []
    for first in range(
        0, count, max(FINE_POINTS // multiple, 1)
    ):  # in blocks, so that memory does not grow with the rate
        end = min(first + max(FINE_POINTS // multiple, 1), count)
        low, high = max(first - LOWPASS_HALF_TAPS - 1, 0), min(end + LOWPASS_HALF_TAPS + 1, count)
        fine, missing = block(low, high)
        fine = scipy.signal.resample_poly(fine, 1, multiple, axis=0, padtype="line", window=lowpass(1, multiple))
        on_grid.append(fine[first - low : end - low].astype(np.float32))
        lost.append(missing[::multiple][first - low : end - low])
    return OnGrid(np.concatenate(on_grid), np.concatenate(lost))


def _linear(at: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(at, knots, column) for column in values.T], axis=1)


def fraction_clipped(stream: Stream, start_s: np.ndarray, duration_s: float) -> np.ndarray:
    """Fraction of the samples in each stretch that lie at an end of the sensor's range, in any channel.

    Args:
        stream: all fractions are 0 if its `range` is None.
        start_s: [N] start of each stretch, in seconds after the recording's start.
        duration_s: duration of each stretch in seconds.

    Returns:
        [N] float32, 0 to 1.
    """
    if stream.range is None:
        return np.zeros(len(start_s), np.float32)
    low, high = map(np.asarray, stream.range)
    clipped = in_any_channel((stream.values <= low) | (stream.values >= high))
    total = np.concatenate([[0], np.cumsum(clipped)])
    first, last = _index(stream, start_s), _index(stream, start_s + duration_s)
    return ((total[last] - total[first]) / np.maximum(last - first, 1)).astype(np.float32)


def is_flat(stream: Stream, start_s: np.ndarray, duration_s: float) -> np.ndarray:
    """Finds the stretches in which all samples of a stream are equal: the sensor is off or stuck.

    Args:
        stream: the samples.
        start_s: [N] start of each stretch, in seconds after the recording's start.
        duration_s: duration of each stretch in seconds.

    Returns:
        [N] bool.
    """
    moves = in_any_channel(np.diff(stream.values, axis=0) != 0)
    total = np.concatenate([[0, 0], np.cumsum(moves)])  # total[i]: number of changes from sample 0 to sample i - 1
    first, last = _index(stream, start_s), _index(stream, start_s + duration_s)
    return total[last] == total[np.minimum(first + 1, len(total) - 1)]


def _index(stream: Stream, moment: np.ndarray) -> np.ndarray:
    """Index of the first sample at or after each moment."""
    if stream.rate_hz is None:
        return np.searchsorted(stream.stamps, moment)
    index = np.ceil((moment - stream.start_s) * stream.rate_hz - 1e-6)
    return np.clip(index, 0, len(stream.values)).astype(np.int64)
