"""CSV or Parquet files of acceleration that nobody described; flags give rate and unit.

Each file is a recording. Columns are found by their names (x, y, z, acc_x, "Acceleration y (m/s^2)" and the like), or by their order in a
file of three columns, or of four that begins with time. Delimiter and decimal sign are found too; a file that could be read in two
ways is refused. The times come from a column of time stamps, so gaps stay gaps; without one, from the given rate. A rate that is not
that of the time stamps is refused. A column that counts the rows needs the rate; its missing numbers are gaps. Stamps that are no
numbers of a known unit and no ISO 8601 dates are not used if a rate is given.

    python -m accdistill_jax.data.prepare plain my_files --out stores/mine --file-rate-hz 50 --unit mg

For PPG, beats and facts about participants, write descriptions and use the reader generic.
"""

import dataclasses
import datetime
import functools
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from accdistill_jax.data.recording import Recording, RecordingSource, named
from accdistill_jax.data.recordings.generic import described_recording
from accdistill_jax.data.recordings.tables.dialect import Dialect, find_dialect
from accdistill_jax.data.recordings.tables.given_rate import counted, timed
from accdistill_jax.data.recordings.tables.table import COMPRESSIONS
from accdistill_jax.data.recordings.tables.times import PER_SECOND, TimeUnit
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
_LIKE = 0.005  # of the rate of the first rows, from stamps in milliseconds
_MOSTLY = 0.95  # of the steps of a counter, which may miss rows
_GIVE_RATE = "give the rate in samples per second: --rate-hz (of prepare: --file-rate-hz)"
_COUNTER: TimeUnit = "ns"  # so that no counter seems to last for years


class _Columns(NamedTuple):
    """Columns of a table, by name, or by number without a header: x, y, z; and time, or None."""

    axes: list[Any]
    time: Any


class _Clock(NamedTuple):
    """Source of the times of the rows.

    Attributes:
        keys: the keys of a description that say it.
        is_counter: True if the time stamps count rows, with the unit `_COUNTER`.
    """

    keys: dict[str, Any]
    is_counter: bool = False


def find(
    tree: Tree,
    *,
    rate_hz: float | None = None,
    unit: Literal["g", "mg", "m/s2"] | None = None,
    columns: tuple[str, ...] = (),
    gravity: Literal["included", "removed"] = "included",
    participant_from: Literal["auto", "file", "folder"] = "auto",
) -> list[RecordingSource]:
    """Finds tables at any depth, or the root itself if it is a file of any ending.

    Args:
        tree: the files to search.
        rate_hz: samples per second; without it, the file must have a column of time stamps. With both, they must agree.
        unit: unit of the acceleration; without it, the unit in the header, else g.
        columns: names of the columns of x, y and z, or their numbers from 0; without it, they are found by their names.
        gravity: "removed" if the acceleration is without gravity (linear or user acceleration of a phone).
        participant_from: take the participant's id from the name of the file, or of its folder; auto is the file, and asks in a
            preparation if names hold dates.
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
        participant = path.parent.name if participant_from == "folder" else stem
        sources.append(
            RecordingSource(
                recording_id,
                participant,
                functools.partial(load, path, recording_id, participant, options),
                files=(str(path),),
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
        clock = _clock(dialect, columns.time, options["rate_hz"])
        accel |= clock.keys
    both = options["rate_hz"] is not None and "time" in clock.keys
    description = {"participant": participant, "streams": {"accel": accel}}
    try:
        recording = described_recording(description, recording_id, path)
    except UserError as error:
        if both and f"column {columns.time!r}" in str(error):
            raise UserError(f"{error}; or remove this column, if the rows follow each other at the rate") from error
        raise
    if both:
        stream, rate_hz = recording.streams["accel"], float(options["rate_hz"])
        with named(path):
            stream = counted(stream, rate_hz) if clock.is_counter else timed(stream, rate_hz, columns.time)
        recording = dataclasses.replace(recording, streams={"accel": stream})
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


def _clock(dialect: Dialect, time: Any, rate_hz: float | None) -> _Clock:
    """Finds the source of the times of the rows."""
    at = dialect.header.index(time) if isinstance(time, str) else time
    cells = [row[at].strip() for row in dialect.rows] if at is not None and dialect.rows else []
    stamps = np.array([dialect.number(cell) for cell in cells])
    stamps = stamps[np.isfinite(stamps)]
    numbers = bool(len(stamps))  # reading the whole column refuses cells without one
    unit = _time_unit(str(time), stamps) if numbers else None
    counts = numbers and _counts_rows(str(time), stamps, unit)
    if rate_hz is None:
        if time is None:
            raise UserError(f"has no column of time stamps; {_GIVE_RATE}")
        if counts:
            raise UserError(
                f"column {time!r} counts the rows by 1, which tells no time; {_GIVE_RATE}. If it counts milliseconds, the rate is 1000, or "
                "call the column 't (ms)'"
            )
        if numbers and unit is None:
            step = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
            raise UserError(f"column {time!r}: steps of {step:.4g} are no usual rate in s, ms, us or ns; give the rate")
    elif counts and abs(_mean_hz(stamps) * PER_SECOND["ms"] / rate_hz - 1) > _LIKE:
        return _Clock({"time": time, "time_unit": _COUNTER}, is_counter=True)
    elif unit is None and (numbers or not any(map(_is_date, cells))):
        return _Clock({"rate_hz": rate_hz})
    if unit is None:  # dates
        return _Clock({"time": time})
    is_unix = stamps[0] / PER_SECOND[unit] > _UNIX_S
    return _Clock({"time": time, "time_unit": unit, "time_origin": "unix" if is_unix else "start"})


def _is_date(cell: str) -> bool:
    """True for an ISO 8601 date."""
    try:
        datetime.datetime.fromisoformat(cell)
    except ValueError:
        return False
    return True


def _written_unit(name: str) -> TimeUnit | None:
    """The unit of time in the name of a column; None if there is none."""
    written = re.findall(r"[(\[](.*?)[)\]]", name) + _words(name)
    return next((_TIME_UNITS[word] for text in written if (word := text.strip().lower()) in _TIME_UNITS), None)


def _time_unit(name: str, stamps: np.ndarray) -> TimeUnit | None:
    """The unit of numeric time stamps: that of the column's name, or the only one with a usual rate; None if there is none."""
    if written := _written_unit(name):
        return written
    mean_hz = _mean_hz(stamps)
    fits = [u for u, per_s in PER_SECOND.items() if _PLAUSIBLE_HZ[0] <= mean_hz * per_s < _PLAUSIBLE_HZ[1]]
    return fits[0] if len(fits) == 1 else None


def _mean_hz(stamps: np.ndarray) -> float:
    """Samples per unit of numeric time stamps; 0 if they do not rise."""
    return (len(stamps) - 1) / float(stamps[-1] - stamps[0]) if len(stamps) > 1 and stamps[-1] > stamps[0] else 0.0


def _counts_rows(name: str, stamps: np.ndarray, unit: TimeUnit | None) -> bool:
    """True for whole numbers that nearly always rise by 1, unless they have a unit or are milliseconds of unix time."""
    if _written_unit(name) or len(stamps) < 2 or (stamps != np.rint(stamps)).any():
        return False
    is_unix = unit is not None and stamps[0] / PER_SECOND[unit] > _UNIX_S
    return not is_unix and float((np.diff(stamps) == 1).mean()) > _MOSTLY
