"""From a recording to segments: aligns, resamples, filters and cuts it; `segments` then labels and selects the segments."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from accdistill_jax.data.preprocessing import dropouts
from accdistill_jax.data.preprocessing import hrv as hrv_lib
from accdistill_jax.data.preprocessing import polarity as polarity_lib
from accdistill_jax.data.preprocessing.packets import spread_packets
from accdistill_jax.data.preprocessing.plausibility import check_units, unlabelled
from accdistill_jax.data.preprocessing.resample import common_grid, fraction_clipped, is_flat, to_grid
from accdistill_jax.data.preprocessing.segments import (
    Faults,
    Origin,
    References,
    SegmentBatch,
    bandpass,
    finish_segments,
)
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.preprocessing.window_labels import labels_of_segments
from accdistill_jax.data.recording import Recording, Stream, named
from accdistill_jax.errors import UserError
from accdistill_jax.labels import HEART_RATE


def preprocess(recording: Recording, settings: PreprocessSettings, *, polarity: str | None = None) -> SegmentBatch:
    """Aligns, resamples, filters and cuts a recording into segments, then labels and selects them with `finish_segments`.

    The grid begins at the PPG's first sample within the time that both streams cover, so only the acceleration is shifted by part of
    a sample; it ends with the stream that ends first. Filters run over interpolated gaps; segments with more than `max_gap_s` of
    gaps are rejected. A rest at the end that is shorter than a segment is ignored.

    Args:
        recording: has the streams ppg and accel.
        settings: filter and thresholds.
        polarity: systole_up or systole_down, for a PPG whose polarity is not declared; None takes the vote of its frames.

    Raises:
        UserError: a stream or a chosen channel is missing, the streams do not overlap, one lasts too long, samples share time stamps
            and their times are uncertain (`packets`), or numbers fit no unit (`plausibility`); the message names the recording.
    """
    with named(f"recording {recording.recording_id!r}"):
        for name in ("ppg", "accel"):
            if name not in recording.streams:
                raise UserError(f"has no stream {name!r}; its streams are {', '.join(recording.streams) or 'none'}")
        spread = {name: spread_packets(recording.streams[name]) for name in ("ppg", "accel")}
        recording = dataclasses.replace(
            recording, streams={**recording.streams, **{name: s.stream for name, s in spread.items()}}
        )
        ppg, accel = _chosen_channels(recording.streams["ppg"], settings), recording.streams["accel"]
        start, count = common_grid(ppg, accel, settings.rate_hz)
        notes = check_units(recording) | {f"{name}_stamps": s.note for name, s in spread.items() if s.note}
        if recording.heart_rate is not None and recording.heart_rate.note:
            notes["heart_rate"] = recording.heart_rate.note
        on_grid = functools.partial(to_grid, start_s=start, count=count, rate_hz=settings.rate_hz, gap_s=settings.gap_s)
        segments = (count - settings.samples) // settings.hop_samples + 1 if count >= settings.samples else 0
        first = np.arange(segments) * settings.hop_samples
        start_s = start + first / settings.rate_hz
        flat = is_flat(ppg, start_s, settings.segment_s) | is_flat(accel, start_s, settings.segment_s)
        if segments:
            held = {
                stream.name: dropouts.held_samples(stream, held_s=settings.held_s, held_coarse_s=settings.held_coarse_s)
                for stream in (ppg, accel)
            }
            wave, ppg_missing = on_grid(dropouts.without(ppg, held["ppg"]))
            motion, accel_missing = on_grid(dropouts.without(accel, held["accel"]))
            wave = bandpass(wave - np.median(wave, axis=0), axis=0, settings=settings)
            missing = ppg_missing | accel_missing
            vote = _vote(wave, motion, missing, recording, settings, polarity)
            wave = -wave if vote.applied == "systole_down" else wave
            notes |= {"ppg_polarity": polarity_lib.described(vote), "ppg_votes": dataclasses.asdict(vote)}
            notes |= _held_note((ppg, accel), held)
            index = first[:, None] + np.arange(settings.samples)
            gap_s = missing[index].sum(1) / settings.rate_hz
            if flat.any():  # a sensor that is off for a whole segment makes it flat; its constant samples are no gap
                dropped = np.any(
                    [
                        dropouts.mask_on_grid(
                            stream, held[stream.name], start_s=start, count=count, rate_hz=settings.rate_hz
                        )
                        for stream in (ppg, accel)
                    ],
                    axis=0,
                )
                gap_s = np.where(flat, (missing & ~dropped)[index].sum(1) / settings.rate_hz, gap_s)
            wave, motion = wave[index], motion[index]
        else:
            wave = np.zeros((0, settings.samples, len(ppg.channels)), np.float32)
            motion, gap_s = np.zeros((0, settings.samples, 3), np.float32), np.zeros(0)
        batch = finish_segments(
            wave,
            motion,
            settings=settings,
            origin=Origin(
                recording.participant, recording.device, recording.recording_id, recording.start_unix_s + start_s
            ),
            references=References(
                beats=hrv_lib.beats_of_segments(recording.beats, start_s, settings.segment_s),
                window_hr_bpm=hrv_lib.window_heart_rate(
                    recording.heart_rate, start_s, settings.segment_s, min_coverage=settings.min_window_coverage
                ),
                own_labels=labels_of_segments(recording.labels, start_s, settings.segment_s),
            ),
            faults=Faults(
                gap_s=gap_s,
                flat=flat,
                ppg_clipped=fraction_clipped(ppg, start_s, settings.segment_s),
                accel_clipped=fraction_clipped(accel, start_s, settings.segment_s),
            ),
        )
    batch.notes.update(unlabelled(recording, batch.columns[HEART_RATE]) | notes)
    batch.mended_stamps = {name: s.mended for name, s in spread.items() if s.mended}
    batch.ppg_channels = ppg.channels
    if not segments:
        batch.examined, batch.rejected["too_short"] = 1, 1
    return batch


def _chosen_channels(ppg: Stream, settings: PreprocessSettings) -> Stream:
    """The stream with the channels of the settings, in their order."""
    if not settings.ppg_channels:
        return ppg
    places = {str(number): number for number in range(len(ppg.channels))}
    places |= {name: number for number, name in enumerate(ppg.channels)}  # a name has priority over a number
    for wanted in settings.ppg_channels:
        if wanted not in places:
            raise UserError(
                f"has no PPG channel {wanted!r}; its channels are {', '.join(ppg.channels)} "
                f"(or by number, from 0 to {len(ppg.channels) - 1})"
            )
    chosen = [places[wanted] for wanted in settings.ppg_channels]
    return dataclasses.replace(
        ppg, values=ppg.values[:, chosen], channels=tuple(ppg.channels[number] for number in chosen)
    )


def _vote(
    wave: np.ndarray,
    motion: np.ndarray,
    missing: np.ndarray,
    recording: Recording,
    settings: PreprocessSettings,
    polarity: str | None,
) -> polarity_lib.Vote:
    frames, up = polarity_lib.count_votes(
        wave, motion, missing, rate_hz=settings.rate_hz, band_high_hz=settings.ppg_band_hz[1]
    )
    declared = recording.streams["ppg"].polarity or "unknown"
    applied = polarity_lib.first_choice(declared, frames, up)
    return polarity_lib.Vote(
        recording.device, declared, applied if declared != "unknown" else polarity or applied, frames, up
    )


def _held_note(streams: Sequence[Stream], held: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    lost = {
        stream.name: round(dropouts.seconds(stream, held[stream.name]), 3)
        for stream in streams
        if held[stream.name].any()
    }
    return {"held_s": lost} if lost else {}
