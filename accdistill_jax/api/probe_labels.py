"""The label that a probe learns: a column of a store, or of a user's table, as one value for each segment of the store."""

import csv
import datetime
import decimal
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accdistill_jax.config.nearest import did_you_mean
from accdistill_jax.data.store.store import CRC, Store
from accdistill_jax.errors import UserError
from accdistill_jax.readouts.label_probe import Kind, Per
from accdistill_jax.text import plain_id

_TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
_MISSING = {"", "nan", "na", "n/a", "none", "null"}
_KEYS = ("participant", "start", "recording")
_NO_LABELS = ("participant", "recording", "start_unix_s", "split", CRC)
_PREFIX = "label_"
_MOST_NAMED = 5
_DECIMAL_COMMA = re.compile(r"([+-]?\d+),(\d+)")


class StoreLabel(NamedTuple):
    """A label of a store's segments.

    Attributes:
        name: of the label.
        kind: "number" or "classes".
        per: "minute" or "person".
        classes: the answers; () for a number.
        value: [segments] float64: a number, or the index of a class; NaN where unknown.
        remarks: rows that were not used, in words.
    """

    name: str
    kind: Kind
    per: Per
    classes: tuple[str, ...]
    value: np.ndarray
    remarks: list[str]


def read_label(store: Store, target: str, *, column: str | None = None, kind: Kind | None = None) -> StoreLabel:
    """Reads a label.

    Args:
        store: with the segments to label.
        target: a column of the store's segments or participants, or a table (CSV, TSV or Parquet) with the columns participant and
            the label. With a column start (ISO 8601 or unix seconds) each row is a minute's, without it a person's. A column
            recording then names the recording of the minute; it is needed where recordings of a person overlap in time.
        column: column of the table; None: its only label.
        kind: None: classes for texts, truth values and numbers of which there are two; else a number.

    Raises:
        UserError: no such column or file, ids or times that fit none of the store's, or values that contradict.
    """
    if Path(target).suffix.lower() in _TABLES:
        name, per, values, remarks = _from_table(store, Path(target), column)
    elif column is not None:
        raise UserError(f"--column {column} is allowed only if --target is a file, but it is {target!r}")
    else:
        name, per, values = _from_store(store, target)
        remarks = []
    numbers = _numbers(values)
    distinct = sorted({value for value in values if value is not None})
    if kind is None:
        two = numbers is not None and len(set(numbers[np.isfinite(numbers)].tolist())) == 2
        kind = "classes" if numbers is None or two else "number"
    if kind == "number":
        if numbers is None:
            odd = next(value for value in distinct if _numbers([value]) is None)
            raise UserError(f"{target}: {name} has the value {odd!r}, which is no number; leave out --kind number")
        return StoreLabel(name, "number", per, (), numbers, remarks)
    if numbers is not None:
        spelling = {decimal.Decimal(value): value for value in reversed(distinct)}  # "1" and "1.0" are one class
        values = [None if value is None else spelling[decimal.Decimal(value)] for value in values]
        distinct = [spelling[number] for number in sorted(spelling)]
    place = {value: float(number) for number, value in enumerate(distinct)}
    value = np.array([math.nan if v is None else place[v] for v in values])
    return StoreLabel(name, "classes", per, tuple(distinct), value, remarks)


def _from_store(store: Store, target: str) -> tuple[str, Per, list[str | None]]:
    """Name, level and values [segments] of a column; "stress" means label_stress if there is no column stress."""
    people = store.participants
    known = [n for n in (*store.segments, *people.column_names) if n not in _NO_LABELS]
    name = target if target in known else _PREFIX + target
    if name in store.segments and name in known:
        return target.removeprefix(_PREFIX), "minute", [_text(value) for value in store.segments[name]]
    if name not in known:
        known = list(dict.fromkeys(n.removeprefix(_PREFIX) for n in known))
        near = did_you_mean(target, known)
        advice = near or f"; it has {', '.join(known)}, or give a table (.csv, .parquet)"
        raise UserError(f"{store.path}: no label {target!r}{advice}")
    of = dict(zip(people["participant"].to_pylist(), map(_text, people[name].to_pylist()), strict=True))
    return target.removeprefix(_PREFIX), "person", [of.get(str(who)) for who in store.segments["participant"]]


