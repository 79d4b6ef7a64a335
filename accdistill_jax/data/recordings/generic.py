"""Your own data: CSV or Parquet files, described by a small YAML or JSON file beside them.

The description of a recording is `recording.yaml` (or .yml, .json) in the recording's folder, or `<name>.recording.yaml` if several
recordings share a folder. File names are relative to the description. All keys are optional, except those marked "required":

    participant: p01               # required: an id, or a mapping with the id and known facts:
                                   #   {id: p01, age_years: 34, height_m: 1.80, weight_kg: 75, sex: female,
                                   #    conditions: {beta_blocker: false}, labels: {hba1c_percent: 5.4, group: control}}
    device: My Watch 2             # default "unknown"
    start: 2024-05-01T10:00:00Z    # ISO 8601 (UTC, unless it has a time zone) or unix seconds; default: the first
                                   #   absolute time stamp of a stream, else 0
    streams:                       # required: accel, and ppg if the device has it
      ppg:
        file: ppg.csv              # required
        columns: [green, infrared] # required: names from the header, or numbers from 0 for a file without a header
        rate_hz: 100               # either a constant rate,
        start: 2024-05-01T10:00:01Z  #   with the time of the first sample (default: the recording's start),
        time: timestamp            # or a column of time stamps (numbers, or ISO 8601 dates),
        time_unit: ms              #   in s (default), ms, us or ns,
        time_origin: start         #   counted from start (default: the recording's start), unix, or a date
        packet_stamp: first        # if the samples of a packet share a time stamp: it belongs to the first (default) or last
        clock_offset_s: 0.35       # added to the stream's times, to align sensors with different clocks
        unit: a.u.                 # acceleration: g (default), mg, m/s2 or counts
        counts_per_g: 64           # with unit: counts
        zero: [512, 512, 512]      # with unit: counts: the count at 0 g, one number or one per axis (the middle of an
                                   #   unsigned converter's range; default 0)
        gravity: included          # acceleration: included (default) or removed (linear acceleration)
        range: [0, 4095]           # the sensor's range, in the file's numbers: samples at its ends count as clipped
        polarity: systole_down     # PPG: systole_up, systole_down or unknown (default: found in the data)
        delimiter: ";"             # CSV: default ",", or ";" if the decimal sign is a comma
        decimal: ","               # CSV: the decimal sign, default "."
        skip_rows: 2               # CSV: number of lines before the header or the first sample
      accel: {file: acc.parquet, columns: [x, y, z], time: t, unit: mg}
    beats:                         # beat intervals; the time is that of the beat that ends the interval
      {file: beats.csv, time: t, interval: ibi, interval_unit: ms, time_unit: s, time_origin: start}
    heart_rate:                    # or reference heart rates over windows; the time is the start of the window
      {file: hr.csv, time: t, hr: bpm, duration_s: 8}
    labels:                        # your own labels over windows, numbers or texts; the time is the start of the window
      {file: labels.csv, time: t, columns: [stress, stage], duration_s: 30}

Empty cells and NaN are missing samples; in a file with one column, empty lines are, too. `beats`, `heart_rate` and `labels` also
accept time_unit, time_origin, clock_offset_s, delimiter, decimal and skip_rows.

Checks:

- Samples that share a time stamp (packets, or clocks that count whole seconds) are spread at the rate of the stream if that rate is
  certain, and the summary says so; otherwise the recording is refused.
- Impossible numbers are refused, and the message suggests a unit that fits: |a| at rest must be about 1 g, and most beat intervals
  must be possible for a heart.
- Dates without a time zone are refused if dates beside them show that they are not in UTC, or if they jump by an hour, as clocks do
  in spring and autumn.
- Windows of heart rate or labels that are over 100 times longer than the distance of their rows (over 20 times, if they last over ten
  minutes) are refused: duration_s or time_unit is wrong.
- A column of labels is refused if most of its cells are numbers, and some are not.
- Reference heart rates outside 30 to 240 bpm, impossible jumps, and values that stay constant for over five minutes become unknown.
- A key that is not listed here, or occurs twice, is an error.

Names (participant, device, files, columns) keep the text of the file, such as 007 or 1.10; numbers are decimal.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from accdistill_jax.config.nearest import nearest
from accdistill_jax.data.preprocessing.reference_rate import cleaned
from accdistill_jax.data.recording import (
    G_PER_UNIT,
    POLARITIES,
    Beats,
    HeartRateWindows,
    Participant,
    Recording,
    RecordingSource,
    Stream,
    named,
)
from accdistill_jax.data.recordings.tables.description import (
    check_keys,
    choice_at,
    mapping,
    moment,
    number_at,
    read,
    utc_offset_s,
)
from accdistill_jax.data.recordings.tables.labels import label_windows, participant_labels
from accdistill_jax.data.recordings.tables.times import KEYS as TABLE_KEYS
from accdistill_jax.data.recordings.tables.times import PER_SECOND, Times
from accdistill_jax.data.recordings.tables.windows import refuse_long_windows
from accdistill_jax.data.tree import Tree, recording_ids, sibling
from accdistill_jax.errors import UserError

_SIDECAR = re.compile(r"(?:(?P<name>.+)\.)?recording\.(?:ya?ml|json)", re.IGNORECASE)
_SAME_BEGIN_S = 900.0  # offsets from UTC differ by at least this much
_LOST = 0.02  # rounding that is allowed, as a fraction of the usual step between samples
_GRAVITIES: tuple[Literal["included", "removed"], ...] = ("included", "removed")
_STAMPS: tuple[Literal["first", "last"], ...] = ("first", "last")
KEYS = {
    "recording": ("participant", "device", "start", "streams", "beats", "heart_rate", "labels"),
    "participant": ("id", "age_years", "height_m", "weight_kg", "sex", "conditions", "labels"),
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
    "labels": (*TABLE_KEYS, "columns", "duration_s"),
}


def find(tree: Tree) -> list[RecordingSource]:
    """Finds descriptions at any depth, or the root itself if it is a description; loading checks their content.

    Args:
        tree: the files to search.
    """
    descriptions = [(path, match) for path in tree.files if (match := _SIDECAR.fullmatch(path.name))]
    ids = recording_ids(_place(tree.root, path, match["name"]) for path, match in descriptions)
    sources, folders = [], tree.folders()
    for (path, _), recording_id in zip(descriptions, ids, strict=True):
        participant_id, files = recording_id, [path]
        try:
            description = read(path)
            files += [sibling(path.parent / file) for file in _files(description)]
            participant_id = _participant(description).participant_id
        except Exception:  # loading reports the error
            files += folders[path.parent]
        tree.claim(*files)
        load_it = functools.partial(load, path, recording_id)
        sources.append(RecordingSource(recording_id, participant_id, load_it, files=tuple(map(str, files))))
    tree.expect(
        ".csv",
        ".tsv",
        ".parquet",
        ".pq",
        reason="no description (recording.yaml) names this file",
    )
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
        description.get("labels"),
    ]
    return (table["file"] for table in tables if isinstance(table, Mapping) and isinstance(table.get("file"), str))


def load(path: Path, recording_id: str) -> Recording:
    """Reads the recording that `path` describes.

    Raises:
        UserError: the description or a data file is bad; the message names the file, and the key, column or line.
    """
    return described_recording(read(path), recording_id, path)


def described_recording(description: Mapping, recording_id: str, path: Path) -> Recording:
    """Reads the recording that a description, with the keys of the module, describes.

    Args:
        description: the content of the description.
        recording_id: id of the recording.
        path: the description's file, for messages; the names of data files are relative to its folder.

    Raises:
        UserError: as `load`.
    """
    with named(path):
        check_keys(description, KEYS["recording"], "")
        participant = _participant(description)
        streams = mapping(description, "streams")
        if "accel" not in streams:
            raise UserError(f"streams.accel is missing; the streams are {', '.join(map(str, streams)) or 'none'}")
        if "ppg" not in streams and (near := nearest("ppg", [str(name).lower() for name in streams])):
            raise UserError(
                f"streams.ppg is missing, but one is called {near!r} (in small letters): call it ppg, or less like it"
            )
        start = None if description.get("start") is None else moment(description["start"], "start")
        tables = {f"streams.{name}": mapping(streams, name, KEYS["stream"], f"streams.{name}") for name in streams}
        for name in ("beats", "heart_rate", "labels"):
            if description.get(name) is not None:
                tables[name] = mapping(description, name, KEYS[name])
        _refuse_shared_columns(tables)
    times = {name: Times.read(path.parent, table, path, name) for name, table in tables.items()}
    _refuse_local_times(times, start, utc_offset_s(description.get("start")))
    if start is None:
        firsts = {name: first for name, t in times.items() if (first := t.first_unix_s) is not None}
        of_streams = [first for name, first in firsts.items() if name.startswith("streams.")]
        if firsts and not of_streams:
            raise UserError(
                f"{path}: the times of {' and '.join(firsts)} count from a date, but no stream has a date; give start"
            )
        start = min(of_streams) if of_streams else 0.0
    loaded = {name: _stream(name, tables[f"streams.{name}"], times[f"streams.{name}"], start, path) for name in streams}
    beats = heart_rate = None
    if "beats" in tables:
        beats = _beats(tables["beats"], times["beats"], start, path)
    if "heart_rate" in tables:
        heart_rate = _heart_rate(tables["heart_rate"], times["heart_rate"], start, path)
    labels = None
    if "labels" in tables:
        labels = label_windows(tables["labels"], times["labels"], start, path)
    return Recording(
        recording_id,
        participant,
        str(description.get("device") or "unknown"),
        "generic",
        start,
        loaded,
        beats,
        heart_rate,
        is_described=True,
        labels=labels,
    )


def _refuse_shared_columns(tables: Mapping[str, Mapping]) -> None:
    """Raises UserError for a column that occurs twice in a stream, or is both PPG and acceleration."""
    taken: dict[tuple[str, str], str] = {}
    for where in [where for where in ("streams.ppg", "streams.accel") if where in tables]:
        columns = tables[where].get("columns")
        for column in columns if isinstance(columns, list) else ():
            key = (str(tables[where].get("file")), str(column))
            if key in taken:
                raise UserError(
                    f"{where}.columns: the column {column!r} of {key[0]} is already in {taken[key]}.columns; use each column once"
                )
            taken[key] = where


def _refuse_local_times(times: Mapping[str, Times], start: float | None, start_offset_s: float | None) -> None:
    """Raises UserError for dates without a time zone that other dates show not to be in UTC.

    This is the case if other dates have an offset from UTC, and these dates begin later than the recording by that offset.
    """
    offsets = {offset for offset in (start_offset_s, *(t.table.utc_offset_s for t in times.values())) if offset}
    zoned = (t.first_unix_s for t in times.values() if t.table.utc_offset_s is not None)
    begin = start if start is not None else min((first for first in zoned if first is not None), default=None)
    for t in times.values():
        first = t.first_unix_s
        if not t.table.no_zone or begin is None or first is None:
            continue
        later = first - begin
        if any(abs(later - offset) < _SAME_BEGIN_S < abs(later) for offset in offsets):
            raise UserError(
                f"{t.file}: its dates have no time zone, and read as UTC they begin {abs(later) / 3600:.3g} h "
                f"{'after' if later > 0 else 'before'} the recording, whose dates have one; write all dates with their time zone"
            )


def _participant(description: Mapping) -> Participant:
    who = description.get("participant")
    known_id = who.get("id") if isinstance(who, Mapping) else who
    if not isinstance(known_id, str | int) or isinstance(known_id, bool) or not str(known_id):
        raise UserError(
            f"participant must be an id or a mapping with the key 'id', got {who!r}; "
            "put quotes around an id such as no or null"
        )
    if not isinstance(who, Mapping):
        return Participant(str(who))
    check_keys(who, KEYS["participant"], "participant")
    known = {key: number_at(who, key, "participant") for key in ("age_years", "height_m", "weight_kg")}
    conditions = who.get("conditions") or {}
    if not isinstance(conditions, Mapping):
        raise UserError(f"participant.conditions must be a mapping of name to true or false, got {conditions!r}")
    labels = participant_labels(who)
    return Participant(str(known_id), sex=who.get("sex"), conditions=dict(conditions), labels=labels, **known)


def _stream(name: str, table: Mapping, times: Times, start: float, sidecar: Path) -> Stream:
    where = f"streams.{name}"
    with named(sidecar):
        columns = table.get("columns")
        if not isinstance(columns, list) or not columns:
            raise UserError(f"{where}.columns must be a list of column names or numbers, got {columns!r}")
        unit, scale = str(table.get("unit", "g" if name == "accel" else "a.u.")), 1.0
        zero = 0.0
        if name == "accel":
            choice_at(table, "unit", where, (*G_PER_UNIT, "counts"), "g")
            per_g = number_at(table, "counts_per_g", where)
            if (unit == "counts") != (per_g is not None) or (per_g is not None and per_g <= 0):
                raise UserError(
                    f"{where}: unit: counts needs counts_per_g, a positive number; other units do not allow it"
                )
            if unit != "counts" and table.get("zero") is not None:
                raise UserError(f"{where}.zero is allowed only with unit: counts")
            zero = _zero(table, where, axes=len(columns))
            unit, scale = "g", (1 / per_g if per_g else G_PER_UNIT[unit])
        elif table.get("zero") is not None or table.get("gravity") is not None:
            raise UserError(f"{where}: the keys zero and gravity are allowed only for acceleration; remove them")
        gravity = choice_at(table, "gravity", where, _GRAVITIES, "included")
        polarity = choice_at(table, "polarity", where, POLARITIES, "unknown") if name == "ppg" else None
        limits = table.get("range")
        if limits is not None:
            if not isinstance(limits, list) or len(limits) != 2:
                raise UserError(f"{where}.range must be [lowest, highest], got {limits!r}")
            limits = [(number_at({"range": limit}, "range", where, math.nan) - zero) * scale for limit in limits]
        rate = number_at(table, "rate_hz", where)
        packet_stamp = choice_at(table, "packet_stamp", where, _STAMPS, "first")
        if rate is not None and "packet_stamp" in table:
            raise UserError(f"{where}.packet_stamp is allowed only with time, not with rate_hz")
    with named(times.file):
        values = (np.stack([times.table.numbers(column) for column in columns], axis=1) - zero) * scale
        level = _level(values) if name == "ppg" else 0.0
        values, after = values - level, times.after(start)
        return Stream(
            name,
            values,
            tuple(str(column) for column in columns),
            unit,
            start_s=0.0 if times.seconds is not None else float(after[0]),
            rate_hz=rate,
            time_s=after if times.seconds is not None else None,
            range=None if limits is None else (limits[0] - level, limits[1] - level),
            polarity=polarity,
            gravity=gravity,
            scale=scale,
            packet_stamp=packet_stamp,
        )


def _level(values: np.ndarray) -> float | np.ndarray:
    """The level to subtract from a PPG that is so far from 0 that float32 would round away the pulse.

    Args:
        values: [samples, channels] float64.

    Returns:
        [channels] float64, or 0 if float32 keeps the pulse.
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
    """The count at 0 g: a number for all axes, or [axes]."""
    zero = table.get("zero")
    if not isinstance(zero, list):
        return number_at(table, "zero", where, 0.0)
    if len(zero) != axes or None in zero:
        raise UserError(f"{where}.zero must be a number, or {axes} numbers (one per axis), got {zero!r}")
    return np.array([number_at({"zero": value}, "zero", where, math.nan) for value in zero])


def _beats(table: Mapping, times: Times, start: float, sidecar: Path) -> Beats:
    with named(sidecar):
        unit = choice_at(table, "interval_unit", "beats", PER_SECOND, "s")
        if table.get("interval") is None:
            raise UserError("beats.interval is missing: give the column of beat intervals")
    with named(times.file):
        interval = times.table.numbers(table["interval"]) / PER_SECOND[unit]
        known = np.isfinite(interval)
        return Beats(times.after(start)[known], interval[known], file_unit=unit)


def _heart_rate(table: Mapping, times: Times, start: float, sidecar: Path) -> HeartRateWindows:
    with named(sidecar):
        duration = number_at(table, "duration_s", "heart_rate")
        if table.get("hr") is None or duration is None:
            raise UserError(
                "heart_rate needs hr (the column of beats per minute) and duration_s (length of a window in seconds)"
            )
    with named(times.file):
        after, bpm = times.after(start), times.table.numbers(table["hr"])
        refuse_long_windows(after, duration, {str(table["hr"]): np.isfinite(bpm)})
        return cleaned(after, duration, bpm)
