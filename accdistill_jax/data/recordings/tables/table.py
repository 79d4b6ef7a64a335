"""Reads a CSV or Parquet file: columns of numbers or time stamps; messages name the line and the cell."""

import contextlib
import csv
import dataclasses
import datetime
import difflib
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from accdistill_jax.data.recording import STARTS_UNIX_S
from accdistill_jax.data.recordings.tables.decimal_comma import split_numbers
from accdistill_jax.errors import UserError

MISSING = (
    "",
    "nan",
    "-nan",
    "+nan",
    "na",
    "n/a",
    "#n/a",
    "null",
    "none",
    "nan(ind)",
    "-nan(ind)",
    "1.#qnan",
    "-1.#ind",
)
_NULLS = sorted({form(text) for text in MISSING for form in (str, str.upper, str.title)} | {"NaN", "-NaN", "+NaN"})
pc: Any = pyarrow.compute  # pyarrow makes its functions at import time, so no type checker knows them
_PROBED_ROWS = 5000
_COMMA = "if the decimal sign is a comma, give decimal: ',' and the delimiter"
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
MOST_ROWS = 200_000_000


@dataclasses.dataclass(frozen=True)
class Layout:
    """Format of a text file.

    Attributes:
        delimiter: character between cells.
        decimal: the decimal sign.
        skip_rows: number of lines before the header or the first row.
        every_row_counts: True if the number of a row gives its time, so that no row may be skipped.
    """

    delimiter: str = ","
    decimal: str = "."
    skip_rows: int = 0
    every_row_counts: bool = False


