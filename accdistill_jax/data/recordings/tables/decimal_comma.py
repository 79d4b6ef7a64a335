"""Detects rows of text that were split at their decimal commas: 500,19 read as the two cells 500 and 19."""

import re
from collections.abc import Sequence

import numpy as np

_SMOOTHER = 0.5


def split_numbers(rows: Sequence[Sequence[str]]) -> tuple[int, int] | None:
    """Finds a pair of neighbouring columns (0 and 1, 2 and 3 ...) that is one number with a decimal comma.

    A pair is certain if every second column holds only digits and, in that pair, the digits begin with a zero or follow a -0
    (nobody writes 05 or -0 for a whole number), or joining both columns makes the signal smoother.

    Args:
        rows: cells of rows of equal, even length; missing cells are empty.

    Returns:
        Column, and row that proves it; None if no pair is certain.
    """
    whole_rows = [(number, row) for number, row in enumerate(rows) if len(row) == len(rows[0]) and all(row)]
    if (
        not whole_rows
        or len(whole_rows[0][1]) % 2
        or not all(cell.isdecimal() for _, row in whole_rows for cell in row[1::2])
    ):
        return None
    for column in range(0, len(whole_rows[0][1]), 2):
        pairs = [(number, row[column].strip(), row[column + 1]) for number, row in whole_rows]
        if not all(re.fullmatch(r"[-+]?\d+", integer) for _, integer, _ in pairs):
            continue
        for number, integer, decimals in pairs:
            if integer.startswith("-0") or (len(decimals) > 1 and decimals[0] == "0"):
                return column, number
        if len(pairs) >= 100:
            integers = _roughness([float(integer) for _, integer, _ in pairs])
            joined = _roughness([float(f"{integer}.{decimals}") for _, integer, decimals in pairs])
            if joined < _SMOOTHER * integers:
                return column, pairs[0][0]
    return None


def _roughness(values: list[float]) -> float:
    return float(np.square(np.diff(values, 2)).mean())
