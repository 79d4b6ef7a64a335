"""Units that cannot be: a recording whose numbers are no acceleration in g, no beat intervals, no heart rates.

The sensor of a worn device shows 1 g whenever it rests, and a heart beats 30 to 240 times a minute. What lies far from that was
read in a wrong unit or from a wrong column, and every label and threshold after it would be wrong in silence. So it is refused,
with the unit that would fit.

- Acceleration: the median, over calm seconds, of the length of the second's mean vector must be `REST_G`. A second is calm where
  the vector varies by less than `CALM` of its own mean, whatever the unit. With fewer than `LEAST_CALM_S` calm seconds (running,
  noise) nobody knows what rest was; then the median length over all samples must lie in the far wider `MOVING_G`.
  Samples that are exactly zero on all axes (a sensor that is off) do not count; where no others are, nothing is decided.
- Acceleration declared to be without gravity cannot be checked in this way; it is refused where it shows gravity after all.
- Axes: two that are the same (or opposite) in every sample are refused. One that never changes is refused where the
  others turn by more than `TURN_G`, and only noted where they do not: a coarse sensor on a table does that.
- Beat intervals: their median must be `INTERVAL_S`, they must not add up to more than the time in which they lie, and their times
  must not be hundreds of times further apart than they last.
- Beats, or windows of heart rate, of which none lies within the recording, are noted.
- PPG and acceleration that cover different times, by `MOST_ALONE_S` and `MOST_ALONE` of the longer, are noted: of one device, a wrong
  rate does that.
- Reference heart rates: most must lie within what `reference_rate` takes for a heart's.
"""

import numpy as np

from accdistill_jax.data.recording import Beats, Recording, Stream
from accdistill_jax.errors import UserError

REST_G = (0.7, 1.4)
"""Half-way, as factors, to a range setting that is wrong by two; real sensors showed 0.83 (uncalibrated) to 1.02."""
MOVING_G = (0.3, 3.0)
CALM = 0.05
LEAST_CALM_S = 10
TURN_G = 0.5
INTERVAL_S = (0.25, 3.0)
MOST_COVERAGE = 1.25
MOST_APART = 300.0
LEAST_BEATS = 20
MOST_ALONE_S = 10.0
MOST_ALONE = 0.02
_PER_G = {"g": 1.0, "m/s2": 9.80665, "mg": 1000.0}
_USUAL_COUNTS = (64, 256, 512, 1024, 2048, 4096, 8192, 16384)
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def check_units(recording: Recording) -> dict[str, str]:
    """Refuses what cannot be, by the rules of the module.

    Returns:
        Notes on what is odd but can be, in words: accel_axes, references, coverage; mostly empty.

    Raises:
        UserError: naming the stream, the number that cannot be and the unit that would fit.
    """
    notes = {}
    if "accel" in recording.streams:
        accel = recording.streams["accel"]
        _check_gravity(accel, generic=recording.source == "generic")
        notes |= _check_axes(accel)
    if recording.beats is not None and len(recording.beats.interval_s):
        _check_intervals(recording.beats, generic=recording.source == "generic")
    return notes | _references_outside(recording) | _covered_alone(recording)


def unlabelled(recording: Recording, hr_bpm: np.ndarray) -> dict[str, str]:
    """A note (references) where references were given and no kept segment has a heart rate of them.

    Args:
        recording: the whole.
        hr_bpm: [N] of its kept segments, NaN unknown.
    """
    given = [
        what
        for what, known in (("beats", recording.beats), ("windows of heart rate", recording.heart_rate))
        if known is not None
    ]
    if not given or not len(hr_bpm) or np.isfinite(hr_bpm).any():
        return {}
    return {
        "references": f"none of its kept segments ({len(hr_bpm)}) has a heart rate: the {' and '.join(given)} cover too little of them"
    }


def _covered_alone(recording: Recording) -> dict[str, str]:
    if not {"ppg", "accel"} <= recording.streams.keys():
        return {}
    spans = [(recording.streams[name].start_s, recording.streams[name].end_s) for name in ("ppg", "accel")]
    (ppg_start, ppg_end), (start, end) = spans
    alone = abs(ppg_start - start) + abs(ppg_end - end)
    if alone <= max(MOST_ALONE_S, MOST_ALONE * max(last - first for first, last in spans)):
        return {}
    return {
        "coverage": f"PPG covers {ppg_start:.0f} to {ppg_end:.0f} s and acceleration {start:.0f} to {end:.0f} s: only what both cover is "
        "used; if they began and ended together, a rate or a clock is wrong"
    }


def _references_outside(recording: Recording) -> dict[str, str]:
    if not recording.streams:
        return {}
    start, end = max(s.start_s for s in recording.streams.values()), min(s.end_s for s in recording.streams.values())
    known = {"beats": recording.beats.time_s if recording.beats is not None else np.zeros(0)}
    if recording.heart_rate is not None:
        known["windows of heart rate"] = recording.heart_rate.start_s[np.isfinite(recording.heart_rate.hr_bpm)]
    outside = [
        f"none of {len(time)} {what} lies within the recording's {start:.0f} to {end:.0f} s (they lie at {time.min():.0f} to "
        f"{time.max():.0f} s): do their clocks or units differ?"
        for what, time in known.items()
        if len(time) and not ((time >= start) & (time <= end)).any()
    ]
    return {"references": "; ".join(outside)} if outside else {}


