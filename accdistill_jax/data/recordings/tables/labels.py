"""A user's labels in a description: of the person, and over windows of the recording."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from accdistill_jax.data.preprocessing.window_labels import has_value
from accdistill_jax.data.recording import LabelWindows, named
from accdistill_jax.data.recordings.tables.description import number_at
from accdistill_jax.data.recordings.tables.table import Table
from accdistill_jax.data.recordings.tables.times import Times
from accdistill_jax.data.recordings.tables.windows import refuse_long_windows
from accdistill_jax.errors import UserError

_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?", re.ASCII)  # with either decimal sign


def participant_labels(who: Mapping) -> dict[str, float | str]:
    """The labels of a person.

    Args:
        who: the participant of a description.

    Raises:
        UserError: they are no mapping of names to numbers or texts.
    """
    labels = who.get("labels") or {}
    if not isinstance(labels, Mapping):
        raise UserError(f"participant.labels must be a mapping of name to number or text, got {labels!r}")
    known = {name: value for name, value in labels.items() if value is not None}
    return {name: str(value).lower() if isinstance(value, bool) else value for name, value in known.items()}


def label_windows(table: Mapping, times: Times, start: float, sidecar: Path) -> LabelWindows:
    """The labels over windows.

    Args:
        table: the entry `labels` of a description.
        times: its data file and the starts of the windows.
        start: start of the recording in unix seconds.
        sidecar: the description's file, for messages.

    Raises:
        UserError: a key is missing, the file has no such column, most cells of a column are numbers and some are not, or the windows are
            too long for the distance of the rows (`refuse_long_windows`).
    """
    with named(sidecar):
        columns, duration = table.get("columns"), number_at(table, "duration_s", "labels")
        if not isinstance(columns, list) or not columns or not all(isinstance(column, str) for column in columns):
            raise UserError(f"labels.columns must be a list of column names, got {columns!r}")
        if duration is None:
            raise UserError("labels.duration_s is missing: give the length of a window in seconds")
    with named(times.file):
        windows = LabelWindows(times.after(start), duration, {name: _values(times.table, name) for name in columns})
        refuse_long_windows(
            windows.start_s, duration, {name: has_value(values) for name, values in windows.values.items()}
        )
        return windows


def _values(table: Table, column: str) -> np.ndarray:
    """Numbers, or texts if a cell is no number.

    Raises:
        UserError: most cells are numbers, so that the others are faults. Cells such as "-" or "?" are no texts and do not count.
    """
    try:
        return table.numbers(column)
    except UserError as error:
        texts = table.texts(column)
        cells = [text for text in texts.tolist() if any(letter.isalnum() for letter in text)]
        numbers = sum(_NUMBER.fullmatch(cell) is not None for cell in cells)
        if numbers > len(cells) / 2:
            raise UserError(
                f"{error}, but {numbers} of {np.count_nonzero(texts != '')} cells are numbers; leave a cell empty where the "
                "label is unknown, or write every class as a word, such as s1"
            ) from None
        return texts
