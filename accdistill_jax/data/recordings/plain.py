"""CSV or Parquet files of acceleration that nobody described; flags give rate and unit.

Each file is a recording. Columns are found by their names (x, y, z, acc_x, "Acceleration y (m/s^2)" and the like), or by their order in a
file of three columns, or of four that begins with time. Delimiter and decimal sign are found too; a file that could be read in two
ways is refused. The times come from the given rate, or from a column of time stamps; a file in which both differ is refused.

    python -m accdistill_jax.data.prepare plain my_files --out stores/mine --file-rate-hz 50 --unit mg

For PPG, beats and facts about participants, write descriptions and use the reader generic.
"""

import dataclasses
import datetime
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from accdistill_jax.data.recording import Recording, RecordingSource, named
from accdistill_jax.data.recordings.generic import described_recording
from accdistill_jax.data.recordings.tables.dialect import Dialect, find_dialect
from accdistill_jax.data.recordings.tables.table import COMPRESSIONS
from accdistill_jax.data.recordings.tables.times import PER_SECOND, Times, TimeUnit
from accdistill_jax.data.tree import Tree, recording_ids
from accdistill_jax.errors import UserError

ENDINGS = (".csv", ".tsv", ".parquet", ".pq")
_UNITS = {
    "g": "g",
    "mg": "mg",
    "m/s2": "m/s2",
    "m/s^2": "m/s2",
    "m/s²": "m/s2",
    "ms-2": "m/s2",
    "m/s/s": "m/s2",
    "milli-g": "mg",
}
_TIME = re.compile(
    r"(?:time|timestamp|timestamps|datetime|date|epoch|unix|elapsed|t|ts|seconds|millis|zeit|temps|tiempo|tempo)"
)
_TIME_UNITS: dict[str, TimeUnit] = {
    "s": "s",
    "sec": "s",
    "seconds": "s",
    "ms": "ms",
    "millis": "ms",
    "milliseconds": "ms",
    "us": "us",
    "ns": "ns",
}
_NOT_TOTAL = {"linear", "lin", "user", "gravity", "grav"}
_OTHER_SENSORS = {"gyr", "gyro", "gyroscope", "mag", "magnetometer", "rot", "rotation", "quat", "euler", "angle"}
_PLAUSIBLE_HZ = (5.0, 2000.0)
_UNIX_S = 3e8  # later than 1979, in seconds
_SAME_RATE = 1.25  # of the first rows, whose time stamps may be coarse
_SAME_LENGTH, _SAME_LENGTH_S = 0.02, 2.0  # of the whole file


class _Columns(NamedTuple):
    """Columns of a table, by name, or by number without a header: x, y, z; and time, or None."""

    axes: list[Any]
    time: Any


def find(
    tree: Tree,
    *,
    rate_hz: float | None = None,
    unit: Literal["g", "mg", "m/s2"] | None = None,
    columns: tuple[str, ...] = (),
    gravity: Literal["included", "removed"] = "included",
    participant_from: Literal["file", "folder"] = "file",
) -> list[RecordingSource]:
    """Finds tables at any depth, or the root itself if it is a file of any ending.

    Args:
        tree: the files to search.
        rate_hz: samples per second; without it, the file must have a column of time stamps.
        unit: unit of the acceleration; without it, the unit in the header, else g.
        columns: names of the columns of x, y and z, or their numbers from 0; without it, they are found by their names.
        gravity: "removed" if the acceleration is without gravity (linear or user acceleration of a phone).
        participant_from: take the participant's id from the name of the file, or of its folder.
    """
    if columns and len(columns) != 3:
        raise UserError(f"columns {','.join(columns)}: give three, of x, y and z")
    single = tree.root.is_file()
    files = [path for path in tree.files if single or _bare(path).suffix.lower() in ENDINGS]
    tree.claim(*files)
    stems = [_bare(path).stem if _bare(path).suffix else path.name for path in files]
    places = [
        [*(() if single else path.parent.relative_to(tree.root).parts), stem]
        for path, stem in zip(files, stems, strict=True)
    ]
    options = {"rate_hz": rate_hz, "unit": unit, "columns": columns, "gravity": gravity}
    sources = []
    for path, stem, recording_id in zip(files, stems, recording_ids(places), strict=True):
        participant = stem if participant_from == "file" else path.parent.name
        sources.append(
            RecordingSource(
                recording_id, participant, functools.partial(load, path, recording_id, participant, options)
            )
        )
    return sources