class Table:
    """The wanted columns of a file. In a file with one column, an empty line is a missing sample.

    Attributes:
        utc_offset_s: offset from UTC of the first date among the time stamps; None if there are no dates, or if they have no
            time zone (`no_zone`).
        no_zone: True if the time stamps are dates without a time zone.

    Args:
        file: .parquet or .pq; any other file is text, possibly compressed (.gz, .bz2, .zst, .lz4).
        wanted: columns of numbers, by name, or by number from 0 for a file without a header.
        stamp: the column of time stamps; None if there is none.
        layout: format of a text file.

    Raises:
        UserError: the file cannot be read, a row has too few or too many cells, a column is missing or its name occurs twice,
            a line is empty although every row counts, or cells were split at a decimal comma. The message lacks the file's name.
    """

    def __init__(self, file: Path, wanted: Sequence[object], stamp: object, layout: Layout):
        self._file, self._layout = file, layout
        self.utc_offset_s: float | None = None
        self.no_zone = False
        self._parquet = file.suffix.lower() in (".parquet", ".pq")
        names = [*wanted, *([] if stamp is None else [stamp])]
        try:
            self._columns = self._read_parquet(names) if self._parquet else self._read_text(names, stamp)
        except FileNotFoundError:
            raise UserError("no such file") from None
        except (OSError, ValueError, csv.Error, pyarrow.ArrowException) as error:
            raise UserError(f"cannot be read: {' '.join(str(error).split())}") from error

    def texts(self, name: object) -> np.ndarray:
        """A column of texts [rows] str; "" stands for an empty cell."""
        cells = ("" if cell is None else str(cell).strip() for cell in self._columns[name].to_pylist())
        return np.array(["" if cell.lower() in MISSING else cell for cell in cells], str)

    def numbers(self, name: object) -> np.ndarray:
        """A column as float64 [rows]; NaN stands for an empty cell.

        Raises:
            UserError: a cell is not a finite number; the message names its line.
        """
        values = self._columns[name]
        if pyarrow.types.is_null(values.type):
            return np.full(len(values), np.nan)
        if _is_text(values.type):
            values = self._parsed(name, "a number")
        if not _is_numeric(values.type):
            raise UserError(self._wrong(name, "a number"))
        numbers = values.cast(pyarrow.float64(), safe=False).to_numpy()
        infinite = np.flatnonzero(np.isinf(numbers))
        if infinite.size:
            raise UserError(f"{self.place(name, infinite[0])}: not a finite number")
        return numbers

    def stamps(self, name: object) -> np.ndarray:
        """A column of time stamps [rows]: int64 or float64 for numbers, datetime64[ns] (UTC) for dates.

        Raises:
            UserError: the file has no rows, or a cell is empty, is neither a number nor a date, lies outside the years 1970 to
                2200, or has a time zone although other cells have none; the message names its line.
        """
        values = self._columns[name]
        if not len(values):
            raise UserError("has no rows")
        if _is_text(values.type):
            values = (
                self._dates(name) if self._holds_dates(values) else self._parsed(name, "a number or an ISO 8601 date")
            )
        if pyarrow.types.is_date(values.type):
            values = values.cast(pyarrow.timestamp("s"))
        missing = np.flatnonzero(values.is_null(nan_is_null=pyarrow.types.is_floating(values.type)).to_numpy())
        if missing.size:
            raise UserError(f"{self.place(name, missing[0])}: the time stamp is missing")
        if pyarrow.types.is_timestamp(values.type):
            offset = self._first_date(name).utcoffset()
            self.no_zone = offset is None
            self.utc_offset_s = None if offset is None else offset.total_seconds()
            seconds = values.cast(pyarrow.timestamp("s", values.type.tz), safe=False).cast(pyarrow.int64()).to_numpy()
            beyond = np.flatnonzero((seconds < 0) | (seconds > STARTS_UNIX_S[1]))
            if beyond.size:
                raise UserError(
                    f"{self.place(name, beyond[0])}: outside the years 1970 to 2200 ({_shown(values[beyond[0]])})"
                )
            return values.cast(pyarrow.timestamp("ns", values.type.tz)).to_numpy().astype("datetime64[ns]")
        if not _is_numeric(values.type):
            raise UserError(self._wrong(name, "a number or an ISO 8601 date"))
        if pyarrow.types.is_integer(values.type) and values.type != pyarrow.uint64():
            return values.cast(pyarrow.int64()).to_numpy()
        return self.numbers(name)

    def place(self, name: object, row: int) -> str:
        """The place of a cell, for messages: its column, and its line in the file (for Parquet: its row, from 1)."""
        if self._parquet:
            return f"column {name!r}, row {row + 1}"
        counted = (line for line, cells in self._records() if cells or self._keeps_empty)
        return f"column {name!r}, line {next(itertools.islice(counted, int(row), None), '?')}"

    def _read_parquet(self, names: Sequence[object]) -> dict[object, pyarrow.ChunkedArray]:
        with self._file.open("rb") as file:
            rows = pyarrow.parquet.read_metadata(file).num_rows  # a few bytes can encode any number of equal rows
        if rows > MOST_ROWS:
            raise UserError(f"has {rows} rows; at most {MOST_ROWS} are allowed: split the recording")
        with self._file.open("rb") as file:
            content = pyarrow.parquet.read_table(file)
        places = _places(names, content.column_names)
        chosen = {name: content.column(place) for name, place in places.items()}
        return {
            name: v.cast(v.type.value_type) if pyarrow.types.is_dictionary(v.type) else v for name, v in chosen.items()
        }

    def _read_text(self, names: Sequence[object], stamp: object) -> dict[object, pyarrow.ChunkedArray]:
        numbered = any(isinstance(name, int) for name in names)
        self._data_line = self._layout.skip_rows + 1
        line, first = next(((line, cells) for line, cells in self._records() if cells), (0, []))
        if not first:
            raise UserError("cannot be read: the file is empty")
        if any("\ufffd" in cell for cell in first):
            raise UserError(
                f"cannot be read: line {line}: the utf-8 codec cannot decode {first[0][:20]!r}; save it as UTF-8"
            )
        self._width = len(first)
        if not numbered:
            self._data_line = line + 1
        elif self._width > 1:  # in a file of one column, empty lines before the first number are missing samples
            self._data_line = line
        self._keeps_empty = self._layout.every_row_counts or self._width == 1
        places = _places(names, [str(i) for i in range(self._width)] if numbered else first)
        self._place_of = places
        if numbered:
            self._check_delimiter(set(places.values()))
        keep = [str(place) for place in dict.fromkeys(places.values())]
        usual = {str(place): pyarrow.float64() for name, place in places.items() if name != stamp}
        try:
            content = self._parse(keep, usual)
        except pyarrow.ArrowInvalid:
            self._check_width()
            content = self._parse(keep, dict.fromkeys(keep, pyarrow.string()))
        content = self._without_empty_lines(content)
        return {name: content.column(str(place)) for name, place in places.items()}

    def _parse(self, keep: list[str], types: Mapping[str, pyarrow.DataType]) -> pyarrow.Table:
        with self._stream() as stream:
            return pyarrow.csv.read_csv(
                stream,
                read_options=pyarrow.csv.ReadOptions(
                    skip_rows=self._data_line - 1, column_names=[str(i) for i in range(self._width)]
                ),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=self._layout.delimiter, ignore_empty_lines=not self._keeps_empty
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    null_values=_NULLS,
                    strings_can_be_null=True,
                    include_columns=keep,
                    column_types=types,
                    decimal_point=self._layout.decimal,
                ),
            )

    @contextlib.contextmanager
    def _stream(self) -> Iterator[pyarrow.NativeFile]:
        """The unpacked text. Python opens the file, because pyarrow cannot open a path that is not UTF-8."""
        compression = COMPRESSIONS.get(self._file.suffix.lower())
        with self._file.open("rb") as file, pyarrow.input_stream(file, compression=compression) as stream:
            yield stream

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Line (from 1) and cells of each row, from the first data row on; an empty line has no cells."""
        skipped = self._data_line - 1
        with self._stream() as stream:
            lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
            reader = csv.reader(itertools.islice(lines, skipped, None), delimiter=self._layout.delimiter)
            before = skipped
            for cells in reader:
                yield before + 1, cells
                before = skipped + reader.line_num

    def _without_empty_lines(self, content: pyarrow.Table) -> pyarrow.Table:
        if not self._keeps_empty:
            return content
        empty = np.logical_and.reduce([column.is_null().to_numpy() for column in content.columns])
        if self._width == 1:
            if len(empty) >= 8 and any(empty[odd::2].mean() > 0.9 and not empty[1 - odd :: 2].any() for odd in (0, 1)):
                raise UserError(
                    "every second line is empty: the file may have doubled line ends; remove the empty lines"
                )
            return content
        if not empty.any():
            return content
        rows, empty_line = 0, None
        for line, cells in self._records():
            if not cells:
                empty_line = empty_line or line
            elif empty_line is not None:
                raise UserError(
                    f"line {empty_line} is empty: write empty cells for a missing sample, or remove the line"
                )
            else:
                rows += 1
        return content.slice(0, rows)

    def _check_width(self) -> None:
        for line, cells in self._records():
            if cells and len(cells) != self._width:
                hint = f"; {_COMMA}" if len(cells) == 2 * self._width and self._layout.delimiter == "," else ""
                raise UserError(
                    f"cannot be read: line {line}: Expected {self._width} columns, got {len(cells)} "
                    f"({self._layout.delimiter.join(cells)[:60]!r}){hint}"
                )

    def _check_delimiter(self, used: set[int]) -> None:
        """Finds cells that were split at the wrong character: without a header, only unused columns reveal them."""
        if len(used) == self._width or self._layout.delimiter != ",":
            return
        rows = list(itertools.islice(((line, cells) for line, cells in self._records() if cells), _PROBED_ROWS))
        for line, cells in rows:
            if any(re.fullmatch(r"\s*[-+]?\d*\s*[;\t]\s*[-+]?\d*\s*", cell) for cell in cells):
                raise UserError(
                    f"line {line}: contains the delimiter ';' or a tab besides ',' ({','.join(cells)[:60]!r}); {_COMMA}"
                )
        split = split_numbers([cells for _, cells in rows])
        if split is not None:
            column, row = split
            raise UserError(
                f"line {rows[row][0]}: column {column + 1} looks like the decimals of column {column} "
                f"({','.join(rows[row][1][column : column + 2])!r}); {_COMMA}"
            )

    def _parsed(self, name: object, kind: str) -> pyarrow.ChunkedArray:
        """A text column as int64 if all cells are whole numbers, else as float64."""
        text = pc.utf8_trim_whitespace(self._columns[name].cast(pyarrow.string()))
        missing = pc.is_in(pc.utf8_lower(text), value_set=pyarrow.array(MISSING))
        text = pc.if_else(missing, pyarrow.scalar(None, pyarrow.string()), text)
        sign = re.escape(self._layout.decimal)
        good = pc.match_substring_regex(text, rf"^[-+]?(\d+({sign}\d*)?|{sign}\d+)([eE][-+]?\d+)?$").fill_null(True)
        if not pc.all(good).as_py():
            raise UserError(self._wrong(name, kind, int(np.flatnonzero(~good.to_numpy())[0])))
        text = pc.replace_substring(pc.replace_substring_regex(text, r"^\+", ""), self._layout.decimal, ".")
        try:
            return text.cast(pyarrow.int64())
        except pyarrow.ArrowInvalid:
            return text.cast(pyarrow.float64())

    def _wrong(self, name: object, kind: str, row: int | None = None) -> str:
        values = self._columns[name]
        if row is None:
            row = next((i for i, cell in enumerate(values) if cell.is_valid), 0)
        cell = values[row]
        comma = self._layout.decimal != "," and re.fullmatch(r"\s*[-+]?\d+,\d+\s*", str(cell.as_py()))
        return f"{self.place(name, row)}: not {kind} ({_shown(cell)})" + (f"; {_COMMA}" if comma else "")

    def _first_date(self, name: object) -> datetime.datetime:
        """The first date of a column, with the time zone of the file; pyarrow converts the dates of a column to UTC."""
        if self._parquet:
            cell = self._columns[name][0]
            kind = pyarrow.timestamp("s", getattr(cell.type, "tz", None))
            return cell.cast(kind, safe=False).as_py()
        return datetime.datetime.fromisoformat(
            next(cells for _, cells in self._records() if cells)[self._place_of[name]].strip()
        )

    def _holds_dates(self, values: pyarrow.ChunkedArray) -> bool:
        cells = (str(cell.as_py()).strip() for cell in values if cell.is_valid)
        first = next((cell for cell in cells if cell.lower() not in MISSING), "")
        return _date(first) is not None and not first.isdecimal()

    def _dates(self, name: object) -> pyarrow.ChunkedArray:
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        microseconds, zoned = [], None
        for row, cell in enumerate(self._columns[name].to_pylist()):
            if cell is None or cell.strip().lower() in MISSING:
                microseconds.append(None)
                continue
            date = _date(cell)
            if date is None:
                raise UserError(self._wrong(name, "an ISO 8601 date", row))
            if zoned not in (None, date.tzinfo is not None):
                raise UserError(
                    f"{self.place(name, row)}: {cell!r} has {'a' if date.tzinfo else 'no'} time zone, "
                    "unlike the time stamps before it; write all of them alike"
                )
            zoned = date.tzinfo is not None
            microseconds.append((date if zoned else date.replace(tzinfo=datetime.UTC)) - epoch)
        values = [None if m is None else m // datetime.timedelta(microseconds=1) for m in microseconds]
        return pyarrow.chunked_array([pyarrow.array(values, pyarrow.int64()).cast(pyarrow.timestamp("us"))])


def _places(names: Sequence[object], header: Sequence[str]) -> dict[object, int]:
    """Name or number -> position among the columns."""
    header, places = [cell.strip() for cell in header], {}
    for name in names:
        if not isinstance(name, int | str) or isinstance(name, bool):
            raise UserError(f"there is no column {name!r}; the columns are {', '.join(header)}")
        if isinstance(name, int):
            if not 0 <= name < len(header):
                raise UserError(f"there is no column {name}; the file has {len(header)} columns, numbered from 0")
            places[name] = name
        elif header.count(name) > 1:
            at = [place + 1 for place, cell in enumerate(header) if cell == name]
            raise UserError(
                f"the column name {name!r} occurs {len(at)} times (columns {', '.join(map(str, at))}); rename all but one"
            )
        elif name not in header:
            near = difflib.get_close_matches(str(name), header, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the columns are {', '.join(header)}"
            raise UserError(f"there is no column {name!r}; {hint}")
        else:
            places[name] = header.index(name)
    return places


def _date(text: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        return None


def _is_text(kind: pyarrow.DataType) -> bool:
    return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)


def _is_numeric(kind: pyarrow.DataType) -> bool:
    return pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_decimal(kind)


def _shown(cell: pyarrow.Scalar) -> str:
    text = (
        repr(cell.as_py())
        if not pyarrow.types.is_timestamp(cell.type)
        else str(cell.cast(pyarrow.timestamp("s"), safe=False))
    )
    return text[:60]
