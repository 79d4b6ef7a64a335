"""Recordings in files: embeds their minutes into a table that says whose minute each row is."""

import dataclasses
import os
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from accdistill_jax.api.signals import InputContract, accel_remarks
from accdistill_jax.data import recordings
from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.segments import SegmentBatch
from accdistill_jax.data.preprocessing.settings import NO_PPG, PreprocessSettings
from accdistill_jax.data.recognition import recognise
from accdistill_jax.data.recording import Recording
from accdistill_jax.data.store.remarks import why_rejected
from accdistill_jax.errors import SignalWarning, UserError
from accdistill_jax.readouts.minute_table import Predictions, embedded_minutes
from accdistill_jax.user_paths import expanded


class Embeds(Protocol):
    """An encoder of segments; see `accdistill_jax.api.encoder.TrainedEncoder`."""

    @property
    def embedding_size(self) -> int:
        """Length of an embedding."""
        ...

    @property
    def no_readouts(self) -> str:
        """Why there are no read-outs of the evaluation; "" if there are."""
        ...

    @property
    def predicts(self) -> bool:
        """True if there are read-outs."""
        ...

    def encode(self, segments: np.ndarray, *, batch_size: int = 64) -> np.ndarray:
        """Embeds segments [n, samples, channels] float32."""
        ...

    def predict_embeddings(self, embeddings: np.ndarray, *, motion_g: np.ndarray | None = None) -> Predictions:
        """Predicts all labels that there are read-outs of."""
        ...


def minutes_of(
    recording: Recording, contract: InputContract, settings: PreprocessSettings | None = None
) -> SegmentBatch:
    """The minutes of a recording that an encoder can read, cut and selected as in a store.

    A student reads the acceleration alone, so its minutes do not depend on a PPG in the recording.

    Args:
        recording: has the encoder's signal; a teacher's recording also has acceleration.
        contract: of the encoder.
        settings: thresholds, at the encoder's rate and length; None: the default.

    Raises:
        UserError: as `preprocess`, or the PPG has another number of channels.
    """
    settings = settings or contract.settings
    if contract.modality == "accel":
        return preprocess(recording, dataclasses.replace(settings, ppg_channels=(NO_PPG,)))
    if "ppg" not in recording.streams:
        raise UserError(
            f"recording {recording.recording_id!r} has no PPG, which the {contract.part} reads; take a student"
        )
    batch = preprocess(recording, settings)
    if batch.ppg.shape[2] != contract.channels:
        raise UserError(
            f"recording {recording.recording_id!r} has {batch.ppg.shape[2]} PPG channels ({', '.join(batch.ppg_channels)}), the "
            f"{contract.part} reads {contract.channels}; choose them by ppg_channels"
        )
    return batch


def recording_remarks(recording: Recording, contract: InputContract) -> list[str]:
    """Differences of a recording's acceleration from those that encoders are trained on, in words; none for an encoder of PPG."""
    if contract.modality != "accel":
        return []
    accel = recording.streams["accel"]
    rate_hz = accel.rate_hz
    if rate_hz is None:
        apart = np.diff(accel.stamps)
        # gaps lower the mean rate; samples of a packet may share a stamp, so the usual distance may be that of packets
        rate_hz = max(len(apart) / float(apart.sum()), 1 / float(np.median(apart[apart > 0])))
    return accel_remarks(rate_hz, accel.gravity, part=contract.part)


def minute_table(batch: SegmentBatch, encoder: Embeds, modality: str) -> pa.Table:
    """Embeds the minutes of a recording.

    Args:
        batch: from `minutes_of`.
        encoder: reads `modality`.
        modality: "accel" or "ppg".

    Returns:
        The table of `embedded_minutes`. Its quality is the clarity of the pulse in the signal that the encoder reads; it has
        predictions of every label that the encoder has read-outs of. A label per person is predicted from this recording alone.
    """
    embeddings = encoder.encode(getattr(batch, modality))
    quality = batch.columns["accel_quality" if modality == "accel" else "ppg_quality"]
    motion = batch.columns["motion_g"]
    predictions = encoder.predict_embeddings(embeddings, motion_g=motion) if encoder.predicts else {}
    columns = {name: batch.columns[name] for name in ("participant", "recording", "start_unix_s")}
    return embedded_minutes(columns | {"quality": quality, "motion": motion}, embeddings, predictions)


def embed_files(
    encoder: Embeds,
    contract: InputContract,
    path: str | os.PathLike[str],
    *,
    reader: str | None,
    options: Mapping[str, Any],
) -> pa.Table:
    """Embeds all recordings below a path; see `TrainedEncoder.embed_recording`.

    Raises:
        UserError: as there.
    """
    root = expanded(path)
    name = recordings.named_or_added(reader) if reader else recognise([root], options).reader
    found = recordings.find(name, root, **options)
    if encoder.no_readouts:
        warnings.warn(f"no predictions of heart rate and the like: {encoder.no_readouts}", SignalWarning, stacklevel=3)
    tables, rejected = [], Counter()
    for source in found:
        batch = minutes_of(source.load(), contract)
        rejected.update(batch.rejected)
        tables.append(minute_table(batch, encoder, contract.modality))
    table = pa.concat_tables(tables)
    rejected = +rejected
    if table.num_rows and rejected:
        counts = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
        warnings.warn(
            f"{root}: {rejected.total()} of {table.num_rows + rejected.total()} minutes are left out: {counts}",
            SignalWarning,
            stacklevel=3,
        )
    if not table.num_rows:
        raise UserError(f"{root}: no minute passes the checks: {why_rejected(rejected, contract.settings.to_json())}")
    return table
