"""Checks of a store's files before their content is used or memory is allocated for them.

Fingerprint and checksums detect damage, not intent: a manifest can be written by hand for any content. So these checks make
sure that names stay inside the folder, counts are counts, and no array or table is larger than its files.
"""

import contextlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from accdistill_jax.errors import UserError

SIGNALS = ("ppg", "accel")
MANIFEST_BYTES = 256 * 2**20
_LARGEST = 2**48  # limit of all counts
_FASTEST_HZ = 1e6
_LONGEST_TEXT = 4096  # bytes of a text in a table
_ARRAYS = tuple(f"{signal}{part}" for signal in SIGNALS for part in ("", "_scale", "_offset"))
_FILE = re.compile(
    rf"zarr\.json|(?:segments|participants)\.parquet|(?:{'|'.join(_ARRAYS)})/(?:zarr\.json|c(?:/[0-9]{{1,12}}){{2,3}})"
)
_TABLES = ("segments.parquet", "participants.parquet")


def held_signals(channels: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The signals that a store holds, of `SIGNALS`, from the names of its channels; a store without PPG has no PPG channel."""
    return tuple(name for name in SIGNALS if channels[name])


def _is_count(value) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _is_positive(value) -> bool:
    return _is_count(value) and value > 0


def _is_amount(value) -> bool:
    return type(value) in (int, float) and 0 < value <= _FASTEST_HZ


def _are_counts(value) -> bool:
    return (
        isinstance(value, dict)
        and all(_is_count(value.get(key)) for key in ("examined", "kept"))
        and isinstance(value.get("rejected"), dict)
        and all(map(_is_count, value["rejected"].values()))
    )


def _is_prepared(value) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("unit"), str)
        and _is_count(value.get("segments", 0))
        and _is_dict(value.get("notes", {}))
        and _is_dict(value.get("mended_stamps", {}))
        and all(map(_is_count, value.get("mended_stamps", {}).values()))
    )


def _are_files(value) -> bool:
    return (
        isinstance(value, dict)
        and all(map(_FILE.fullmatch, value))
        and all(name in value for name in _TABLES)
        and all(
            isinstance(entry, dict) and _is_count(entry.get("bytes")) and isinstance(entry.get("sha256"), str)
            for entry in value.values()
        )
    )


def _are_names(value) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_dict(value) -> bool:
    return isinstance(value, dict)


def _are_texts(value) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


# Key of the manifest -> check of its value.
_KEYS = {
    "num_segments": _is_positive,
    "samples": _is_positive,
    "rate_hz": _is_amount,
    "segment_s": _is_amount,
    "channels": lambda value: (
        _is_dict(value) and all(_are_names(value.get(name)) for name in SIGNALS) and bool(value["accel"])
    ),
    "units": lambda value: _are_texts(value) and all(name in value for name in SIGNALS),
    "counts": lambda value: (
        _is_dict(value)
        and _are_counts(value.get("total"))
        and _is_dict(value.get("participants"))
        and all(map(_are_counts, value["participants"].values()))
    ),
    "split": _is_dict,
    "preprocess": _is_dict,
    "source_settings": _is_dict,
    "skipped": _are_texts,
    "source": lambda value: isinstance(value, str),
    "prepared": lambda value: isinstance(value, list) and all(map(_is_prepared, value)),
    "files": _are_files,
    "not_read": lambda value: value is None or _are_texts(value),  # missing if everything was read
}


def _are_parts(value) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(part, dict) and _is_positive(part.get("segments")) for part in value)
        and all(isinstance(part.get(key), str) and part[key] for part in value for key in ("path", "fingerprint"))
        and not any("://" in part["path"] or part["path"].startswith("/") for part in value)
    )


def malformed_key(manifest: Mapping, *, of_parts: bool = False) -> str | None:
    """First missing or malformed key of a manifest, or None; `of_parts`: its arrays are those of other stores."""
    malformed = next((key for key, fits in _KEYS.items() if not fits(manifest.get(key))), None)
    if of_parts and malformed is None:
        parts = manifest.get("parts") or []
        whole = _are_parts(parts) and sum(part["segments"] for part in parts) == manifest["num_segments"]
        return None if whole else "parts"
    if malformed is None and any(f"{name}/zarr.json" not in manifest["files"] for name in _arrays(manifest)):
        return "files"
    return malformed


def _arrays(manifest: Mapping) -> list[str]:
    """Names of the arrays of a store."""
    return [f"{signal}{part}" for signal in held_signals(manifest["channels"]) for part in ("", "_scale", "_offset")]


def check_part(manifest: Mapping, path: str, part: Mapping) -> None:
    """Compares the layout of a part with the store that it belongs to.

    Raises:
        UserError: they differ.
    """
    for key in ("samples", "rate_hz", "segment_s", "channels", "units"):
        if manifest[key] != part[key]:
            raise UserError(
                f"{path}: this part of a store has {key} {part[key]}, the store {manifest[key]}; merge again"
            )


def missing_room(manifest: Mapping) -> str | None:
    """First array that needs more bytes than its files have, or None. Arrays are not compressed."""
    for name in _arrays(manifest):
        signal, _, small = name.partition("_")
        row_bytes = len(manifest["channels"][signal]) * (4 if small else 2 * manifest["samples"])
        file_bytes = sum(entry["bytes"] for file, entry in manifest["files"].items() if file.startswith(f"{name}/c/"))
        if manifest["num_segments"] * row_bytes > file_bytes:
            return name
    return None


def check_array(content: bytes, *, shape: tuple[int, ...], dtype: str, file_bytes: int) -> None:
    """Compares an array's zarr.json with the layout of the format (see `shards.ArrayLayout`).

    Args:
        content: content of zarr.json.
        shape: (segments, samples, channels) of a signal, or (segments, channels).
        dtype: "int16" or "float32".
        file_bytes: size of the array's largest file.

    Raises:
        ValueError: a difference; the message names it.
    """
    try:
        stored = json.loads(content)
        if stored["data_type"] != dtype or stored["shape"] != list(shape):
            raise ValueError(
                f"the array is {stored['data_type']} {tuple(stored['shape'])}, but the manifest says {shape}"
            )
        rows, *inner = stored["chunk_grid"]["configuration"]["chunk_shape"]
        whole = _is_positive(rows) and inner == list(shape[1:])
        codecs = stored["codecs"]
        if len(shape) == 3:
            [sharding] = codecs
            settings = sharding["configuration"]
            whole &= sharding["name"] == "sharding_indexed" and settings["chunk_shape"] == [1, *inner]
            whole &= [codec["name"] for codec in settings["index_codecs"]] == ["bytes", "crc32c"]
            codecs = settings["codecs"]
        whole &= [codec["name"] for codec in codecs] == ["bytes"]
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it is not an array of a store") from error
    if not whole:
        raise ValueError("its chunks or codecs are not those of a store")
    # A file has at least an index of 16 bytes per row (shards), or the rows.
    if rows * (16 if len(shape) == 3 else 4 * shape[1]) > file_bytes:
        raise ValueError(f"chunks of {rows} segments do not fit into its files")


class TableFile:
    """A Parquet file of plain columns, read column by column. Not thread safe.

    Every column is decoded once for the checks.

    Args:
        file: the file, seekable; it stays open.
        most_rows: maximum number of rows.
        whole: columns that must exist and have no null.

    Attributes:
        names: names of the columns.
        texts: names of the columns of texts.
        num_rows: number of rows.

    Raises:
        ValueError: the content is not such a table; the message says why.
    """

    def __init__(self, file: BinaryIO, *, most_rows: int, whole: Sequence[str]):
        with _table_errors():
            source = pa.PythonFile(file, mode="r")
            schema = pq.ParquetFile(source).schema_arrow
            # Texts are read as dictionaries, so that a row needs a number only, for any length of the text.
            texts = [
                field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
            ]
            self._file = pq.ParquetFile(source, read_dictionary=texts)
            metadata = self._file.metadata
            rows = sum(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
            if not 0 <= max(rows, metadata.num_rows) <= most_rows:
                raise ValueError(f"{max(rows, metadata.num_rows)} rows, no more than {most_rows} are possible")
            for field in schema:
                if pa.types.is_nested(field.type):
                    raise ValueError(f"column {field.name} is of type {field.type}")
            self.names, self.num_rows = list(schema.names), rows
            self.texts = {*texts, *(field.name for field in schema if pa.types.is_dictionary(field.type))}
            for name in self.names:
                _check_column(name, self.read(name), may_be_null=name not in whole)
            for name in whole:
                if name not in self.names:
                    raise KeyError(name)

    def read(self, name: str) -> pa.ChunkedArray:
        """A column.

        Raises:
            ValueError: it cannot be read.
        """
        with _table_errors():
            values = self._file.read(columns=[name], use_threads=False)[name]
            if len(values) != self.num_rows:
                raise ValueError(f"column {name} has {len(values)} rows instead of {self.num_rows}")
            return values


@contextlib.contextmanager
def _table_errors() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def read_table(content: bytes, *, most_rows: int, whole: Sequence[str]) -> pa.Table:
    """Reads a Parquet table of plain columns; see `TableFile`.

    Args:
        content: content of the file.
        most_rows: maximum number of rows.
        whole: columns that must exist and have no null.

    Raises:
        ValueError: the content is not such a table; the message says why.
    """
    file = TableFile(io.BytesIO(content), most_rows=most_rows, whole=whole)
    return pa.table({name: file.read(name) for name in file.names})


def _check_column(name: str, column: pa.ChunkedArray, *, may_be_null: bool) -> None:
    if column.null_count and not may_be_null:
        raise ValueError(f"column {name} has nulls")
    if not pa.types.is_dictionary(column.type):
        return
    for chunk in column.chunks:
        lengths = np.asarray(pa.compute.call_function("binary_length", [chunk.dictionary]).fill_null(0))
        if len(lengths) and lengths.max() > _LONGEST_TEXT:
            raise ValueError(f"column {name} holds a text of {lengths.max()} bytes")


def column(values: pa.ChunkedArray) -> np.ndarray:
    """A column of a `TableFile` as an array, [rows]. Equal texts share one object."""
    if not pa.types.is_dictionary(values.type):
        return values.to_numpy()
    values = values.combine_chunks()
    texts = np.array([*values.dictionary.to_pylist(), None], object)
    return texts[values.indices.fill_null(len(texts) - 1).to_numpy()]


def decode_texts(table: pa.Table) -> pa.Table:
    """A small table from `read_table` with texts in place of dictionaries.

    Raises:
        ValueError: the texts are too large.
    """
    schema = pa.schema(
        [
            field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
            for field in table.schema
        ]
    )
    try:
        return table.cast(schema)
    except (pa.ArrowException, MemoryError) as error:
        raise ValueError(str(error)) from error
