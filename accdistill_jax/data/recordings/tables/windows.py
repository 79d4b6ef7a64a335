"""The windows of heart rates and labels in a description: refuses lengths that cannot be in seconds."""

from collections.abc import Mapping

import numpy as np

from accdistill_jax.errors import UserError

# True windows overlap little: 8 s every 2 s are 4 spacings, 30 s every second 30, a minute every second or 5 minutes every 5 s 60.
# A wrong unit makes it a thousand times more. Windows of over ten minutes say little about a minute, so fewer may overlap: an hour
# every 5 minutes (12) is allowed. Milliseconds that are read as seconds are such windows, unless they last less than 0.6 s.
_MOST_SPACINGS = 100
_MOST_SPACINGS_IF_LONG = 20
_LONG_S = 600.0


def refuse_long_windows(start_s: np.ndarray, duration_s: float, known: Mapping[str, np.ndarray]) -> None:
    """Refuses windows that overlap so much that their length or their times have a wrong unit.

    Args:
        start_s: [rows] float64, start of each window in seconds, not decreasing.
        duration_s: length of a window in seconds.
        known: column -> [rows] bool, True where it has a value. The spacing is the median distance of such rows; rows of equal time
            do not count.

    Raises:
        UserError: the windows of a column are too long; the message names column, duration and spacing, but not the file.
    """
    most = _MOST_SPACINGS_IF_LONG if duration_s > _LONG_S else _MOST_SPACINGS
    for column, rows in known.items():
        apart = np.diff(start_s[rows])
        apart = apart[apart > 0]
        if apart.size and duration_s > most * np.median(apart):
            raise UserError(
                f"column {column!r}: a window begins every {np.median(apart):.3g} s, but lasts duration_s: {duration_s:g}; "
                "give duration_s in seconds, check time_unit, or keep fewer of windows that overlap so much"
            )
