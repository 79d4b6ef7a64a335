"""TROIKA / IEEE Signal Processing Cup 2015 (.mat): treadmill and arm exercise with ECG heart rate.

Training files `DATA_XX_TYPEYY.mat` contain `sig` with 6 rows: ECG, two PPG channels, acceleration x, y, z in g; the heart rate is
in `DATA_XX_TYPEYY_BPMtrace.mat`. Test files `TEST_SXX_TYY.mat` contain 5 rows (no ECG); the heart rate is in `True_SXX_TYY.mat`. All
signals are synchronous at 125 Hz; window k of the heart rate `BPM0` covers the seconds 2k to 2k + 8. PPG saturates at about +-1024,
acceleration at +-4 g; the systole points up. Participants are train-01 .. train-12 and test-S01 .. test-S08 (the test subjects
are other people); start times are unknown (0).

Source: Zhang, Pi and Liu, "TROIKA", IEEE TBME 62(2):522-531, 2015; Zhang, "JOSS", IEEE TBME 62(8):1902-1910, 2015.
"""

import functools
import math
import re
from pathlib import Path

import numpy as np
import scipy.io

from accdistill_jax.data.preprocessing.reference_rate import cleaned
from accdistill_jax.data.recording import (
    Participant,
    Recording,
    RecordingSource,
    Stream,
    named,
)
from accdistill_jax.data.recordings.common.matlab import UNREADABLE
from accdistill_jax.data.tree import Tree, ending, regular_file, sibling
from accdistill_jax.errors import UserError

DEVICE = "TROIKA wristband"
RATE_HZ = 125.0
PPG_RANGE = (-1023.0, 1023.0)
ACCEL_RANGE_G = (-3.98, 3.98)
MOST_NUMBERS = 50_000_000  # the longest recording has 250 000
WINDOW_S = 8.0
WINDOW_STEP_S = 2.0
_TRAINING = re.compile(r"DATA_(\d+)_TYPE\d+", re.IGNORECASE)
_TEST = re.compile(r"TEST_(S\d+)_T\d+", re.IGNORECASE)


def find(tree: Tree) -> list[RecordingSource]:
    """Finds `DATA_*_TYPE*.mat` and `TEST_S*_T*.mat` at any depth, or the root itself if it is such a file.

    Args:
        tree: the files to search.
    """
    sources = []
    for path in tree.files:
        training, test = (
            pattern.fullmatch(path.stem) if ending(path.name) == ".mat" else None for pattern in (_TRAINING, _TEST)
        )
        if training:
            participant, truth = f"train-{training[1]}", path.with_name(path.stem + "_BPMtrace.mat")
        elif test:
            participant, truth = (
                f"test-{test[1].upper()}",
                path.with_name(re.sub("^TEST_", "True_", path.name, flags=re.IGNORECASE)),
            )
        else:
            continue
        truth = sibling(truth)
        tree.claim(path, truth)
        if not truth.exists():
            tree.leave_out(truth, f"no such file: {path.name} is read without heart rates")
        sources.append(RecordingSource(path.stem, participant, functools.partial(load, path, truth, participant)))
    tree.expect(
        ".mat",
        reason="its name is none of DATA_xx_TYPEyy.mat and TEST_Sxx_Tyy.mat, or it lies beside no such file",
    )
    return sources


def load(path: Path, truth: Path, participant_id: str) -> Recording:
    """Reads one recording; `heart_rate` is None if the file of heart rates is missing.

    Raises:
        UserError: a file cannot be read or has unexpected content; the message names the file.
    """
    signal = _variable(path, "sig")
    if signal.ndim != 2 or signal.shape[0] not in (5, 6) or not signal.shape[1]:
        raise UserError(
            f"{path}: 'sig' must have 6 rows (ECG, 2 PPG, 3 acceleration) or 5 (no ECG), got shape {signal.shape}"
        )
    ecg, ppg, accel = signal[:-5], signal[-5:-3], signal[-3:]
    with named(path):
        streams = {
            "ppg": Stream(
                "ppg", ppg.T, ("ppg1", "ppg2"), "a.u.", rate_hz=RATE_HZ, range=PPG_RANGE, polarity="systole_up"
            ),
            "accel": Stream("accel", accel.T, ("x", "y", "z"), "g", rate_hz=RATE_HZ, range=ACCEL_RANGE_G),
        }
        if len(ecg):
            streams["ecg"] = Stream("ecg", ecg.T, ("ecg",), "a.u.", rate_hz=RATE_HZ)
    heart_rate = None
    if truth.exists():
        hr = _variable(truth, "BPM0").reshape(-1)
        with named(truth):
            heart_rate = cleaned(np.arange(len(hr)) * WINDOW_STEP_S, WINDOW_S, hr)
    return Recording(path.stem, Participant(participant_id), DEVICE, "troika", 0.0, streams, heart_rate=heart_rate)


def _variable(path: Path, name: str) -> np.ndarray:
    try:
        shapes = {held: shape for held, shape, _ in scipy.io.whosmat(regular_file(path))}
        if math.prod(shapes.get(name, ())) > MOST_NUMBERS:
            raise UserError(
                f"{path}: {name!r} of shape {shapes[name]} is larger than the {MOST_NUMBERS} numbers that are allowed"
            )
        content = scipy.io.loadmat(path, variable_names=[name])
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as a MATLAB v5 file ({error}); copy it again") from error
    if name not in content:
        raise UserError(f"{path}: has no variable {name!r}; copy the file again")
    values = content[name]
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise UserError(f"{path}: {name!r} must hold real numbers, got {values.dtype}")
    return values.astype(np.float64)
