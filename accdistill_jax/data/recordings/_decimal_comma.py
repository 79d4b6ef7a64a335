"""Rows of text that were split at their decimal commas: 500,19 read as the two cells 500 and 19."""

import re
from collections.abc import Sequence

import numpy as np

_SMOOTHER = 0.5


def split_numbers(rows: Sequence[Sequence[str]]) -> tuple[int, int] | None:
    """Looks for a pair of neighbouring columns (0 and 1, 2 and 3 ...) that is one number with a decimal comma.

    That is sure where every second column holds digits only and, in some pair, those begin with a zero or follow a -0 (05 and -0 are
    no whole numbers that anybody writes), or make the column before them smoother when they are put behind its decimal sign.

    Args:
        rows: cells of rows of equal, even length; missing cells are empty.

    Returns:
        Column and row where it shows, or None.
    """
    rows = [(number, row) for number, row in enumerate(rows) if len(row) == len(rows[0]) and all(row)]
    if not rows or len(rows[0][1]) % 2 or not all(cell.isdecimal() for _, row in rows for cell in row[1::2]):
        return None
    for column in range(0, len(rows[0][1]), 2):
        pairs = [(number, row[column].strip(), row[column + 1]) for number, row in rows]
        if not all(re.fullmatch(r"[-+]?\d+", whole) for _, whole, _ in pairs):
            continue
        for number, whole, decimals in pairs:
            if whole.startswith("-0") or (len(decimals) > 1 and decimals[0] == "0"):
                return column, number
        if len(pairs) >= 100:
            whole = _roughness([float(whole) for _, whole, _ in pairs])
            joined = _roughness([float(f"{whole}.{decimals}") for _, whole, decimals in pairs])
            if joined < _SMOOTHER * whole:
                return column, pairs[0][0]
    return None


def _roughness(values: list[float]) -> float:
    return float(np.square(np.diff(values, 2)).mean())
