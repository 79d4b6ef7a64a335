"""Labels of a recording that are classes over time, such as activities."""

from collections.abc import Mapping

import numpy as np

from accdistill_jax.data.recording import LabelWindows
from accdistill_jax.errors import UserError

WINDOW_S = 1.0
_MOST_APART_S = 5.0


def class_windows(
    name: str, ids: np.ndarray, classes: Mapping[int, str], *, rate_hz: float, recording_s: float
) -> LabelWindows:
    """Labels of seconds from numbers of classes at a constant rate.

    Args:
        name: name of the label.
        ids: [samples] numbers of classes, from the recording's start on.
        classes: number -> class; other numbers are unknown.
        rate_hz: numbers per second, a whole number.
        recording_s: duration of the recording in seconds.

    Returns:
        Windows of a second; "" where the second holds several classes or an unknown one.

    Raises:
        UserError: the numbers do not last as long as the recording.
    """
    if abs(len(ids) / rate_hz - recording_s) > _MOST_APART_S:
        raise UserError(
            f"{name!r} has {len(ids)} values of {rate_hz:g} Hz, {len(ids) / rate_hz:.0f} s, but the signal lasts {recording_s:.0f} s"
        )
    size = int(rate_hz)
    seconds = np.asarray(ids)[: len(ids) // size * size].reshape(-1, size)
    values = np.full(len(seconds), "", dtype=object)
    for number, text in classes.items():
        values[(seconds == number).all(1)] = text
    return LabelWindows(np.arange(len(seconds)) * WINDOW_S, WINDOW_S, {name: values.astype(str)})