def load(path: Path, recording_id: str, participant: str, options: dict[str, Any]) -> Recording:
    """Reads one table.

    Args:
        path: the file.
        recording_id: id of the recording.
        participant: id of the participant.
        options: rate_hz, unit, columns and gravity, see `find`.

    Raises:
        UserError: the file cannot be read, its columns or its times are not certain, or they contradict the options; the message
            names the file.
    """
    with named(path):
        dialect = find_dialect(path)
        columns = _columns(dialect, options["columns"])
        accel = {
            "file": path.name,
            "columns": columns.axes,
            "unit": _unit(columns.axes, options["unit"]),
            "gravity": options["gravity"],
            "delimiter": dialect.delimiter,
            "decimal": dialect.decimal,
            "skip_rows": dialect.skip_rows,
        }
        accel |= _times(dialect, columns.time, options["rate_hz"])
    description = {"participant": participant, "streams": {"accel": accel}}
    recording = described_recording(description, recording_id, path)
    if options["rate_hz"] is not None and columns.time is not None:
        rows = len(recording.streams["accel"].values)
        with named(path):
            _refuse_other_length(path, dialect, columns.time, rows=rows, rate_hz=options["rate_hz"])
    return dataclasses.replace(recording, source="plain")


def _bare(path: Path) -> Path:
    """The path without the ending of a compression."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path


def _words(name: str) -> list[str]:
    """Words of a column's name in small letters, without its unit: "accX (m/s^2)" -> acc, x."""
    bare = re.sub(r"\(.*?\)|\[.*?\]", " ", name)
    bare = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", bare)
    return [word for word in re.split(r"[^a-z]+", bare.lower()) if word]


def _axis(name: str) -> str | None:
    """x, y or z if a name is of an axis of acceleration."""
    words = _words(name)
    if _OTHER_SENSORS & set(words):
        return None
    axes = [word for word in words if word in ("x", "y", "z")]
    axes += [match[1] for word in words if (match := re.fullmatch(r"(?:a|acc|accel|acceleration|f|gf)([xyz])", word))]
    return axes[0] if len(axes) == 1 else None


def _columns(dialect: Dialect, chosen: tuple[str, ...]) -> _Columns:
    """The columns of x, y, z and of time."""
    names = list(dialect.header)
    if not names:
        return _columns_by_order(dialect, chosen)
    time = next((name for name in names if _axis(name) is None and any(map(_TIME.fullmatch, _words(name)))), None)
    if chosen:
        return _Columns(list(chosen), time)
    found = {axis: [name for name in names if _axis(name) == axis] for axis in "xyz"}
    if any(len(of_axis) > 1 for of_axis in found.values()):
        total = {axis: [n for n in of_axis if not _NOT_TOTAL & set(_words(n))] for axis, of_axis in found.items()}
        found = total if all(total.values()) else found
    if all(len(of_axis) == 1 for of_axis in found.values()):
        return _Columns([of_axis[0] for of_axis in found.values()], time)
    numbers = [name for name in names if name != time]
    if len(numbers) == 3 and not any(found.values()):
        return _Columns(numbers, time)
    raise UserError(f"the columns of x, y and z are not certain among {', '.join(names)}; give --columns")


def _columns_by_order(dialect: Dialect, chosen: tuple[str, ...]) -> _Columns:
    width = len(dialect.rows[0])
    stamps = np.array([dialect.number(row[0]) for row in dialect.rows])
    texts = [row[0].strip() for row in dialect.rows]
    is_date = any(re.match(r"\d{4}-\d\d-\d\d", text) for text in texts)
    rises = len(stamps) > 10 and bool((np.diff(stamps) > 0).mean() > 0.5 and (np.diff(stamps) >= 0).all())
    time = 0 if width > 3 and (is_date or rises) else None
    if chosen:
        if not all(name.isdecimal() and int(name) < width for name in chosen):
            raise UserError(f"--columns {','.join(chosen)}: the file has no header; give numbers from 0 to {width - 1}")
        return _Columns([int(name) for name in chosen], time)
    if width == 3:
        return _Columns([0, 1, 2], None)
    if width == 4 and time == 0:
        return _Columns([1, 2, 3], 0)
    raise UserError(f"has {width} columns and no header; give the numbers of x, y and z by --columns, such as 1,2,3")


def _unit(axes: list[Any], given: str | None) -> str:
    """The unit of acceleration: given, or in brackets in the header."""
    written = {
        _UNITS[text]
        for name in map(str, axes)
        for text in (part.strip().lower() for part in re.findall(r"[(\[](.*?)[)\]]", name))
        if text in _UNITS
    }
    if len(written) > 1 or (given and written and written != {given}):
        raise UserError(
            f"the header says {' and '.join(sorted(written))}, --unit says {given or 'nothing'}; correct one of them"
        )
    return given or next(iter(written), "g")


