"""Checks of a store's files, whoever made it; they come before anything in the files is believed or allocated.

A fingerprint and checksums tell damage, not intent: a manifest can be made by hand around any content. So names stay inside the
folder, counts are counts, and no array or table can be larger than the files that hold it.
"""

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

SIGNALS = ("ppg", "accel")
MANIFEST_BYTES = 256 * 2**20
_LARGEST = 2**48  # of any count
_FASTEST_HZ = 1e6
_LONGEST_TEXT = 4096  # characters of a text in a table
_ARRAYS = tuple(f"{signal}{part}" for signal in SIGNALS for part in ("", "_scale", "_offset"))
_FILE = re.compile(
    rf"zarr\.json|(?:segments|participants)\.parquet|(?:{'|'.join(_ARRAYS)})/(?:zarr\.json|c(?:/[0-9]{{1,12}}){{2,3}})"
)
_NEEDED = ("segments.parquet", "participants.parquet", *(f"{name}/zarr.json" for name in _ARRAYS))


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
        and all(name in value for name in _NEEDED)
        and all(
            isinstance(own, dict) and _is_count(own.get("bytes")) and isinstance(own.get("sha256"), str)
            for own in value.values()
        )
    )


def _are_names(value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _is_dict(value) -> bool:
    return isinstance(value, dict)


def _are_texts(value) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


# By key of the manifest.
_KEYS = {
    "num_segments": _is_positive,
    "samples": _is_positive,
    "rate_hz": _is_amount,
    "segment_s": _is_amount,
    "channels": lambda value: _is_dict(value) and all(_are_names(value.get(name)) for name in SIGNALS),
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
    "not_read": lambda value: value is None or _are_texts(value),  # only there where something was not read
}


def malformed_key(manifest: Mapping) -> str | None:
    """The first key of a manifest that is missing or malformed, if one is."""
    return next((key for key, fits in _KEYS.items() if not fits(manifest.get(key))), None)


def missing_room(manifest: Mapping) -> str | None:
    """The first array that holds more than its files have bytes, if one does; they are not compressed."""
    for name in _ARRAYS:
        signal, _, small = name.partition("_")
        row_bytes = len(manifest["channels"][signal]) * (4 if small else 2 * manifest["samples"])
        held = sum(entry["bytes"] for file, entry in manifest["files"].items() if file.startswith(f"{name}/c/"))
        if manifest["num_segments"] * row_bytes > held:
            return name
    return None


def check_array(content: bytes, *, shape: tuple[int, ...], dtype: str, file_bytes: int) -> None:
    """Compares an array's zarr.json with the layout of the format (see `shards.ArrayLayout`).

    Args:
        content: of the file.
        shape: (segments, samples, channels) of a signal or (segments, channels).
        dtype: "int16" or "float32".
        file_bytes: of its largest file.

    Raises:
        ValueError: it differs; says in what.
    """
    try:
        found = json.loads(content)
        if found["data_type"] != dtype or found["shape"] != list(shape):
            raise ValueError(
                f"the array is {found['data_type']} {tuple(found['shape'])}, but the manifest says {shape}"
            )
        rows, *inner = found["chunk_grid"]["configuration"]["chunk_shape"]
        whole = _is_positive(rows) and inner == list(shape[1:])
        codecs = found["codecs"]
        if len(shape) == 3:
            [sharding] = codecs
            own = sharding["configuration"]
            whole &= sharding["name"] == "sharding_indexed" and own["chunk_shape"] == [1, *inner]
            whole &= [codec["name"] for codec in own["index_codecs"]] == ["bytes", "crc32c"]
            codecs = own["codecs"]
        whole &= [codec["name"] for codec in codecs] == ["bytes"]
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it is not an array of a store") from error
    if not whole:
        raise ValueError("its chunks or codecs are not those of a store")
    # an index of 16 bytes for each row of a shard, or the rows themselves
    if rows * (16 if len(shape) == 3 else 4 * shape[1]) > file_bytes:
        raise ValueError(f"chunks of {rows} segments do not fit into its files")


def read_table(content: bytes, *, most_rows: int, whole: Sequence[str]) -> pa.Table:
    """A Parquet table of plain columns.

    Args:
        content: of the file.
        most_rows: it may have.
        whole: columns that must be there, without a null.

    Raises:
        ValueError: it is not such a table; says why.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        rows = sum(file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups))
        if not 0 <= max(rows, file.metadata.num_rows) <= most_rows:
            raise ValueError(f"{max(rows, file.metadata.num_rows)} rows, no more than {most_rows} are possible")
        schema = file.schema_arrow
        for field in schema:
            if pa.types.is_nested(field.type):
                raise ValueError(f"column {field.name} is of type {field.type}")
        # texts as dictionaries: a row costs its number then, however long the text is
        texts = [
            field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ]
        table = pq.read_table(pa.BufferReader(content), read_dictionary=texts, use_threads=False)
        for name in table.column_names:
            _check_column(name, table[name], may_be_null=name not in whole)
        for name in whole:
            table[name]
    except (pa.ArrowException, OSError, KeyError, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return table


def _check_column(name: str, column: pa.ChunkedArray, *, may_be_null: bool) -> None:
    if column.null_count and not may_be_null:
        raise ValueError(f"column {name} has nulls")
    if not pa.types.is_dictionary(column.type):
        return
    for chunk in column.chunks:
        lengths = np.asarray(pa.compute.binary_length(chunk.dictionary).fill_null(0))
        if len(lengths) and lengths.max() > _LONGEST_TEXT:
            raise ValueError(f"column {name} holds a text of {lengths.max()} bytes")


def column(table: pa.Table, name: str) -> np.ndarray:
    """A column of such a table, [rows]; texts as objects, each kept once."""
    values = table[name]
    if not pa.types.is_dictionary(values.type):
        return values.to_numpy()
    values = values.combine_chunks()
    texts = np.array([*values.dictionary.to_pylist(), None], object)
    return texts[values.indices.fill_null(len(texts) - 1).to_numpy()]


def plain(table: pa.Table) -> pa.Table:
    """Such a table with its texts as texts, for a small one; ValueError where they are too many."""
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
