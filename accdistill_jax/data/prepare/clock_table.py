"""Reports how far the clocks of PPG and acceleration are apart in each recording of stores, and names those that differ."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from accdistill_jax.data.preprocessing.clocks import (
    APART_S,
    LEAST_MINUTES,
    USUAL_LAG_S,
    ClockLag,
    clock_lag,
    still_rows,
)
from accdistill_jax.data.preprocessing.polarity import recordings_text
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.text import one_line


class RecordingClock(NamedTuple):
    """Clocks of one recording.

    Attributes:
        device, recording: names.
        hours: from the first to the last still minute.
        lag: the estimate.
    """

    device: str
    recording: str
    hours: float
    lag: ClockLag


def measure_clocks(store: Store, *, minutes: int, largest_s: float) -> list[RecordingClock]:
    """Lag and drift of each recording of a store, by device and recording.

    Args:
        store: a store with PPG.
        minutes: most still minutes of a recording, spread evenly.
        largest_s: largest lag that is searched.

    Raises:
        UserError: the store has no PPG, or its segments are too short for this lag.
    """
    if "ppg" not in store.signals:
        raise UserError(f"{store.path}: no PPG, so there are no two clocks to compare")
    segment_s = store.manifest["segment_s"]
    if largest_s >= segment_s / 2:
        raise UserError(f"{store.path}: --largest {largest_s:g} must be below half a segment, {segment_s / 2:g} s")
    names, recording = store.segments.codes("recording")
    device, motion, start = (store.segments[name] for name in ("device", "motion_g", "start_unix_s"))
    measured = []
    for number, name in enumerate(names):
        rows = np.flatnonzero(recording == number)
        rows = rows[np.argsort(start[rows], kind="stable")]
        rows = rows[still_rows(motion[rows], start[rows], segment_s=segment_s, most=minutes)]
        signals = store.read_signals(rows)
        lag = clock_lag(signals["ppg"], signals["accel"], start[rows], rate_hz=store.rate_hz, largest_s=largest_s)
        hours = float(np.ptp(start[rows])) / 3600 if len(rows) else 0.0
        measured.append(RecordingClock(str(device[np.argmax(recording == number)]), name, hours, lag))
    return sorted(measured, key=lambda clock: (clock.device, clock.recording))


def clocks_table(clocks: Sequence[RecordingClock]) -> Table:
    """A row for each recording."""
    table = Table(title="Lag of the PPG behind the acceleration", title_justify="left")
    for column in ("device", "recording"):
        table.add_column(column, overflow="fold")
    for column in ("still minutes", "hours", "lag, s", "spread, s", "drift, ppm", "z"):
        table.add_column(column, justify="right")
    for clock in clocks:
        lag = clock.lag
        cells = [
            _cell(value, form) for value, form in ((lag.lag_s, "+.3f"), (lag.spread_s, ".3f"), (lag.drift_ppm, "+.0f"))
        ]
        cells = cells if lag.is_sure else ["not sure", "", ""]
        names = (Text(one_line(name)) for name in (clock.device, clock.recording))
        table.add_row(*names, str(lag.minutes), f"{clock.hours:.1f}", *cells, _cell(lag.z, ".1f"))
    return table


def clock_warnings(clocks: Sequence[RecordingClock]) -> Iterator[str]:
    """Lines about recordings whose clocks differ from those of their device, drift apart, or cannot be compared."""
    for device in sorted({clock.device for clock in clocks}):
        sure = [clock for clock in clocks if clock.device == device and clock.lag.is_sure]
        if not sure:
            continue
        usual = float(np.median([clock.lag.lag_s for clock in sure])) if len(sure) > 2 else USUAL_LAG_S
        if abs(usual - USUAL_LAG_S) > APART_S:
            yield (
                f"warning: {device}: the PPG is {usual:+.2f} s behind the acceleration in most recordings, and {USUAL_LAG_S:.2f} s is usual: the "
                f"clocks disagree, or a signal is delayed"
            )
        for clock in sure:
            lag = clock.lag
            apart, drifted = lag.lag_s - usual, lag.drift_ppm * 1e-6 * clock.hours * 3600
            if abs(apart) > APART_S:
                yield (
                    f"warning: recording {clock.recording}: the PPG is {lag.lag_s:+.2f} s behind the acceleration, {usual:+.2f} s is usual for "
                    f"{device}: add {apart:+.2f} s to the times of its acceleration (clock_offset_s)"
                )
            if abs(drifted) > APART_S:
                yield (
                    f"warning: recording {clock.recording}: the clocks drift by {lag.drift_ppm:+.0f} ppm, {drifted:+.2f} s from its first to its last "
                    f"still minute"
                )
    unsure = sum(not clock.lag.is_sure for clock in clocks)
    if unsure:
        yield (
            f"{recordings_text(unsure)} of {len(clocks)} not sure: fewer than {LEAST_MINUTES} still minutes, or no clear heartbeat in the "
            f"acceleration"
        )


def _cell(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else ""
