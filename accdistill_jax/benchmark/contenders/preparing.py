"""Prepares many made-up recordings in one process, as a worker does, and prints its CPU time and memory as JSON."""

import dataclasses
import functools
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from accdistill_jax.benchmark.made_up.raw_recordings import load_raw_recording, write_recordings
from accdistill_jax.data.prepare.staging import stage_recording
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Participant, Recording, RecordingSource
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.errors import UserError

TEMPLATES = 8


class CpuTime:
    """CPU seconds of this process that some calls took."""

    def __init__(self):
        self.seconds = 0.0

    def of(self, function: Callable, *arguments: Any) -> Any:
        """The result of a call, whose time is added."""
        begin = time.process_time()
        result = function(*arguments)
        self.seconds += time.process_time() - begin
        return result


def made_up_recording(template: Path, number: int) -> Recording:
    """A recording that differs from its template by noise of about a step of each sensor."""
    recording, rng = load_raw_recording(template), np.random.default_rng(number)
    for name, step in (("ppg", 1e-3), ("accel", 1 / 64)):
        values = recording.streams[name].values
        values += np.float32(step) * rng.integers(-1, 2, values.shape, np.int8)
    return dataclasses.replace(
        recording, recording_id=f"r{number:07d}", participant=Participant(participant_id=f"p{number:07d}")
    )


def main(folder: str, recordings: int, minutes: int) -> None:
    """Prints {measure: value}."""
    templates = write_recordings(Path(folder), recordings=TEMPLATES, minutes=minutes)
    settings = PreprocessSettings()
    writer = StoreWriter(Path(folder) / "store", settings=settings, source="benchmark")
    making, staging, writing = CpuTime(), CpuTime(), CpuTime()
    memory_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    names = []
    for number in range(recordings):
        recording = making.of(made_up_recording, templates[number % TEMPLATES], number)
        load = functools.partial(_held, recording)
        source = RecordingSource(recording.recording_id, recording.participant.participant_id, load)
        stage = functools.partial(stage_recording, writer=writer, settings=settings, skip_bad=False)
        problem = staging.of(stage, source)
        if problem is not None:
            raise UserError(problem)
        names.append(recording.recording_id)
    staged = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store = writing.of(writer.commit, names)
    total = store.manifest["counts"]["total"]
    print(
        json.dumps(
            {
                "examined": total["examined"],
                "kept": total["kept"],
                "making_s": making.seconds,
                "staging_s": staging.seconds,
                "writing_s": writing.seconds,
                "before_mb": memory_before / 1e3,
                "staging_mb": staged / 1e3,
                "writing_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
                "store_mb": store.size_bytes / 1e6,
            }
        )
    )


def _held(recording: Recording) -> Recording:
    return recording


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
