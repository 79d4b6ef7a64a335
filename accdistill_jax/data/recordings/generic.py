"""Your own data: CSV or Parquet files with a small YAML or JSON description beside them.

A recording is described by `recording.yaml` (or .yml, .json) in a folder of its own, or by `<name>.recording.yaml` where many share
a folder. Files are named relative to the description. Every key but those marked "required" may be left out:

    participant: p01               # required; or a mapping with id and what is known:
                                   #   {id: p01, age_years: 34, height_m: 1.80, weight_kg: 75, sex: female,
                                   #    conditions: {beta_blocker: false}}
    device: My Watch 2             # default "unknown"
    start: 2024-05-01T10:00:00Z    # ISO 8601 (UTC unless it says otherwise) or unix seconds; default: the first
                                   #   absolute time stamp, or 0
    streams:                       # required: ppg and accel
      ppg:
        file: ppg.csv              # required
        columns: [green, infrared] # required: names from the header, or numbers from 0 for a file without header
        rate_hz: 100               # either a constant rate ...
        start: 2024-05-01T10:00:01Z  # ... with the first sample's time (default: the recording's start),
        time: timestamp            # ... or a column of time stamps (numbers, or dates as ISO 8601),
        time_unit: ms              #     in s (default), ms, us or ns,
        time_origin: start         #     counted from: start (default, the recording's), unix, or a date
        clock_offset_s: 0.35       # added to the stream's times, to bring sensors with different clocks together
        unit: a.u.                 # acceleration: g (default), mg, m/s2 or counts
        counts_per_g: 64           # with unit: counts
        zero: [512, 512, 512]      # with unit: counts: the number that means 0 g, one or one per axis (an unsigned
                                   #   converter's middle; default 0)
        gravity: included          # acceleration: included (default) or removed (linear acceleration)
        range: [0, 4095]           # the sensor's range, in the file's numbers: samples there are clipped
        polarity: systole_down     # PPG: systole_up, systole_down or unknown (default: the data decide)
        delimiter: ";"             # CSV; default ","
        skip_rows: 2               # CSV: lines before the header or the first sample
      accel: {file: acc.parquet, columns: [x, y, z], time: t, unit: mg}
    beats:                         # beat intervals; each time is that of the beat that ends the interval
      {file: beats.csv, time: t, interval: ibi, interval_unit: ms, time_unit: s, time_origin: start}
    heart_rate:                    # or reference heart rate over windows; time is each window's start
      {file: hr.csv, time: t, hr: bpm, duration_s: 8}

Empty cells and NaN are missing samples. `beats` and `heart_rate` also take time_unit, time_origin, clock_offset_s, delimiter and
skip_rows. Numbers that cannot be are refused with the unit that would fit: |a| at rest must be about 1 g, most beat intervals those of a
heart. Reference heart rates outside 30 to 240 bpm, jumps that no heart makes and values held for over five minutes are unknown.
A key that is not listed here, or is given twice, is an error. Names
(participant, device, files, columns) keep the text that is written, 007 and 1.10 too; numbers are decimal.
"""

import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from accdistill_jax.data.recording import (
    POLARITIES,
    Beats,
    HeartRateWindows,
    Participant,
    Recording,
    RecordingSource,
    Stream,
    named,
)
from accdistill_jax.data.recordings._description import check_keys, choice, mapping, moment, number, read
from accdistill_jax.data.reference_rate import cleaned
from accdistill_jax.data.tree import Tree, recording_ids, regular_file, sibling
from accdistill_jax.errors import UserError

_SIDECAR = re.compile(r"(?:(?P<name>.+)\.)?recording\.(?:ya?ml|json)", re.IGNORECASE)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_G_PER_UNIT = {"g": 1.0, "mg": 1e-3, "m/s2": 1 / 9.80665}
_TABLE_KEYS = ("file", "time", "time_unit", "time_origin", "clock_offset_s", "delimiter", "skip_rows")
_KEYS = {
    "recording": ("participant", "device", "start", "streams", "beats", "heart_rate"),
    "participant": ("id", "age_years", "height_m", "weight_kg", "sex", "conditions"),
    "stream": (*_TABLE_KEYS, "columns", "rate_hz", "start", "unit", "counts_per_g", "zero", "gravity", "range", "polarity"),
    "beats": (*_TABLE_KEYS, "interval", "interval_unit"),
    "heart_rate": (*_TABLE_KEYS, "hr", "duration_s"),
}


