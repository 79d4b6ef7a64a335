"""Synthetic recordings: the default data, and data with known truth for tests of claims.

`physiology` draws the participants and their heart beats, and `health_targets` their answers to questions about health.
`waveforms` renders the signals of a watch; `wrist_signals` does so for the second generator, with the same people and beats. This module turns the minutes into segments, with the
same filter, labels and selection as for measured recordings, and writes the segments into a store.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import numpy as np

from accdistill_jax.data.prepare.preparation import PreparationSettings
from accdistill_jax.data.prepare.workers import run_all
from accdistill_jax.data.preprocessing.segments import Origin, References, SegmentBatch, bandpass, finish_segments
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Beats, Participant
from accdistill_jax.data.store.request import existing_store
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.data.synthetic import physiology, waveforms, wrist_signals
from accdistill_jax.data.synthetic.health_targets import draw_answers
from accdistill_jax.data.synthetic.physiology import Physiology, sample_participant
from accdistill_jax.data.synthetic.shared_motion import add_shared_motion
from accdistill_jax.data.synthetic.wrist import Wrist, sample_wrist
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

GENERATOR_VERSION = 3  # part of every store's settings; it rises when the same settings give other minutes or answers
WRIST_VERSION = 1  # the same for the signals of the second generator
GENERATORS = (1, 2)
DEVICE = "synthetic"
MOST_SHARED_MOTION = 100
_SIGNALS = ("shared_motion", "clock_error")


def signals_version(generator: int, shared_motion: float = 0.0, clock_error: float = 1.0) -> dict[str, int | float]:
    """Identity of a generator's signals, besides `GENERATOR_VERSION`; empty for the first generator without shared motion."""
    version: dict[str, int | float] = {} if generator == 1 else {"signals": generator, "signals_version": WRIST_VERSION}
    version |= {"shared_motion": float(shared_motion)} if shared_motion else {}
    return version | ({"clock_error": float(clock_error)} if clock_error != 1 else {})


