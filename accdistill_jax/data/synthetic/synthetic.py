"""Synthetic recordings: the embedded default data, and the bench on which claims are tested with known truth.

`physiology` says who the participants are and when their hearts beat, `waveforms` what a watch records of it,
`health_targets` what they answer to questions about their health; here minutes become segments, through the
same filter, labels and selection as measured recordings, and segments a store.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import numpy as np

from accdistill_jax.data.prepare.workers import check_workers, run_all
from accdistill_jax.data.preprocessing.segments import Origin, References, SegmentBatch, bandpass, finish_segments
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Beats, Participant
from accdistill_jax.data.store.request import existing_store
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.data.synthetic import physiology, waveforms
from accdistill_jax.data.synthetic.health_targets import draw_answers
from accdistill_jax.data.synthetic.physiology import Physiology, sample_participant
from accdistill_jax.errors import UserError
from accdistill_jax.runtime.progress import progress_bar
from accdistill_jax.storage.locking import file_lock

__all__ = [
    "RawMinutes",
    "SyntheticSettings",
    "generate_batch",
    "generate_segments",
    "sample_participant",
    "shared_store",
    "unit_id",
    "write_store",
]

GENERATOR_VERSION = 3  # part of every store's settings; raised when the same settings give other minutes or answers
DEVICE = "synthetic"


@dataclasses.dataclass(frozen=True)
class SyntheticSettings:
    """Settings of the data to generate.

    Attributes:
        participants: how many.
        segments_per_participant: minutes generated for each, before selection.
        seed: of the population; two seeds have no participant in common.
        ppg_channels: PPG channels, 1 to 8.
        first_participant: index of the first one, so that a store can hold others than another store of the
        seed.

    Raises:
        UserError: a value out of range.
    """

    participants: int = 200
    segments_per_participant: int = 100
    seed: int = 0
    ppg_channels: int = 2
    first_participant: int = 0

    def __post_init__(self) -> None:
        limits = {
            "participants": (1, 1_000_000),
            "segments_per_participant": (1, 10_000),
            "seed": (0, 2**63 - 1),
            "ppg_channels": (1, waveforms.MAX_CHANNELS),
            "first_participant": (0, 2**31 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise UserError(f"synthetic recordings: {name} must be a whole number, got {value!r}")
            if not low <= value <= high:
                raise UserError(f"synthetic recordings: {name} must be within {low} to {high}, got {value}")

    def to_json(self) -> dict[str, int]:
        """Plain JSON values, with the version of the generator."""
        return {**{k: int(v) for k, v in dataclasses.asdict(self).items()}, "generator": GENERATOR_VERSION}

    @property
    def participant_indices(self) -> range:
        return range(self.first_participant, self.first_participant + self.participants)


@dataclasses.dataclass(frozen=True)
class RawMinutes:
    """Minutes of one participant as the sensors recorded them, and the truth behind them."""

    ppg: np.ndarray  # [N, 3840, C] float32, a.u., 64 Hz, systole up, unfiltered
    accel: np.ndarray  # [N, 3840, 3] float32, g, 64 Hz
    beats: list[np.ndarray]  # N of [n] float64: R peaks inside the minute, s from its start
    intervals: list[np.ndarray]  # N of [n] float64: s, the interval that ends at each of these
    resp_bpm: np.ndarray  # [N] float32, mean breathing rate
    start_unix_s: np.ndarray  # [N] float64


def generate_segments(
    seed: int,
    participant_index: int,
    segment_indices: Sequence[int],
    *,
    ppg_channels: int = 2,
    participant: Physiology | None = None,
) -> RawMinutes:
    """Generate minutes of one participant.

    Args:
        seed: of the population.
        participant_index: of the participant.
        segment_indices: [N] which minutes, in any order; each is the same whatever the others are.
        ppg_channels: number of PPG channels C, 1 to 8; the first channels are the same whatever their number.
        participant: physiology to use in place of `sample_participant(seed, participant_index)`, for what-if
            comparisons on the same random numbers.

    Returns:
        The raw minutes, in the order asked for.

    Raises:
        ValueError: `ppg_channels` out of range.
    """
    if not 1 <= ppg_channels <= waveforms.MAX_CHANNELS:
        raise ValueError(f"ppg_channels must be 1 to {waveforms.MAX_CHANNELS}, not {ppg_channels}")
    person = participant or sample_participant(seed, participant_index)
    count = len(segment_indices)
    ppg = np.empty((count, waveforms.SAMPLES, ppg_channels), np.float32)
    accel = np.empty((count, waveforms.SAMPLES, 3), np.float32)
    resp = np.empty(count, np.float32)
    start = np.empty(count, np.float64)
    beats: list[np.ndarray] = []
    intervals: list[np.ndarray] = []
    for row, segment in enumerate(segment_indices):
        rng = physiology.random_stream(seed, participant_index, int(segment))
        state = physiology.draw_state(person, rng, segment_index=int(segment))
        rhythm = physiology.draw_rhythm(person, state, rng)
        minute = waveforms.render_minute(person, state, rhythm, rng, ppg_channels=ppg_channels)
        movement = physiology.random_stream(seed, participant_index, int(segment), movement=True)
        ppg[row], accel[row] = waveforms.add_large_movement(minute, person, state, movement)
        inside = np.flatnonzero((rhythm.beats_s >= 0.0) & (rhythm.beats_s <= 60.0))
        beats.append(rhythm.beats_s[inside])
        intervals.append(rhythm.beats_s[inside] - rhythm.beats_s[inside - 1])
        resp[row], start[row] = rhythm.respiration_bpm, state.start_unix_s
    return RawMinutes(ppg, accel, beats, intervals, resp, start)


def generate_batch(
    settings: SyntheticSettings, participant_index: int, preprocess_settings: PreprocessSettings
) -> SegmentBatch:
    """All minutes of one participant: generated, filtered, labelled and selected.

    Args:
        settings: the population; `participant_index` counts from 0 whatever `first_participant` is.
        participant_index: of the participant.
        preprocess_settings: filter and thresholds, at 64 Hz and 60 s.

    Returns:
        The accepted segments and the account of the others.

    Raises:
        UserError: `preprocess_settings` ask for another rate or duration, or for certain channels.
    """
    check_preprocess_settings(preprocess_settings)
    person = sample_participant(settings.seed, participant_index)
    raw = generate_segments(
        settings.seed,
        participant_index,
        range(settings.segments_per_participant),
        ppg_channels=settings.ppg_channels,
        participant=person,
    )
    return finish_segments(
        bandpass(raw.ppg, axis=1, settings=preprocess_settings),
        raw.accel,
        settings=preprocess_settings,
        origin=Origin(
            participant=Participant(
                participant_id=person.participant_id,
                age_years=person.age_years,
                sex=person.sex,
                height_m=person.height_m,
                weight_kg=person.weight_kg,
                conditions=person.conditions | draw_answers(settings.seed, participant_index, person),
            ),
            device=DEVICE,
            recording_id=person.participant_id,
            start_unix_s=raw.start_unix_s,
        ),
        references=References(
            beats=[
                Beats(time_s=times, interval_s=lengths) for times, lengths in zip(raw.beats, raw.intervals, strict=True)
            ],
            labels={"resp_bpm": raw.resp_bpm},
        ),
    )


def check_preprocess_settings(settings: PreprocessSettings) -> None:
    """Raises UserError unless rate, duration and channels are those of the generator."""
    if settings.rate_hz != waveforms.RATE_HZ or settings.samples != waveforms.SAMPLES:
        raise UserError(
            f"synthetic recordings are minutes at {waveforms.RATE_HZ:g} Hz; set rate_hz={waveforms.RATE_HZ:g} and "
            f"segment_s=60 (got {settings.rate_hz:g} and {settings.segment_s:g})"
        )
    if settings.ppg_channels:
        raise UserError(
            "synthetic recordings: their number of PPG channels is a setting of the population, not of preprocessing"
        )


def unit_id(settings: SyntheticSettings, participant_index: int) -> str:
    """Name of a participant's unit in the staging of a store."""
    return physiology.participant_id(settings.seed, participant_index)


