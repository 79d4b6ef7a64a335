"""Cuts a recording: aligns and resamples its streams, filters them, and cuts segments; `segments` labels and selects them later.

The Python API embeds these segments; `preprocess` makes those of stores. Both run this code.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from accdistill_jax.data.preprocessing import dropouts
from accdistill_jax.data.preprocessing.packets import spread_packets
from accdistill_jax.data.preprocessing.plausibility import check_units
from accdistill_jax.data.preprocessing.resample import common_grid, is_flat, to_grid
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Recording, Stream
from accdistill_jax.errors import UserError


class _Grid(TypedDict):
    start_s: float
    count: int
    rate_hz: float


@dataclasses.dataclass(frozen=True)
class CutRecording:
    """The segments of a recording, before labels and selection.

    Attributes:
        recording: with the true times of samples that shared a time stamp.
        streams: the streams that were cut, with the chosen PPG channels.
        segments: "ppg" [N, T, C] float32, band-passed, systole up; "accel" [N, T, 3] float32, in g; those of the streams.
        start_s: [N] start of each segment, seconds after the recording's start.
        gap_s: [N] missing seconds of any stream.
        flat: [N] bool, a stream never changes.
        notes: decisions and findings, see `SegmentBatch.notes`.
        mended_stamps: by stream, how many samples shared a time stamp.
    """

    recording: Recording
    streams: dict[str, Stream]
    segments: dict[str, np.ndarray]
    start_s: np.ndarray
    gap_s: np.ndarray
    flat: np.ndarray
    notes: dict[str, object]
    mended_stamps: dict[str, int]


def cut(
    recording: Recording, settings: PreprocessSettings, *, signals: Sequence[str], polarity: str | None = None
) -> CutRecording:
    """Aligns, resamples, filters and cuts streams of a recording.

    The grid begins at the first sample of the first signal within the time that all signals cover, so only the acceleration beside a
    PPG is shifted by part of a sample; it ends with the stream that ends first. Filters run over interpolated gaps. A rest at the
    end that is shorter than a segment is ignored.

    Args:
        recording: has the streams.
        settings: filter, rate and length.
        signals: ("ppg", "accel"), or one of them alone.
        polarity: systole_up or systole_down, for a PPG whose polarity is not declared; None takes the vote of its frames.

    Raises:
        UserError: a stream or a chosen channel is missing, the streams do not overlap, one lasts too long, samples share time stamps
            and their times are uncertain (`packets`), or numbers fit no unit (`plausibility`).
    """
    for name in signals:
        if name not in recording.streams:
            raise UserError(f"has no stream {name!r}; its streams are {', '.join(recording.streams) or 'none'}")
    spread = {name: spread_packets(recording.streams[name]) for name in signals}
    others = {name: stream for name, stream in recording.streams.items() if name not in ("ppg", "accel")}
    recording = dataclasses.replace(recording, streams={name: s.stream for name, s in spread.items()} | others)
    streams = {name: recording.streams[name] for name in signals}
    if "ppg" in streams:
        # not at the top: acceleration alone needs no code for PPG
        from accdistill_jax.data.preprocessing.ppg import chosen_channels

        streams["ppg"] = chosen_channels(streams["ppg"], settings)
    start, count = common_grid(tuple(streams.values()), settings.rate_hz)
    notes: dict[str, object] = dict(check_units(recording))
    notes |= {f"{name}_stamps": s.note for name, s in spread.items() if s.note}
    grid: _Grid = {"start_s": start, "count": count, "rate_hz": settings.rate_hz}
    number = (count - settings.samples) // settings.hop_samples + 1 if count >= settings.samples else 0
    first = np.arange(number) * settings.hop_samples
    start_s = start + first / settings.rate_hz
    flat = np.any([is_flat(stream, start_s, settings.segment_s) for stream in streams.values()], axis=0)
    segments = {name: np.zeros((0, settings.samples, len(s.channels)), np.float32) for name, s in streams.items()}
    gap_s = np.zeros(number)
    if number:
        held = {
            name: dropouts.held_samples(stream, held_s=settings.held_s, held_coarse_s=settings.held_coarse_s)
            for name, stream in streams.items()
        }
        placed = {
            name: to_grid(dropouts.without(stream, held[name]), **grid, gap_s=settings.gap_s)
            for name, stream in streams.items()
        }
        values = {name: on_grid.values for name, on_grid in placed.items()}
        missing = np.any([on_grid.missing for on_grid in placed.values()], axis=0)
        if "ppg" in values:
            from accdistill_jax.data.preprocessing.ppg import upright_wave

            values["ppg"], decision = upright_wave(
                values, missing, recording=recording, settings=settings, polarity=polarity
            )
            notes |= decision
        notes |= _held_note(streams, held)
        index = first[:, None] + np.arange(settings.samples)
        gap_s = missing[index].sum(1) / settings.rate_hz
        if flat.any():  # a sensor that is off for a whole segment makes it flat; its constant samples are no gap
            dropped = np.any(
                [dropouts.mask_on_grid(stream, held[name], **grid) for name, stream in streams.items()], axis=0
            )
            gap_s = np.where(flat, (missing & ~dropped)[index].sum(1) / settings.rate_hz, gap_s)
        segments = {name: on_grid[index] for name, on_grid in values.items()}
    mended = {name: s.mended for name, s in spread.items() if s.mended}
    return CutRecording(recording, streams, segments, start_s, gap_s, flat, notes, mended)


def _held_note(streams: Mapping[str, Stream], held: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    lost = {
        name: round(dropouts.seconds(stream, held[name]), 3) for name, stream in streams.items() if held[name].any()
    }
    return {"held_s": lost} if lost else {}
