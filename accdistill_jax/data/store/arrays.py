"""The arrays of a store, open for reading by row: signals with their scales and offsets."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorstore as ts

from accdistill_jax.data.store.checks import held_signals
from accdistill_jax.data.store.local_shards import LocalShards, ShardError
from accdistill_jax.data.store.manifest import checksum
from accdistill_jax.errors import UserError
from accdistill_jax.storage.folder import LocalFolder, RemoteFolder, first_line, result


class StoreArrays:
    """Arrays in one folder. Thread safe.

    Args:
        folder: folder of the arrays, with the manifest's files.
        manifest: manifest of the store that wrote the arrays.
        context: limits of requests and caches.

    Attributes:
        num_segments: rows of every array.
    """

    def __init__(self, folder: LocalFolder | RemoteFolder, manifest: Mapping, *, context: ts.Context):
        self._folder, self._manifest, self._context = folder, manifest, context
        self.num_segments: int = manifest["num_segments"]
        signals = held_signals(manifest["channels"])
        self._arrays = {name: self._open(name) for name in signals}
        self._small = {
            name: self._result(self._open(name).read(), name)
            for signal in signals
            for name in (f"{signal}_scale", f"{signal}_offset")
        }
        self._local = {name: self._open_local(name) for name in signals} if folder.is_local else None

    def gather(self, indices: np.ndarray, signals: Sequence[str]) -> dict[str, np.ndarray]:
        """Rows of signals with their scales and offsets, in the order of `indices`, without checks of their content.

        Raises:
            UserError: a shard is missing or unreadable.
        """
        batch = {name: array[indices] for name, array in self._small.items() if name.partition("_")[0] in signals}
        if self._local is not None:
            for name in signals:
                try:
                    batch[name] = self._local[name].read(indices)
                except ShardError as error:
                    raise self.read_error(str(error)) from error
        else:
            pending = {name: self._arrays[name][indices].read() for name in signals}
            for name, future in pending.items():
                batch[name] = self._result(future, name)
        return batch

    def damaged_shards(self, row: int) -> str:
        """Shards of a segment with a wrong checksum, or all its shards if no checksum is wrong."""
        names = [f"{name}/c/{row // _rows_per_shard(array)}/0/0" for name, array in self._arrays.items()]
        files = self._manifest["files"]
        damaged = [name for name in names if checksum(self._folder.read(name) or b"") != files[name]["sha256"]]
        return " and ".join(self._folder.where(name) for name in damaged or names)

    def read_error(self, problem: str) -> UserError:
        """The error about arrays that cannot be read."""
        return UserError(
            f"{problem}: cannot be read; check with: python -m accdistill_jax.data.prepare verify {self._folder.path}"
        )

    def _open(self, name: str) -> ts.TensorStore:
        where = self._folder / name
        return self._result(
            ts.open(
                {
                    "driver": "zarr3",
                    "kvstore": where.kvstore(),
                    "fill_missing_data_reads": False,
                    "recheck_cached_data": False,
                },
                context=self._context,
                read=True,
            ),
            name,
        )

    def _open_local(self, name: str) -> LocalShards:
        array = self._arrays[name]
        segments, samples, channels = array.shape
        return LocalShards(
            self._folder.where(name), (segments, samples, channels), rows_per_shard=_rows_per_shard(array)
        )

    def _result(self, future: ts.Future, name: str):
        try:
            return result(future)
        except Exception as error:  # TensorStore raises many types
            raise self.read_error(f"{self._folder.where(name)}: {first_line(error)}") from error


def _rows_per_shard(array: ts.TensorStore) -> int:
    rows, *_ = array.chunk_layout.write_chunk.shape or (None,)
    if rows is None:
        raise ValueError("an array of a store has no chunks")
    return rows