def write_store(
    path: str | os.PathLike,
    settings: SyntheticSettings,
    preprocess_settings: PreprocessSettings | None = None,
    *,
    workers: int = 1,
    split: SplitRule | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Store:
    """Generate a population into a store. Its bytes do not depend on `workers` nor on interruptions.

    Each participant is staged when it is ready, so the same call after an interruption continues; a complete
    store of exactly these settings is opened and nothing else is done. With more
    than one worker, fresh processes are started: call it from under `if __name__ == "__main__":` in a script.

    Args:
        path: local folder or URL of the store to be.
        settings: the population.
        preprocess_settings: filter and thresholds; the defaults where None.
        workers: processes that generate; 1 works in this process.
        split: how participants are split; by hash of seed 0 where None.
        overwrite: replace whatever store is already there.
        progress: show a progress bar with the time left.

    Returns:
        The store, opened.

    Raises:
        UserError: `workers` below 1, unsuitable settings, a store of other settings there, another process that
            makes it at this moment, a worker that died, a full disk.
    """
    check_workers(workers)
    preprocess_settings = preprocess_settings or PreprocessSettings()
    check_preprocess_settings(preprocess_settings)
    order = _order(settings)
    request = _request(settings, preprocess_settings, split)
    if not overwrite:
        store = existing_store(path, units=order, **request)
        if store is not None:
            return store
    writer = StoreWriter(path, overwrite=overwrite, **request)
    with writer.exclusive(), progress_bar(progress) as bar:
        missing = [index for index in settings.participant_indices if not writer.has(unit_id(settings, index))]
        task = bar.add_task("generating minutes", total=settings.participants * settings.segments_per_participant)
        bar.advance(task, (settings.participants - len(missing)) * settings.segments_per_participant)
        for _ in run_all(functools.partial(_add, writer, settings, preprocess_settings), missing, workers=workers):
            bar.advance(task, settings.segments_per_participant)
        task = bar.add_task("writing the store", total=None)
        return writer.commit(order, progress=lambda done, total: bar.update(task, completed=done, total=total))


def shared_store(
    path: str | os.PathLike,
    settings: SyntheticSettings,
    *,
    workers: int = 1,
    progress: bool = False,
    say: Callable[[str], None],
) -> Store:
    """`write_store` for processes of one machine that start together: one generates, the others wait and open it.

    A generating process that is killed lets the next one go on where it stopped.

    Args:
        path: local folder of the store to be; the lock is the file `<path>.lock`.
        settings: the population.
        workers: processes that generate.
        progress: show a progress bar with the time left.
        say: told a line when another process has been generating for more than two seconds.

    Returns:
        The store, opened.

    Raises:
        UserError: as `write_store`, or the lock file cannot be made.
    """
    store = existing_store(path, units=_order(settings), **_request(settings, PreprocessSettings(), None))
    if store is not None:
        return store
    with file_lock(
        f"{os.fspath(path)}.lock", waiting=lambda: say(f"data: waiting for another process that generates {path}")
    ):
        return write_store(path, settings, workers=workers, progress=progress)


def _order(settings: SyntheticSettings) -> list[str]:
    return [unit_id(settings, index) for index in settings.participant_indices]


def _request(settings: SyntheticSettings, preprocess_settings: PreprocessSettings, split: SplitRule | None) -> dict:
    return {
        "settings": preprocess_settings,
        "source": "synthetic",
        "source_settings": settings.to_json(),
        "split": split,
    }


def _add(
    writer: StoreWriter, settings: SyntheticSettings, preprocess_settings: PreprocessSettings, participant_index: int
) -> None:
    batch = generate_batch(settings, participant_index, preprocess_settings)
    writer.add(unit_id(settings, participant_index), batch)
