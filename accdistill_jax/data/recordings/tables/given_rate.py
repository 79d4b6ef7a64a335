"""A given rate beside time stamps: the stamps give the times, so gaps stay gaps, and the rate must agree with them."""

import dataclasses

import numpy as np

from accdistill_jax.data.preprocessing.packets import spread_packets
from accdistill_jax.data.recording import Stream
from accdistill_jax.errors import UserError

_SAME_RATE = 0.001  # far more than two crystals differ by
_ROUNDED = 2.0  # usual steps by which the ends of a stretch may be wrong, from rounding and jitter
_LOST = 1.5  # usual steps; after a longer one, samples are missing
_PAUSE, _PAUSE_S = 10.0, 1.0  # usual steps, and seconds, that no jitter explains


def timed(stream: Stream, rate_hz: float, column: object) -> Stream:
    """Times the samples of a stream by its stamps, after a check of the rate.

    Args:
        stream: has time stamps in seconds.
        rate_hz: the given rate, in samples per second.
        column: name or number of the column of time stamps, for messages.

    Returns:
        The stream; at the constant rate, if the samples share stamps so that only the rate tells their times.

    Raises:
        UserError: the rate is not that of the stamps, or such shared stamps show that rows are missing; the message lacks the
            file's name.
    """
    step = np.diff(stream.stamps)
    at_the_rate = dataclasses.replace(stream, time_s=None, rate_hz=rate_hz)
    if not (step > 0).any():  # a single stamp tells only the start
        return at_the_rate
    usual = float(np.median(step[step > 0]))
    try:
        time = spread_packets(stream).stream.stamps
    except UserError:
        _refuse_other_length(stream.stamps, rate_hz, column, usual=usual)
        return at_the_rate
    _refuse_other_rate(time, rate_hz, column, rounded_s=_ROUNDED * usual)
    return stream


def counted(stream: Stream, rate_hz: float) -> Stream:
    """Times the samples of a stream by a counter of rows; missing numbers are gaps, and the first number is time 0.

    Args:
        stream: its time stamps are the counter, in nanoseconds.
        rate_hz: numbers per second.
    """
    counter = np.rint(stream.stamps * 1e9)
    return dataclasses.replace(stream, time_s=(counter - counter[0]) / rate_hz)


def _refuse_other_rate(time: np.ndarray, rate_hz: float, column: object, *, rounded_s: float) -> None:
    """Raises UserError if the times have another rate: neither without the lost samples nor without the pauses alone is it the given one."""
    step = np.diff(time)
    usual = float(np.median(step[step > 0]))
    measured = []
    for longest in (_LOST * usual, max(_PAUSE * usual, _PAUSE_S)):  # of a regular clock, of one that jitters
        within = step <= longest
        covered = float(step[within].sum())
        rate, stretches = np.count_nonzero(within) / covered, 1 + np.count_nonzero(~within)
        if abs(rate / rate_hz - 1) <= _SAME_RATE + rounded_s * np.sqrt(stretches) / covered:
            return
        measured.append(rate)
    nearest = min(measured, key=lambda rate: abs(rate - rate_hz))
    raise UserError(
        f"the given rate is {rate_hz:g} Hz, but column {column!r} has {nearest:.5g} samples per second; correct the rate, or leave it out "
        "to use the time stamps (or remove the column, if they are wrong)"
    )


def _refuse_other_length(time: np.ndarray, rate_hz: float, column: object, *, usual: float) -> None:
    """Raises UserError if stamps that samples share cover another time than the rows last at the given rate."""
    covered, expected = float(time[-1] - time[0]), (len(time) - 1) / rate_hz
    if abs(covered - expected) > _SAME_RATE * expected + _ROUNDED * usual:
        raise UserError(
            f"column {column!r} covers {covered:.6g} s, but {len(time)} rows at {rate_hz:g} Hz last {expected:.6g} s, and the samples share "
            "time stamps: the rate is wrong, or rows are missing; correct the rate, or remove the column"
        )