def find(tree: Tree) -> list[RecordingSource]:
    """Finds descriptions at any depth, or the root itself if it is one; what they say is checked on loading."""
    descriptions = [(path, match) for path in tree.files if (match := _SIDECAR.fullmatch(path.name))]
    ids = recording_ids(_place(tree.root, path, match["name"]) for path, match in descriptions)
    sources = []
    for (path, _), recording_id in zip(descriptions, ids, strict=True):
        tree.claim(path)
        participant_id = recording_id
        try:
            description = read(path)
            tree.claim(*(sibling(path.parent / file) for file in _files(description)))
            participant_id = _participant(description).participant_id
        except Exception:  # loading says what is wrong
            pass
        sources.append(RecordingSource(recording_id, participant_id, functools.partial(load, path, recording_id)))
    tree.expect(".csv", ".tsv", ".parquet", ".pq", reason="no description (recording.yaml) names this file")
    return sources


def _place(root: Path, path: Path, name: str | None) -> list[str]:
    parts = list(path.parent.relative_to(root).parts) if root.is_dir() else []
    return [*parts, name] if name else parts or [path.parent.name]


def _files(description: Mapping) -> Iterator[str]:
    """The data files that a description names."""
    streams = description.get("streams")
    tables = [*(streams.values() if isinstance(streams, Mapping) else ()), description.get("beats"), description.get("heart_rate")]
    return (table["file"] for table in tables if isinstance(table, Mapping) and isinstance(table.get("file"), str))


def load(path: Path, recording_id: str) -> Recording:
    """Reads the recording that `path` describes.

    Raises:
      UserError: naming the description or the data file, and the key, column or line at fault.
    """
    description = read(path)
    with named(path):
        check_keys(description, _KEYS["recording"], "")
        participant = _participant(description)
        streams = mapping(description, "streams")
        for name in ("ppg", "accel"):
            if name not in streams:
                raise UserError(f"streams: {name!r} is missing; there are {', '.join(map(str, streams)) or 'none'}")
        start = None if description.get("start") is None else moment(description["start"], "start")
        tables = {f"streams.{name}": mapping(streams, name, _KEYS["stream"], f"streams.{name}") for name in streams}
        for name in ("beats", "heart_rate"):
            if description.get(name) is not None:
                tables[name] = mapping(description, name, _KEYS[name])
    times = {name: _Times.read(path.parent, table, path, name, start) for name, table in tables.items()}
    if start is None:
        start = min((t.first_unix_s for t in times.values() if t.first_unix_s is not None), default=0.0)
    loaded = {name: _stream(name, tables[f"streams.{name}"], times[f"streams.{name}"], start, path) for name in streams}
    beats = heart_rate = None
    if "beats" in tables:
        beats = _beats(tables["beats"], times["beats"], start, path)
    if "heart_rate" in tables:
        heart_rate = _heart_rate(tables["heart_rate"], times["heart_rate"], start, path)
    return Recording(recording_id, participant, str(description.get("device") or "unknown"), "generic", start, loaded,
                     beats, heart_rate)


def _participant(description: Mapping) -> Participant:
    who = description.get("participant")
    known_id = who.get("id") if isinstance(who, Mapping) else who
    if not isinstance(known_id, str | int) or isinstance(known_id, bool) or not str(known_id):
        raise UserError(f"participant must be an id or a mapping with the key 'id', got {who!r}; "
                        "put the id between quotes if it is a name")
    if not isinstance(who, Mapping):
        return Participant(str(who))
    check_keys(who, _KEYS["participant"], "participant")
    known = {key: number(who, key, "participant") for key in ("age_years", "height_m", "weight_kg")}
    conditions = who.get("conditions") or {}
    if not isinstance(conditions, Mapping):
        raise UserError(f"participant.conditions must be a mapping of name to true or false, got {conditions!r}")
    return Participant(str(known_id), sex=who.get("sex"), conditions=dict(conditions), **known)


