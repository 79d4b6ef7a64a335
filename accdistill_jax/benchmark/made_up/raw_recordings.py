"""Generated raw recordings in the form of a watch such as the Empatica E4.

A recording is an npz file with a PPG channel at 64 Hz and acceleration at 32 Hz in steps of 1/64 g, which start at the same time.
"""

import functools
from pathlib import Path

import numpy as np

from accdistill_jax.data.recording import Participant, Recording, RecordingSource, Stream
from accdistill_jax.data.synthetic.synthetic import generate_segments

PPG_HZ, ACCEL_HZ = 64, 32
ACCEL_STEPS_PER_G = 64
START_UNIX_S = 1.6e9


def write_recordings(folder: Path, *, recordings: int, minutes: int) -> list[Path]:
    """Writes recordings of generated minutes.

    Args:
        folder: folder of the files.
        recordings: number of recordings, each of a different participant.
        minutes: duration of each recording, in minutes.

    Returns:
        Paths of the files.
    """
    paths = []
    for number in range(recordings):
        raw = generate_segments(0, number, range(minutes), ppg_channels=1)
        path = folder / f"recording{number:03d}.npz"
        counts = np.clip(np.rint(raw.accel[:, ::2] * ACCEL_STEPS_PER_G), -128, 127).astype(np.int8)
        np.savez(path, ppg=raw.ppg.reshape(-1, 1), accel=counts.reshape(-1, 3))
        paths.append(path)
    return paths


def source(path: Path) -> RecordingSource:
    """The recording source of a file, for `preparation.prepare_recordings`."""
    return RecordingSource(path.stem, path.stem, functools.partial(load_raw_recording, path))


def load_raw_recording(path: Path) -> Recording:
    """Reads a file of `write_recordings`."""
    with np.load(path) as content:
        ppg, accel = content["ppg"], content["accel"] / np.float32(ACCEL_STEPS_PER_G)
    streams = (
        Stream("ppg", ppg, ("bvp",), "a.u.", rate_hz=PPG_HZ, polarity="systole_up"),
        Stream("accel", accel, ("x", "y", "z"), "g", rate_hz=ACCEL_HZ, range=(-2.0, 127 / ACCEL_STEPS_PER_G)),
    )
    return Recording(
        recording_id=path.stem,
        participant=Participant(participant_id=path.stem),
        device="made up",
        source="benchmark",
        start_unix_s=START_UNIX_S,
        streams={stream.name: stream for stream in streams},
    )
