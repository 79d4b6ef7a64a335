"""Checks units: refuses recordings whose numbers cannot be acceleration in g, beat intervals or heart rates.

A worn device at rest measures 1 g, and a heart beats 30 to 240 times a minute. Numbers far from that have a wrong unit or come from
a wrong column, and all labels and thresholds computed from them would be wrong without a warning. Such a recording is refused, and
the message suggests a unit that fits.

- Acceleration: the length of the mean vector of a second, as the median over calm seconds, must lie within `REST_G`. A second is
  calm if the vector varies by less than `CALM` of its mean, in any unit. With fewer than `LEAST_CALM_S` calm seconds (running,
  noise) the length at rest is unknown; then the median length over all samples must lie within the much wider `MOVING_G`.
  Samples that are exactly zero on all axes (a sensor that is off) do not count; without other samples nothing is checked.
- Acceleration that is declared to be without gravity is refused only if it contains gravity.
- Axes: two axes that are equal (or opposite) in every sample are refused. A constant axis is refused if the other axes change by more
  than `TURN_G`, and noted otherwise, because a coarse sensor on a table can look like that.
- Beat intervals: their median must lie within `INTERVAL_S`, their sum must not exceed the time they cover, and the distance between
  beats must not be hundreds of times their intervals.
- Beats, and windows of heart rate or labels, that all lie outside the recording are noted. So are windows of which one, and at most
  `MOST_STRAY` of the others, lies within it, unless they cover `LEAST_COVERED` of it: times in ms, read as s, are such windows.
- PPG and acceleration that cover different times are noted, if the difference exceeds both `MOST_ALONE_S` and `MOST_ALONE` of the
  longer one: in one device, a wrong rate causes this.
- Reference heart rates: most values must lie within the range of `reference_rate`.
"""

import numpy as np

from accdistill_jax.data.preprocessing.channels import in_all_channels, in_any_channel, range_of_channels
from accdistill_jax.data.preprocessing.window_labels import covered_s, has_value
from accdistill_jax.data.recording import Beats, Recording, Stream
from accdistill_jax.errors import UserError

REST_G = (0.7, 1.4)
"""Factors half-way to a range setting that is wrong by two; real sensors showed 0.83 (uncalibrated) to 1.02."""
MOVING_G = (0.3, 3.0)
CALM = 0.05
LEAST_CALM_S = 10
TURN_G = 0.5
MOST_WITHOUT_GRAVITY = 5.0
"""Acceleration without gravity, in g or m/s2, has smaller numbers."""
INTERVAL_S = (0.25, 3.0)
MOST_COVERAGE = 1.25
MOST_APART = 300.0
LEAST_BEATS = 20
MOST_ALONE_S = 10.0
MOST_ALONE = 0.02
MOST_STRAY = 0.01
LEAST_COVERED = 0.5
_PER_G = {"g": 1.0, "m/s2": 9.80665, "mg": 1000.0}
_USUAL_COUNTS = (64, 256, 512, 1024, 2048, 4096, 8192, 16384)
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def check_units(recording: Recording) -> dict[str, str]:
    """Refuses impossible numbers, by the rules of the module.

    Stores keep the notes: other words would change the fingerprints of stores.

    Returns:
        Notes on unusual findings, as text under accel_axes, references and coverage; usually empty.

    Raises:
        UserError: a number is impossible; the message names the stream, the number, and a unit that fits.
    """
    notes = {}
    if "accel" in recording.streams:
        accel = recording.streams["accel"]
        _check_gravity(accel, is_described=recording.is_described)
        notes |= _check_axes(accel)
    if recording.beats is not None and len(recording.beats.interval_s):
        _check_intervals(recording.beats, is_described=recording.is_described)
    return notes | _references_outside(recording) | _covered_alone(recording)