@dataclasses.dataclass(frozen=True)
class _Times:
    """The file of one table and the times of its rows.

    Attributes:
      file: the data file.
      column: reads another column as float64 [rows], NaN where empty.
      seconds: [rows] seconds after `origin_unix_s`, or after the recording's start where that is None; None without time column.
      origin_unix_s: what the seconds count from (with rate_hz: the first sample's time, if given).
      offset_s: the clock offset, to be added.
    """

    file: Path
    column: Callable[[object], np.ndarray]
    seconds: np.ndarray | None
    origin_unix_s: float | None
    offset_s: float

    @classmethod
    def read(cls, folder: Path, table: Mapping, sidecar: Path, where: str, start: float | None) -> "_Times":
        with named(sidecar):
            if not isinstance(table.get("file"), str):
                raise UserError(f"{where}.file is missing")
            file = regular_file(sibling(folder / table["file"]))
            offset = number(table, "clock_offset_s", where, 0.0)
            unit = _PER_SECOND[choice(table, "time_unit", where, _PER_SECOND, "s")]
            skip = number(table, "skip_rows", where, 0.0)
            if skip < 0 or skip != int(skip):
                raise UserError(f"{where}.skip_rows must be a number of lines, got {table['skip_rows']!r}")
            if not isinstance(table.get("delimiter", ","), str) or len(table.get("delimiter", ",")) != 1:
                raise UserError(f"{where}.delimiter must be one character, got {table['delimiter']!r}")
            origin = table.get("time_origin", "start")
            origin = {"start": None, "unix": 0.0}[origin] if origin in ("start", "unix") else moment(
                origin, f"{where}.time_origin")
            by_rate = table.get("rate_hz") is not None
            if by_rate == (table.get("time") is not None):
                raise UserError(f"{where} needs either rate_hz or time" if where.startswith("streams") else f"{where}.time is missing")
            if by_rate:
                origin = None if table.get("start") is None else moment(table["start"], f"{where}.start")
        with named(file):
            column = _open_table(file, table)
            if by_rate:
                return cls(file, column, None, origin, offset)
            stamps = column(table["time"], exact=True)
            if not len(stamps):
                raise UserError("holds no rows")
            if np.issubdtype(stamps.dtype, np.datetime64):
                stamps, unit, origin = stamps.astype("datetime64[ns]").astype(np.int64), 10**9, 0.0
            if origin == 0.0:  # long unix stamps: subtract while they are exact
                reference = float(start) if start is not None else math.floor(stamps[0] / unit)
                stamps, origin = stamps - np.asarray(round(reference * unit), stamps.dtype), reference
            bad = np.flatnonzero(~np.isfinite(stamps))
            if bad.size:
                raise UserError(f"column {table['time']!r}: the time stamp of row {bad[0] + 1} is missing")
            return cls(file, column, stamps / unit, origin, offset)

    @property
    def first_unix_s(self) -> float | None:
        if self.origin_unix_s is None:
            return None
        return self.origin_unix_s + self.offset_s + (self.seconds[0] if self.seconds is not None else 0.0)

    def after(self, start_unix_s: float) -> np.ndarray | float:
        """Seconds after the recording's start, clock offset included."""
        shift = self.offset_s + (self.origin_unix_s - start_unix_s if self.origin_unix_s is not None else 0.0)
        return shift if self.seconds is None else self.seconds + shift


def _open_table(file: Path, table: Mapping) -> Callable[..., np.ndarray]:
    """A function that reads one column of a CSV or Parquet file by its name or number."""
    columns = table.get("columns")
    wanted = [*(columns if isinstance(columns, list) else []), *(table.get(k) for k in ("time", "interval", "hr"))]
    numbered = any(isinstance(name, int) for name in wanted)
    skip = int(table.get("skip_rows", 0))
    try:
        if file.suffix.lower() in (".parquet", ".pq"):
            content = pyarrow.parquet.read_table(file)
        else:
            content = pyarrow.csv.read_csv(
                file,
                read_options=pyarrow.csv.ReadOptions(skip_rows=skip, autogenerate_column_names=numbered),
                parse_options=pyarrow.csv.ParseOptions(delimiter=table.get("delimiter", ",")),
                convert_options=pyarrow.csv.ConvertOptions(null_values=["", "NaN", "nan", "NA", "null"]))
        if not numbered:
            content = content.rename_columns([name.strip() for name in content.column_names])
    except FileNotFoundError:
        raise UserError("no such file") from None
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"cannot be read: {' '.join(str(error).split())}") from error
    first_line = skip + (1 if numbered else 2)

    def column(name: object, *, exact: bool = False) -> np.ndarray:
        if isinstance(name, int):
            if not 0 <= name < content.num_columns:
                raise UserError(f"there is no column {name}: the file has {content.num_columns}, counted from 0")
            values = content.column(name)
        else:
            if name not in content.column_names:
                near = difflib.get_close_matches(str(name), content.column_names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(content.column_names)}"
                raise UserError(f"there is no column {name!r}; {hint}")
            values = content.column(name)
        kind = values.type
        if exact and pyarrow.types.is_timestamp(kind):
            return values.to_numpy()
        if pyarrow.types.is_null(kind):
            return np.full(len(values), np.nan)
        if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
            row = next((i for i, cell in enumerate(values) if not _is_number(cell.as_py())), 0)
            raise UserError(f"column {name!r}, line {row + first_line}: not a number ({values[row].as_py()!r})")
        if exact and pyarrow.types.is_integer(kind) and not values.null_count:
            return values.to_numpy().astype(np.int64)
        numbers = values.cast(pyarrow.float64(), safe=False).to_numpy()
        infinite = np.flatnonzero(np.isinf(numbers))
        if infinite.size:
            raise UserError(f"column {name!r}, line {infinite[0] + first_line}: not a finite number")
        return numbers

    return column


