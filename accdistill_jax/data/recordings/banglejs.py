"""Bangle.js 2 watches: CSV logs of the heart rate monitor and the accelerometer on separate, irregular rows.

Each file is a recording. Columns: Time (ms since 1970), Acc_x, Acc_y, Acc_z (g), HRM_r (raw PPG), and optionally BTHRM, the heart rate of
a chest strap in beats per minute, which becomes the reference. A row holds the values of one sensor and leaves the others empty.
The watch measures acceleration about once a second while it lies still; then minutes are too coarse for a student.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from accdistill_jax.data.preprocessing.reference_rate import cleaned
from accdistill_jax.data.recording import (
    STARTS_UNIX_S,
    HeartRateWindows,
    Participant,
    Recording,
    RecordingSource,
    Stream,
    named,
)
from accdistill_jax.data.recordings.common.files import Naming, file_sources, files_ending, read_bytes
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

CAN_CRASH = False
DEVICE = "Bangle.js 2"
ACCEL = ("Acc_x", "Acc_y", "Acc_z")
COLUMNS = ("Time", *ACCEL, "HRM_r")
STRAP = "BTHRM"
STRAP_WINDOW_S = 2.0  # a strap reports each second, now and then every second time


def find(tree: Tree, *, participant_from: Naming = "auto") -> list[RecordingSource]:
    """Finds `.csv` files at any depth.

    Args:
        tree: the files to search.
        participant_from: the participant's id: the file's name, its prefix up to the first "_", or its parent folder;
            auto is the name, and asks in a preparation if names hold dates.
    """
    return file_sources(tree, files_ending(tree, ".csv"), load, participant_from)


def load(path: Path, recording_id: str, participant_id: str) -> Recording:
    """Reads one file.

    Raises:
        UserError: a column is missing, a cell is not a number, a row is incomplete or the clock goes back; the message names the line.
    """
    lines = read_bytes(path).decode("utf-8-sig", errors="replace").splitlines()
    with named(path):
        header = [cell.strip() for cell in lines[0].split(",")]
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise UserError(f"line 1: the column {missing[0]!r} is missing; it has {', '.join(header)[:100]}")
        wanted = [name for name in (*COLUMNS, STRAP) if name in header]
        table = _table(lines, header, wanted)
        start = float(np.floor(table[0, 0] / 1000))
        seconds = (table[:, 0] - 1000 * start) / 1000
        columns = dict(zip(wanted, table.T, strict=True))
        accel = np.stack([columns[name] for name in ACCEL], -1)
        measured, lit = ~np.isnan(accel).any(1), ~np.isnan(columns["HRM_r"])
        for rows, name in ((measured, "accelerations"), (lit, "values of HRM_r")):
            if not rows.any():
                raise UserError(f"holds no {name}: was that sensor on?")
        streams = {
            "accel": Stream("accel", accel[measured], ("x", "y", "z"), "g", time_s=seconds[measured]),
            "ppg": Stream("ppg", columns["HRM_r"][lit][:, None], ("raw",), "a.u.", time_s=seconds[lit]),
        }
        reference = _reference(seconds, columns.get(STRAP))
    return Recording(
        recording_id, Participant(participant_id), DEVICE, "banglejs", start, streams, heart_rate=reference
    )


def _table(lines: Sequence[str], header: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Numbers [rows, wanted], NaN for empty cells."""
    places = [header.index(name) for name in wanted]
    axes = [wanted.index(name) for name in ACCEL]
    rows = []
    for number, line in enumerate(lines[1:], 2):
        cells = [cell.strip() for cell in line.split(",")]
        if cells == [""]:
            continue
        if len(cells) > len(header) + 1 or any(cells[len(header) :]):
            raise UserError(f"line {number}: expected {len(header)} columns, got {len(cells)} ({line[:60]!r})")
        if not any(cells[1:]):
            raise UserError(f"line {number}: holds no value: is the file cut off there? ({line[:60]!r})")
        try:
            row = [float(cells[place]) if place < len(cells) and cells[place] else np.nan for place in places]
        except ValueError:
            raise UserError(f"line {number}: not a number ({line[:60]!r})") from None
        known = sum(not np.isnan(row[axis]) for axis in axes)
        if not STARTS_UNIX_S[0] <= row[0] / 1000 <= STARTS_UNIX_S[1]:
            raise UserError(f"line {number}: the time must be milliseconds since 1970 ({line[:60]!r})")
        if known not in (0, 3) or np.isinf(row).any():
            raise UserError(f"line {number}: an axis of the acceleration is missing ({line[:60]!r})")
        if rows and row[0] < rows[-1][0]:
            raise UserError(f"line {number}: the time goes back by {rows[-1][0] - row[0]:g} ms; split the file there")
        rows.append(row)
    if not rows:
        raise UserError("has a header but no rows: nothing was recorded")
    return np.array(rows)


def _reference(seconds: np.ndarray, strap: np.ndarray | None) -> HeartRateWindows | None:
    if strap is None or np.isnan(strap).all():
        return None
    known = ~np.isnan(strap)
    return cleaned(seconds[known] - STRAP_WINDOW_S, STRAP_WINDOW_S, strap[known])