def unlabelled(recording: Recording, hr_bpm: np.ndarray) -> dict[str, str]:
    """A note (references) if the recording has reference heart rates, but no kept segment has a heart rate.

    Args:
        recording: the whole recording.
        hr_bpm: [N] heart rates of its kept segments; NaN where unknown.
    """
    given = [
        kind
        for kind, known in (("beats", recording.beats), ("windows of heart rate", recording.heart_rate))
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
    references = []
    if recording.beats is not None:
        references.append(("beats", recording.beats.time_s, 0.0))
    if (rate := recording.heart_rate) is not None:
        references.append(("windows of heart rate", rate.start_s[np.isfinite(rate.hr_bpm)], rate.duration_s))
    if (labels := recording.labels) is not None and labels.values:
        of_any = np.logical_or.reduce([has_value(np.asarray(values)) for values in labels.values.values()])
        references.append(("windows of labels", labels.start_s[of_any], labels.duration_s))
    outside = []
    for kind, time, duration_s in references:
        within = time[(time + duration_s >= start) & (time <= end)]
        if len(time) and (not len(within) or (duration_s and _are_stray(within, duration_s, len(time), (start, end)))):
            share = f"only {len(within)}" if len(within) else "none"
            lie = "lie" if len(within) > 1 else "lies"
            outside.append(
                f"{share} of {len(time)} {kind} {lie} within the recording's {start:.0f} to {end:.0f} s (they lie at {time.min():.0f} to "
                f"{time.max():.0f} s): do their clocks or units differ?"
            )
    return {"references": "; ".join(outside)} if outside else {}


def _are_stray(within: np.ndarray, duration_s: float, count: int, span: tuple[float, float]) -> bool:
    """True if the few of `count` windows that lie within a recording seem to lie there by chance."""
    begin = np.sort(within)
    covered = covered_s(np.maximum(begin, span[0]), np.minimum(begin + duration_s, span[1]))
    few = len(within) <= 1 + MOST_STRAY * count and len(within) < count / 2
    return few and covered < LEAST_COVERED * (span[1] - span[0])


def resting_g(accel: Stream) -> tuple[float, int]:
    """Median length of the acceleration vector at rest, and the number of calm seconds.

    Args:
        accel: stream with values [samples, 3] in g.

    Returns:
        The length in g and the number of seconds. With fewer than `LEAST_CALM_S` calm seconds, the median length over all
        samples and 0; NaN if there are no samples.
    """
    known = in_all_channels(np.isfinite(accel.values)) & in_any_channel(accel.values != 0)
    values = (accel.values if known.all() else accel.values[known]).astype(np.float64)
    if not len(values):
        return float("nan"), 0
    per_second = max(round(_rate_hz(accel)), 2)
    seconds = values[: len(values) // per_second * per_second].reshape(-1, per_second, 3)
    of_axes = np.einsum("ntc->nc", seconds) / per_second
    mean = np.linalg.norm(of_axes, axis=1)
    moved = seconds - of_axes[:, None]
    calm = np.sqrt(np.einsum("ntc,ntc->n", moved, moved) / per_second) < CALM * mean
    if calm.sum() < LEAST_CALM_S:
        return float(np.median(np.linalg.norm(values, axis=1))), 0
    return float(np.median(mean[calm])), int(calm.sum())


def _rate_hz(stream: Stream) -> float:
    if stream.rate_hz is not None:
        return stream.rate_hz
    duration = stream.stamps[-1] - stream.stamps[0]
    return (len(stream.stamps) - 1) / duration if duration > 0 else 1.0


def _check_gravity(accel: Stream, *, is_described: bool) -> None:
    length, calm = resting_g(accel)
    if np.isnan(length):
        return
    low, high = REST_G if calm else MOVING_G
    measured = f"|a| {'at rest' if calm else '(median; hardly any second is calm)'} is {length:.3g} g"
    if accel.gravity == "removed":
        if calm and low <= length <= high:
            raise UserError(
                f"stream 'accel': {measured}, so gravity is included although it is declared as removed; "
                "remove the key gravity: removed"
            )
        return
    if low <= length <= high:
        return
    message = f"stream 'accel': {measured}, but a device at rest measures 1 g"
    if is_described:
        message += "; " + _unit_that_fits(accel, length, calm=bool(calm))
    else:
        message += ": this device does not write such numbers; check whether the file was scaled or converted"
    raise UserError(message)


def _unit_that_fits(accel: Stream, length: float, *, calm: bool) -> str:
    number = length / accel.scale
    low, high = REST_G if calm else MOVING_G
    per_g = min(_USUAL_COUNTS, key=lambda usual: abs(np.log(number / usual)))
    per_g = f"{per_g}" if abs(number / per_g - 1) < (0.1 if calm else 0.4) else f"{number:.3g}"
    advice = [f"unit: {unit}" for unit, count in _PER_G.items() if low <= number / count <= high]
    lacks_gravity = length < (0.2 if calm else low) or (not advice and (length < low or number < MOST_WITHOUT_GRAVITY))
    if not advice or number > 20:
        advice.append(f"unit: counts with counts_per_g: {per_g}")
    advice = f"in the file's numbers that is {number:.4g}; use {' or '.join(advice)}"
    if lacks_gravity:
        advice += ", or gravity: removed if the values do not contain gravity"
    raw = accel.values / accel.scale
    if number > 20 and np.nanmin(raw) >= 0:
        advice += "; no number is negative: if an unsigned converter wrote them, give its zero, too"
    return advice


def _check_axes(accel: Stream) -> dict[str, str]:
    known = in_all_channels(np.isfinite(accel.values))
    values = accel.values if known.all() else accel.values[known]
    if len(values) < 2:
        return {}
    moves = range_of_channels(values)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        for sign, how in ((1, "the same"), (-1, "opposite")):
            begins_alike = np.array_equal(values[:100, a], sign * values[:100, b])
            if moves[a] > 0 and begins_alike and np.array_equal(values[:, a], sign * values[:, b]):
                raise UserError(
                    f"stream 'accel': axes {accel.channels[a]} and {accel.channels[b]} are {how} in every sample; "
                    "give three different columns"
                )
    for axis in np.flatnonzero(moves == 0):
        finding = f"axis {accel.channels[axis]} is {values[0, axis]:.3g} g in every sample"
        if moves.max() > TURN_G:
            raise UserError(
                f"stream 'accel': {finding}, but other axes change by {moves.max():.2g} g: the column is wrong, or the "
                "axis is broken; give the right column, or leave out this recording"
            )
        if moves.max() > 0:
            return {"accel_axes": f"{finding}: a wrong column, or a broken axis?"}
    return {}


def _check_intervals(beats: Beats, *, is_described: bool) -> None:
    usual = float(np.median(beats.interval_s))
    if not INTERVAL_S[0] <= usual <= INTERVAL_S[1]:
        number = usual * _PER_SECOND[beats.file_unit]
        fits = [unit for unit, per_s in _PER_SECOND.items() if 0.3 <= number / per_s <= 2.0]
        if fits:
            advice = f"use interval_unit: {fits[0]}" if is_described else f"they may be in {fits[0]}"
        elif 30 <= number <= 240:
            advice = "they may be heart rates (beats per minute)"
        else:
            advice = "no unit of time fits; check the column"
        raise UserError(
            f"beats: the median interval is {usual:.4g} s, but the intervals of a heart are 0.3 to 2 s; "
            f"the file's number is {number:.4g}: {advice}"
        )
    span = beats.time_s[-1] - beats.time_s[0] + beats.interval_s[0]
    total = float(beats.interval_s.sum())
    if len(beats.time_s) >= LEAST_BEATS and total > MOST_COVERAGE * span:
        raise UserError(
            f"beats: {len(beats.time_s)} intervals add up to {total:.4g} s, but cover only {span:.4g} s: "
            "the unit of the times or of the intervals is wrong, or beats occur twice"
        )
    apart = np.diff(beats.time_s) / beats.interval_s[1:]
    if len(beats.time_s) >= LEAST_BEATS and np.median(apart) > MOST_APART and (apart < 1.5).mean() < 0.05:
        raise UserError(
            f"beats: the distance between beats is {np.median(apart):.4g} times their intervals: "
            + ("use time_unit: ms" if is_described else "the unit of the times is wrong")
        )
