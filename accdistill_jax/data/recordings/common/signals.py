"""Finds PPG and acceleration among the named signals of a general format, such as WFDB and EDF."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from accdistill_jax.data.recording import Stream
from accdistill_jax.errors import UserError

_PPG = re.compile(r"ppg|pleth|bvp", re.IGNORECASE)
_ACCEL = re.compile(r"acc|accel|acceleration|accelerometer", re.IGNORECASE)
_AXIS = re.compile(r"(?:^|[^A-Za-z])([xyz])(?:$|[^A-Za-z])|([XYZ])$|(?<=[a-z])([xyz])$", re.IGNORECASE)
_PER_G = {
    "g": 1.0,
    "mg": 1000.0,
    "m/s2": 9.80665,
    "m/s^2": 9.80665,
    "m/s**2": 9.80665,
    "m/s/s": 9.80665,
    "m/s²": 9.80665,
}


@dataclasses.dataclass(frozen=True)
class Signal:
    """A signal of a file.

    Attributes:
        name: its label.
        unit: unit of the values.
        values: [samples] float64, NaN where missing.
        rate_hz: samples per second.
        time_s: [samples] seconds after the recording's start, if the file has gaps; else None.
    """

    name: str
    unit: str
    values: np.ndarray
    rate_hz: float
    time_s: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """The user's choice of signals.

    Attributes:
        ppg: names of the PPG signals; found by name if empty.
        accel: names of the three axes; found by name if empty.
        accel_unit: unit of the acceleration; the file's if empty.
    """

    ppg: tuple[str, ...] = ()
    accel: tuple[str, ...] = ()
    accel_unit: str = ""


def chosen_names(names: Sequence[str], choice: Choice) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the PPG signals (may be empty) and of the three axes.

    Raises:
        UserError: a chosen name is missing, or there are no or several sets of three axes; the message lists the names.
    """
    listed = f"the file holds {', '.join(names)}"
    for name in (*choice.ppg, *choice.accel):
        if names.count(name) != 1:
            raise UserError(f"there is no signal {name!r}, or several; {listed}")
    ppg = choice.ppg or tuple(name for name in names if _PPG.search(name))
    if choice.accel:
        if len(choice.accel) != 3:
            raise UserError(f"--accel-signals needs three names, got {len(choice.accel)}")
        return ppg, choice.accel
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        axis = _AXIS.search(name.strip())
        if _ACCEL.search(name) and axis:
            letter = next(found for found in axis.groups() if found)
            place = axis.start() + axis.group(0).index(letter)
            groups.setdefault(name[:place] + name[place + 1 :], {})[letter.lower()] = name
    whole = [axes for axes in groups.values() if len(axes) == 3]
    if len(whole) != 1:
        found = "several accelerometers" if whole else "no three axes of acceleration"
        raise UserError(f"{found} are among its signals: choose with --accel-signals X,Y,Z; {listed}")
    return ppg, (whole[0]["x"], whole[0]["y"], whole[0]["z"])


def signal_streams(ppg: Sequence[Signal], accel: Sequence[Signal], accel_unit: str) -> dict[str, Stream]:
    """Streams of the chosen signals.

    Raises:
        UserError: signals of one sensor differ in rate or unit, or the unit of acceleration is unknown.
    """
    units = {accel_unit or signal.unit.strip() for signal in accel}
    per_g = _PER_G.get(next(iter(units)).lower()) if len(units) == 1 else None
    if per_g is None:
        raise UserError(
            f"the acceleration's unit is {' and '.join(sorted(units)) or 'not stated'}: give --accel-unit g, mg or m/s2"
        )
    streams = {"accel": _stream("accel", accel, 1 / per_g)}
    if ppg:
        streams["ppg"] = _stream("ppg", ppg, 1.0)
    return streams


def _stream(name: str, signals: Sequence[Signal], scale: float) -> Stream:
    first = signals[0]
    if any(signal.rate_hz != first.rate_hz or len(signal.values) != len(first.values) for signal in signals):
        raise UserError(
            f"the signals {', '.join(signal.name for signal in signals)} differ in rate: choose signals of one sensor"
        )
    values = np.stack([signal.values for signal in signals], -1) * scale
    channels = ("x", "y", "z") if name == "accel" else tuple(signal.name for signal in signals)
    unit = "g" if name == "accel" else "a.u."
    if first.time_s is None:
        return Stream(name, values, channels, unit, rate_hz=first.rate_hz, scale=scale)
    return Stream(name, values, channels, unit, time_s=first.time_s, scale=scale)