def _from_table(store: Store, path: Path, column: str | None) -> tuple[str, Per, list[str | None], list[str]]:
    table = _read(path)
    if "participant" not in table:
        near = did_you_mean("participant", table)
        raise UserError(f"{path}: no column participant{near}; its columns are {', '.join(table)}")
    labels = [name for name in table if name not in _KEYS]
    if column is None and len(labels) != 1:
        raise UserError(
            f"{path}: it has {'several labels: ' + ', '.join(labels) if labels else 'no column besides ' + ', '.join(table)}; "
            + ("choose one by --column" if labels else "add the label")
        )
    name = labels[0] if column is None else column
    if name not in labels:
        raise UserError(f"{path}: no label {name!r}{did_you_mean(name, labels)}; its labels are {', '.join(labels)}")
    people = [plain_id(who or "") for who in table["participant"]]
    here = set(np.unique(_people(store)).tolist())
    strangers = sorted({who for who in people if who not in here})
    if len(strangers) == len(set(people)):
        raise UserError(
            f"{path}: none of its {len(strangers)} people is in {store.path} (the table has {_some(strangers)}; the store has "
            f"{_some(sorted(here))}); write the ids as in the store"
        )
    remarks = [f"{path}: left out, because they are not in the store: {_some(strangers)}"] if strangers else []
    if "start" in table:
        values, missed = _by_minute(store, path, table, people, table[name])
        if missed:
            remarks.append(f"{path}: {missed} of {len(people)} rows belong to no minute of the store")
        return name, "minute", values, remarks
    return name, "person", _by_person(store, path, people, table[name]), remarks


def _by_person(store: Store, path: Path, people: Sequence[str], values: Sequence[str | None]) -> list[str | None]:
    of: dict[str, str] = {}
    for row, (who, value) in enumerate(zip(people, values, strict=True)):
        if value is not None and of.setdefault(who, value) != value:
            raise UserError(
                f"{path}: row {row + 1}: {who!r} has the values {of[who]!r} and {value!r}; give one row a person, or a column start "
                "if the label belongs to minutes"
            )
    return [of.get(who) for who in _people(store).tolist()]


def _by_minute(
    store: Store,
    path: Path,
    table: Mapping[str, Sequence[str | None]],
    people: Sequence[str],
    values: Sequence[str | None],
) -> tuple[list[str | None], int]:
    """The value of the row of the same person that begins within half a segment of the segment's start.

    Returns:
        Values of all segments, and the number of rows that belong to none.
    """
    begin = np.array([_unix_s(text, path, row) for row, text in enumerate(table["start"])])
    reach = 0.5 * store.samples / store.rate_hz
    at = np.asarray(store.segments["start_unix_s"], np.float64)
    whose, who = _owners(store, path, table, people)
    _refuse_contradictions(path, whose, begin, values)
    of_table = np.asarray(whose)
    result: list[str | None] = [None] * store.num_segments
    used: set[int] = set()
    for owner in np.intersect1d(np.unique(who), np.unique(of_table)):
        rows = np.flatnonzero(of_table == owner)
        rows = rows[np.argsort(begin[rows], kind="stable")]
        segments = np.flatnonzero(who == owner)
        after = np.clip(np.searchsorted(begin[rows], at[segments]), 1, max(len(rows) - 1, 1))
        places = np.stack([after - 1, np.minimum(after, len(rows) - 1)])
        apart = np.abs(begin[rows][places] - at[segments])
        nearest = places[apart.argmin(axis=0), np.arange(len(segments))]
        for segment, row, distance in zip(segments, rows[nearest], apart.min(axis=0), strict=True):
            if distance <= reach:
                used.add(int(row))
                result[segment] = values[row]
    if not used:
        raise UserError(
            f"{path}: no row begins within {reach:g} s of a minute of {store.path} (the table: {_span(begin)}; the store: "
            f"{_span(at)}); give start in UTC or with its time zone"
        )
    return result, len(people) - len(used)


