"""Reads untrusted pickles: plain containers and numpy arrays only. No function that a pickle names is ever called.

The few numpy functions that pickles of arrays need are replaced by stand-ins, which keep bytes, shape and type. `pickled_array` makes the
array from them after checking them, so numpy's own unpickling is never used. Pickles of Python 2 are read as latin-1.
"""

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from accdistill_jax.data.tree import regular_file
from accdistill_jax.errors import UserError

_MOST_DIMENSIONS = 4


class _Type:
    """Stands for numpy.dtype: kind and size, such as "f8", and byte order."""

    def __init__(self, name: object, *_: object):
        self.name, self.order = str(name), "="

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])

    def dtype(self) -> np.dtype:
        """The type, if it is one of numbers.

        Raises:
            UserError: another type, such as objects.
        """
        if not re.fullmatch(r"[biuf][1248]", self.name) or self.order not in ("<", ">", "=", "|"):
            raise UserError(f"an array of the type {self.name!r} is not read, only numbers")
        return np.dtype(self.name if self.order == "|" else self.order + self.name)


class _Array:
    """Stands for numpy.ndarray, not yet checked."""

    def __init__(self) -> None:
        self.shape: Any = ()
        self.type: Any = None
        self.is_fortran: Any = False
        self.raw: Any = b""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.type, self.is_fortran, self.raw = state

    def numbers(self) -> np.ndarray:
        """The checked array.

        Raises:
            UserError: a type of other things than numbers, or bytes that do not fit the shape.
        """
        raw = self.raw.encode("latin-1") if isinstance(self.raw, str) else self.raw
        good = isinstance(self.shape, tuple) and len(self.shape) <= _MOST_DIMENSIONS
        if not good or not all(isinstance(n, int) and n >= 0 for n in self.shape) or not isinstance(self.type, _Type):
            raise UserError("an array has an impossible shape or type; copy the file again")
        dtype = self.type.dtype()
        if not isinstance(raw, bytes | bytearray) or len(raw) != math.prod(self.shape) * dtype.itemsize:
            raise UserError(f"an array of shape {self.shape} does not fit its bytes; copy the file again")
        return np.frombuffer(raw, dtype).reshape(self.shape, order="F" if self.is_fortran else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _frombuffer(raw: object, kind: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", raw))
    return array


def _scalar(kind: object, raw: object) -> _Array:
    return _frombuffer(raw, kind, (), "C")


def _text_bytes(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("text in an unusual encoding")
    return text.encode("latin-1")


def _empty_bytes() -> bytes:
    return b""


_STAND_INS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _reconstruct,
    ("_codecs", "encode"): _text_bytes,
    ("__builtin__", "bytes"): _empty_bytes,  # protocol 2 writes a call for bytes of length 0
}
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _STAND_INS[f"{_core}.multiarray", "scalar"] = _scalar
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _frombuffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise UserError(
                f"its pickle asks for {module}.{name}, but only numbers and plain containers are read: do not open it with "
                "other programs, and download the data set again"
            ) from None


def read_pickle(path: Path) -> Any:
    """Reads a pickle without running anything in it.

    Returns:
        Plain containers and texts; arrays are opaque, see `pickled_array`.

    Raises:
        UserError: the file is no pickle, is cut off, or asks for anything but arrays and plain containers; the message names it.
    """
    with regular_file(path).open("rb") as file:
        try:
            return _Unpickler(file, encoding="latin1").load()
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except MemoryError:
            raise UserError(
                f"{path}: asks for more memory than there is: it is damaged, or this machine's memory is short"
            ) from None
        except Exception as error:  # a damaged pickle raises any exception
            raise UserError(
                f"{path}: cannot be read as a pickle ({str(error) or type(error).__name__}); copy it again"
            ) from error


def pickled_item(content: Any, *keys: str) -> Any:
    """The item under nested keys of dictionaries; None if a key is missing."""
    for key in keys:
        if not isinstance(content, dict):
            return None
        content = next(
            (value for name, value in content.items() if isinstance(name, str) and name.strip() == key), None
        )
    return content


def pickled_array(content: Any, *keys: str) -> np.ndarray:
    """The array under nested keys.

    Raises:
        UserError: there is no array of numbers under these keys; the message names them.
    """
    item, name = pickled_item(content, *keys), "/".join(keys)
    if not isinstance(item, _Array):
        raise UserError(f"holds no array {name!r}: is it another data set?")
    try:
        return item.numbers()
    except UserError as error:
        raise UserError(f"{name!r}: {error}") from None


def pickled_number(content: Any, *keys: str) -> float | None:
    """The number under nested keys; None if there is none."""
    item = pickled_item(content, *keys)
    if isinstance(item, _Array):
        value = item.numbers()
        return float(value.reshape(-1)[0]) if value.size == 1 else None
    return float(item) if isinstance(item, int | float) and not isinstance(item, bool) else None
