"""A store of noise with the paper's segment size. The cost of reading does not depend on the values of the samples."""

import os

import numpy as np

from accdistill_jax.data.preprocessing.segments import SegmentBatch
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Participant
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.writer import StoreWriter

PPG_CHANNELS = 4  # as in the paper; with 3 channels of acceleration a minute takes 53 760 bytes


def write_noise_store(path: str | os.PathLike, *, participants: int, segments: int, segment_s: float = 60.0) -> Store:
    """Writes a store of white noise at 64 Hz with four PPG channels, with the real writer.

    Args:
        path: folder or URL.
        participants: number of participants; 1 in 8 is for validation, 1 in 8 for test, the others for training.
        segments: segments per participant.
        segment_s: duration of a segment, in seconds.
    """
    settings = PreprocessSettings(segment_s=segment_s, hop_s=segment_s)
    names = [f"p{number:04d}" for number in range(participants)]
    splits = ("validation", "test", *["train"] * 6)
    rule = SplitRule(assignment={name: splits[number % len(splits)] for number, name in enumerate(names)})
    writer = StoreWriter(path, settings=settings, source="noise", split=rule)
    for number, name in enumerate(names):
        writer.add(name, _noise(name, number, segments, settings.samples))
    return writer.commit(names)


def _noise(name: str, number: int, segments: int, samples: int) -> SegmentBatch:
    rng = np.random.default_rng(number)
    ppg = rng.standard_normal((segments, samples, PPG_CHANNELS), np.float32)
    accel = 0.01 * rng.standard_normal((segments, samples, 3), np.float32)
    return SegmentBatch(
        ppg=ppg,
        accel=accel,
        columns={
            "participant": np.full(segments, name),
            "recording": np.full(segments, name),
            "device": np.full(segments, "noise"),
            "start_unix_s": 60.0 * np.arange(segments),
            "hr_bpm": rng.uniform(50, 90, segments).astype(np.float32),
        },
        participant=Participant(participant_id=name),
        examined=segments,
        rejected={},
    )
