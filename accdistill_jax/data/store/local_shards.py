"""Reads whole segments directly from the shard files of a local array.

The inner chunks of a shard are uncompressed, of equal size and in order. So a segment is one `pread` into its place in the
batch, without a second copy, which is several times faster than TensorStore. Files are open during one batch only, so
descriptors and mappings do not accumulate over thousands of shards.
"""

import os

import numpy as np

from accdistill_jax.data.store.shards import encode_index


class ShardError(Exception):
    """A shard is missing, too short, or has another layout than the format; the message names it."""


class LocalShards:
    """A local array [segments, samples, channels] of int16. Thread safe.

    Args:
        path: folder of the array.
        shape: shape of the array.
        rows_per_shard: segments in each shard file.
    """

    def __init__(self, path: str, shape: tuple[int, int, int], *, rows_per_shard: int):
        self._path = path
        self._shape = shape
        self._rows = rows_per_shard
        self._row_bytes = 2 * shape[1] * shape[2]
        self._checked = np.zeros(-(-shape[0] // rows_per_shard), bool)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Segments in the order of `indices`, [batch, samples, channels] int16; repeats are allowed.

        Raises:
            ShardError: a shard cannot be read.
        """
        places = np.empty((len(indices), self._row_bytes), np.uint8)
        shards, rows = np.divmod(indices, self._rows)
        order = np.argsort(shards, kind="stable")
        file, current = -1, -1
        try:
            for place, shard, row in zip(order.tolist(), shards[order].tolist(), rows[order].tolist(), strict=True):
                if shard != current:
                    if file >= 0:
                        os.close(file)
                        file = -1
                    file, current = self._open(shard), shard
                if os.preadv(file, [places[place]], row * self._row_bytes) != self._row_bytes:
                    raise ShardError(f"{self._file(shard)}: too short")
        except OSError as error:
            raise ShardError(f"{self._file(current)}: {error.strerror}") from error
        finally:
            if file >= 0:
                os.close(file)
        return places.view("<i2").reshape(len(indices), *self._shape[1:])

    def _file(self, shard: int) -> str:
        return os.path.join(self._path, "c", str(shard), "0", "0")

    def _open(self, shard: int) -> int:
        try:
            file = os.open(self._file(shard), os.O_RDONLY | os.O_NONBLOCK)  # opening a FIFO would block otherwise
        except OSError as error:
            raise ShardError(f"{self._file(shard)}: {error.strerror}") from error
        if not self._checked[shard]:
            try:
                self._check_index(file, shard)
            except BaseException:
                os.close(file)
                raise
            self._checked[shard] = True
        return file

    def _check_index(self, file: int, shard: int) -> None:
        """Compares the shard's index with the index of the expected layout."""
        used = min(self._rows, self._shape[0] - shard * self._rows)
        expected = encode_index(used, rows_per_file=self._rows, row_bytes=self._row_bytes)
        if os.pread(file, len(expected), max(os.fstat(file).st_size - len(expected), 0)) != expected:
            raise ShardError(f"{self._file(shard)}: its index is damaged")
