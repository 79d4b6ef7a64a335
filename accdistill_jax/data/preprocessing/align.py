"""Moves the acceleration of a recording onto the clock of its PPG (`PreprocessSettings.align_clocks`).

The times of the acceleration get an offset and, from an hour on, a drift, so no sample is interpolated twice. A recording is moved only if
the estimate is sure (`clocks.ClockLag`) and the clocks are more than `clocks.APART_S` apart somewhere in it.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from accdistill_jax.data.preprocessing.clocks import APART_S, USUAL_LAG_S, ClockLag, still_lag
from accdistill_jax.data.preprocessing.segments import SegmentBatch
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Recording, Stream

SHIFT = "clock_shift_s"
"""Column of the segment table: seconds that were added to the times of the acceleration."""


class ClockShift(NamedTuple):
    """Seconds to add to the times of an acceleration, linear in time.

    Attributes:
        middle_s: seconds after the recording's start.
        offset_s: seconds to add there.
        drift: seconds that the offset grows in a second.
    """

    middle_s: float
    offset_s: float
    drift: float

    def at(self, time_s: np.ndarray | float) -> np.ndarray:
        """Seconds to add at times of the acceleration, in seconds after the recording's start."""
        return self.offset_s + self.drift * (np.asarray(time_s, np.float64) - self.middle_s)


def found_shift(
    batch: SegmentBatch, recording: Recording, settings: PreprocessSettings
) -> tuple[ClockShift | None, str]:
    """The shift of a recording, None for one that stays as it is; and a note, "" if the clocks agree.

    Args:
        batch: segments of the recording, with PPG.
        recording: the recording.
        settings: settings that the segments were cut with.
    """
    start_s = batch.columns["start_unix_s"] - recording.start_unix_s
    lag: ClockLag
    lag, rows = still_lag(
        (batch.ppg, batch.accel),
        start_s,
        batch.columns["motion_g"],
        rate_hz=settings.rate_hz,
        segment_s=settings.segment_s,
    )
    if not lag.is_sure:
        heard = (
            f"z {lag.z:.1f} of {lag.minutes} still minutes" if np.isfinite(lag.z) else f"{lag.minutes} still minutes"
        )
        return None, f"not compared, since the heartbeat is not clear enough in both signals ({heard})"
    middle = float(start_s[rows].min() + start_s[rows].max()) / 2
    drift = lag.drift_ppm * 1e-6 if np.isfinite(lag.drift_ppm) else 0.0
    shift = ClockShift(middle, lag.lag_s - USUAL_LAG_S, drift)
    if np.abs(shift.at(start_s)).max() <= APART_S:
        return None, ""
    drifting = f" and a drift of {1e6 * drift:+.0f} ppm" if drift else ""
    return (
        shift,
        f"acceleration moved by {shift.offset_s:+.3f} s{drifting} (z {lag.z:.1f} of {lag.minutes} still minutes)",
    )


def retimed(stream: Stream, shift: ClockShift) -> Stream:
    """A stream at other times."""
    if stream.rate_hz is None:
        return dataclasses.replace(stream, time_s=stream.stamps + shift.at(stream.stamps))
    start = stream.start_s + float(shift.at(stream.start_s))
    return dataclasses.replace(stream, start_s=start, rate_hz=stream.rate_hz / (1 + shift.drift))
