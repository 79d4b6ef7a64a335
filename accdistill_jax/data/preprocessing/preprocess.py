"""From a recording to the segments of a store: cuts it (`cut`), then labels and selects the segments (`segments`)."""

import dataclasses

import numpy as np

from accdistill_jax.data.preprocessing import hrv as hrv_lib
from accdistill_jax.data.preprocessing.align import SHIFT, found_shift, retimed
from accdistill_jax.data.preprocessing.cut import cut
from accdistill_jax.data.preprocessing.plausibility import unlabelled
from accdistill_jax.data.preprocessing.resample import fraction_clipped
from accdistill_jax.data.preprocessing.segments import (
    Faults,
    Origin,
    References,
    SegmentBatch,
    finish_segments,
)
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.preprocessing.window_labels import labels_of_segments, too_short_labels
from accdistill_jax.data.recording import Recording, named
from accdistill_jax.errors import UserError
from accdistill_jax.labels import HEART_RATE


def preprocess(recording: Recording, settings: PreprocessSettings, *, polarity: str | None = None) -> SegmentBatch:
    """Cuts a recording into segments, see `cut`, then labels and selects them with `finish_segments`.

    With `settings.align_clocks` it is done twice for a recording whose clocks disagree: the first segments show by how much.

    Args:
        recording: has the stream accel, and ppg if the device has it.
        settings: filter and thresholds; they may leave out the PPG.
        polarity: systole_up or systole_down, for a PPG whose polarity is not declared; None takes the vote of its frames.

    Raises:
        UserError: as `cut`, or `settings.align_clocks` for a recording without PPG; the message names the recording.
    """
    if not settings.align_clocks:
        return _segments_of(recording, settings, polarity=polarity)
    if "ppg" not in recording.streams:
        raise UserError(
            f"recording {recording.recording_id!r}: --align-clocks compares the acceleration with the PPG, and there is none; leave it out"
        )
    batch = _segments_of(recording, settings, polarity=polarity)
    shift, note = found_shift(batch, recording, settings)
    if shift is not None:
        accel = retimed(recording.streams["accel"], shift)
        batch = _segments_of(
            dataclasses.replace(recording, streams={**recording.streams, "accel": accel}), settings, polarity=polarity
        )
    start_s = batch.columns["start_unix_s"] - recording.start_unix_s
    batch.columns[SHIFT] = (np.zeros(len(start_s)) if shift is None else shift.at(start_s)).astype(np.float32)
    if note:
        batch.notes["clocks"] = note
    return batch


def _segments_of(recording: Recording, settings: PreprocessSettings, *, polarity: str | None) -> SegmentBatch:
    with_ppg = "ppg" in recording.streams and not settings.leaves_out_ppg
    with named(f"recording {recording.recording_id!r}"):
        done = cut(recording, settings, signals=("ppg", "accel") if with_ppg else ("accel",), polarity=polarity)
        clipped = {name: fraction_clipped(s, done.start_s, settings.segment_s) for name, s in done.streams.items()}
        accel = done.segments["accel"]
        batch = finish_segments(
            done.segments.get("ppg", np.zeros((*accel.shape[:2], 0), np.float32)),
            accel,
            settings=settings,
            origin=Origin(
                recording.participant, recording.device, recording.recording_id, recording.start_unix_s + done.start_s
            ),
            references=References(
                beats=hrv_lib.beats_of_segments(recording.beats, done.start_s, settings.segment_s),
                window_hr_bpm=hrv_lib.window_heart_rate(
                    recording.heart_rate, done.start_s, settings.segment_s, min_coverage=settings.min_window_coverage
                ),
                own_labels=labels_of_segments(recording.labels, done.start_s, settings.segment_s),
            ),
            faults=Faults(
                gap_s=done.gap_s, flat=done.flat, ppg_clipped=clipped.get("ppg"), accel_clipped=clipped["accel"]
            ),
        )
    if recording.heart_rate is not None and recording.heart_rate.note:
        batch.notes["heart_rate"] = recording.heart_rate.note
    batch.notes.update(too_short_labels(recording.labels, done.start_s, settings.segment_s))
    batch.notes.update(unlabelled(done.recording, batch.columns[HEART_RATE]) | done.notes)
    batch.mended_stamps = done.mended_stamps
    batch.ppg_channels = done.streams["ppg"].channels if with_ppg else ()
    if not len(done.start_s):
        batch.examined, batch.rejected["too_short"] = 1, 1
    return batch
