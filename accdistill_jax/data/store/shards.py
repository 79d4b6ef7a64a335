"""Writes the files of Zarr v3 arrays from portions of rows of any size.

Inner chunks are uncompressed and in order, so a shard consists of its rows and an index at the end. TensorStore encodes zarr.json
and the index with its checksum.
"""

import functools
import math
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import tensorstore as ts

SEGMENTS_PER_SHARD = 1024
_ROWS_PER_SMALL_CHUNK = 65_536
_THREADS = 2
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_INDEX_CODECS = [_BYTES, {"name": "crc32c"}]
_NO_CHUNK = 2**64 - 1


@dataclass(frozen=True)
class ArrayLayout:
    """Shape, type and chunking of an array. Its files divide the first axis only.

    Attributes:
        shape: (segments, samples, channels) or (segments, channels).
        dtype: "int16" or "float32".
        rows_per_file: segments in each file.
        sharded: True if a file is a shard with one inner chunk per segment; False if it is one plain chunk.
        unit: physical unit of the signal, for the array's attributes.
    """

    shape: tuple[int, ...]
    dtype: str
    rows_per_file: int
    sharded: bool
    unit: str

    @classmethod
    def signal(cls, shape: tuple[int, int, int], *, unit: str) -> "ArrayLayout":
        """int16, sharded, one uncompressed inner chunk per segment, so that a segment is one read."""
        return cls(shape, "int16", SEGMENTS_PER_SHARD, True, unit)

    @classmethod
    def small(cls, shape: tuple[int, int], *, unit: str) -> "ArrayLayout":
        """float32, plain chunks; the array is read when a store is opened."""
        return cls(shape, "float32", _ROWS_PER_SMALL_CHUNK, False, unit)

    @property
    def row_bytes(self) -> int:
        """Bytes of one segment."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    def key(self, number: int) -> str:
        """Name of a file, in Zarr v3's default encoding."""
        return "/".join(["c", str(number)] + ["0"] * (len(self.shape) - 1))

    def metadata(self) -> dict:
        """The array's zarr.json."""
        inner = self.shape[1:]
        codecs = [_BYTES]
        if self.sharded:
            codecs = [
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "chunk_shape": [1, *inner],
                        "codecs": [_BYTES],
                        "index_codecs": _INDEX_CODECS,
                        "index_location": "end",
                    },
                }
            ]
        return {
            "shape": list(self.shape),
            "data_type": self.dtype,
            "fill_value": 0,
            "codecs": codecs,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.rows_per_file, *inner]}},
            "dimension_names": ["segment", "sample", "channel"] if len(inner) == 2 else ["segment", "channel"],
            "attributes": {"unit": self.unit},
        }


def encode_metadata(layout: ArrayLayout) -> bytes:
    """Content of the array's zarr.json."""
    files, _ = _in_memory(layout.metadata())
    return files.read("zarr.json").result().value


@functools.lru_cache(maxsize=8)
def encode_index(rows: int, *, rows_per_file: int, row_bytes: int) -> bytes:
    """Index at the end of a shard with `rows` consecutive inner chunks."""
    index = np.full((rows_per_file, 2), _NO_CHUNK, np.uint64)
    index[:rows, 0] = np.arange(rows) * row_bytes
    index[:rows, 1] = row_bytes
    files, array = _in_memory(
        {
            "shape": list(index.shape),
            "data_type": "uint64",
            "fill_value": 0,
            "codecs": _INDEX_CODECS,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(index.shape)}},
        }
    )
    array.write(index).result()
    return files.read("c/0/0").result().value


def _in_memory(metadata: dict):
    context = ts.Context()
    kvstore = {"driver": "memory", "path": "array/"}
    array = ts.open(
        {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata, "store_data_equal_to_fill_value": True},
        context=context,
        create=True,
    ).result()
    return ts.KvStore.open(kvstore, context=context).result(), array


class _File:
    """A file that is filled with rows; the rest is zero."""

    def __init__(self, layout: ArrayLayout):
        self._layout = layout
        self._index_bytes = 16 * layout.rows_per_file + 4 if layout.sharded else 0
        self._content = np.zeros(layout.rows_per_file * layout.row_bytes + self._index_bytes, np.uint8)
        self.rows = 0

    def empty(self) -> "_File":
        """Reuses the memory for the next shard. New memory would cost more time than the rows that are written into it."""
        self.rows = 0
        return self

    @property
    def free(self) -> int:
        """Number of rows that still fit."""
        return self._layout.rows_per_file - self.rows

    def append(self, rows: np.ndarray) -> None:
        size = self._layout.row_bytes
        place = self._content[self.rows * size : (self.rows + len(rows)) * size]
        place.view(np.dtype(self._layout.dtype).newbyteorder("<")).reshape(rows.shape)[...] = rows
        self.rows += len(rows)

    def content(self) -> memoryview:
        """The whole file."""
        layout = self._layout
        if not layout.sharded:
            return self._content.data
        end = self.rows * layout.row_bytes
        index = encode_index(self.rows, rows_per_file=layout.rows_per_file, row_bytes=layout.row_bytes)
        self._content[end : end + len(index)] = np.frombuffer(index, np.uint8)
        return self._content[: end + len(index)].data


class ArrayFiles:
    """Streams rows into the files of several arrays. It keeps at most a few files of each in memory.

    Args:
        layouts: array name -> layout.
        put: called as put("<array>/<file>", content) once per file, from several threads.
    """

    def __init__(self, layouts: Mapping[str, ArrayLayout], put: Callable[[str, bytes | memoryview], None]):
        self._layouts = dict(layouts)
        self._put = put
        self._filling: dict[str, _File] = {}
        self._submitted = dict.fromkeys(layouts, 0)
        self._pool = ThreadPoolExecutor(_THREADS)
        self._pending: deque[Future] = deque()
        self._spare: dict[str, deque[_File]] = {name: deque() for name in layouts}

    def __enter__(self) -> "ArrayFiles":
        for name, layout in self._layouts.items():
            self._put(f"{name}/zarr.json", encode_metadata(layout))
        return self

    def __exit__(self, kind, value, traceback) -> None:
        try:
            if kind is None:
                for name in list(self._filling):
                    self._submit(name)
                self._drain(0)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def push(self, name: str, rows: np.ndarray) -> None:
        """Appends rows [rows, ...] to an array."""
        while len(rows):
            file = self._filling.get(name)
            if file is None:
                spare = self._spare[name]
                file = self._filling[name] = spare.popleft().empty() if spare else _File(self._layouts[name])
            fitting, rows = rows[: file.free], rows[file.free :]
            file.append(fitting)
            if not file.free:
                self._submit(name)

    def _submit(self, name: str) -> None:
        file, number = self._filling.pop(name), self._submitted[name]
        self._submitted[name] += 1
        where = f"{name}/{self._layouts[name].key(number)}"

        def write() -> None:
            self._put(where, file.content())
            if self._layouts[name].sharded:
                self._spare[name].append(file)

        self._pending.append(self._pool.submit(write))
        self._drain(_THREADS)

    def _drain(self, left: int) -> None:
        while len(self._pending) > left:
            self._pending.popleft().result()
