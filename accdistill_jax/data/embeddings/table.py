"""Reads a table of embeddings that another model made: a vector for a person and a time, or for a segment of a store.

    .parquet   columns participant, start and embedding (a list), as `accdistill embed` writes them
    .npz       arrays participant [N], start [N] and embedding [N, D]
    .csv       columns participant, start, embedding_0, embedding_1, ...; Parquet files may have these too

`start` is ISO 8601 (UTC unless it names a zone) or unix seconds. Instead of participant and start there may be `segment`, the
row of a segment in its store, and `store`, at least eight digits of the store's fingerprint. `recording` tells apart minutes of
a person with equal times. Other columns are ignored.
"""

import csv
import datetime
import functools
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accdistill_jax.config.nearest import did_you_mean
from accdistill_jax.errors import UserError
from accdistill_jax.files import open_regular
from accdistill_jax.storage.checked_npz import DamagedNpz, read_npz
from accdistill_jax.user_paths import expanded

ENDINGS = (".parquet", ".pq", ".npz", ".csv", ".tsv")
MIN_FINGERPRINT_DIGITS = 8
_EMBEDDING, _NUMBERED = "embedding", re.compile(r"embedding_(\d+)")
_KEYS = ("participant", "start", "recording", "segment", "store")
_LATEST_UNIX_S = 1e11  # the year 5138; larger values are milliseconds or smaller units
_BLOCK = 65_536  # rows hashed at once


class EmbeddingTable(NamedTuple):
    """A checked table: finite vectors of equal width, no two rows of the same minute.

    Attributes:
        path: the file.
        participant: [N] str; "" for rows that name a segment.
        recording: [N] str; "" where it is not given.
        start_unix_s: [N] float64; NaN for rows that name a segment.
        store: [N] str, the first digits of the store's fingerprint; "" for rows that give a time.
        segment: [N] int64, the row in that store; -1 for rows that give a time.
        embedding: [N, D] float32.
        fingerprint: hash of the content, the same for any order of rows and any format.
    """

    path: str
    participant: np.ndarray
    recording: np.ndarray
    start_unix_s: np.ndarray
    store: np.ndarray
    segment: np.ndarray
    embedding: np.ndarray
    fingerprint: str

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self.embedding.shape[1]

    @property
    def by_time(self) -> bool:
        """True if rows give a person and a time, False if they name a segment."""
        return self.segment[0] < 0

    def row_in_words(self, row: int) -> str:
        """The minute of a row, for messages."""
        if self.by_time:
            return f"{str(self.participant[row])!r} at {time_in_words(self.start_unix_s[row])}"
        return f"segment {self.segment[row]} of store {self.store[row]}"


def read_embedding_table(path: str) -> EmbeddingTable:
    """Reads and checks a table; reads an unchanged file once.

    Args:
        path: a local file; its ending names the format.

    Raises:
        UserError: no such file, a column is missing, or a value is unusable; names the row, and what to do.
    """
    path = expanded(path)
    if Path(path).suffix.lower() not in ENDINGS:
        raise UserError(f"{path}: no table of embeddings; its name must end in {', '.join(ENDINGS)}")
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    return _read_once(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4)
def _read_once(path: str, modified_ns: int, size: int) -> EmbeddingTable:
    suffix = Path(path).suffix.lower()
    try:
        columns = (
            _parquet(path) if suffix in (".parquet", ".pq") else _npz(path) if suffix == ".npz" else _csv(path, suffix)
        )
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    embedding = columns.pop(_EMBEDDING)
    if not len(embedding) or not embedding.shape[1]:
        raise UserError(f"{path}: it has no rows; write a row for each minute")
    bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
    if len(bad):
        raise UserError(
            f"{path}: row {bad[0] + 1}: the embedding has NaN or infinite values ({len(bad)} such rows); leave these rows out"
        )
    table = _table(path, columns, embedding)
    _refuse_duplicates(table)
    return table._replace(fingerprint=_fingerprint(table))


