"""BAMI-1 and BAMI-2: `BAMI1_*.mat` and `BAMI2_*.mat` (wrist PPG and acceleration while people walk and run, chest ECG).

Three PPG channels and acceleration at 50 Hz. The acceleration is in counts of 16 bits over +-4 g. The ECG's heart rate `bpm_ecg` covers
8 s every 2 s. People run, so the default limits for rest reject most of it. Start times are unknown (0).

Source: Chung, Ko, Lee and Lee, "Deep learning for heart rate estimation from reflectance photoplethysmography with acceleration power
spectrum and acceleration intensity", IEEE Access 8, 2020; scale and windows as in public code that uses the sets.
"""

import re
from pathlib import Path

import numpy as np

from accdistill_jax.data.preprocessing.reference_rate import cleaned
from accdistill_jax.data.recording import Participant, Recording, RecordingSource, Stream, named
from accdistill_jax.data.recordings.common.files import file_sources, files_ending
from accdistill_jax.data.recordings.common.matlab import read_matlab, real_numbers
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

DEVICE = "BAMI wristband"
RATE_HZ = 50.0
WINDOW_S, WINDOW_STEP_S = 8.0, 2.0
COUNTS, RANGE_G = 65_535, 4.0
_MOST_WINDOWS_OFF = 5


def find(tree: Tree) -> list[RecordingSource]:
    """Finds `BAMI1_*.mat` and `BAMI2_*.mat` at any depth.

    Args:
        tree: the files to search.
    """
    files = [path for path in files_ending(tree, ".mat") if re.fullmatch(r"BAMI[12]_\w+", path.stem)]
    tree.expect(".mat", reason="its name does not begin with BAMI1_ or BAMI2_")
    return file_sources(tree, files, load, "name")


def load(path: Path, recording_id: str, participant_id: str) -> Recording:
    """Reads one file.

    Raises:
        UserError: the file is damaged, lacks a variable, or its numbers are no counts; the message names the file.
    """
    content = read_matlab(path, ["rawPPG", "rawAcc", "bpm_ecg"])
    with named(path):
        ppg, counts, hr = (real_numbers(content[name], name) for name in ("rawPPG", "rawAcc", "bpm_ecg"))
        hr = hr.reshape(-1)
        if ppg.ndim != 2 or counts.ndim != 2 or len(ppg) != 3 or counts.shape != ppg.shape:
            raise UserError(
                f"rawPPG and rawAcc must have 3 rows of one length, got shapes {ppg.shape} and {counts.shape}"
            )
        if counts.min() < 0 or counts.max() > COUNTS or (counts != np.round(counts)).any():
            raise UserError(f"rawAcc must be counts of 0 to {COUNTS}, got {counts.min():g} to {counts.max():g}")
        expected = (ppg.shape[1] / RATE_HZ - WINDOW_S) / WINDOW_STEP_S + 1
        if abs(len(hr) - expected) > _MOST_WINDOWS_OFF:
            raise UserError(f"bpm_ecg has {len(hr)} values, but the signal has about {expected:.0f} windows of 8 s")
        step = 2 * RANGE_G / COUNTS
        streams = {
            "ppg": Stream("ppg", ppg.T, ("ppg1", "ppg2", "ppg3"), "a.u.", rate_hz=RATE_HZ),
            "accel": Stream(
                "accel",
                (counts * step - RANGE_G).T,
                ("x", "y", "z"),
                "g",
                rate_hz=RATE_HZ,
                range=(-RANGE_G, RANGE_G),
                scale=step,
            ),
        }
        reference = cleaned(np.arange(len(hr)) * WINDOW_STEP_S, WINDOW_S, hr)
    return Recording(recording_id, Participant(participant_id), DEVICE, "bami", 0.0, streams, heart_rate=reference)
