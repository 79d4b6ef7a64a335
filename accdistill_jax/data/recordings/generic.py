"""Your own data: CSV or Parquet files with a small YAML or JSON description beside them.

A recording is described by `recording.yaml` (or .yml, .json) in a folder of its own, or by `<name>.recording.yaml` where many share
a folder. Files are named relative to the description. Every key but those marked "required" may be left out:

    participant: p01               # required; or a mapping with id and what is known:
                                   #   {id: p01, age_years: 34, height_m: 1.80, weight_kg: 75, sex: female,
                                   #    conditions: {beta_blocker: false}}
    device: My Watch 2             # default "unknown"
    start: 2024-05-01T10:00:00Z    # ISO 8601 (UTC unless it says otherwise) or unix seconds; default: the first
                                   #   absolute time stamp of a stream, or 0
    streams:                       # required: ppg and accel
      ppg:
        file: ppg.csv              # required
        columns: [green, infrared] # required: names from the header, or numbers from 0 for a file without header
        rate_hz: 100               # either a constant rate ...
        start: 2024-05-01T10:00:01Z  # ... with the first sample's time (default: the recording's start),
        time: timestamp            # ... or a column of time stamps (numbers, or dates as ISO 8601),
        time_unit: ms              #     in s (default), ms, us or ns,
        time_origin: start         #     counted from: start (default, the recording's), unix, or a date
        packet_stamp: first        # where samples come in packets of one stamp: whether it is the first (default) or the last's
        clock_offset_s: 0.35       # added to the stream's times, to bring sensors with different clocks together
        unit: a.u.                 # acceleration: g (default), mg, m/s2 or counts
        counts_per_g: 64           # with unit: counts
        zero: [512, 512, 512]      # with unit: counts: the number that means 0 g, one or one per axis (an unsigned
                                   #   converter's middle; default 0)
        gravity: included          # acceleration: included (default) or removed (linear acceleration)
        range: [0, 4095]           # the sensor's range, in the file's numbers: samples there are clipped
        polarity: systole_down     # PPG: systole_up, systole_down or unknown (default: the data decide)
        delimiter: ";"             # CSV; default ",", or ";" where the decimal sign is a comma
        decimal: ","               # CSV; the decimal sign, default "."
        skip_rows: 2               # CSV: lines before the header or the first sample
      accel: {file: acc.parquet, columns: [x, y, z], time: t, unit: mg}
    beats:                         # beat intervals; each time is that of the beat that ends the interval
      {file: beats.csv, time: t, interval: ibi, interval_unit: ms, time_unit: s, time_origin: start}
    heart_rate:                    # or reference heart rate over windows; time is each window's start
      {file: hr.csv, time: t, hr: bpm, duration_s: 8}

Empty cells and NaN are missing samples; in a file of one column, so are empty lines. `beats` and `heart_rate` also take
time_unit, time_origin, clock_offset_s, delimiter, decimal and skip_rows. Samples that share a time stamp, as packets and clocks of
whole seconds give them, are spread at the stream's own rate where that is certain (the summary says so), and refused where it is
not. Numbers that cannot be are refused with the unit that would fit: |a| at rest must be about 1 g, most beat intervals those of a
heart. Dates without a time zone are refused where dates beside them tell that they are not in UTC, and where they jump by an hour, as
clocks that are set do. Reference heart rates outside 30 to 240 bpm, jumps that no heart makes and values held for over five minutes are unknown. A
key that is not listed here, or is given twice, is an error. Names (participant, device, files, columns) keep the text that is
written, 007 and 1.10 too; numbers are decimal.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from accdistill_jax.data.preprocessing.reference_rate import cleaned
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
from accdistill_jax.data.recordings._description import (
    check_keys,
    choice,
    mapping,
    moment,
    number,
    read,
    utc_offset_s,
)
from accdistill_jax.data.recordings._times import KEYS as TABLE_KEYS
from accdistill_jax.data.recordings._times import PER_SECOND, Times
from accdistill_jax.data.tree import Tree, recording_ids, sibling
from accdistill_jax.errors import UserError

_SIDECAR = re.compile(r"(?:(?P<name>.+)\.)?recording\.(?:ya?ml|json)", re.IGNORECASE)
_G_PER_UNIT = {"g": 1.0, "mg": 1e-3, "m/s2": 1 / 9.80665}
_SAME_BEGIN_S = 900.0  # offsets from UTC are no closer to each other
_MOST_OVERLAP = 500  # windows of heart rate at one moment
_LOST = 0.02  # of the usual step from one sample to the next
KEYS = {
    "recording": ("participant", "device", "start", "streams", "beats", "heart_rate"),
    "participant": ("id", "age_years", "height_m", "weight_kg", "sex", "conditions"),
    "stream": (
        *TABLE_KEYS,
        "columns",
        "rate_hz",
        "start",
        "packet_stamp",
        "unit",
        "counts_per_g",
        "zero",
        "gravity",
        "range",
        "polarity",
    ),
    "beats": (*TABLE_KEYS, "interval", "interval_unit"),
    "heart_rate": (*TABLE_KEYS, "hr", "duration_s"),
}


def find(tree: Tree) -> list[RecordingSource]:
    """Finds descriptions at any depth, or the root itself if it is one; what they say is checked on loading."""
    descriptions = [(path, match) for path in tree.files if (match := _SIDECAR.fullmatch(path.name))]
    ids = recording_ids(_place(tree.root, path, match["name"]) for path, match in descriptions)
    sources, folders = [], tree.folders()
    for (path, _), recording_id in zip(descriptions, ids, strict=True):
        tree.claim(path)
        participant_id = recording_id
        try:
            description = read(path)
            tree.claim(*(sibling(path.parent / file) for file in _files(description)))
            participant_id = _participant(description).participant_id
        except Exception:  # loading says what is wrong, and names the data
            tree.claim(*folders[path.parent])
        sources.append(RecordingSource(recording_id, participant_id, functools.partial(load, path, recording_id)))
    tree.expect(".csv", ".tsv", ".parquet", ".pq", reason="no description (recording.yaml) names this file")
    return sources


def _place(root: Path, path: Path, name: str | None) -> list[str]:
    parts = list(path.parent.relative_to(root).parts) if root.is_dir() else []
    return [*parts, name] if name else parts or [path.parent.name]


def _files(description: Mapping) -> Iterator[str]:
    """The data files that a description names."""
    streams = description.get("streams")
    tables = [
        *(streams.values() if isinstance(streams, Mapping) else ()),
        description.get("beats"),
        description.get("heart_rate"),
    ]
    return (table["file"] for table in tables if isinstance(table, Mapping) and isinstance(table.get("file"), str))


def load(path: Path, recording_id: str) -> Recording:
    """Reads the recording that `path` describes.

    Raises:
        UserError: naming the description or the data file, and the key, column or line at fault.
    """
    description = read(path)
    with named(path):
        check_keys(description, KEYS["recording"], "")
        participant = _participant(description)
        streams = mapping(description, "streams")
        for name in ("ppg", "accel"):
            if name not in streams:
                raise UserError(f"streams: {name!r} is missing; there are {', '.join(map(str, streams)) or 'none'}")
        start = None if description.get("start") is None else moment(description["start"], "start")
        tables = {f"streams.{name}": mapping(streams, name, KEYS["stream"], f"streams.{name}") for name in streams}
        for name in ("beats", "heart_rate"):
            if description.get(name) is not None:
                tables[name] = mapping(description, name, KEYS[name])
        _refuse_shared_columns(tables)
    times = {name: Times.read(path.parent, table, path, name) for name, table in tables.items()}
    _refuse_local_times(times, start, utc_offset_s(description.get("start")))
    if start is None:
        firsts = {name: t.first_unix_s for name, t in times.items() if t.first_unix_s is not None}
        of_streams = [first for name, first in firsts.items() if name.startswith("streams.")]
        if firsts and not of_streams:
            raise UserError(
                f"{path}: {' and '.join(firsts)} count from a date, but no stream says when it began; give start"
            )
        start = min(of_streams, default=0.0)
    loaded = {name: _stream(name, tables[f"streams.{name}"], times[f"streams.{name}"], start, path) for name in streams}
    beats = heart_rate = None
    if "beats" in tables:
        beats = _beats(tables["beats"], times["beats"], start, path)
    if "heart_rate" in tables:
        heart_rate = _heart_rate(tables["heart_rate"], times["heart_rate"], start, path)
    return Recording(
        recording_id,
        participant,
        str(description.get("device") or "unknown"),
        "generic",
        start,
        loaded,
        beats,
        heart_rate,
    )


def _refuse_shared_columns(tables: Mapping[str, Mapping]) -> None:
    """Raises UserError for a column that is there twice in a stream, or is both PPG and acceleration."""
    taken: dict[tuple[str, str], str] = {}
    for where in ("streams.ppg", "streams.accel"):
        columns = tables[where].get("columns")
        for column in columns if isinstance(columns, list) else ():
            key = (str(tables[where].get("file")), str(column))
            if key in taken:
                raise UserError(
                    f"{where}.columns: the column {column!r} of {key[0]} is in {taken[key]}.columns already; each is one signal's"
                )
            taken[key] = where


def _refuse_local_times(times: Mapping[str, Times], start: float | None, start_offset_s: float | None) -> None:
    """Raises UserError for dates without a time zone that are not in UTC, as the dates beside them tell.

    That is so where others carry an offset from UTC, and by just this offset these begin later than the recording.
    """
    offsets = {offset for offset in (start_offset_s, *(t.table.utc_offset_s for t in times.values())) if offset}
    begins = [t.first_unix_s for t in times.values() if t.table.utc_offset_s is not None]
    begin = start if start is not None else min(begins, default=None)
    for t in times.values():
        if not t.table.no_zone or begin is None:
            continue
        later = t.first_unix_s - begin
        if any(abs(later - offset) < _SAME_BEGIN_S < abs(later) for offset in offsets):
            raise UserError(
                f"{t.file}: its dates carry no time zone, and as UTC they begin {abs(later) / 3600:.3g} h "
                f"{'after' if later > 0 else 'before'} the recording's, whose dates carry one; write them with their zone, too"
            )


def _participant(description: Mapping) -> Participant:
    who = description.get("participant")
    known_id = who.get("id") if isinstance(who, Mapping) else who
    if not isinstance(known_id, str | int) or isinstance(known_id, bool) or not str(known_id):
        raise UserError(
            f"participant must be an id or a mapping with the key 'id', got {who!r}; "
            "put the id between quotes if it is a name"
        )
    if not isinstance(who, Mapping):
        return Participant(str(who))
    check_keys(who, KEYS["participant"], "participant")
    known = {key: number(who, key, "participant") for key in ("age_years", "height_m", "weight_kg")}
    conditions = who.get("conditions") or {}
    if not isinstance(conditions, Mapping):
        raise UserError(f"participant.conditions must be a mapping of name to true or false, got {conditions!r}")
    return Participant(str(known_id), sex=who.get("sex"), conditions=dict(conditions), **known)


def _stream(name: str, table: Mapping, times: Times, start: float, sidecar: Path) -> Stream:
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
        packet_stamp = choice(table, "packet_stamp", where, ("first", "last"), "first")
        if rate is not None and "packet_stamp" in table:
            raise UserError(f"{where}.packet_stamp goes with time, not with rate_hz")
    with named(times.file):
        values = (np.stack([times.table.numbers(column) for column in columns], axis=1) - zero) * scale
        level = _level(values) if name == "ppg" else 0.0
        values, limits = values - level, limits and tuple(limit - level for limit in limits)
        moment = times.after(start)
        return Stream(
            name,
            values,
            tuple(str(column) for column in columns),
            unit,
            start_s=0.0 if times.seconds is not None else float(moment),
            rate_hz=rate,
            time_s=moment if times.seconds is not None else None,
            range=limits,
            polarity=polarity,
            gravity=gravity,
            scale=scale,
            packet_stamp=packet_stamp,
        )


def _level(values: np.ndarray) -> float | np.ndarray:
    """[channels] to take off a PPG far from 0 of which float32 would lose the pulse, or 0 where it loses nothing.

    Args:
        values: [samples, channels] float64.
    """
    known = values[np.isfinite(values).all(1)]
    if len(known) < 2 or np.abs(known).max() >= np.finfo(np.float32).max:
        return 0.0
    lost = np.median(np.abs(known - known.astype(np.float32)), axis=0)
    return (
        np.median(known, axis=0)
        if (lost > _LOST * np.percentile(np.abs(np.diff(known, axis=0)), 75, axis=0)).any()
        else 0.0
    )


def _zero(table: Mapping, where: str, *, axes: int) -> float | np.ndarray:
    """The number that means 0 g: one for all axes, or [axes]."""
    zero = table.get("zero")
    if not isinstance(zero, list):
        return number(table, "zero", where, 0.0)
    if len(zero) != axes or None in zero:
        raise UserError(f"{where}.zero must be one number or {axes}, one per axis, got {zero!r}")
    return np.array([number({"zero": value}, "zero", where, math.nan) for value in zero])


def _beats(table: Mapping, times: Times, start: float, sidecar: Path) -> Beats:
    with named(sidecar):
        unit = choice(table, "interval_unit", "beats", PER_SECOND, "s")
        if table.get("interval") is None:
            raise UserError("beats.interval is missing: the column of beat intervals")
    with named(times.file):
        interval = times.table.numbers(table["interval"]) / PER_SECOND[unit]
        known = np.isfinite(interval)
        return Beats(times.after(start)[known], interval[known], file_unit=unit)


def _heart_rate(table: Mapping, times: Times, start: float, sidecar: Path) -> HeartRateWindows:
    with named(sidecar):
        duration = number(table, "duration_s", "heart_rate")
        if table.get("hr") is None or duration is None:
            raise UserError("heart_rate needs hr (the column of beats per minute) and duration_s (length of a window)")
    with named(times.file):
        after = times.after(start)
        apart = float(np.median(np.diff(after))) if len(after) > 1 else 0.0
        if apart > 0 and duration > _MOST_OVERLAP * apart:
            raise UserError(f"windows of duration_s: {duration:g} begin every {apart:.3g} s; duration_s is in seconds")
        return cleaned(after, duration, times.table.numbers(table["hr"]))