def _table(path: str, columns: Mapping[str, Any], embedding: np.ndarray) -> EmbeddingTable:
    """The table of checked columns, without its fingerprint."""
    count = len(embedding)
    no_text = np.full(count, "")
    if "segment" in columns:
        if "start" in columns or "store" not in columns:
            problem = (
                "has both segment and start; keep one of them"
                if "start" in columns
                else ("has segment, but no store; add the fingerprint of the store as a column store")
            )
            raise UserError(f"{path}: it {problem}")
        segment = _integers(path, columns["segment"])
        store = _texts(path, columns["store"], "store")
        short = np.flatnonzero(np.char.str_len(store) < MIN_FINGERPRINT_DIGITS)
        if len(short):
            raise UserError(
                f"{path}: row {short[0] + 1}: store {str(store[short[0]])!r} is shorter than {MIN_FINGERPRINT_DIGITS} digits; give the "
                "store's fingerprint, as accdistill prepare show prints it"
            )
        return EmbeddingTable(path, no_text, no_text, np.full(count, np.nan), store, segment, embedding, "")
    for name in ("participant", "start"):
        if name not in columns:
            near = did_you_mean(name, list(columns))
            raise UserError(f"{path}: no column {name}{near}; its columns are {', '.join(columns) or 'none'}")
    participant = _texts(path, columns["participant"], "participant")
    recording = _texts(path, columns["recording"], "recording") if "recording" in columns else no_text
    start = _unix_s(path, columns["start"])
    no_segment = np.full(count, -1, np.int64)
    return EmbeddingTable(path, participant, recording, start, no_text, no_segment, embedding, "")


def _refuse_duplicates(table: EmbeddingTable) -> None:
    keys = (table.start_unix_s, table.segment, table.recording, table.participant, table.store)
    order = np.lexsort(keys)
    same = np.ones(len(order) - 1, bool)
    for key in keys:
        first, second = key[order[:-1]], key[order[1:]]
        same &= (first == second) | ((first != first) & (second != second))
    twice = np.flatnonzero(same)
    if len(twice):
        rows = np.sort(order[twice[0] : twice[0] + 2])
        raise UserError(
            f"{table.path}: rows {rows[0] + 1} and {rows[1] + 1} are both {table.row_in_words(rows[0])} ({len(twice)} such pairs); "
            "keep one row for each minute"
        )


def _fingerprint(table: EmbeddingTable) -> str:
    """Hash over the rows in the order of store, participant, recording, segment and start."""
    order = np.lexsort((table.start_unix_s, table.segment, table.recording, table.participant, table.store))
    digest = hashlib.sha256(f"table of embeddings 1\0{table.width}\0".encode())
    for begin in range(0, len(order), _BLOCK):
        rows = order[begin : begin + _BLOCK]
        for texts in (table.participant, table.recording, table.store):
            digest.update("\0".join(texts[rows].tolist()).encode() + b"\1")
        digest.update(table.start_unix_s[rows].astype("<f8").tobytes() + table.segment[rows].astype("<i8").tobytes())
        digest.update(table.embedding[rows].astype("<f4").tobytes())
    return digest.hexdigest()


def _parquet(path: str) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        names = table.column_names
        columns: dict[str, Any] = {}
        for name in set(names) & set(_KEYS):
            column = table[name].combine_chunks()
            if pa.types.is_timestamp(column.type):
                column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
                columns[name] = np.array([v / 1e6 if v is not None else np.nan for v in column.to_pylist()])
            else:
                columns[name] = column.to_pylist()
        if _EMBEDDING in names:
            column = table[_EMBEDDING].combine_chunks()
            if column.null_count:
                row = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]
                raise UserError(f"{path}: row {row + 1}: the embedding is empty; leave such rows out")
            lengths = np.array(pc.call_function("list_value_length", [column]).to_pylist(), np.int64)
            _check_widths(path, lengths)
            values = np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32)
            columns[_EMBEDDING] = values.reshape(len(lengths), -1)
        else:
            chosen = _numbered(path, names)
            values = [np.asarray(table[name].to_numpy(), np.float32) for name in chosen]
            columns[_EMBEDDING] = np.stack(values, axis=1)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a Parquet table of embeddings ({_first_line(error)})") from error
    return columns


def _check_widths(path: str, lengths: np.ndarray) -> None:
    other = np.flatnonzero(lengths != lengths[0]) if len(lengths) else []
    if len(other):
        raise UserError(
            f"{path}: row {other[0] + 1}: the embedding has {lengths[other[0]]} numbers, the first row has {lengths[0]}; all rows "
            "must be of one model"
        )


