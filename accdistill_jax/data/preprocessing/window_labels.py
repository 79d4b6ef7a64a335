"""A user's labels over windows, as labels of segments."""

from collections.abc import Iterator

import numpy as np

from accdistill_jax.data.recording import LabelWindows

LABEL_PREFIX = "label_"  # of the columns of a store
_LEAST_SHARE = 0.5  # of a segment that known windows must cover


def has_value(values: np.ndarray) -> np.ndarray:
    """True where a label has a value.

    Args:
        values: [n] float, NaN where unknown, or [n] str, "" where unknown.

    Returns:
        [n] bool.
    """
    return values != "" if values.dtype.kind in "UO" else np.isfinite(values)


def covered_s(left: np.ndarray, right: np.ndarray) -> float:
    """Time that intervals cover together, in seconds: a moment in several intervals counts once.

    Args:
        left: [n] float64, start of each interval in seconds, not decreasing.
        right: [n] float64, end of each interval, not decreasing.
    """
    before = np.concatenate([[-np.inf], right[:-1]])
    return float(np.maximum(right - np.maximum(left, before), 0.0).sum())


def labels_of_segments(windows: LabelWindows | None, start_s: np.ndarray, segment_s: float) -> dict[str, np.ndarray]:
    """Labels of segments.

    A number is the mean of the known windows, weighted by the time that they share with the segment. A class is the one that shares
    the most time. A label is unknown if its known windows together cover less than half of the segment; a moment that several windows
    cover counts once.

    Args:
        windows: in seconds after the recording's start; None if there are none.
        start_s: [N] start of each segment, seconds after the recording's start.
        segment_s: duration of a segment in seconds.

    Returns:
        "label_" and the name -> [N] float64 (NaN where unknown) or [N] str ("" where unknown).
    """
    if windows is None:
        return {}
    order = np.argsort(windows.start_s, kind="stable")
    begin = windows.start_s[order]
    columns = {}
    for name, values in windows.values.items():
        values = np.asarray(values)[order]
        texts = values.dtype.kind in "UO"
        known = has_value(values)
        result = np.full(len(start_s), "" if texts else np.nan, object if texts else np.float64)
        for number, rows, shared in _known_in_segments(begin, known, windows.duration_s, start_s, segment_s):
            if shared is None:
                continue
            if texts:
                classes, code = np.unique(values[rows].astype(str), return_inverse=True)
                result[number] = classes[np.argmax(np.bincount(code, weights=shared))]
            else:
                result[number] = np.average(values[rows], weights=shared)
        columns[LABEL_PREFIX + name] = result.astype(str) if texts else result
    return columns


def too_short_labels(windows: LabelWindows | None, start_s: np.ndarray, segment_s: float) -> dict[str, str]:
    """A note (short_labels) on windows that lie in segments and label none, because together they cover too little of each.

    Args:
        windows: as in `labels_of_segments`, like the other arguments.
        start_s: [N] float.
        segment_s: in seconds.
    """
    if windows is None:
        return {}
    order = np.argsort(windows.start_s, kind="stable")
    begin, found = windows.start_s[order], []
    for name, values in windows.values.items():
        known = has_value(np.asarray(values)[order])
        inside, used = np.zeros(len(begin), bool), np.zeros(len(begin), bool)
        for _, rows, shared in _known_in_segments(begin, known, windows.duration_s, start_s, segment_s):
            inside[rows] = True
            used[rows if shared is not None else rows[:0]] = True
        lost = np.flatnonzero(inside & ~used)
        if lost.size:
            found.append(f"{lost.size} of {int(known.sum())} windows of {name!r} (the first at {begin[lost[0]]:.0f} s)")
    if not found:
        return {}
    return {
        "short_labels": f"{' and '.join(found)} label no segment, because known windows cover less than half of each: a longer duration_s, or "
        "more of them, would label it"
    }


def _known_in_segments(
    begin: np.ndarray, known: np.ndarray, duration_s: float, start_s: np.ndarray, segment_s: float
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """Number of each segment, its known windows, and the seconds that it shares with each; None if they cover too little of it.

    Args:
        begin: [n] float64, start of each window, not decreasing.
        known: [n] bool, True where the label has a value.
        duration_s: duration of a window in seconds.
        start_s: [N] start of each segment.
        segment_s: duration of a segment in seconds.
    """
    for number, start in enumerate(np.asarray(start_s, np.float64)):
        first = np.searchsorted(begin, start - duration_s, side="right")
        last = np.searchsorted(begin, start + segment_s, side="left")
        rows = np.arange(first, last)
        rows = rows[known[rows]]
        left, right = np.maximum(begin[rows], start), np.minimum(begin[rows] + duration_s, start + segment_s)
        enough = rows.size and covered_s(left, right) >= _LEAST_SHARE * segment_s - 1e-9
        yield number, rows, np.maximum(right - left, 0.0) if enough else None
