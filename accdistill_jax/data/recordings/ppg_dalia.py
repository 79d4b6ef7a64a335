"""PPG-DaLiA: `S1.pkl` to `S15.pkl` (Empatica E4 at the wrist, heart beats from a chest ECG).

The pickles are read without running anything in them. Beats are the ECG's corrected R peaks (700 Hz); the reference heart rate covers 8 s
every 2 s. Age, sex, height and weight come from the questionnaire; the label `activity` is one of eight activities. Start times are unknown (0). People move much: most minutes are
rejected by the default limits for rest.

Source: Reiss, Indlekofer, Schmidt and Van Laerhoven, "Deep PPG", Sensors 19(14):3079, 2019.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from accdistill_jax.data.preprocessing.reference_rate import cleaned
from accdistill_jax.data.recording import Beats, LabelWindows, Participant, Recording, RecordingSource, named
from accdistill_jax.data.recordings.common.class_labels import class_windows
from accdistill_jax.data.recordings.common.pickles import pickled_array, pickled_item, pickled_number, read_pickle
from accdistill_jax.data.recordings.common.wrist_pickles import (
    CHEST_HZ,
    DEVICE,
    subject_of,
    subject_sources,
    wrist_streams,
)
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

WINDOW_S, WINDOW_STEP_S = 8.0, 2.0
_MOST_WINDOWS_OFF = 5
ACTIVITY_HZ = 4.0
ACTIVITIES = {
    1: "sitting",
    2: "stairs",
    3: "table soccer",
    4: "cycling",
    5: "driving",
    6: "lunch break",
    7: "walking",
    8: "working",
}  # 0: between activities
_SEXES: dict[str, Literal["female", "male"]] = {"m": "male", "f": "female"}


def find(tree: Tree) -> list[RecordingSource]:
    """Finds `S<number>.pkl` at any depth.

    Args:
        tree: the files to search.
    """
    return subject_sources(tree, load)


def load(path: Path, recording_id: str, participant_id: str) -> Recording:
    """Reads one file.

    Raises:
        UserError: the file is no pickle of PPG-DaLiA or is damaged; the message names it.
    """
    content = read_pickle(path)
    with named(path):
        subject_of(content, path)
        if pickled_item(content, "rpeaks") is None:
            raise UserError("holds no 'rpeaks': is it WESAD? Then use the reader wesad")
        streams = wrist_streams(content)
        hr = pickled_array(content, "label").reshape(-1)
        expected = (streams["ppg"].end_s - WINDOW_S) / WINDOW_STEP_S
        if abs(len(hr) - expected) > _MOST_WINDOWS_OFF:
            raise UserError(
                f"'label' has {len(hr)} heart rates, but the signal has about {expected:.0f} windows of 8 s"
            )
        peaks = pickled_array(content, "rpeaks").reshape(-1) / CHEST_HZ
        if len(peaks) < 2 or (np.diff(peaks) <= 0).any():
            raise UserError("'rpeaks' must increase and hold at least two R peaks; copy the file again")
        return Recording(
            recording_id,
            _participant(participant_id, pickled_item(content, "questionnaire")),
            DEVICE,
            "ppg_dalia",
            0.0,
            streams,
            Beats(peaks[1:], np.diff(peaks)),
            cleaned(np.arange(len(hr)) * WINDOW_STEP_S, WINDOW_S, hr),
            labels=_activities(content, streams["ppg"].end_s),
        )


def _activities(content: Any, recording_s: float) -> LabelWindows | None:
    if pickled_item(content, "activity") is None:
        return None
    ids = pickled_array(content, "activity").reshape(-1)
    return class_windows("activity", ids, ACTIVITIES, rate_hz=ACTIVITY_HZ, recording_s=recording_s)


def _participant(participant_id: str, answers: Any) -> Participant:
    height_cm = pickled_number(answers, "HEIGHT")
    sex = pickled_item(answers, "Gender")
    return Participant(
        participant_id,
        age_years=pickled_number(answers, "AGE"),
        height_m=None if height_cm is None else height_cm / 100,
        weight_kg=pickled_number(answers, "WEIGHT"),
        sex=_SEXES.get(sex.strip().lower()) if isinstance(sex, str) else None,
    )