def _npz(path: str) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            arrays = read_npz(file)
    except DamagedNpz as error:
        raise UserError(f"{path}: cannot be read as npz ({error})") from error
    if _EMBEDDING not in arrays:
        raise UserError(f"{path}: no array {_EMBEDDING}; its arrays are {', '.join(arrays) or 'none'}")
    embedding = arrays[_EMBEDDING]
    if embedding.ndim != 2 or embedding.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: embedding is {embedding.dtype.name}{list(embedding.shape)}; give numbers [rows, width]"
        )
    columns: dict[str, Any] = {name: arrays[name] for name in _KEYS if name in arrays}
    for name, values in columns.items():
        if values.shape != (len(embedding),):
            raise UserError(f"{path}: {name} has shape {list(values.shape)}, embedding has {len(embedding)} rows")
    return columns | {_EMBEDDING: embedding.astype(np.float32)}


def _csv(path: str, suffix: str) -> dict[str, Any]:
    try:
        with open_regular(path) as binary:
            lines = binary.read().decode("utf-8-sig").splitlines()
        rows = [row for row in csv.reader(lines, delimiter="\t" if suffix == ".tsv" else ",") if row]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as UTF-8 ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if len(rows) < 2:
        raise UserError(f"{path}: it has no rows; write a line with the column names, and then a row for each minute")
    names = [name.strip() for name in rows[0]]
    for number, row in enumerate(rows[1:]):
        if len(row) != len(names):
            raise UserError(f"{path}: row {number + 1} has {len(row)} cells, the first line has {len(names)}")
    chosen = [names.index(name) for name in _numbered(path, names)]
    columns: dict[str, Any] = {
        name: [row[names.index(name)].strip() or None for row in rows[1:]] for name in _KEYS if name in names
    }
    embedding = np.empty((len(rows) - 1, len(chosen)), np.float32)
    for number, row in enumerate(rows[1:]):
        try:
            embedding[number] = [float(row[place]) for place in chosen]
        except ValueError:
            raise UserError(
                f"{path}: row {number + 1}: the embedding has a cell that is no number; leave such rows out"
            ) from None
    return columns | {_EMBEDDING: embedding}


def _numbered(path: str, names: Sequence[str]) -> list[str]:
    """The columns embedding_0, embedding_1, ... in order."""
    numbers = sorted(int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name)))
    if not numbers or numbers != list(range(len(numbers))):
        problem = f"embedding_{numbers[-1]} but not all before it" if numbers else "no embedding"
        raise UserError(
            f"{path}: it has {problem}; write the vector as columns embedding_0, embedding_1, ... (Parquet: or a list in a column "
            f"embedding); its columns are {', '.join(names)}"
        )
    return [f"embedding_{number}" for number in numbers]


def _texts(path: str, values: Any, name: str) -> np.ndarray:
    texts = ["" if value is None else str(value).strip() for value in np.asarray(values, object).tolist()]
    if name != "recording" and "" in texts:
        raise UserError(f"{path}: row {texts.index('') + 1}: {name} is empty")
    return np.array(texts, dtype=str)


def _integers(path: str, values: Any) -> np.ndarray:
    try:
        numbers = [int(value) for value in np.asarray(values, object).tolist()]
    except (TypeError, ValueError):
        raise UserError(f"{path}: a value of segment is no whole number; give rows of the store, from 0") from None
    return np.array(numbers, np.int64)


def _unix_s(path: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind == "M":
        empty = np.isnat(array)
        seconds = np.where(empty, np.nan, array.astype("datetime64[us]").astype(np.int64) / 1e6)
    elif array.dtype.kind in "fiu":
        seconds = array.astype(np.float64)
    else:
        seconds = np.array([_second(path, row, value) for row, value in enumerate(np.asarray(values, object).tolist())])
    empty = np.flatnonzero(~np.isfinite(seconds))
    if len(empty):
        raise UserError(f"{path}: row {empty[0] + 1}: start is empty")
    if np.median(seconds) > _LATEST_UNIX_S:
        raise UserError(
            f"{path}: start is {seconds[0]:.6g} in the first row, which are no unix seconds; divide milliseconds by 1000"
        )
    return seconds


def _second(path: str, row: int, value: Any) -> float:
    if value is None or isinstance(value, (int, float)):
        return np.nan if value is None else float(value)
    if isinstance(value, datetime.datetime):
        when = value
    else:
        try:
            return float(value)
        except ValueError:
            pass
        try:
            when = datetime.datetime.fromisoformat(str(value))
        except ValueError:
            raise UserError(
                f"{path}: row {row + 1}: start {str(value)!r} is neither a date such as 2024-05-01T10:00:00Z nor unix seconds"
            ) from None
    return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()


def time_in_words(unix_s: float) -> str:
    """A time for messages."""
    try:
        return datetime.datetime.fromtimestamp(float(unix_s), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{unix_s:g} s"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
