"""Writes the files of Zarr v3 arrays: rows in any portions in, whole files out, encoded by TensorStore."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import tensorstore as ts

SEGMENTS_PER_SHARD = 1024
_ROWS_PER_SMALL_CHUNK = 65_536
_THREADS = 2
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


@dataclass(frozen=True)
class ArrayLayout:
    """Shape, type and chunking of an array whose files divide its first axis only.

    Attributes:
        shape: (segments, samples, channels) or (segments, channels).
        dtype: "int16" or "float32".
        rows_per_file: segments in each file.
        inner_rows: segments in each inner chunk of a shard; None stores plain chunks.
        unit: physical unit of the signal, kept in the array's attributes.
    """

    shape: tuple[int, ...]
    dtype: str
    rows_per_file: int
    inner_rows: int | None
    unit: str

    @classmethod
    def signal(cls, shape: tuple[int, int, int], *, unit: str) -> "ArrayLayout":
        """int16, sharded, one uncompressed inner chunk per segment: any segment is one read."""
        return cls(shape, "int16", SEGMENTS_PER_SHARD, 1, unit)

    @classmethod
    def small(cls, shape: tuple[int, int], *, unit: str) -> "ArrayLayout":
        """float32, plain chunks: read whole when a store is opened."""
        return cls(shape, "float32", _ROWS_PER_SMALL_CHUNK, None, unit)

    def key(self, number: int) -> str:
        """Name of the file with this number, in Zarr v3's default encoding."""
        return "/".join(["c", str(number)] + ["0"] * (len(self.shape) - 1))

    def metadata(self) -> dict:
        """The array's zarr.json."""
        inner = self.shape[1:]
        codecs = [_BYTES]
        if self.inner_rows is not None:
            codecs = [{"name": "sharding_indexed", "configuration": {
                "chunk_shape": [self.inner_rows, *inner], "codecs": [_BYTES],
                "index_codecs": [_BYTES, {"name": "crc32c"}], "index_location": "end"}}]
        return {"shape": list(self.shape), "data_type": self.dtype, "fill_value": 0, "codecs": codecs,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.rows_per_file, *inner]}},
                "dimension_names": ["segment", "sample", "channel"] if len(inner) == 2 else ["segment", "channel"],
                "attributes": {"unit": self.unit}}


def encode_metadata(layout: ArrayLayout) -> bytes:
    """Content of the array's zarr.json."""
    files, _ = _in_memory(layout.metadata())
    return files.read("zarr.json").result().value


def encode_file(layout: ArrayLayout, rows: np.ndarray) -> bytes:
    """Content of one file of the array.

    Args:
        layout: of the array.
        rows: [rows, ...] of the array's dtype, at most `layout.rows_per_file` (fewer at the array's end).
    """
    files, array = _in_memory(layout.metadata() | {"shape": [layout.rows_per_file, *layout.shape[1:]]})
    array[: len(rows)].write(rows).result()
    return files.read(layout.key(0)).result().value


def _in_memory(metadata: dict):
    context = ts.Context()
    kvstore = {"driver": "memory", "path": "array/"}
    array = ts.open(
        {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata, "store_data_equal_to_fill_value": True},
        context=context, create=True,
    ).result()
    return ts.KvStore.open(kvstore, context=context).result(), array


class ArrayFiles:
    """Streams rows into the files of several arrays; holds at most a few files' worth of rows.

    Args:
        layouts: by array name.
        put: called as put("<array>/<file>", content), from several threads, once per file.
    """

    def __init__(self, layouts: Mapping[str, ArrayLayout], put: Callable[[str, bytes], None]):
        self._layouts = dict(layouts)
        self._put = put
        self._blocks: dict[str, list[np.ndarray]] = {name: [] for name in layouts}
        self._written = dict.fromkeys(layouts, 0)
        self._pool = ThreadPoolExecutor(_THREADS)
        self._pending: list[Future] = []

    def __enter__(self) -> "ArrayFiles":
        for name, layout in self._layouts.items():
            self._put(f"{name}/zarr.json", encode_metadata(layout))
        return self

    def __exit__(self, kind, value, traceback) -> None:
        try:
            if kind is None:
                for name in self._layouts:
                    if waiting := self._waiting(name):
                        self._submit(name, self._take(name, waiting))
                self._drain(0)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def push(self, name: str, rows: np.ndarray) -> None:
        """Appends rows [rows, ...] to an array."""
        layout = self._layouts[name]
        self._blocks[name].append(rows)
        while self._waiting(name) >= layout.rows_per_file:
            self._submit(name, self._take(name, layout.rows_per_file))
        self._drain(2 * _THREADS)

    def _waiting(self, name: str) -> int:
        return sum(map(len, self._blocks[name]))

    def _take(self, name: str, count: int) -> np.ndarray:
        taken, blocks = [], self._blocks[name]
        while count:
            block = blocks.pop(0)
            if len(block) > count:
                blocks.insert(0, block[count:])
                block = block[:count]
            taken.append(block)
            count -= len(block)
        return np.concatenate(taken)

    def _submit(self, name: str, rows: np.ndarray) -> None:
        layout = self._layouts[name]
        file = f"{name}/{layout.key(self._written[name] // layout.rows_per_file)}"
        self._written[name] += len(rows)
        self._pending.append(self._pool.submit(lambda: self._put(file, encode_file(layout, rows))))

    def _drain(self, left: int) -> None:
        while len(self._pending) > left:
            self._pending.pop(0).result()