def _owners(
    store: Store, path: Path, table: Mapping[str, Sequence[str | None]], people: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    """Who a row and a segment belong to: the recording of a person if the table names recordings, else the person."""
    who = _people(store)
    if "recording" not in table or "recording" not in store.segments:
        _refuse_simultaneous(store, path, people)
        return list(people), who
    names = np.asarray(store.segments["recording"]).astype(str)
    whose = [f"{person}\n{name or ''}" for person, name in zip(people, table["recording"], strict=True)]
    who = np.array([f"{person}\n{name}" for person, name in zip(who, names, strict=True)])
    if not set(whose) & set(who.tolist()):
        raise UserError(
            f"{path}: none of its recordings is one of the same person in {store.path} (the store has {_some(sorted(set(names.tolist())))}); "
            "write the names as in the store, or leave out the column recording"
        )
    return whose, who


def _refuse_simultaneous(store: Store, path: Path, people: Collection[str]) -> None:
    """Refuses people of whom a time means minutes of several recordings."""
    if "recording" not in store.segments:
        return
    length_s = store.samples / store.rate_hz
    who, recording = _people(store), np.asarray(store.segments["recording"]).astype(str)
    start = np.asarray(store.segments["start_unix_s"], np.float64)
    for person in sorted(set(people) & set(np.unique(who).tolist())):
        rows = np.flatnonzero(who == person)
        rows = rows[np.argsort(start[rows], kind="stable")]
        first, second = rows[:-1], rows[1:]
        (together,) = np.nonzero((start[second] - start[first] < length_s) & (recording[second] != recording[first]))
        if len(together):
            pair = recording[first[together[0]]], recording[second[together[0]]]
            raise UserError(
                f"{path}: the recordings {pair[0]!r} and {pair[1]!r} of {person!r} have minutes at the same time in {store.path}; add a column "
                "recording, with their names"
            )


def _refuse_contradictions(path: Path, whose: Sequence[str], begin: np.ndarray, values: Sequence[str | None]) -> None:
    first: dict[tuple[str, float], int] = {}
    for row, key in enumerate(zip(whose, begin.tolist(), strict=True)):
        if values[row] is None:
            continue
        before = first.setdefault(key, row)
        if values[before] != values[row]:
            raise UserError(
                f"{path}: rows {before + 1} and {row + 1} have the same person and start, and the values {values[before]!r} and "
                f"{values[row]!r}; keep one of them"
            )


def _read(path: Path) -> dict[str, list[str | None]]:
    """Columns of a table as texts; None where a cell is empty."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            import pyarrow
            import pyarrow.parquet

            try:
                table = pyarrow.parquet.read_table(path)
            except pyarrow.ArrowException as error:
                raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
            return {name: [_text(value) for value in _values(table[name])] for name in table.column_names}
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=head.count)
            rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as UTF-8 ({error.reason}); save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read ({reason or error})") from error
    if len(rows) < 2:
        raise UserError(
            f"{path}: it has no rows; write a line with the column names, and then a line a person or minute"
        )
    names = [name.strip() for name in rows[0]]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: the column {twice!r} occurs twice; rename one of the two")
    for number, row in enumerate(rows[1:]):
        if len(row) != len(names):
            raise UserError(f"{path}: row {number + 1} has {len(row)} cells, expected {len(names)}")
    columns = {name: [_text(row[place]) for row in rows[1:]] for place, name in enumerate(names)}
    return columns if delimiter == "," else {name: _with_points(column) for name, column in columns.items()}


def _values(column: Any) -> list[object]:
    """Values of a Parquet column; single precision stays so, because its texts would have digits that nobody wrote."""
    import pyarrow

    values = column.to_pylist()
    if column.type not in (pyarrow.float16(), pyarrow.float32()):
        return values
    return [None if value is None else np.float32(value) for value in values]


def _with_points(column: list[str | None]) -> list[str | None]:
    """Decimal commas as points, if all cells are numbers then."""
    cells = [cell if cell is None else _DECIMAL_COMMA.sub(r"\1.\2", cell) for cell in column]
    return column if _numbers(cells) is None else cells


def _text(value: object) -> str | None:
    """A cell as text; None where it is empty."""
    if value is None:
        return None
    if isinstance(value, float | np.floating):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    text = str(value).strip()
    return None if text.lower() in _MISSING else text


def _numbers(values: Sequence[str | None]) -> np.ndarray | None:
    """The values as numbers, NaN where unknown; None if one is no number."""
    try:
        numbers = np.array([math.nan if value is None else float(value) for value in values], np.float64)
    except ValueError:
        return None
    return None if np.isinf(numbers).any() else numbers


def _unix_s(text: str | None, path: Path, row: int) -> float:
    if text is None:
        raise UserError(f"{path}: row {row + 1}: start is empty")
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"{path}: row {row + 1}: start {text!r} is neither a date such as 2024-05-01T10:00:00Z nor unix seconds"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _people(store: Store) -> np.ndarray:
    """[segments] ids; stores of earlier versions keep outer white space."""
    names, of = np.unique(np.asarray(store.segments["participant"]).astype(str), return_inverse=True)
    return np.array([plain_id(name) for name in names.tolist()], dtype=str)[of]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _span(unix_s: np.ndarray) -> str:
    def day(seconds: float) -> str:
        try:
            return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        except (ValueError, OverflowError, OSError):
            return f"{seconds:g}"

    return f"{day(float(np.min(unix_s)))} to {day(float(np.max(unix_s)))}"
