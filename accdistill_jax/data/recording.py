"""A recording, as a reader returns it: one participant, one device, in physical units and at the sensors' own rates.

All times in a `Recording` are in seconds after `Recording.start_unix_s`. A stream's `start_s` (or `time_s`) already includes the
clock offset between sensors, so equal times mean equal moments.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np

from accdistill_jax.errors import UserError
from accdistill_jax.text import readable

Polarity = Literal["systole_up", "systole_down", "unknown"]
PacketStamp = Literal["first", "last"]
Limit = float | tuple[float, ...] | np.ndarray
POLARITIES: tuple[Polarity, ...] = ("systole_up", "systole_down", "unknown")
G_PER_UNIT = {"g": 1.0, "mg": 1e-3, "m/s2": 1 / 9.80665}
RATES_HZ = (1.0, 100_000.0)
HEART_RATES_BPM = (10.0, 400.0)
# From one day before 1970 (a clock offset on times that count from 0) to the year 2200; unix milliseconds lie beyond.
STARTS_UNIX_S = (-86_400.0, 7_258_118_400.0)


@contextlib.contextmanager
def named(name: object) -> Iterator[None]:
    """Prefixes any `UserError` raised inside with `name`, such as a file or a recording."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _label(name: str) -> str:
    _require(
        re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,59}", name) is not None,
        f"label {name!r}: a name has letters, digits and '_' only, begins with a letter, and has at most 60 of them",
    )
    return name


def _name(kind: str, text: str) -> str:
    """Normalises a name: the same text, whatever system wrote it."""
    _require("\0" not in text, f"{kind} {text!r}: a name must not contain the character NUL; rename it")
    return readable(text)


def _id(kind: str, text: str) -> str:
    """Normalises an id as `_name` does; outer white space goes, because "P01" and "P01 " are one person."""
    return _name(kind, text).strip()


@dataclasses.dataclass(frozen=True)
class Stream:
    """Samples of one sensor.

    Attributes:
        name: "ppg", "accel" or another name (other streams are loaded, but not used).
        values: [samples, channels] float32, in `unit`. NaN marks a missing sample.
        channels: name of each channel, such as ("x", "y", "z").
        unit: "g" for acceleration, "a.u." for PPG.
        start_s: time of the first sample, seconds after the recording's start, clock offset included.
        rate_hz: samples per second of a stream with constant rate; None where `time_s` is given.
        time_s: [samples] float64, seconds after the recording's start, not decreasing; None for a constant rate.
        range: lowest and highest value of the sensor, in `unit`: each a number, or one number per channel. Samples at either
            end count as clipped.
        polarity: direction of the systole in a PPG; None for other streams.
        gravity: "included" if acceleration values contain gravity, else "removed".
        scale: factor from the file's numbers to `unit`, for messages about wrong units.
        packet_stamp: the sample of a packet, first or last, that the packet's shared time stamp belongs to.

    Raises:
        UserError: shapes that disagree, a rate that is not positive (for "ppg" and "accel": not within `RATES_HZ`), or time stamps
            that are NaN or decrease; the message names the stream.
    """

    name: str
    values: np.ndarray
    channels: tuple[str, ...]
    unit: str
    start_s: float = 0.0
    rate_hz: float | None = None
    time_s: np.ndarray | None = None
    range: tuple[Limit, Limit] | None = None
    polarity: Polarity | None = None
    gravity: Literal["included", "removed"] = "included"
    scale: float = 1.0
    packet_stamp: PacketStamp = "first"

    def __post_init__(self) -> None:
        def require(condition: bool, message: str) -> None:
            _require(condition, f"stream {self.name!r}: {message}")

        with np.errstate(over="ignore"):  # values beyond float32 become infinite, an error below
            values = np.asarray(self.values, dtype=np.float32)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "channels", tuple(_name("channel", channel) for channel in self.channels))
        require(values.ndim == 2, f"values must be [samples, channels], got shape {values.shape}")
        require(len(values) > 0, "has no samples")
        require(
            values.shape[1] == len(self.channels),
            f"has {values.shape[1]} columns of values for {len(self.channels)} channels {self.channels}",
        )
        require(not np.isinf(values).any(), "has infinite values")
        require((self.rate_hz is None) != (self.time_s is None), "needs either rate_hz or time_s")
        if self.rate_hz is not None:
            require(
                math.isfinite(self.rate_hz) and self.rate_hz > 0,
                f"the sampling rate must be positive, got {self.rate_hz}",
            )
            require(
                self.name not in ("accel", "ppg") or RATES_HZ[0] <= self.rate_hz <= RATES_HZ[1],
                f"the sampling rate must be {RATES_HZ[0]:g} to {RATES_HZ[1]:g} Hz, got {self.rate_hz:g}",
            )
            require(math.isfinite(self.start_s), f"the start time must be finite, got {self.start_s}")
        else:
            time = np.asarray(self.time_s, dtype=np.float64)
            object.__setattr__(self, "time_s", time)
            require(time.shape == (len(values),), f"has time stamps of shape {time.shape} for {len(values)} samples")
            bad = np.flatnonzero(~np.isfinite(time))
            require(bad.size == 0, f"the time stamp of sample {bad[0] if bad.size else 0} is not a number")
            falling = np.flatnonzero(np.diff(time) < 0)
            require(
                falling.size == 0,
                f"time stamps decrease after sample {falling[0] if falling.size else 0}: sort the samples by time",
            )
            object.__setattr__(self, "start_s", float(time[0]))
        require(
            self.polarity is None or self.polarity in POLARITIES,
            f"polarity must be one of {', '.join(POLARITIES)}, got {self.polarity!r}",
        )
        if self.range is not None:
            low, high = (np.asarray(bound, np.float64) for bound in self.range)
            require(
                low.shape in ((), (values.shape[1],)) and low.shape == high.shape and bool((low < high).all()),
                f"range must be (lowest, highest), got {self.range}",
            )
            object.__setattr__(self, "range", tuple(tuple(b.tolist()) if b.ndim else float(b) for b in (low, high)))
        if self.name in ("accel", "ppg"):
            require(not np.isnan(values).all(), "has only NaN values")
        if self.name == "accel":
            require(
                len(self.channels) == 3 and self.unit == "g",
                f"must have 3 channels in g, got {len(self.channels)} in {self.unit!r}",
            )
        if self.name == "ppg" and self.polarity is None:
            object.__setattr__(self, "polarity", "unknown")

    @property
    def end_s(self) -> float:
        """Time of the last sample, seconds after the recording's start."""
        if self.rate_hz is None:
            return float(self.stamps[-1])
        return self.start_s + (len(self.values) - 1) / self.rate_hz

    @property
    def stamps(self) -> np.ndarray:
        """`time_s` of a stream without a constant rate.

        Raises:
            ValueError: the stream has a constant rate.
        """
        if self.time_s is None:
            raise ValueError(f"stream {self.name!r} has a constant rate, not time stamps")
        return self.time_s


