"""Finds the format of a text table that nobody described: delimiter, decimal sign, header, and the rows it begins with."""

import csv
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pyarrow.parquet

from accdistill_jax.data.recordings.tables.decimal_comma import split_numbers
from accdistill_jax.data.recordings.tables.table import COMPRESSIONS, MISSING
from accdistill_jax.data.tree import regular_file
from accdistill_jax.errors import UserError

_PROBED_LINES = 400
_LONGEST_LINE = 10_000
_CANDIDATES = ((",", "."), (";", ","), (";", "."), ("\t", "."), ("\t", ","), (" ", "."), (" ", ","))
_LEAST_NUMBERS = 3


class Dialect(NamedTuple):
    """Format of a table.

    Attributes:
        delimiter: character between cells.
        decimal: the decimal sign.
        skip_rows: lines before the header or the first row.
        header: names of the columns; empty without a header.
        rows: cells of the first rows, as text.
    """

    delimiter: str
    decimal: str
    skip_rows: int
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def number(self, cell: str) -> float:
        """The number in a cell; NaN for a missing one or a text."""
        text = cell.strip()
        return float(text.replace(self.decimal, ".")) if _number(self.decimal).fullmatch(text) else float("nan")


def find_dialect(file: Path) -> Dialect:
    """Finds the format of a text file (possibly compressed), or the columns of a Parquet file.

    Raises:
        UserError: the file cannot be read, or no format or more than one fits; the message lacks the file's name.
    """
    regular_file(file)
    if file.suffix.lower() in (".parquet", ".pq"):
        try:
            with file.open("rb") as stream:
                content = pyarrow.parquet.ParquetFile(stream)
                first = next(content.iter_batches(batch_size=_PROBED_LINES), None)
                rows = (
                    []
                    if first is None
                    else zip(*(map(str, column.to_pylist()) for column in first.columns), strict=True)
                )
                return Dialect(",", ".", 0, tuple(content.schema_arrow.names), tuple(rows))
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"cannot be read: {' '.join(str(error).split())}") from error
    lines = _first_lines(file)
    found = [dialect for signs in _CANDIDATES if (dialect := _try(lines, *signs)) is not None]
    if not found:
        widths = [len(line.split(",")) for line in lines]
        if widths[-1] >= 2 * _LEAST_NUMBERS and widths[-1] in (2 * width for width in widths):
            raise UserError(_both_signs(lines[-1][:60]))
        cells = [cell.strip().lower() for cell in re.split(r"[,;\t ]", lines[-1])]
        if len(cells) >= _LEAST_NUMBERS and all(cell in MISSING for cell in cells):
            raise UserError(
                f"the rows up to line {len(lines)} hold no number ({lines[-1][:60]!r}), so its columns cannot be recognised; "
                "remove the rows without numbers at its beginning"
            )
        raise UserError(
            f"no table of numbers is recognised (line {len(lines)}: {lines[-1][:60]!r}); a row needs three numbers, between commas, "
            "semicolons, tabs or blanks, with a point or a comma as the decimal sign and no sign between thousands"
        )
    # a table of whole numbers fits both decimal signs
    dialect = next((d for d in found if any(d.decimal in cell for row in d.rows for cell in row)), found[0])
    if dialect.delimiter == "," and (split := split_numbers([[c.strip() for c in row] for row in dialect.rows])):
        column, row = split
        raise UserError(_both_signs(",".join(dialect.rows[row][column : column + 2])))
    return dialect


def _both_signs(text: str) -> str:
    return f"commas stand between cells and in numbers ({text!r}); save it with semicolons between cells, or with decimal points"


def _first_lines(file: Path) -> list[str]:
    """The first whole lines that are not empty at the end."""
    compression = COMPRESSIONS.get(file.suffix.lower())
    try:
        with file.open("rb") as content, pyarrow.input_stream(content, compression=compression) as stream:
            raw = stream.read(_PROBED_LINES * 200)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"cannot be read: {' '.join(str(error).split())}") from error
    if not raw.strip():
        raise UserError("cannot be read: the file is empty")
    if b"\0" in raw:
        kind = "a spreadsheet or an archive" if raw[:2] == b"PK" else "UTF-16, or not text"
        raise UserError(f"cannot be read: it is {kind}; save it as CSV in UTF-8")
    lines = raw.decode("utf-8-sig", errors="replace").splitlines()
    if len(raw) == _PROBED_LINES * 200:
        lines = lines[:-1]  # the last line may be cut off
    lines = [line[:_LONGEST_LINE] for line in lines[:_PROBED_LINES]]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _try(lines: Sequence[str], delimiter: str, decimal: str) -> Dialect | None:
    """The dialect with these signs; None if the lines do not fit it."""
    try:
        cells = [tuple(next(csv.reader([line], delimiter=delimiter), ())) for line in lines]
    except csv.Error:
        return None
    number, width = _number(decimal), len(cells[-1])

    def is_row(row: Sequence[str]) -> bool:
        numbers = sum(number.fullmatch(cell.strip()) is not None for cell in row)
        missing = sum(cell.strip().lower() in MISSING for cell in row)
        return len(row) == width and numbers + missing >= _LEAST_NUMBERS and (numbers > 0 or width == missing)

    rows = list(itertools.takewhile(is_row, reversed(cells)))[::-1]
    if not rows or not any(number.fullmatch(cell.strip()) for row in rows for cell in row):
        return None
    before = len(lines) - len(rows)
    header: tuple[str, ...] = ()
    if before and lines[before - 1].strip():
        names = tuple(cell.strip() for cell in cells[before - 1])
        if len(names) != width:
            return None if len(names) > 1 else Dialect(delimiter, decimal, before, (), tuple(rows))
        header, before = names, before - 1
    return Dialect(delimiter, decimal, before, header, tuple(rows))


def _number(decimal: str) -> re.Pattern:
    sign = re.escape(decimal)
    after = r"\d*" if decimal == "." else r"\d+"  # a comma at the end of a number is no decimal sign
    return re.compile(rf"[-+]?(?:\d+(?:{sign}{after})?|{sign}\d+)(?:[eE][-+]?\d+)?")