def _is_number(cell: object) -> bool:
    try:
        return cell is None or math.isfinite(float(cell)) or True
    except (TypeError, ValueError):
        return False


def _stream(name: str, table: Mapping, times: _Times, start: float, sidecar: Path) -> Stream:
    where = f"streams.{name}"
    with named(sidecar):
        columns = table.get("columns")
        if not isinstance(columns, list) or not columns:
            raise UserError(f"{where}.columns must be a list of column names or numbers, got {columns!r}")
        unit, scale = str(table.get("unit", "g" if name == "accel" else "a.u.")), 1.0
        zero = 0.0
        if name == "accel":
            choice(table, "unit", where, (*_G_PER_UNIT, "counts"), "g")
            per_g = number(table, "counts_per_g", where)
            if (unit == "counts") != (per_g is not None) or (per_g is not None and per_g <= 0):
                raise UserError(f"{where}.counts_per_g goes with unit: counts and must be positive")
            if unit != "counts" and table.get("zero") is not None:
                raise UserError(f"{where}.zero goes with unit: counts")
            zero = _zero(table, where, axes=len(columns))
            unit, scale = "g", (1 / per_g if per_g else _G_PER_UNIT[unit])
        elif table.get("zero") is not None or table.get("gravity") is not None:
            raise UserError(f"{where}: the keys zero and gravity are for acceleration alone")
        gravity = choice(table, "gravity", where, ("included", "removed"), "included")
        polarity = choice(table, "polarity", where, POLARITIES, "unknown") if name == "ppg" else None
        limits = table.get("range")
        if limits is not None:
            if not isinstance(limits, list) or len(limits) != 2:
                raise UserError(f"{where}.range must be [lowest, highest], got {limits!r}")
            limits = tuple((number({"range": limit}, "range", where, math.nan) - zero) * scale for limit in limits)
        rate = number(table, "rate_hz", where)
    with named(times.file):
        values = (np.stack([times.column(column) for column in columns], axis=1) - zero) * scale
        moment = times.after(start)
        return Stream(
            name, values, tuple(str(column) for column in columns), unit,
            start_s=0.0 if times.seconds is not None else float(moment), rate_hz=rate,
            time_s=moment if times.seconds is not None else None, range=limits, polarity=polarity,
            gravity=gravity, scale=scale)


def _zero(table: Mapping, where: str, *, axes: int) -> float | np.ndarray:
    """The number that means 0 g: one for all axes, or [axes]."""
    zero = table.get("zero")
    if not isinstance(zero, list):
        return number(table, "zero", where, 0.0)
    if len(zero) != axes or None in zero:
        raise UserError(f"{where}.zero must be one number or {axes}, one per axis, got {zero!r}")
    return np.array([number({"zero": value}, "zero", where, math.nan) for value in zero])


def _beats(table: Mapping, times: _Times, start: float, sidecar: Path) -> Beats:
    with named(sidecar):
        unit = choice(table, "interval_unit", "beats", _PER_SECOND, "s")
        if table.get("interval") is None:
            raise UserError("beats.interval is missing: the column of beat intervals")
    with named(times.file):
        interval = times.column(table["interval"]) / _PER_SECOND[unit]
        known = np.isfinite(interval)
        return Beats(times.after(start)[known], interval[known], file_unit=unit)


def _heart_rate(table: Mapping, times: _Times, start: float, sidecar: Path) -> HeartRateWindows:
    with named(sidecar):
        duration = number(table, "duration_s", "heart_rate")
        if table.get("hr") is None or duration is None:
            raise UserError("heart_rate needs hr (the column of beats per minute) and duration_s (length of a window)")
    with named(times.file):
        return cleaned(times.after(start), duration, times.column(table["hr"]))
