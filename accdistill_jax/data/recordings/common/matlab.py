"""Reads MATLAB v5 files (`.mat`) of unknown origin."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from accdistill_jax.data.tree import regular_file
from accdistill_jax.errors import UserError

# Exceptions that scipy raises for truncated files and for other kinds of files.
UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    OSError,
    NotImplementedError,
    NameError,
    zlib.error,
    scipy.io.matlab.MatReadError,
)


def read_matlab(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Reads variables; structures become dictionaries, and arrays with one element scalars.

    Raises:
        UserError: the file cannot be read or lacks a variable; the message names the file.
    """
    try:
        content = scipy.io.loadmat(regular_file(path), variable_names=list(names), simplify_cells=True)
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as a MATLAB v5 file ({error}); copy it again") from error
    missing = [name for name in names if name not in content]
    if missing:
        raise UserError(f"{path}: has no variable {missing[0]!r}: is it another data set, or damaged?")
    return content


def real_numbers(values: Any, name: str) -> np.ndarray:
    """An array of real numbers as float64.

    Raises:
        UserError: other values; the message names them.
    """
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array) or not array.size:
        raise UserError(f"{name!r} must hold real numbers, got {array.dtype} of shape {array.shape}")
    return array.astype(np.float64)
