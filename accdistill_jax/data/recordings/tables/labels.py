"""A user's labels in a description: of the person, and over windows of the recording."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from accdistill_jax.data.recording import LabelWindows, named
from accdistill_jax.data.recordings.tables.description import number_at
from accdistill_jax.data.recordings.tables.table import Table
from accdistill_jax.data.recordings.tables.times import Times
from accdistill_jax.errors import UserError


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
        UserError: a key is missing, or the file has no such column.
    """
    with named(sidecar):
        columns, duration = table.get("columns"), number_at(table, "duration_s", "labels")
        if not isinstance(columns, list) or not columns or not all(isinstance(column, str) for column in columns):
            raise UserError(f"labels.columns must be a list of column names, got {columns!r}")
        if duration is None:
            raise UserError("labels.duration_s is missing: give the length of a window in seconds")
    with named(times.file):
        return LabelWindows(times.after(start), duration, {column: _values(times.table, column) for column in columns})


def _values(table: Table, column: str) -> np.ndarray:
    """Numbers, or texts if a cell is no number."""
    try:
        return table.numbers(column)
    except UserError:
        return table.texts(column)
