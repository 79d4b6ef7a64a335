"""EmotiBit: the CSV files of its DataParser, one file per signal, such as `NAME_AX.csv`.

Files with the same NAME are a recording: `_AX`, `_AY`, `_AZ` (acceleration in g) and, where they exist, `_PG`, `_PR`, `_PI` (green, red
and infrared PPG). Signals of one sensor are joined by their time stamps (LocalTimestamp, unix seconds); a sample that one of them lacks
is missing.

Source: EmotiBit documentation, "Working with EmotiBit data".
"""

import functools
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from accdistill_jax.data.recording import Participant, Recording, RecordingSource, Stream, named
from accdistill_jax.data.recordings.common.files import Naming, ids_below, participant_of
from accdistill_jax.data.recordings.common.stamped_csv import stamped_columns
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

DEVICE = "EmotiBit"
ACCEL = ("AX", "AY", "AZ")
PPG = {"PG": "green", "PR": "red", "PI": "infrared"}
STAMP = "LocalTimestamp"
_MOST_ALONE = 0.1
_NAME = re.compile(r"(.+)_(AX|AY|AZ|PG|PR|PI)")


def find(tree: Tree, *, participant_from: Naming = "auto") -> list[RecordingSource]:
    """Finds files `NAME_AX.csv` and the like at any depth.

    Args:
        tree: the files to search.
        participant_from: the participant's id: NAME, its prefix up to the first "_", or the parent folder of the files; auto is
            NAME, and asks in a preparation if names hold dates.
    """
    found: dict[Path, dict[str, Path]] = defaultdict(dict)
    for path in tree.files:
        match = _NAME.fullmatch(path.stem) if path.suffix.lower() == ".csv" else None
        if match:
            tree.claim(path)
            found[path.with_name(match[1])][match[2]] = path
    bases = sorted(found)
    # NAME may hold dots, which are no ending.
    ids = (
        ids_below(tree.root, [base.with_name(base.name + ".csv") for base in bases])
        if tree.root.is_dir()
        else [base.name for base in bases]
    )
    sources = []
    for base, recording_id in zip(bases, ids, strict=True):
        participant = participant_of(base.with_name(base.name + ".csv"), participant_from)
        read = functools.partial(load, base, dict(found[base]), recording_id, participant)
        sources.append(RecordingSource(recording_id, participant, read))
    return sources


def load(base: Path, files: dict[str, Path], recording_id: str, participant_id: str) -> Recording:
    """Reads one recording.

    Raises:
        UserError: the file of an axis is missing, a file is damaged, or the signals of one sensor have different times; the message
            names the file.
    """
    missing = [tag for tag in ACCEL if tag not in files]
    if missing:
        raise UserError(
            f"{base}_{missing[0]}.csv: no such file; a recording needs _AX, _AY and _AZ. Run EmotiBit's DataParser again"
        )
    lit = [tag for tag in PPG if tag in files]
    accel_s, accel = _joined([files[tag] for tag in ACCEL], ACCEL)
    start = float(np.floor(accel_s[0]))
    with named(files["AX"]):
        streams = {"accel": Stream("accel", accel, ("x", "y", "z"), "g", time_s=accel_s - start)}
    if lit:
        ppg_s, ppg = _joined([files[tag] for tag in lit], lit)
        with named(files[lit[0]]):
            channels = tuple(PPG[tag] for tag in lit)
            streams["ppg"] = Stream("ppg", ppg, channels, "a.u.", time_s=ppg_s - start)
    return Recording(recording_id, Participant(participant_id), DEVICE, "emotibit", start, streams)


def _joined(paths: list[Path], tags: tuple[str, ...] | list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Unix seconds [rows] of the first file, and values [rows, files] of all, NaN where another file has no sample at that time."""
    columns: list[np.ndarray] = []
    times, near = np.empty(0), 0.0
    for number, (path, tag) in enumerate(zip(paths, tags, strict=True)):
        seconds, values = stamped_columns(path, (tag,), stamp=STAMP, per_second=1)
        if number == 0:
            times = seconds
            near = float(np.median(np.diff(times))) / 2 if len(times) > 1 else 0.0
        at = np.clip(np.searchsorted(seconds, times), 1, max(len(seconds) - 1, 1))
        at = at - (times - seconds[at - 1] < np.abs(seconds[np.minimum(at, len(seconds) - 1)] - times))
        alone = np.abs(seconds[at] - times) > near
        if alone.mean() > _MOST_ALONE:
            raise UserError(
                f"{path}: {alone.mean():.0%} of the samples of {paths[0].name} have none at the same time here: are both of one recording?"
            )
        columns.append(np.where(alone, np.nan, values[at, 0]))
    return times, np.stack(columns, -1)
