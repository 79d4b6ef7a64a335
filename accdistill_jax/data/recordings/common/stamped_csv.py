"""Columns of a CSV file with a time stamp in each row."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from accdistill_jax.data.recording import STARTS_UNIX_S, named
from accdistill_jax.data.recordings.tables.table import Layout, Table
from accdistill_jax.data.tree import regular_file
from accdistill_jax.errors import UserError


def stamped_columns(
    path: Path, names: Sequence[str], *, stamp: str, per_second: float
) -> tuple[np.ndarray, np.ndarray]:
    """Reads columns by their names in the header.

    Args:
        path: the file.
        names: columns of numbers.
        stamp: column of unix time stamps.
        per_second: time stamps per second, such as 1000 for milliseconds.

    Returns:
        Unix seconds [rows] float64, and columns [rows, names] float64, NaN where a cell is empty.

    Raises:
        UserError: a column is missing, a cell is no number, or the time goes back; the message names the file and the line.
    """
    regular_file(path)
    with named(path):
        table = Table(path, names, stamp, Layout())
        stamps = table.stamps(stamp)
        if stamps.dtype.kind not in "iuf":
            raise UserError(f"column {stamp!r}: must hold numbers since 1970, got dates")
        back = np.flatnonzero(np.diff(stamps) < 0)
        if back.size:
            raise UserError(f"{table.place(stamp, back[0] + 1)}: the time goes back; sort the rows by time")
        seconds = stamps / per_second
        beyond = np.flatnonzero((seconds < STARTS_UNIX_S[0]) | (seconds > STARTS_UNIX_S[1]))
        if beyond.size:
            raise UserError(f"{table.place(stamp, beyond[0])}: {stamps[beyond[0]]} is outside the years 1970 to 2200")
        return seconds, np.stack([table.numbers(name) for name in names], -1)