def resting_g(accel: Stream) -> tuple[float, int]:
    """Median length of the acceleration vector at rest, and the number of calm seconds that it is of.

    Args:
        accel: values [samples, 3] in g.

    Returns:
        With fewer than `LEAST_CALM_S` calm seconds: the median length over all samples, and 0. NaN without a sample.
    """
    values = accel.values[np.isfinite(accel.values).all(1) & accel.values.any(1)].astype(np.float64)
    if not len(values):
        return float("nan"), 0
    per_second = max(round(_rate_hz(accel)), 2)
    seconds = values[: len(values) // per_second * per_second].reshape(-1, per_second, 3)
    mean = np.linalg.norm(seconds.mean(1), axis=1)
    calm = np.sqrt(seconds.var(1).sum(1)) < CALM * mean
    if calm.sum() < LEAST_CALM_S:
        return float(np.median(np.linalg.norm(values, axis=1))), 0
    return float(np.median(mean[calm])), int(calm.sum())


def _rate_hz(stream: Stream) -> float:
    if stream.rate_hz is not None:
        return stream.rate_hz
    duration = stream.time_s[-1] - stream.time_s[0]
    return (len(stream.time_s) - 1) / duration if duration > 0 else 1.0


def _check_gravity(accel: Stream, *, generic: bool) -> None:
    length, calm = resting_g(accel)
    if np.isnan(length):
        return
    low, high = REST_G if calm else MOVING_G
    shown = f"|a| {'at rest' if calm else 'at the median, with hardly a calm second,'} is {length:.3g} g"
    if accel.gravity == "removed":
        if calm and low <= length <= high:
            raise UserError(
                f"stream 'accel': {shown}, so it holds gravity, though it is declared to be removed; "
                "leave out gravity: removed"
            )
        return
    if low <= length <= high:
        return
    message = f"stream 'accel': {shown}, and a device at rest shows 1 g"
    if generic:
        message += "; " + _unit_that_fits(accel, length, calm=bool(calm))
    else:
        message += ": these are not the numbers that this device writes; was the file scaled or converted?"
    raise UserError(message)


def _unit_that_fits(accel: Stream, length: float, *, calm: bool) -> str:
    number = length / accel.scale
    low, high = REST_G if calm else MOVING_G
    per_g = min(_USUAL_COUNTS, key=lambda usual: abs(np.log(number / usual)))
    per_g = f"{per_g}" if abs(number / per_g - 1) < (0.1 if calm else 0.4) else f"{number:.3g}"
    advice = [f"unit: {unit}" for unit, count in _PER_G.items() if low <= number / count <= high]
    if not advice or number > 20:
        advice.append(f"unit: counts with counts_per_g: {per_g}")
    advice = f"the file's numbers are {number:.4g} then: {' or '.join(advice)}?"
    if not calm and length < MOVING_G[0]:
        advice += " Or, if gravity was removed from it, gravity: removed?"
    elif length < 0.2:
        advice += " Or gravity: removed, if it was?"
    raw = accel.values / accel.scale
    if number > 20 and np.nanmin(raw) >= 0:
        advice += " No number is negative: if an unsigned converter wrote them, give its zero:, too"
    return advice


def _check_axes(accel: Stream) -> dict[str, str]:
    values = accel.values[np.isfinite(accel.values).all(1)]
    if len(values) < 2:
        return {}
    moves = np.ptp(values, axis=0)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        for sign, how in ((1, "the same"), (-1, "opposite")):
            if moves[a] > 0 and np.array_equal(values[:, a], sign * values[:, b]):
                raise UserError(
                    f"stream 'accel': axes {accel.channels[a]} and {accel.channels[b]} are {how} in every sample; "
                    "name three different columns"
                )
    for axis in np.flatnonzero(moves == 0):
        name = f"axis {accel.channels[axis]} is {values[0, axis]:.3g} g in every sample"
        if moves.max() > TURN_G:
            raise UserError(
                f"stream 'accel': {name}, while others change by {moves.max():.2g} g: a wrong column, or a "
                "broken axis; name the right one, or leave this recording out"
            )
        if moves.max() > 0:
            return {"accel_axes": f"{name}: a wrong column, or a broken axis?"}
    return {}


def _check_intervals(beats: Beats, *, generic: bool) -> None:
    usual = float(np.median(beats.interval_s))
    if not INTERVAL_S[0] <= usual <= INTERVAL_S[1]:
        number = usual * _PER_SECOND[beats.file_unit]
        fits = [unit for unit, per_s in _PER_SECOND.items() if 0.3 <= number / per_s <= 2.0]
        if fits:
            advice = f"interval_unit: {fits[0]}?" if generic else f"are they {fits[0]}?"
        elif 30 <= number <= 240:
            advice = "are these heart rates (beats per minute)?"
        else:
            advice = "no unit of time fits: is it the right column?"
        raise UserError(
            f"beats: the median interval is {usual:.4g} s, and a heart's are 0.3 to 2 s; "
            f"the file's numbers are {number:.4g}: {advice}"
        )
    span = beats.time_s[-1] - beats.time_s[0] + beats.interval_s[0]
    total = float(beats.interval_s.sum())
    if len(beats.time_s) >= LEAST_BEATS and total > MOST_COVERAGE * span:
        raise UserError(
            f"beats: {len(beats.time_s)} intervals add up to {total:.4g} s, but lie within {span:.4g} s: "
            "the time's or the interval's unit is wrong, or beats are listed twice"
        )
    apart = np.diff(beats.time_s) / beats.interval_s[1:]
    if len(beats.time_s) >= LEAST_BEATS and np.median(apart) > MOST_APART and (apart < 1.5).mean() < 0.05:
        raise UserError(
            f"beats: their times are {np.median(apart):.4g} times as far apart as their intervals are long: "
            + ("is the time_unit ms?" if generic else "is the unit of the times another?")
        )
