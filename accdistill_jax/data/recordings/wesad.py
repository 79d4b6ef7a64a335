"""WESAD: `S2.pkl` to `S17.pkl` (Empatica E4 at the wrist; stress and amusement in the laboratory).

The pickles are read without running anything in them. There is no reference heart rate in them: labels of heart rate are unknown.
The label `condition` is baseline, stress, amusement or meditation. Start times are unknown (0).

Source: Schmidt, Reiss, Duerichen, Marberger and Van Laerhoven, "Introducing WESAD", ICMI 2018.
"""

from pathlib import Path

from accdistill_jax.data.recording import Participant, Recording, RecordingSource, named
from accdistill_jax.data.recordings.common.class_labels import class_windows
from accdistill_jax.data.recordings.common.pickles import pickled_array, pickled_item, read_pickle
from accdistill_jax.data.recordings.common.wrist_pickles import (
    CHEST_HZ,
    DEVICE,
    subject_of,
    subject_sources,
    wrist_streams,
)
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

CONDITIONS = {1: "baseline", 2: "stress", 3: "amusement", 4: "meditation"}  # others: between conditions, or of no use


def find(tree: Tree) -> list[RecordingSource]:
    """Finds `S<number>.pkl` at any depth.

    Args:
        tree: the files to search.
    """
    return subject_sources(tree, load)


def load(path: Path, recording_id: str, participant_id: str) -> Recording:
    """Reads one file.

    Raises:
        UserError: the file is no pickle of WESAD or is damaged; the message names it.
    """
    content = read_pickle(path)
    with named(path):
        subject_of(content, path)
        if pickled_item(content, "rpeaks") is not None:
            raise UserError("holds R peaks: it is of PPG-DaLiA. Use the reader ppg_dalia, which reads heart rates too")
        streams = wrist_streams(content)
        ids = pickled_array(content, "label").reshape(-1)
        labels = class_windows("condition", ids, CONDITIONS, rate_hz=CHEST_HZ, recording_s=streams["ppg"].end_s)
    return Recording(recording_id, Participant(participant_id), DEVICE, "wesad", 0.0, streams, labels=labels)
