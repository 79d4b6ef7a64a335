"""Predictions of the minutes of a recording, and their table."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from accdistill_jax.api.encoder import TrainedEncoder
from accdistill_jax.api.recordings import minutes_of
from accdistill_jax.data import recordings
from accdistill_jax.data.recording import Recording
from accdistill_jax.errors import UserError
from accdistill_jax.labels import LABELS
from accdistill_jax.readouts.minute_table import Predictions, numbers, prediction_columns


class PredictedRecording(NamedTuple):
    """Predictions of a recording.

    Attributes:
        participant: who wore the device.
        recording: id of the recording.
        start_unix_s: [n] float64, start of each minute.
        motion_g: [n] motion level in g.
        quality: [n] clarity of the pulse in the signal that the encoder reads, 0 to 1.
        reference: label -> [n] values from the recording's beats or reference heart rates; NaN where unknown.
        predictions: label -> n predictions.
        units: label -> unit.
        left_out: reason -> minutes without usable signal.
    """

    participant: str
    recording: str
    start_unix_s: np.ndarray
    motion_g: np.ndarray
    quality: np.ndarray
    reference: dict[str, np.ndarray]
    predictions: Predictions
    units: dict[str, str]
    left_out: dict[str, int]


def predict_recording(encoder: TrainedEncoder, recording: Recording) -> PredictedRecording:
    """Predicts the labels of each whole minute with usable signal; the read-outs decide what they can tell.

    Raises:
        UserError: the encoder has no read-outs, the recording cannot be prepared, or none of its minutes is usable.
    """
    # read-outs abstain by motion themselves, and a student needs no clean pulse
    settings = dataclasses.replace(
        encoder.contract.settings, max_motion_g=math.inf, min_ppg_quality=0.0, max_clipped_fraction=1.0
    )
    batch = minutes_of(recording, encoder.contract, settings)
    left_out = {reason: count for reason, count in batch.rejected.items() if count}
    if not len(batch.accel):
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise UserError(f"recording {recording.recording_id!r}: none of {batch.examined} minutes is usable: {why}")
    columns = batch.columns
    embeddings = encoder.encode(getattr(batch, encoder.modality))
    known_at = np.asarray(columns["motion_g"], np.float64)
    return PredictedRecording(
        recording.participant.participant_id,
        recording.recording_id,
        columns["start_unix_s"],
        known_at,
        columns[f"{encoder.modality}_quality"],
        {name: columns[name] for name in LABELS if np.isfinite(columns[name]).any()},
        encoder.predict_embeddings(embeddings, motion_g=known_at),
        {name: label.unit for name, label in LABELS.items()} | {n: p.unit for n, p in encoder.probes.items()},
        left_out,
    )


def prediction_table(predicted: Sequence[PredictedRecording]) -> pa.Table:
    """A row for each minute.

    Columns: participant, recording, start (UTC), motion_g, quality; for each label NAME those of `prediction_columns`, and
    NAME_reference for labels that the recordings' beats give.
    """
    return pa.concat_tables([_table_of(one) for one in predicted], promote_options="default")


def _table_of(one: PredictedRecording) -> pa.Table:
    count = len(one.start_unix_s)
    start = pa.array(np.round(one.start_unix_s * 1000).astype(np.int64)).cast(pa.timestamp("ms", "UTC"))
    columns: dict[str, pa.Array] = {
        "participant": pa.array([one.participant] * count),
        "recording": pa.array([one.recording] * count),
        "start": start,
        "motion_g": pa.array(np.asarray(one.motion_g, np.float64)),
        "quality": pa.array(np.asarray(one.quality, np.float64)),
    }
    for name, prediction in one.predictions.items():
        columns |= prediction_columns({name: prediction}, count)
        if name in one.reference:
            columns[f"{name}_reference"] = numbers(one.reference[name])
    return pa.table(columns)


def source_named(found: recordings.Found, name: str | None) -> recordings.Found:
    """The recordings of one name, or all.

    Raises:
        UserError: no recording has the name.
    """
    if name is None:
        return found
    chosen = [source for source in found if source.recording_id == name]
    if not chosen:
        ids = [source.recording_id for source in found]
        raise UserError(f"no recording {name!r}; there are {', '.join(ids[:10])}{' ...' if len(ids) > 10 else ''}")
    return recordings.Found(chosen, reader=found.reader, options=found.options, not_read=found.not_read)
