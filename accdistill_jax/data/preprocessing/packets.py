"""Samples that share a time stamp: packets are spread at the stream's own rate; what is not certain is refused.

Sensors that send samples in packets, and clocks that tell whole seconds, stamp many samples alike (or microseconds apart). Averaging
them would erase the signal. `spread_packets` gives each sample its own time where the packets leave no doubt:

- the stamp of a packet is the time of its first sample, or of its last where the stream says so;
- the rate is that of the packets between losses, followed along the recording, so that jitter of single stamps is evened out;
- lost packets stay gaps; a packet that lost samples inside is marked missing, since nobody knows which they were;
- a first packet that is not full, of a clock that tells whole steps, holds the last samples of its step;
- rows that repeat others, stamp and values, are dropped.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import scipy.ndimage

from accdistill_jax.data.recording import RATES_HZ, Stream
from accdistill_jax.errors import UserError

LONGEST_PACKET_S = 2.5
FEWEST_PACKETS = 8
RARE = 0.02  # of samples that share a stamp: averaged, as they are no packets
_SAME_S = 1.5e-6  # a microsecond, rounded
_LONGEST_INSIDE_S = 2e-3  # usual distance of stamps inside a packet; a sensor that measures in bursts is slower
_STEP_RATIO = 4.0  # between the distances inside packets and those between packets
_MOST_DUTY = 0.5
_WINDOW = 61  # packets over which stamps are evened out
_CONTRADICTS = 6.0  # standard errors
_NEAR = 8  # packets that show whether a loss is one
_MOST_UNCERTAIN = 0.1
_SHARPEST_S = (
    0.005  # standard error of a packet's time that is certain enough: a tone of 3 Hz keeps its phase to 0.1 rad
)
_ADVICE = "give the stream rate_hz and start in place of time stamps, or each sample a stamp of its own"


class Spread(NamedTuple):
    """A stream whose samples have a time each; how many stamps were changed, and what was done in words ("": nothing)."""

    stream: Stream
    mended: int
    note: str


def spread_packets(stream: Stream) -> Spread:
    """Gives the samples of packets their times.

    Args:
        stream: with time stamps, or it is passed on as it is.

    Returns:
        The stream with rising time stamps; with those it had where no more than `RARE` samples share one.

    Raises:
        UserError: many samples share a stamp, and it is not certain when they were measured; says why.
    """
    if stream.time_s is None or len(stream.time_s) < 2 * FEWEST_PACKETS:
        return Spread(stream, 0, "")
    time, values, dropped = _without_repeats(stream.time_s, stream.values)
    note = f"{dropped} rows that repeat others dropped" if dropped else ""
    if dropped:
        stream = dataclasses.replace(stream, time_s=time, values=values)
    shared = int((np.diff(time) <= _SAME_S).sum())
    first = _packets(time)
    if first is None:
        if shared > RARE * len(time):
            raise UserError(_refusal(stream, shared, f"in packets of more than {LONGEST_PACKET_S:g} s, or in no order"))
        if shared:
            note = "; ".join(
                filter(None, [note, f"{shared} samples with the stamp of the one before averaged with it"])
            )
        return Spread(stream, dropped + shared, note)
    try:
        if stream.packet_stamp == "last":  # the same, seen backwards in time
            first = np.append(0, len(time) - first[:0:-1])
            times, uncertain, rate_hz = _times_of(-time[::-1], first)
            times, uncertain = -times[::-1], uncertain[::-1]
        else:
            times, uncertain, rate_hz = _times_of(time, first)
    except _NotCertain as error:
        usual = np.median(np.diff(first))
        if usual == 1:  # most samples have a time of their own; to average the others harms little
            note = "; ".join(
                filter(None, [note, f"{len(time) - len(first)} samples close to the one before averaged with it"])
            )
            return Spread(stream, dropped + len(time) - len(first), note)
        raise UserError(_refusal(stream, len(time) - len(first), str(error))) from None
    values = stream.values.copy()
    values[uncertain] = np.nan
    if np.isnan(values).any(1).all():
        raise UserError(_refusal(stream, len(time) - len(first), "most packets lack samples"))
    sizes = np.diff(np.append(first, len(time)))
    mended = int(sizes[sizes > 1].sum())
    low, high = np.percentile(sizes, (5, 95))
    said = [
        note,
        f"{mended} samples in packets of {low:.0f}{f' to {high:.0f}' if high > low else ''} spread at {rate_hz:.4g} Hz, "
        f"each packet's stamp taken as its {stream.packet_stamp} sample's",
    ]
    if uncertain.any():
        said.append(f"{int(uncertain.sum())} samples of packets that are not full marked missing")
    return Spread(
        dataclasses.replace(stream, time_s=times, values=values), dropped + mended, "; ".join(filter(None, said))
    )


class _NotCertain(Exception):
    pass


def _refusal(stream: Stream, shared: int, reason: str) -> str:
    return (
        f"stream {stream.name!r}: {shared} of {len(stream.time_s)} samples carry the time stamp of another or one close to it, "
        f"and when they were measured is not certain ({reason}); {_ADVICE}"
    )


def _without_repeats(time: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Drops rows that were written twice, and how many: single rows, or whole packets one after the other."""
    same = np.diff(time) == 0
    if not same.any():
        return time, values, 0
    equal = ((values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))).all(1)
    keep = np.ones(len(time), bool)
    if equal[same].mean() > 0.95 and equal[~same].mean() < 0.5:
        keep[1:] = ~(same & equal)  # each row twice: packets of a real signal hold different values
        return time[keep], values[keep], int((~keep).sum())
    first = np.flatnonzero(np.append(True, ~same))
    size = np.diff(np.append(first, len(time)))
    usual = float(np.median(size))
    looked_at = np.flatnonzero(size > 3)
    sample = looked_at[:: max(len(looked_at) // 500, 1)]
    halves = [_is_twice(values[first[i] : first[i] + size[i]]) for i in sample]
    if not halves or np.mean(halves) < 0.9:  # repeats are the exception: they stand out by their size too
        looked_at = looked_at[size[looked_at] > 1.5 * usual]
    for i in looked_at:
        if _is_twice(values[first[i] : first[i] + size[i]]):
            keep[first[i] + size[i] // 2 : first[i] + size[i]] = False
    return time[keep], values[keep], int((~keep).sum())


def _is_twice(packet: np.ndarray) -> bool:
    """True if the second half repeats the first, and the values are not all the same."""
    half = len(packet) // 2
    return (
        len(packet) % 2 == 0
        and np.array_equal(packet[:half], packet[half:], equal_nan=True)
        and bool((packet != packet[0]).any())
    )


def _packets(time: np.ndarray) -> np.ndarray | None:
    """Index of the first sample of each packet; None where stamps form none.

    Distances inside packets are short and far shorter than those between packets, and packets last a small part of the time to the
    next one, so that neither jitter nor a sensor that pauses looks like it.
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
    """Times of all samples; which are uncertain; the rate in Hz."""
    stamp, size = time[first], np.diff(np.append(first, len(time)))
    if len(first) < FEWEST_PACKETS:
        raise _NotCertain(f"there are only {len(first)} packets")
    cycle, usual = np.diff(stamp), float(np.median(size))
    step = float(np.median(cycle))
    clock = bool(
        (np.abs(cycle / step - np.round(cycle / step)) < max(1e-3, 2 * _SAME_S / step)).mean() > 0.95
    )  # whole steps
    rate = _rate(stamp, size, clock)
    # One sample lost shows where all packets hold as many; a clock's whole steps may hold one more or less.
    even = bool((size == usual).mean() > 0.8 and size.max() == usual and step < 0.5)
    sharp = 0.75 if even or not clock else 1.5
    for _ in range(3):
        if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
            raise _NotCertain(f"their rate would be {rate:.3g} Hz")
        late = stamp - first / rate  # constant, but for jitter, losses and drift
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
        raise _NotCertain("many packets are not full")

    base, unsure, outliers = np.empty(len(size)), 0, 0
    for low, high in zip(begin, np.append(begin[1:], len(size)), strict=True):
        held_back = int(
            clock and high - low > 1 and size[low] < usual - sharp
        )  # its stamp is that of a sample that is not there
        own = late[low + held_back : high]
        level = _level(own, tolerance, spread, clock)
        outliers += int((np.abs(own - level) > tolerance).sum())
        unsure += len(own) * (spread > _SHARPEST_S * np.sqrt(min(len(own), 4 * _WINDOW)))
        base[low:high] = np.append(np.full(held_back, level[0]), level)
    if outliers > 0.05 * len(size):
        raise _NotCertain(f"{outliers} of {len(size)} packets do not come in time")
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
    """First packets of the stretches without loss; and [packets] which packets lost samples inside."""
    begin = np.flatnonzero(np.append(True, _losses(late, tolerance)))
    if clock:  # a stretch begins within a step of the clock: its first samples are not there, the others are in time
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
    """Samples per second between losses, roughly."""
    before, cycle, usual = np.append(0, np.cumsum(size)), np.diff(stamp), float(np.median(size))
    nearest = 1.5 if clock else max(0.25 * usual, 1.5)
    rates = []
    for reach in (1, 4, 16):  # a wide reach sees through jitter, a short one passes between losses
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
    """The rate that leaves no slope within stretches, by least squares."""
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
    """[packets - 1] whether samples are missing between a packet and the next: the stamps stay behind ever after."""
    jump = np.diff(late)
    lost = np.zeros(len(jump), bool)
    for place in np.flatnonzero(np.abs(jump) > tolerance):
        before = np.median(late[max(0, place + 1 - _NEAR) : place + 1])
        after = late[place + 1 : place + 1 + _NEAR]
        if jump[place] > 0:
            lost[place] = after.min() - max(before, late[place]) > tolerance / 2
        elif after.max() - before < -tolerance:
            raise _NotCertain("some hold more samples than the rate allows")
    return lost


def _level(late: np.ndarray, tolerance: float, spread: float, clock: bool) -> np.ndarray:
    """Smoothed delay of the samples of each packet: the latest where a clock cuts off what is less than its step.

    Along a straight line where the stamps do not contradict it by more than their jitter.
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
    """`base` of packets at every sample: straight within a stretch, constant after its last packet."""
    stretch = np.searchsorted(begin, np.arange(len(base)), side="right")
    following = np.append(base[1:], base[-1])
    same = np.append(stretch[1:] == stretch[:-1], False)
    size = np.diff(np.append(first, count))
    slope = np.where(same, following - base, 0.0) / size
    return base[packet] + slope[packet] * (np.arange(count) - first[packet])