@dataclasses.dataclass(frozen=True)
class Beats:
    """Beat intervals, in order of time.

    Attributes:
        time_s: [n] float64, time of the beat that ends the interval, in seconds after the start of the recording.
        interval_s: [n] float64, duration of the interval in seconds.
        file_unit: unit of the intervals in the file (s, ms, us or ns), for messages about wrong units.
    """

    time_s: np.ndarray
    interval_s: np.ndarray
    file_unit: Literal["s", "ms", "us", "ns"] = "s"

    def __post_init__(self) -> None:
        time, interval = (np.asarray(x, dtype=np.float64) for x in (self.time_s, self.interval_s))
        object.__setattr__(self, "time_s", time)
        object.__setattr__(self, "interval_s", interval)
        _require(
            time.ndim == 1 and time.shape == interval.shape,
            f"beats: times have shape {time.shape}, intervals {interval.shape}",
        )
        _require(
            bool(np.isfinite(time).all() and np.isfinite(interval).all()), "beats: a time or interval is not a number"
        )
        _require(bool((np.diff(time) >= 0).all()), "beats: times decrease; sort the beats by time")
        _require(bool((interval > 0).all()), "beats: intervals must be positive; repair or remove those that are not")


@dataclasses.dataclass(frozen=True)
class HeartRateWindows:
    """Reference heart rate over windows of equal duration.

    Attributes:
        start_s: [n] float64, start of each window, seconds after the start of the recording.
        duration_s: length of a window in seconds.
        hr_bpm: [n] float64, beats per minute, within `HEART_RATES_BPM`; NaN where unknown. Readers compute it with
            `reference_rate.cleaned`.
        note: the values that cleaning removed, in words; empty if there are none.
    """

    start_s: np.ndarray
    duration_s: float
    hr_bpm: np.ndarray
    note: str = ""

    def __post_init__(self) -> None:
        start, hr = (np.asarray(x, dtype=np.float64) for x in (self.start_s, self.hr_bpm))
        object.__setattr__(self, "start_s", start)
        object.__setattr__(self, "hr_bpm", hr)
        _require(
            start.ndim == 1 and start.shape == hr.shape,
            f"heart rate: windows have shape {start.shape}, values {hr.shape}",
        )
        _require(bool(np.isfinite(start).all()), "heart rate: the start of a window is not a number")
        _require(
            0 < self.duration_s < math.inf, f"heart rate: windows must last longer than 0 s, got {self.duration_s}"
        )
        low, high = HEART_RATES_BPM
        odd = np.flatnonzero(~np.isnan(hr) & ~((hr >= low) & (hr <= high)))
        _require(
            odd.size == 0,
            f"heart rate: window {odd[0] if odd.size else 0} has {hr[odd[0]] if odd.size else 0:g} beats per "
            f"minute, outside {low:g} to {high:g}; leave it empty (NaN) where it is unknown",
        )