def _times(dialect: Dialect, time: Any, rate_hz: float | None) -> dict[str, Any]:
    """The keys of a description that give the times of the rows."""
    at = dialect.header.index(time) if isinstance(time, str) else time
    cells = [row[at].strip() for row in dialect.rows] if at is not None and dialect.rows else []
    stamps = np.array([dialect.number(cell) for cell in cells])
    numbers = bool(len(stamps)) and bool(np.isfinite(stamps).all())
    unit = _time_unit(str(time), stamps) if numbers else None
    if rate_hz is None:
        if time is None:
            raise UserError(
                "has no column of time stamps; give the rate in samples per second: --rate-hz (of prepare: --file-rate-hz)"
            )
        if not numbers:  # dates
            return {"time": time}
        if unit is None:
            step = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
            raise UserError(f"column {time!r}: steps of {step:.4g} are no usual rate in s, ms, us or ns; give the rate")
        is_unix = stamps[0] / PER_SECOND[unit] > _UNIX_S
        return {"time": time, "time_unit": unit, "time_origin": "unix" if is_unix else "start"}
    keys: dict[str, Any] = {"rate_hz": rate_hz}
    seconds = stamps / PER_SECOND[unit] if unit is not None else _seconds_of_dates(cells)
    if len(seconds) > 10 and seconds[-1] > seconds[0]:
        measured = (len(seconds) - 1) / (seconds[-1] - seconds[0])
        if not 1 / _SAME_RATE < measured / rate_hz < _SAME_RATE:
            raise UserError(
                f"the given rate is {rate_hz:g} Hz, but column {time!r} has {measured:.4g} samples per second; correct the rate"
            )
        if seconds[0] > _UNIX_S:
            keys["start"] = float(seconds[0])
    return keys


def _refuse_other_length(path: Path, dialect: Dialect, time: Any, *, rows: int, rate_hz: float) -> None:
    """Raises UserError if the time stamps cover another time than the rows last at the given rate: the rate is wrong, or rows are missing."""
    table = {
        "file": path.name,
        "delimiter": dialect.delimiter,
        "decimal": dialect.decimal,
        "skip_rows": dialect.skip_rows,
    }
    try:
        seconds = Times.read(path.parent, table | _times(dialect, time, None), path, "the table").seconds
    except UserError:
        return  # the rate is given because the stamps cannot be used
    if seconds is None or (np.diff(seconds) < 0).any() or seconds[-1] == seconds[0]:
        return
    covered, expected = float(seconds[-1] - seconds[0]), (rows - 1) / rate_hz
    if abs(covered - expected) > max(_SAME_LENGTH_S, _SAME_LENGTH * expected):
        raise UserError(
            f"column {time!r} covers {covered:.6g} s, but {rows} rows at {rate_hz:g} Hz last {expected:.6g} s: the rate is wrong, or rows are "
            "missing; leave out the rate to use the time stamps, or remove the column"
        )


def _seconds_of_dates(cells: Sequence[str]) -> np.ndarray:
    """Unix seconds of ISO 8601 dates, in UTC if they have no time zone; empty if a cell is none."""
    try:
        dates = [datetime.datetime.fromisoformat(cell) for cell in cells]
    except ValueError:
        return np.zeros(0)
    return np.array([(d if d.tzinfo else d.replace(tzinfo=datetime.UTC)).timestamp() for d in dates])


def _time_unit(name: str, stamps: np.ndarray) -> TimeUnit | None:
    """The unit of numeric time stamps: that of the column's name, or the only one with a usual rate; None if there is none."""
    written = re.findall(r"[(\[](.*?)[)\]]", name) + _words(name)
    for word in (word.strip().lower() for word in written):
        if word in _TIME_UNITS:
            return _TIME_UNITS[word]
    steps = np.diff(stamps)
    steps = steps[steps > 0]
    if not len(steps) or len(stamps) < 2:
        return None
    mean_hz = (len(stamps) - 1) / (stamps[-1] - stamps[0]) if stamps[-1] > stamps[0] else 0.0
    fits = [u for u, per_s in PER_SECOND.items() if _PLAUSIBLE_HZ[0] <= mean_hz * per_s < _PLAUSIBLE_HZ[1]]
    return fits[0] if len(fits) == 1 else None
