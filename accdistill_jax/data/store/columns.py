"""The segment table of an open store. A column is decoded when it is first used, so that memory holds only used columns."""

import threading
import weakref
from collections.abc import Iterator, MutableMapping, Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from accdistill_jax.data.store.checks import TableFile, column
from accdistill_jax.errors import UserError

_BLOCK = 1 << 20


class SegmentColumns(MutableMapping[str, np.ndarray]):
    """Name -> column [segments] of a segment table. Thread safe.

    Args:
        file: the table's file, seekable; it is closed with this object.
        where: path of the file, for messages.
        whole: columns that must exist and have no null.
        rows: number of rows that the table must have at most.

    Raises:
        ValueError: the content is not a table of a store; the message says why.
    """

    def __init__(self, file: BinaryIO, *, where: str, whole: Sequence[str], rows: int):
        self._where = where
        self._lock = threading.RLock()
        weakref.finalize(self, file.close)
        self._table = TableFile(file, most_rows=rows, whole=whole)
        self._names = self._table.names
        self._values: dict[str, np.ndarray] = {}
        self._codes: dict[str, tuple[list, np.ndarray]] = {}
        self.num_rows = self._table.num_rows

    def __getitem__(self, name: str) -> np.ndarray:
        with self._lock:
            if name not in self._values:
                if name not in self._names:
                    raise KeyError(name)
                self._values[name] = column(self._read(name))
            return self._values[name]

    def __setitem__(self, name: str, values: np.ndarray) -> None:
        with self._lock:
            self._values[name] = values
            self._codes.pop(name, None)
            if name not in self._names:
                self._names.append(name)

    def __delitem__(self, name: str) -> None:
        with self._lock:
            self._names.remove(name)
            self._values.pop(name, None)
            self._codes.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names))

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:  # without decoding the column
        return name in self._names

    def is_text(self, name: str) -> bool:
        """True for a column of texts."""
        return name in self._table.texts if name not in self._values else self._values[name].dtype.kind in "OU"

    def codes(self, name: str) -> tuple[list[str], np.ndarray]:
        """A column of texts in compact form: 4 bytes a row.

        Returns:
            The distinct texts in the order of their first rows, and [segments] int32, the index of each row's text.
        """
        with self._lock:
            if name not in self._codes:
                values = pa.chunked_array([pa.array(self._values[name])]) if name in self._values else self._read(name)
                if not pa.types.is_dictionary(values.type):
                    values = values.dictionary_encode()
                self._codes[name] = _by_first_row(values)
            return self._codes[name]

    def _read(self, name: str) -> pa.ChunkedArray:
        try:
            return self._table.read(name)
        except ValueError as error:
            raise UserError(
                f"{self._where}: column {name} cannot be read ({error}); prepare the store again"
            ) from error


def _by_first_row(values: pa.ChunkedArray) -> tuple[list, np.ndarray]:
    encoded = values.combine_chunks()
    texts, numbers = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    first = np.full(len(texts), len(numbers), np.int64)
    for start in reversed(range(0, len(numbers), _BLOCK)):  # an earlier row overwrites a later one
        block = numbers[start : start + _BLOCK]
        first[block[::-1]] = np.arange(start + len(block) - 1, start - 1, -1)
    order = np.argsort(first, kind="stable")[: np.count_nonzero(first < len(numbers))]
    place = np.full(len(texts), -1, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return [texts[number] for number in order.tolist()], place[numbers]
