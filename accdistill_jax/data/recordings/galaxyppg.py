"""GalaxyPPG: Samsung Galaxy Watch 5 beside a Polar H10, as CSV files in a folder for each participant.

`P02/GalaxyWatch/PPG.csv` and `ACC.csv`, with heart rates of `P02/PolarH10/HR.csv`, the label `session` of `P02/Event.csv`, and age and sex
of `Meta.csv` where they exist. Time stamps are unix milliseconds. The H10's phone counts them from midnight in Korea (UTC+9) or from UTC; the nine hours are removed if only
that brings the heart rates beside the watch. PPG samples whose status is an error are missing.

Source: Park, Zheng and Lee, "A PPG Signal Dataset Collected in Semi-Naturalistic Settings Using Galaxy Watch", Sci Data 12:892, 2025.
"""

import csv
import functools
import math
from pathlib import Path
from typing import Literal

import numpy as np

from accdistill_jax.data.preprocessing.reference_rate import cleaned
from accdistill_jax.data.recording import (
    HeartRateWindows,
    LabelWindows,
    Participant,
    Recording,
    RecordingSource,
    Stream,
    named,
)
from accdistill_jax.data.recordings.common.files import first_lines, ids_below
from accdistill_jax.data.recordings.common.stamped_csv import stamped_columns
from accdistill_jax.data.tree import Tree, sibling
from accdistill_jax.errors import UserError

DEVICE = "Samsung Galaxy Watch 5"
STANDARD_GRAVITY = 9.80665
GOOD_STATUS = (0, 500)  # 500: the watch's software does not report a status
KOREA_S = 9 * 3600.0
HR_WINDOW_S = 1.0
_SEXES: dict[str, Literal["female", "male"]] = {"M": "male", "F": "female"}


def find(tree: Tree) -> list[RecordingSource]:
    """Finds folders `GalaxyWatch` with `PPG.csv` and `ACC.csv`; the folder around is the participant.

    Args:
        tree: the files to search.
    """
    folders = []
    for folder, files in tree.folders().items():
        if folder.name == "GalaxyWatch" and any(path.name in ("PPG.csv", "ACC.csv") for path in files):
            tree.claim(*files, sibling(folder.parent / "PolarH10/HR.csv"), folder.parent.parent / "Meta.csv")
            tree.claim(sibling(folder.parent / "Event.csv"))
            folders.append(folder)
    tree.expect(".csv", reason="no file of a GalaxyWatch folder, and no PolarH10/HR.csv or Meta.csv beside it")
    ids = ids_below(tree.root, [folder.parent for folder in folders])
    return [
        RecordingSource(recording_id, folder.parent.name, functools.partial(load, folder, recording_id))
        for folder, recording_id in zip(folders, ids, strict=True)
    ]


def load(folder: Path, recording_id: str) -> Recording:
    """Reads the recording of one participant.

    Raises:
        UserError: a file is missing or damaged, or the H10's times do not meet the watch's; the message names the file.
    """
    light, ppg = stamped_columns(folder / "PPG.csv", ("ppg", "status"), stamp="timestamp", per_second=1000)
    motion, accel = stamped_columns(folder / "ACC.csv", ("x", "y", "z"), stamp="timestamp", per_second=1000)
    start = float(np.floor(min(light[0], motion[0])))
    values = np.where(np.isin(ppg[:, 1], GOOD_STATUS), ppg[:, 0], np.nan)[:, None]
    with named(folder / "PPG.csv"):
        streams = {"ppg": Stream("ppg", values, ("green",), "a.u.", time_s=light - start)}
    with named(folder / "ACC.csv"):
        streams["accel"] = Stream(
            "accel", accel / STANDARD_GRAVITY, ("x", "y", "z"), "g", time_s=motion - start, scale=1 / STANDARD_GRAVITY
        )
    reference = folder.parent / "PolarH10/HR.csv"
    heart_rate = _heart_rate(reference, start, float(light[-1])) if reference.exists() else None
    participant = _participant(folder.parent.name, folder.parent.parent / "Meta.csv")
    events = folder.parent / "Event.csv"
    labels = _sessions(events, start, float(light[-1])) if events.exists() else None
    return Recording(
        recording_id, participant, DEVICE, "galaxyppg", start, streams, heart_rate=heart_rate, labels=labels
    )


def _heart_rate(path: Path, start_unix_s: float, end_unix_s: float) -> HeartRateWindows:
    seconds, hr = stamped_columns(path, ("hr",), stamp="phoneTimestamp", per_second=1000)
    with named(path):
        meets = [
            shift for shift in (0.0, KOREA_S) if seconds[0] - shift < end_unix_s and seconds[-1] - shift > start_unix_s
        ]
        if len(meets) != 1:
            raise UserError("its times meet the watch's neither as UTC nor as UTC+9: is it of another participant?")
        return cleaned(seconds - meets[0] - start_unix_s - HR_WINDOW_S, HR_WINDOW_S, hr[:, 0])


def _sessions(path: Path, start_unix_s: float, end_unix_s: float) -> LabelWindows | None:
    """Sessions of seconds, "" outside them; None without a session."""
    values = np.full(math.ceil(end_unix_s - start_unix_s), "", dtype=object)
    entered: dict[str, float] = {}
    with named(path):
        for number, row in enumerate(csv.DictReader(first_lines(path, 10_000)), 2):
            session, status, stamp = (str(row.get(key) or "").strip() for key in ("session", "status", "timestamp"))
            if not session or status not in ("ENTER", "EXIT") or not stamp.isdecimal():
                raise UserError(f"line {number}: must hold timestamp, session, and ENTER or EXIT")
            second = int(stamp) / 1000 - start_unix_s
            if status == "ENTER":
                entered[session] = second
            elif session in entered:
                values[max(math.ceil(entered.pop(session)), 0) : max(math.floor(second), 0)] = session
    if not (values != "").any():
        return None
    return LabelWindows(np.arange(len(values), dtype=np.float64), 1.0, {"session": values.astype(str)})


def _participant(name: str, meta: Path) -> Participant:
    if not meta.exists():
        return Participant(name)
    rows = list(csv.DictReader(first_lines(meta, 10_000)))
    row = next((row for row in rows if row.get("UID") == name), None)
    if row is None:
        return Participant(name)
    sex = _SEXES.get((row.get("GENDER") or "").strip())
    age = (row.get("AGE") or "").strip()
    with named(meta):
        if age and not age.isdecimal():
            raise UserError(f"the age of {name} is no number ({age!r})")
        return Participant(name, age_years=float(age) if age else None, sex=sex)