@dataclasses.dataclass(frozen=True)
class LabelWindows:
    """A user's labels over windows of equal duration, such as stress or sleep stage.

    Attributes:
        start_s: [n] float64, start of each window, seconds after the start of the recording.
        duration_s: length of a window in seconds.
        values: name -> [n] float64 numbers (NaN where unknown), or [n] str classes ("" where unknown).
    """

    start_s: np.ndarray
    duration_s: float
    values: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        start = np.asarray(self.start_s, np.float64)
        object.__setattr__(self, "start_s", start)
        object.__setattr__(self, "values", {_label(name): values for name, values in self.values.items()})
        for name, values in self.values.items():
            _require(
                start.ndim == 1 and np.shape(values) == start.shape,
                f"labels: {name} has shape {np.shape(values)}, the windows {start.shape}",
            )
        _require(bool(np.isfinite(start).all()), "labels: the start of a window is not a number")
        _require(0 < self.duration_s < math.inf, f"labels: windows must last longer than 0 s, got {self.duration_s}")


@dataclasses.dataclass(frozen=True)
class Participant:
    """The person who wore the device; None stands for unknown.

    Attributes:
        participant_id: the same for every recording of one person; data are split by it. Outer white space is removed.
        age_years: age in years, 0 to 130.
        height_m: height in metres, 0.3 to 2.8.
        weight_kg: weight in kilograms, 1 to 700.
        sex: "female" or "male".
        conditions: yes/no conditions, medications and answers, such as {"beta_blocker": True}.
        labels: a user's labels of the person, numbers or texts, such as {"hba1c_percent": 5.4}.
    """

    participant_id: str
    age_years: float | None = None
    height_m: float | None = None
    weight_kg: float | None = None
    sex: Literal["female", "male"] | None = None
    conditions: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, float | str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "participant_id", _id("participant", self.participant_id))
        object.__setattr__(
            self, "conditions", {_name("condition", key): value for key, value in self.conditions.items()}
        )
        _require(bool(self.participant_id), "participant: the id must not be empty")
        name = f"participant {self.participant_id!r}"
        for key, low, high in (("age_years", 0, 130), ("height_m", 0.3, 2.8), ("weight_kg", 1, 700)):
            value = getattr(self, key)
            _require(value is None or low <= value <= high, f"{name}: {key} must be {low} to {high}, got {value}")
        _require(self.sex in (None, "female", "male"), f"{name}: sex must be 'female' or 'male', got {self.sex!r}")
        for key, value in self.conditions.items():
            _require(
                isinstance(value, bool | np.bool_), f"{name}: condition {key!r} must be true or false, got {value!r}"
            )
        object.__setattr__(self, "labels", {_label(key): value for key, value in self.labels.items()})
        for key, value in self.labels.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            _require(
                (isinstance(value, str) and bool(value)) or (number and math.isfinite(value)),
                f"{name}: label {key!r} must be a number or a text, got {value!r}",
            )

    @property
    def bmi(self) -> float | None:
        """Body mass index in kg/m2; None if height or weight is unknown."""
        if self.height_m is None or self.weight_kg is None:
            return None
        return self.weight_kg / self.height_m**2


@dataclasses.dataclass(frozen=True)
class Recording:
    """One recording of one participant who wears one device.

    Attributes:
        recording_id: unique within its source. Outer white space is removed.
        participant: who wore the device.
        device: name of the device, such as "Empatica E4".
        source: name of the reader, such as "empatica_e4".
        start_unix_s: unix seconds (UTC), within `STARTS_UNIX_S`; 0 if unknown.
        streams: by name; preprocessing needs "accel", and uses "ppg" if it is there.
        beats: beat intervals, if known.
        heart_rate: reference heart rate, if known.
        labels: a user's labels over windows, if any.
        is_described: True if the user described the recording in a file; messages then name keys of the description.
    """

    recording_id: str
    participant: Participant
    device: str
    source: str
    start_unix_s: float
    streams: Mapping[str, Stream]
    beats: Beats | None = None
    heart_rate: HeartRateWindows | None = None
    is_described: bool = False
    labels: LabelWindows | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "recording_id", self.recording_id.strip())
        name = f"recording {self.recording_id!r}"
        object.__setattr__(self, "device", _name("device", self.device))
        _require(bool(self.recording_id), "recording: the id must not be empty")
        low, high = STARTS_UNIX_S
        _require(
            low <= self.start_unix_s <= high,
            f"{name}: the start time must be unix seconds from 1970 to 2200, got {self.start_unix_s:g} (milliseconds?)",
        )
        for key, stream in self.streams.items():
            _require(key == stream.name, f"{name}: the stream under the key {key!r} is called {stream.name!r}")


@dataclasses.dataclass(frozen=True)
class RecordingSource:
    """A recording that can be loaded, in this process or another one.

    Attributes:
        recording_id: id of the loaded recording; letters and digits of any script, ".", "_" and "-" only, after outer white space
            is removed.
        participant_id: id of the loaded recording's participant.
        load: picklable function that reads the recording; it raises UserError that names the file.
        copies: further places that hold the same recording and are not read.
        files: paths of all files that it is read from, if the reader tells.
    """

    recording_id: str
    participant_id: str
    load: Callable[[], Recording]
    copies: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "recording_id", self.recording_id.strip())
        object.__setattr__(self, "participant_id", _id("participant", self.participant_id))
