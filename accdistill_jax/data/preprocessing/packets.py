"""Samples that share a time stamp: spreads packets at the rate of the stream, and refuses streams whose times are uncertain.

Sensors that send samples in packets, and clocks that count whole seconds, give many samples the same time stamp (or stamps that are
microseconds apart). Averaging these samples would erase the signal. `spread_packets` gives each sample a time of its own if the
packets determine it:

- the stamp of a packet is the time of its first sample, or of its last sample if the stream says so;
- the rate is estimated from the packets between losses and followed along the recording, which evens out jitter of single stamps;
- lost packets stay gaps; a packet that lost some samples becomes missing, because it is unknown which samples are lost;
- an incomplete first packet, with a clock that counts whole steps, holds the last samples of its step;
- rows that repeat other rows, in stamp and values, are dropped.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported by their first use: scipy.signal takes a second

from accdistill_jax.data.recording import RATES_HZ, Stream
from accdistill_jax.errors import UserError

LONGEST_PACKET_S = 2.5
FEWEST_PACKETS = 8
RARE = 0.02  # up to this fraction of samples with a shared stamp are averaged: they are no packets
_SAME_S = 1.5e-6  # a microsecond, rounded
_LONGEST_INSIDE_S = 2e-3  # usual distance of stamps inside a packet; sensors that measure in bursts are slower
_STEP_RATIO = 4.0  # between the distances inside packets and those between packets
_MOST_DUTY = 0.5
_WINDOW = 61  # packets over which stamps are smoothed
_CONTRADICTS = 6.0  # standard errors
_NEAR = 8  # packets that confirm a loss
_MOST_UNCERTAIN = 0.1
# Largest standard error of a packet's time that counts as certain: it keeps the phase of a 3 Hz tone within 0.1 rad.
_SHARPEST_S = 0.005
_ADVICE = "give rate_hz and start in place of time stamps, or a different time stamp for each sample"


class TimedStream(NamedTuple):
    """The stream with a time for each sample, the number of changed stamps, and a note on the changes ("" if there are none)."""

    stream: Stream
    mended: int
    note: str


def spread_packets(stream: Stream) -> TimedStream:
    """Gives each sample of a packet its own time.

    Args:
        stream: a stream with time stamps; a stream with a constant rate is returned unchanged.

    Returns:
        The stream with increasing time stamps; the original stamps if at most `RARE` of the samples share one.

    Raises:
        UserError: many samples share a stamp and their times are uncertain; the message says why.
    """
    if stream.time_s is None or len(stream.time_s) < 2 * FEWEST_PACKETS:
        return TimedStream(stream, 0, "")
    time, values, dropped = _without_repeats(stream.time_s, stream.values)
    note = f"{dropped} rows that repeat others dropped" if dropped else ""
    if dropped:
        stream = dataclasses.replace(stream, time_s=time, values=values)
    shared = int((np.diff(time) <= _SAME_S).sum())
    first = _packets(time)
    if first is None:
        if shared > RARE * len(time):
            raise UserError(_refusal(stream, shared, f"they form no regular packets of at most {LONGEST_PACKET_S:g} s"))
        if shared:
            note = "; ".join(
                filter(None, [note, f"{shared} samples with the stamp of the one before averaged with it"])
            )
        return TimedStream(stream, dropped + shared, note)
    try:
        if stream.packet_stamp == "last":  # the same problem, backwards in time
            first = np.append(0, len(time) - first[:0:-1])
            times, uncertain, rate_hz = _times_of(-time[::-1], first)
            times, uncertain = -times[::-1], uncertain[::-1]
        else:
            times, uncertain, rate_hz = _times_of(time, first)
    except _NotCertain as error:
        usual = np.median(np.diff(first))
        if usual == 1:  # most samples have a time of their own, so averaging the others does little harm
            note = "; ".join(
                filter(None, [note, f"{len(time) - len(first)} samples close to the one before averaged with it"])
            )
            return TimedStream(stream, dropped + len(time) - len(first), note)
        raise UserError(_refusal(stream, len(time) - len(first), str(error))) from None
    values = stream.values.copy()
    values[uncertain] = np.nan
    if np.isnan(values).any(1).all():
        raise UserError(_refusal(stream, len(time) - len(first), "most packets lack samples"))
    sizes = np.diff(np.append(first, len(time)))
    mended = int(sizes[sizes > 1].sum())
    low, high = np.percentile(sizes, (5, 95))
    parts = [
        note,
        f"{mended} samples in packets of {low:.0f}{f' to {high:.0f}' if high > low else ''} spread at {rate_hz:.4g} Hz, "
        f"each packet's stamp taken as its {stream.packet_stamp} sample's",
    ]
    if uncertain.any():
        parts.append(f"{int(uncertain.sum())} samples of packets that are not full marked missing")
    return TimedStream(
        dataclasses.replace(stream, time_s=times, values=values), dropped + mended, "; ".join(filter(None, parts))
    )


class _NotCertain(Exception):
    pass


def _refusal(stream: Stream, shared: int, reason: str) -> str:
    return (
        f"stream {stream.name!r}: {shared} of {len(stream.stamps)} samples have the same time stamp as another sample, or nearly the same, "
        f"and their true times are uncertain ({reason}); {_ADVICE}"
    )


def _without_repeats(time: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Drops rows that were written twice (single rows, or whole packets); returns times, values and the number of dropped rows."""
    same = np.diff(time) == 0
    if not same.any():
        return time, values, 0
    equal = ((values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))).all(1)
    keep = np.ones(len(time), bool)
    if equal[same].mean() > 0.95 and equal[~same].mean() < 0.5:
        keep[1:] = ~(same & equal)  # each row twice: packets of a real signal have different values
        return time[keep], values[keep], int((~keep).sum())
    first = np.flatnonzero(np.append(True, ~same))
    size = np.diff(np.append(first, len(time)))
    usual = float(np.median(size))
    candidates = np.flatnonzero(size > 3)
    sample = candidates[:: max(len(candidates) // 500, 1)]
    halves = [_is_twice(values[first[i] : first[i] + size[i]]) for i in sample]
    if not halves or np.mean(halves) < 0.9:  # if few packets repeat, their size also shows it
        candidates = candidates[size[candidates] > 1.5 * usual]
    for i in candidates:
        if _is_twice(values[first[i] : first[i] + size[i]]):
            keep[first[i] + size[i] // 2 : first[i] + size[i]] = False
    return time[keep], values[keep], int((~keep).sum())


def _is_twice(packet: np.ndarray) -> bool:
    """True if the second half of a packet repeats the first half, and its values are not all equal."""
    half = len(packet) // 2
    return (
        len(packet) % 2 == 0
        and np.array_equal(packet[:half], packet[half:], equal_nan=True)
        and bool((packet != packet[0]).any())
    )


def _packets(time: np.ndarray) -> np.ndarray | None:
    """Index of the first sample of each packet; None if the stamps form no packets.

    Stamps inside a packet are close together, far closer than packets are to each other, and a packet lasts only a small part of
    the time to the next packet. So neither jitter nor a sensor that pauses is mistaken for packets.
    """
    distance = np.diff(time)
    usual = np.sort(np.maximum(distance[distance <= LONGEST_PACKET_S], _SAME_S))
    ratio = usual[1:] / usual[:-1]
    for place in np.argsort(-ratio, kind="stable")[:8]:
        if ratio[place] < _STEP_RATIO:
            break
        first = np.flatnonzero(np.append(True, distance > np.sqrt(usual[place] * usual[place + 1])))
        size = np.diff(np.append(first, len(time)))
        if size[size > 1].sum() <= RARE * len(time) or len(first) < 2:
            continue
        inside = distance[distance <= np.sqrt(usual[place] * usual[place + 1])]
        lasts, until_next = time[first[1:] - 1] - time[first[:-1]], np.diff(time[first])
        if np.median(inside) > _LONGEST_INSIDE_S or np.median(until_next) > LONGEST_PACKET_S:
            continue
        if np.median((lasts / until_next)[size[:-1] > 1]) < _MOST_DUTY:
            return first
    return None


def _times_of(time: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Times of all samples, a mask of the uncertain ones, and the rate in Hz."""
    stamp, size = time[first], np.diff(np.append(first, len(time)))
    if len(first) < FEWEST_PACKETS:
        raise _NotCertain(f"there are only {len(first)} packets")
    cycle, usual = np.diff(stamp), float(np.median(size))
    step = float(np.median(cycle))
    clock = bool(
        (np.abs(cycle / step - np.round(cycle / step)) < max(1e-3, 2 * _SAME_S / step)).mean() > 0.95
    )  # whole steps
    rate = _rate(stamp, size, clock)
    # A single lost sample is visible if all packets have the same size; the steps of a clock can hold one sample more or less.
    even = bool((size == usual).mean() > 0.8 and size.max() == usual and step < 0.5)
    sharp = 0.75 if even or not clock else 1.5
    for _ in range(3):
        if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
            raise _NotCertain(f"their rate would be {rate:.3g} Hz")
        late = stamp - first / rate  # constant, except for jitter, losses and drift
        spread = (
            0.0
            if clock
            else 1.4826 * float(np.median(np.abs(late - scipy.ndimage.median_filter(late, 9, mode="nearest"))))
        )
        limit = max(1.5, 0.6 * usual) / rate
        if 5 * spread > limit:
            raise _NotCertain(f"their stamps jitter by {spread:.3g} s, and packets last {usual / rate:.3g} s")
        tolerance = max(5 * spread, sharp / rate)
        begin, inside = _stretches(late, size < usual - sharp, cycle, tolerance, usual / rate, clock)
        rate, before = _refined(rate, first, late, begin, tolerance), rate
        if abs(before / rate - 1) * len(time) < 1e-3:
            break
    late = stamp - first / rate
    if size[inside].sum() > _MOST_UNCERTAIN * len(time):
        raise _NotCertain("many packets are incomplete")

    base, unsure, outliers = np.empty(len(size)), 0, 0
    for low, high in zip(begin, np.append(begin[1:], len(size)), strict=True):
        held_back = int(
            clock and high - low > 1 and size[low] < usual - sharp
        )  # its stamp belongs to a sample that is missing
        stretch = late[low + held_back : high]
        level = _level(stretch, tolerance, spread, clock)
        outliers += int((np.abs(stretch - level) > tolerance).sum())
        unsure += len(stretch) * (spread > _SHARPEST_S * np.sqrt(min(len(stretch), 4 * _WINDOW)))
        base[low:high] = np.append(np.full(held_back, level[0]), level)
    if outliers > 0.05 * len(size):
        raise _NotCertain(f"{outliers} of {len(size)} packets come at irregular times")
    if unsure > _MOST_UNCERTAIN * len(size):
        raise _NotCertain(f"their stamps jitter by {spread:.3g} s")
    packet = np.repeat(np.arange(len(size)), size)
    times = np.arange(len(time)) / rate + _interpolated(base, first, begin, len(time), packet)
    if (np.diff(times) <= 0).any():
        raise _NotCertain("their times would overlap")
    return times, inside[packet], rate


def _stretches(
    late: np.ndarray, partial: np.ndarray, cycle: np.ndarray, tolerance: float, usual_s: float, clock: bool
) -> tuple[np.ndarray, np.ndarray]:
    """First packet of each stretch without loss, and a mask [packets] of the packets that lost samples."""
    begin = np.flatnonzero(np.append(True, _losses(late, tolerance)))
    if clock:  # a stretch begins within a step of the clock: the first samples are missing, the others are in time
        joins = (
            partial[begin]
            & (np.diff(np.append(begin, len(late))) == 1)
            & (np.append(cycle, np.inf)[begin] < 1.5 * usual_s)
        )
        begin = np.setdiff1d(begin, begin[joins] + 1)
    last = np.append(begin[1:], len(late)) - 1
    inside = np.zeros(len(late), bool)
    inside[last[:-1]] = partial[last[:-1]] & (cycle[last[:-1]] < 1.5 * usual_s)
    inside[begin[(last == begin) & partial[begin]]] = True
    return begin, inside


def _rate(stamp: np.ndarray, size: np.ndarray, clock: bool) -> float:
    """A first estimate of the samples per second between losses."""
    before, cycle, usual = np.append(0, np.cumsum(size)), np.diff(stamp), float(np.median(size))
    nearest = 1.5 if clock else max(0.25 * usual, 1.5)
    rates = []
    for reach in (1, 4, 16):  # a wide reach averages jitter, a short one fits between losses
        if reach < len(size):
            rates.append(float(np.median((before[reach:-1] - before[: -reach - 1]) / (stamp[reach:] - stamp[:-reach]))))
    rate = max(rates, key=lambda rate: (np.abs(cycle - size[:-1] / rate) < nearest / rate).sum())
    for _ in range(4):
        good = np.abs(cycle - size[:-1] / rate) < nearest / rate
        if good.sum() < 2:
            break
        rate = float(size[:-1][good].sum() / cycle[good].sum())
    return rate


def _refined(rate: float, first: np.ndarray, late: np.ndarray, begin: np.ndarray, tolerance: float) -> float:
    """The rate for which the delays within stretches have no slope, by least squares."""
    ends = np.append(begin[1:], len(late))
    xy = xx = 0.0
    for low, high in zip(begin, ends, strict=True):
        if high - low > FEWEST_PACKETS:
            x, y = first[low + 1 : high].astype(np.float64), late[low + 1 : high]
            y = y - np.median(y)
            good = np.abs(y) < 10 * tolerance
            if good.sum() > 2:
                x, y = x[good] - x[good].mean(), y[good] - y[good].mean()
                xy, xx = xy + x @ y, xx + x @ x
    return 1 / (1 / rate + xy / xx) if xx else rate


def _losses(late: np.ndarray, tolerance: float) -> np.ndarray:
    """Mask [packets - 1]: samples are lost between a packet and the next, so all later stamps are delayed."""
    jump = np.diff(late)
    lost = np.zeros(len(jump), bool)
    for place in np.flatnonzero(np.abs(jump) > tolerance):
        before = np.median(late[max(0, place + 1 - _NEAR) : place + 1])
        after = late[place + 1 : place + 1 + _NEAR]
        if jump[place] > 0:
            lost[place] = after.min() - max(before, late[place]) > tolerance / 2
        elif after.max() - before < -tolerance:
            raise _NotCertain("some packets have more samples than the rate allows")
    return lost


def _level(late: np.ndarray, tolerance: float, spread: float, clock: bool) -> np.ndarray:
    """Smoothed delay of each packet: the maximum for a clock, which rounds down to whole steps; else the mean.

    The delay is constant if the stamps agree with that within their jitter.
    """
    window = min(_WINDOW, len(late))
    if clock:
        latest = scipy.ndimage.maximum_filter1d(late, window, mode="nearest")
        return scipy.ndimage.uniform_filter1d(latest, window, mode="nearest")
    middle = scipy.ndimage.median_filter(late, min(_WINDOW, 2 * (len(late) // 2) + 1), mode="nearest")
    clipped = np.clip(late, middle - tolerance, middle + tolerance)
    place = np.arange(len(late))
    low, high = np.maximum(place - _WINDOW // 2, 0), np.minimum(place + _WINDOW // 2 + 1, len(late))
    total = np.append(0, np.cumsum(clipped))
    followed, straight = (total[high] - total[low]) / (high - low), np.full(len(late), clipped.mean())
    return straight if (np.abs(followed - straight) <= _CONTRADICTS * spread / np.sqrt(high - low)).all() else followed


def _interpolated(base: np.ndarray, first: np.ndarray, begin: np.ndarray, count: int, packet: np.ndarray) -> np.ndarray:
    """Interpolates `base` of packets to samples: linear within a stretch, constant after its last packet."""
    stretch = np.searchsorted(begin, np.arange(len(base)), side="right")
    following = np.append(base[1:], base[-1])
    same = np.append(stretch[1:] == stretch[:-1], False)
    size = np.diff(np.append(first, count))
    slope = np.where(same, following - base, 0.0) / size
    return base[packet] + slope[packet] * (np.arange(count) - first[packet])