@dataclasses.dataclass(frozen=True)
class SyntheticSettings:
    """Settings of the data to generate.

    Attributes:
        participants: number of people.
        segments_per_participant: minutes that are generated for each person, before selection.
        seed: seed of the population. Two seeds have no participant in common.
        ppg_channels: number of PPG channels, 1 to 8.
        first_participant: index of the first participant. Stores with the same seed and disjoint indices have different people.
        generator: 1 renders a fine, quiet sensor on a still wrist; 2 renders sensors, clocks and wrists as they were measured. People,
            beats and labels are the same.
        shared_motion: height of bursts of motion that both sensors record, see `shared_motion.add_shared_motion`; 0: none.
        clock_error: factor on offset and drift between the clocks of both sensors, of the second generator: 1 as measured between
            devices, up to 1 s and 100 ppm; 0 for sensors of one device, which share a clock.

    Raises:
        UserError: a value out of range, or a clock error of the first generator, which has one clock.
    """

    participants: int = 200
    segments_per_participant: int = 100
    seed: int = 0
    ppg_channels: int = 2
    first_participant: int = 0
    generator: int = 1
    shared_motion: float = 0.0
    clock_error: float = 1.0

    def __post_init__(self) -> None:
        limits = {
            "participants": (1, 1_000_000),
            "segments_per_participant": (1, 10_000),
            "seed": (0, 2**63 - 1),
            "ppg_channels": (1, waveforms.MAX_CHANNELS),
            "first_participant": (0, 2**31 - 1),
            "generator": (min(GENERATORS), max(GENERATORS)),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise UserError(f"synthetic recordings: {name} must be a whole number, got {value!r}")
            if not low <= value <= high:
                raise UserError(f"synthetic recordings: {name} must be within {low} to {high}, got {value}")
        if not 0 <= self.shared_motion <= MOST_SHARED_MOTION:
            raise UserError(
                f"synthetic recordings: shared_motion must be within 0 to {MOST_SHARED_MOTION}, got {self.shared_motion}"
            )
        if not 0 <= self.clock_error <= 1:
            raise UserError(f"synthetic recordings: clock_error must be within 0 to 1, got {self.clock_error}")
        if self.generator == 1 and self.clock_error != 1:
            raise UserError("synthetic recordings: clock_error needs generator 2; the first generator has one clock")

    def to_json(self) -> dict[str, int | float]:
        """Plain JSON values, with the version of the generator."""
        plain: dict[str, int | float] = {k: int(v) for k, v in dataclasses.asdict(self).items() if k not in _SIGNALS}
        plain["generator"] = GENERATOR_VERSION
        return plain | signals_version(self.generator, self.shared_motion, self.clock_error)

    @property
    def participant_indices(self) -> range:
        """Indices of the participants in the population."""
        return range(self.first_participant, self.first_participant + self.participants)


@dataclasses.dataclass(frozen=True)
class RawMinutes:
    """Minutes of one participant as the sensors record them, with their true beats and breathing."""

    ppg: np.ndarray  # [N, 3840, C] float32, a.u., 64 Hz, systole up, unfiltered
    accel: np.ndarray  # [N, 3840, 3] float32, g, 64 Hz
    beats: list[np.ndarray]  # N of [n] float64: times of R peaks inside the minute, s from its start
    intervals: list[np.ndarray]  # N of [n] float64: s, the interval before each of these R peaks
    resp_bpm: np.ndarray  # [N] float32, mean breathing rate
    start_unix_s: np.ndarray  # [N] float64


def generate_segments(
    seed: int,
    participant_index: int,
    segment_indices: Sequence[int],
    *,
    ppg_channels: int = 2,
    participant: Physiology | None = None,
    wrist: Wrist | None = None,
) -> RawMinutes:
    """Generates minutes of one participant.

    Args:
        seed: seed of the population.
        participant_index: index of the participant.
        segment_indices: [N] indices of the minutes, in any order. Each minute is independent of the others.
        ppg_channels: number of PPG channels C, 1 to 8. The first channels do not depend on it.
        participant: physiology to use instead of `sample_participant(seed, participant_index)`, for comparisons with the same
            random numbers.
        wrist: the participant's wrist and watch, for the second generator; None uses the first generator.

    Returns:
        The raw minutes, in the order of `segment_indices`.

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
        movement = physiology.random_stream(seed, participant_index, int(segment), movement=True)
        if wrist is None:
            minute = waveforms.render_minute(person, state, rhythm, rng, ppg_channels=ppg_channels)
            minute = waveforms.add_large_movement(minute, person, state, movement)
        else:
            minute = wrist_signals.render_wrist_minute(
                wrist, state, rhythm, rng, movement=movement, ppg_channels=ppg_channels
            )
        ppg[row], accel[row] = minute
        inside = np.flatnonzero((rhythm.beats_s >= 0.0) & (rhythm.beats_s <= 60.0))
        beats.append(rhythm.beats_s[inside])
        intervals.append(rhythm.beats_s[inside] - rhythm.beats_s[inside - 1])
        resp[row], start[row] = rhythm.respiration_bpm, state.start_unix_s
    return RawMinutes(ppg, accel, beats, intervals, resp, start)


def generate_batch(
    settings: SyntheticSettings, participant_index: int, preprocess_settings: PreprocessSettings
) -> SegmentBatch:
    """Generates, filters, labels and selects all minutes of one participant.

    Args:
        settings: the population.
        participant_index: index of the participant in the population; it counts from 0, not from `first_participant`.
        preprocess_settings: filter and thresholds, at 64 Hz and 60 s.

    Returns:
        The accepted segments and the counts of the rejected ones.

    Raises:
        UserError: `preprocess_settings` have another rate or duration, or name channels.
    """
    check_preprocess_settings(preprocess_settings)
    person = sample_participant(settings.seed, participant_index)
    wrist, device = None, DEVICE
    if settings.generator == 2:
        wrist = sample_wrist(settings.seed, participant_index, person).with_clock_error(settings.clock_error)
        device = wrist.device.name
    raw = generate_segments(
        settings.seed,
        participant_index,
        range(settings.segments_per_participant),
        ppg_channels=settings.ppg_channels,
        participant=person,
        wrist=wrist,
    )
    if settings.shared_motion:
        for row, minute in enumerate(zip(raw.ppg, raw.accel, strict=True)):
            key = (settings.seed, participant_index, row)
            moved = add_shared_motion(waveforms.Minute(*minute), person, scale=settings.shared_motion, key=key)
            raw.ppg[row], raw.accel[row] = moved
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
            device=device,
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
    """Raises UserError if rate, duration or channels differ from those of the generator."""
    if settings.rate_hz != waveforms.RATE_HZ or settings.samples != waveforms.SAMPLES:
        raise UserError(
            f"synthetic recordings are minutes at {waveforms.RATE_HZ:g} Hz; set rate_hz={waveforms.RATE_HZ:g} and "
            f"segment_s=60 (got {settings.rate_hz:g} and {settings.segment_s:g})"
        )
    if settings.ppg_channels:
        raise UserError(
            "synthetic recordings: the number of PPG channels is a setting of the population, not of preprocessing"
        )


def unit_id(settings: SyntheticSettings, participant_index: int) -> str:
    """Name of a participant's unit in the staging of a store."""
    return physiology.participant_id(settings.seed, participant_index)


def write_store(
    path: str | os.PathLike,
    settings: SyntheticSettings,
    preprocess_settings: PreprocessSettings | None = None,
    *,
    split: SplitRule | None = None,
    preparation: PreparationSettings | None = None,
) -> Store:
    """Generates a population into a store. Its bytes do not depend on the number of workers or on interruptions.

    Each participant is staged when it is ready, so the same call after an interruption continues. A complete store with
    the same settings is opened and stays unchanged. More than one worker starts new processes: a script must then call this
    function below `if __name__ == "__main__":`.

    Args:
        path: local folder or URL of the new store.
        settings: the population.
        preprocess_settings: filter and thresholds; None uses the defaults.
        split: rule that splits the participants; None splits by hash with seed 0.
        preparation: workers, overwriting and progress bars (`skip_bad` concerns recordings only). None generates in this
            process, without overwriting and without progress bars.

    Returns:
        The store, opened.

    Raises:
        UserError: unsuitable settings, a store with other settings at `path`, another process that writes this store, a
            worker that died, or a full disk.
    """
    preparation = preparation or PreparationSettings(workers=1, quiet=True)
    preprocess_settings = preprocess_settings or PreprocessSettings()
    check_preprocess_settings(preprocess_settings)
    order = _order(settings)
    request = _request(settings, preprocess_settings, split)
    if not preparation.overwrite:
        store = existing_store(path, units=order, **request)
        if store is not None:
            return store
    writer = StoreWriter(path, overwrite=preparation.overwrite, **request)
    with writer.exclusive(), progress_bar(not preparation.quiet) as bar:
        missing = [index for index in settings.participant_indices if not writer.has(unit_id(settings, index))]
        task = bar.add_task("generating minutes", total=settings.participants * settings.segments_per_participant)
        bar.advance(task, (settings.participants - len(missing)) * settings.segments_per_participant)
        add = functools.partial(_add, writer, settings, preprocess_settings)
        for _ in run_all(add, missing, workers=preparation.workers):
            bar.advance(task, settings.segments_per_participant)
        task = bar.add_task("writing the store", total=None)
        return writer.commit(order, progress=lambda done, total: bar.update(task, completed=done, total=total))


def shared_store(
    path: str | os.PathLike,
    settings: SyntheticSettings,
    *,
    workers: int = 1,
    progress: bool = False,
    split: SplitRule | None = None,
    say: Callable[[str], None],
) -> Store:
    """`write_store` for processes of one machine that start together: one process generates, the others wait.

    If the generating process is killed, the next process continues its work.

    Args:
        path: local folder of the new store; the lock is the file `<path>.lock`.
        settings: the population.
        workers: number of processes that generate.
        progress: show a progress bar with the time left.
        split: rule that splits the participants; None splits by hash with seed 0.
        say: called with a line when another process has been generating for more than two seconds.

    Returns:
        The store, opened.

    Raises:
        UserError: errors of `write_store`, or the lock file cannot be created.
    """
    store = existing_store(path, units=_order(settings), **_request(settings, PreprocessSettings(), split))
    if store is not None:
        return store
    with file_lock(
        f"{os.fspath(path)}.lock", waiting=lambda: say(f"data: waiting for another process that generates {path}")
    ):
        preparation = PreparationSettings(workers=workers, quiet=not progress)
        return write_store(path, settings, split=split, preparation=preparation)


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
