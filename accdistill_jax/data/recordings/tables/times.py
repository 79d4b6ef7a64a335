"""The times of a table's rows: the data file, its column of time stamps, and their origin."""

import dataclasses
import datetime
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from accdistill_jax.data.recording import named
from accdistill_jax.data.recordings.tables.description import choice_at, moment, number_at
from accdistill_jax.data.recordings.tables.table import Layout, Table
from accdistill_jax.data.tree import regular_file, sibling
from accdistill_jax.errors import UserError

KEYS = ("file", "time", "time_unit", "time_origin", "clock_offset_s", "delimiter", "decimal", "skip_rows")
TimeUnit = Literal["s", "ms", "us", "ns"]
PER_SECOND: dict[TimeUnit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_LONGEST_DAYS = 366
_HOUR_S = 3600.0
_DENSE_S = 2.0  # with stamps closer than this, a jump by an hour is no coincidence
_CLOCK_SET = (
    "did the clock change to summer or winter time? Give time stamps with a time zone, or split the recording there"
)


@dataclasses.dataclass(frozen=True)
class Times:
    """A table and the times of its rows.

    Attributes:
        file: the data file.
        table: the columns of the file.
        column: name or number of the column of time stamps; None if there is none.
        seconds: [rows] seconds after `origin_unix_s`, or after the recording's start if that is None; None without a time column.
        origin_unix_s: origin of the seconds in unix seconds; with rate_hz, the first sample's time, if given.
        offset_s: clock offset in seconds, added to the times.
    """

    file: Path
    table: Table
    column: object
    seconds: np.ndarray | None
    origin_unix_s: float | None
    offset_s: float

    @classmethod
    def read(cls, folder: Path, entry: Mapping, sidecar: Path, where: str) -> "Times":
        """Reads the file that an entry of a description names.

        Args:
            folder: folder of the description; `file` is relative to it.
            entry: a stream, the beats or the heart rates.
            sidecar: path of the description, for messages.
            where: place of the entry in the description, for messages.

        Raises:
            UserError: a bad key, an unreadable file, or a time stamp that is missing or impossible; the message names file,
                line and cell.
        """
        with named(sidecar):
            if not isinstance(entry.get("file"), str):
                raise UserError(f"{where}.file is missing: give the name of the data file")
            file = regular_file(sibling(folder / entry["file"]))
            offset = number_at(entry, "clock_offset_s", where, 0.0)
            per_second = PER_SECOND[choice_at(entry, "time_unit", where, PER_SECOND, "s")]
            origin = entry.get("time_origin", "start")
            origin = (
                {"start": None, "unix": 0.0}[origin]
                if origin in ("start", "unix")
                else moment(origin, f"{where}.time_origin")
            )
            by_rate = entry.get("rate_hz") is not None
            if by_rate == (entry.get("time") is not None):
                raise UserError(
                    f"{where} needs either rate_hz or time (and not both)"
                    if where.startswith("streams")
                    else f"{where}.time is missing: give the column of time stamps"
                )
            if by_rate:
                origin = None if entry.get("start") is None else moment(entry["start"], f"{where}.start")
            layout = _layout(entry, where, by_rate)
        with named(file):
            table = Table(file, _columns(entry), None if by_rate else entry["time"], layout)
            if by_rate:
                return cls(file, table, None, None, origin, offset)
            stamps = table.stamps(entry["time"])
            if np.issubdtype(stamps.dtype, np.datetime64):
                stamps, per_second, origin = stamps.astype(np.int64), 10**9, 0.0
            if np.issubdtype(stamps.dtype, np.floating):
                stamps = stamps - _rounded_up(stamps)
            if origin == 0.0:  # unix stamps have many digits: subtract whole seconds while integers are exact
                origin = float(math.floor(stamps[0] / per_second))
                stamps = stamps - np.asarray(int(origin) * per_second, stamps.dtype)
            return cls(file, table, entry["time"], stamps / per_second, origin, offset)

    @property
    def first_unix_s(self) -> float | None:
        """Unix seconds of the first row; None if it is known only relative to the recording's start."""
        if self.origin_unix_s is None:
            return None
        return self.origin_unix_s + self.offset_s + (self.seconds[0] if self.seconds is not None else 0.0)

    def after(self, start_unix_s: float) -> np.ndarray:
        """Seconds after the recording's start, clock offset included.

        Returns:
            [rows] float64; without a time column [1], the first row.

        Raises:
            UserError: time stamps that decrease, jump by an hour as clocks do in spring, or lie more than a year away from the
                recording's start.
        """
        if self.seconds is not None:
            falling = np.flatnonzero(np.diff(self.seconds) < 0)
            if falling.size:
                back = self.seconds[falling[0]] - self.seconds[falling[0] + 1]
                clock_set = self.table.no_zone and abs(back - _HOUR_S) < _DENSE_S
                raise UserError(
                    f"{self.table.place(self.column, falling[0] + 1)}: the time stamps go back by {back:g} s; "
                    + (_CLOCK_SET if clock_set else "sort the rows by time")
                )
            self._check_summer_time(self.seconds)
        shift = self.offset_s + (self.origin_unix_s - start_unix_s if self.origin_unix_s is not None else 0.0)
        after = np.array([shift]) if self.seconds is None else self.seconds + shift
        for days in after[[0, -1]] / 86_400:
            if abs(days) > _LONGEST_DAYS:
                begin = datetime.datetime.fromtimestamp(start_unix_s, datetime.UTC).strftime("%Y-%m-%d")
                hint = (
                    "if its time stamps are unix times, give time_origin: unix"
                    if self.origin_unix_s is None
                    else "check start, time_unit and time_origin"
                )
                raise UserError(
                    f"its times lie {abs(days) / 365.25:.4g} years {'after' if days > 0 else 'before'} the "
                    f"recording's start ({begin}); {hint}"
                )
        return after

    def _check_summer_time(self, seconds: np.ndarray) -> None:
        """Raises UserError for dates without a time zone that jump by an hour: the clock was changed, or the device paused."""
        distance = np.diff(seconds)
        if not self.table.no_zone or not len(distance) or np.median(distance) > _DENSE_S:
            return
        jump = np.flatnonzero(np.abs(distance - _HOUR_S) <= 3 * np.median(distance) + 1e-3)
        if jump.size:
            raise UserError(
                f"{self.table.place(self.column, jump[0] + 1)}: the time stamps jump by {distance[jump[0]]:g} s; {_CLOCK_SET}"
            )


def _rounded_up(stamps: np.ndarray) -> float:
    """Offset of float32 time stamps from the first moment that rounds to them: half a step if stamps repeat from rounding, else 0."""
    single = stamps.astype(np.float32)
    distance = np.diff(stamps)
    if not (single == stamps).all() or not (distance > 0).any() or (distance == 0).mean() < 0.5:
        return 0.0
    step = float(np.spacing(np.abs(single).max()))
    return step / 2 if distance[distance > 0].min() in (step, step / 2) else 0.0


def _layout(entry: Mapping, where: str, by_rate: bool) -> Layout:
    skip = number_at(entry, "skip_rows", where, 0.0)
    if skip < 0 or skip != int(skip):
        raise UserError(f"{where}.skip_rows must be a whole number of lines, 0 or more, got {entry['skip_rows']!r}")
    decimal = choice_at(entry, "decimal", where, (".", ","), ".")
    delimiter = entry.get("delimiter", ";" if decimal == "," else ",")
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter == decimal:
        raise UserError(f"{where}.delimiter must be one character and differ from the decimal sign, got {delimiter!r}")
    return Layout(delimiter, decimal, int(skip), by_rate)


def _columns(entry: Mapping) -> list[object]:
    columns = entry.get("columns")
    return [
        *(columns if isinstance(columns, list) else []),
        *(entry[key] for key in ("interval", "hr") if entry.get(key) is not None),
    ]
