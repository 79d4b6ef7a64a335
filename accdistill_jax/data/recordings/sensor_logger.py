"""Sensor Logger (Apple Watch, iPhone, Android): an exported folder of CSV files; acceleration with gravity, no PPG.

Read is the first of: `WristMotion.csv` (an Apple Watch: user acceleration plus gravity), `TotalAcceleration.csv` (Android),
`Accelerometer.csv` plus `Gravity.csv` (phones). `--source` chooses. Acceleration without gravity is refused, because students are trained
with it; --without-gravity reads it nevertheless and marks it as such. The unit follows from the length of the gravity vector (1 or 9.81).
`HeartRate.csv`, the watch's own heart rate, becomes the reference. Axes have the app's signs: Apple's are opposite to Android's.

Source: Sensor Logger's UNITS.md and COORDINATES.md (tszheichoi/awesome-sensor-logger).
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from accdistill_jax.data.preprocessing.reference_rate import cleaned
from accdistill_jax.data.recording import HeartRateWindows, Participant, Recording, RecordingSource, Stream, named
from accdistill_jax.data.recordings.common.files import ids_below
from accdistill_jax.data.recordings.common.stamped_csv import stamped_columns
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

STANDARD_GRAVITY = 9.80665
HR_WINDOW_S = 5.0  # an Apple Watch reports its heart rate about every 5 s
_PER_SECOND = 1e9
_UNIT_TOLERANCE = 0.02
_AXES = ("x", "y", "z")
_WATCH = tuple(f"{kind}{axis}" for kind in ("acceleration", "gravity") for axis in "XYZ")
_FILES = ("WristMotion.csv", "TotalAcceleration.csv", "Accelerometer.csv")


def find(
    tree: Tree,
    *,
    source: Literal["auto", "watch", "phone"] = "auto",
    without_gravity: bool = False,
    participant_from: Literal["auto", "name", "parent"] = "auto",
) -> list[RecordingSource]:
    """Finds folders with `WristMotion.csv`, `TotalAcceleration.csv` or `Accelerometer.csv`.

    Args:
        tree: the files to search.
        source: the device to read; auto is the watch if the folder holds both.
        without_gravity: read acceleration without gravity where gravity was not recorded.
        participant_from: the participant's id: the folder's name, or the name of the folder around it, where folders are named by the
            time of the recording; auto is the name, and asks in a preparation if names hold dates.

    Raises:
        UserError: an unknown `participant_from`.
    """
    folders = []
    for folder, files in tree.folders().items():
        if tree.root.is_dir() and any(path.name in _FILES for path in files):
            tree.claim(*files)
            folders.append(folder)
    if participant_from not in ("auto", "name", "parent"):
        raise UserError(f"participant_from must be auto, name or parent, got {participant_from!r}")
    ids = ids_below(tree.root, folders) if folders != [tree.root] else [tree.root.name]
    sources = []
    for folder, recording_id in zip(folders, ids, strict=True):
        participant = folder.resolve().parent.name or folder.name if participant_from == "parent" else folder.name
        read = functools.partial(load, folder, recording_id, participant, source, without_gravity)
        sources.append(RecordingSource(recording_id, participant, read))
    return sources


def load(folder: Path, recording_id: str, participant_id: str, source: str, without_gravity: bool) -> Recording:
    """Reads one exported folder.

    Raises:
        UserError: a file is missing or damaged, gravity was not recorded, or the unit is unclear; the message names the file.
    """
    names = {path.name: path for path in folder.iterdir()}
    if "WristMotion.csv" in names and source != "phone":
        device, seconds, values, gravity = "Apple Watch", *_watch(names["WristMotion.csv"])
    elif source == "watch":
        raise UserError(
            f"{folder / 'WristMotion.csv'}: no such file; record Wrist Motion, or read the phone with --source phone"
        )
    else:
        device, seconds, values, gravity = "phone with Sensor Logger", *_phone(folder, names, without_gravity)
    start = float(np.floor(seconds[0]))
    with named(folder):
        accel = Stream("accel", values, _AXES, "g", time_s=seconds - start, gravity=gravity)
    reference = _heart_rate(names["HeartRate.csv"], start) if "HeartRate.csv" in names else None
    return Recording(
        recording_id,
        Participant(participant_id),
        device,
        "sensor_logger",
        start,
        {"accel": accel},
        heart_rate=reference,
    )


def _watch(path: Path) -> tuple[np.ndarray, np.ndarray, Literal["included", "removed"]]:
    seconds, columns = stamped_columns(path, _WATCH, stamp="time", per_second=_PER_SECOND)
    return seconds, (columns[:, :3] + columns[:, 3:]) / _per_g(columns[:, 3:], path), "included"


def _phone(
    folder: Path, names: Mapping[str, Path], without_gravity: bool
) -> tuple[np.ndarray, np.ndarray, Literal["included", "removed"]]:
    if "TotalAcceleration.csv" in names:
        seconds, total = stamped_columns(names["TotalAcceleration.csv"], _AXES, stamp="time", per_second=_PER_SECOND)
        return seconds, total / STANDARD_GRAVITY, "included"
    if "Accelerometer.csv" not in names:
        raise UserError(
            f"{folder}: holds neither TotalAcceleration.csv nor Accelerometer.csv; read the watch with --source watch"
        )
    seconds, user = stamped_columns(names["Accelerometer.csv"], _AXES, stamp="time", per_second=_PER_SECOND)
    if "Gravity.csv" in names:
        path = names["Gravity.csv"]
        times, gravity = stamped_columns(path, _AXES, stamp="time", per_second=_PER_SECOND)
        per_g = _per_g(gravity, path)
        # Gravity turns slowly, so its samples may lie between those of the acceleration.
        beside = np.stack([np.interp(seconds, times, axis, left=np.nan, right=np.nan) for axis in gravity.T], -1)
        if np.isnan(beside).any(1).mean() > 0.5:
            raise UserError(f"{path}: its times meet less than half of Accelerometer.csv: are both of one recording?")
        return seconds, (user + beside) / per_g, "included"
    if not without_gravity:
        raise UserError(
            f"{names['Accelerometer.csv']}: is acceleration without gravity, and there is no Gravity.csv beside it to add: students are "
            "trained with gravity. Record Gravity too, or read it nevertheless with --without-gravity"
        )
    return seconds, user / STANDARD_GRAVITY, "removed"


def _per_g(gravity: np.ndarray, path: Path) -> float:
    """Units per g, from the length of the gravity vector."""
    length = float(np.nanmedian(np.linalg.norm(gravity, axis=1))) if not np.isnan(gravity).all() else np.nan
    for per_g in (1.0, STANDARD_GRAVITY):
        if abs(length / per_g - 1) <= _UNIT_TOLERANCE:
            return per_g
    raise UserError(f"{path}: the gravity vector has the length {length:.3g}, which is neither 1 (g) nor 9.81 (m/s2)")


def _heart_rate(path: Path, start_unix_s: float) -> HeartRateWindows:
    seconds, bpm = stamped_columns(path, ("bpm",), stamp="time", per_second=_PER_SECOND)
    with named(path):
        return cleaned(seconds - start_unix_s - HR_WINDOW_S, HR_WINDOW_S, bpm[:, 0])
