"""Recordings in files: finds their reader, and embeds their minutes into a table that says whose minute each row is."""

import dataclasses
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from accdistill_jax.api.signals import InputContract
from accdistill_jax.data import recordings
from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.segments import SegmentBatch
from accdistill_jax.data.preprocessing.settings import NO_PPG, PreprocessSettings
from accdistill_jax.data.recording import Recording
from accdistill_jax.data.store.remarks import why_rejected
from accdistill_jax.errors import SignalWarning, UserError
from accdistill_jax.user_paths import expanded

PLAIN = "plain"
DESCRIBED = "generic"  # finds a recording only where the user has described it
TABLES = tuple(
    ending + packed
    for ending in (".csv", ".tsv", ".txt", ".parquet", ".pq")
    for packed in ("", ".gz", ".bz2", ".zst", ".lz4")
)
_UNITS = {"quality": "0 to 1", "motion": "g"}


class Embeds(Protocol):
    """An encoder of segments; see `accdistill_jax.api.encoder.TrainedEncoder`."""

    @property
    def embedding_size(self) -> int:
        """Length of an embedding."""
        ...

    def encode(self, segments: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
        """Embeds segments [n, samples, channels] float32."""
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
            f"recording {recording.recording_id!r} has no PPG, which the {contract.part} reads; embed it by a student"
        )
    batch = preprocess(recording, settings)
    if batch.ppg.shape[2] != contract.channels:
        raise UserError(
            f"recording {recording.recording_id!r} has {batch.ppg.shape[2]} PPG channels ({', '.join(batch.ppg_channels)}), the "
            f"{contract.part} reads {contract.channels}; choose them by ppg_channels"
        )
    return batch


def minute_table(batch: SegmentBatch, encoder: Embeds, modality: str) -> pa.Table:
    """Embeds the minutes of a recording.

    Args:
        batch: from `minutes_of`.
        encoder: reads `modality`.
        modality: "accel" or "ppg".

    Returns:
        A row for each minute: participant, recording (text); start (UTC); quality (0 to 1: clarity of the pulse in the signal that
        the encoder reads), motion (g), embedding (list of embedding_size float32).
    """
    embeddings = encoder.encode(getattr(batch, modality))
    quality = batch.columns["accel_quality" if modality == "accel" else "ppg_quality"]
    return with_minutes(batch.columns | {"quality": quality, "motion": batch.columns["motion_g"]}, embeddings)


def with_minutes(columns: Mapping[str, np.ndarray], embeddings: np.ndarray) -> pa.Table:
    """The table of embedded minutes.

    Args:
        columns: participant, recording, start_unix_s, quality and motion, each [n].
        embeddings: [n, D] float32.
    """
    start = (np.asarray(columns["start_unix_s"], np.float64) * 1e6).round().astype(np.int64)
    arrays = {
        "participant": pa.array(np.asarray(columns["participant"]).astype(str).tolist(), pa.string()),
        "recording": pa.array(np.asarray(columns["recording"]).astype(str).tolist(), pa.string()),
        "start": pa.array(start, pa.int64()).cast(pa.timestamp("us", "UTC")),
        "quality": pa.array(np.asarray(columns["quality"], np.float32)),
        "motion": pa.array(np.asarray(columns["motion"], np.float32)),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1]),
    }
    fields = [
        pa.field(name, array.type, metadata={"unit": _UNITS[name]} if name in _UNITS else None)
        for name, array in arrays.items()
    ]
    return pa.Table.from_arrays(list(arrays.values()), schema=pa.schema(fields))


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
    found = recordings.find(reader or choose_reader([root], options), root, **options)
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


def choose_reader(roots: Sequence[str | os.PathLike[str]], options: Mapping[str, Any]) -> str:
    """The reader of recordings that knows all files.

    Args:
        roots: files and folders.
        options: options of a reader that the user gave; rate or unit alone mean the reader of undescribed tables.

    Raises:
        UserError: no reader knows them, or several do.
    """
    plain_options = recordings.reader(PLAIN).options
    if options and options.keys() <= plain_options.keys():
        return PLAIN
    missing = [root for root in roots if not os.path.lexists(root)]
    if missing:
        raise UserError(f"{missing[0]}: no such file or folder")
    known = [name for name in recordings.names() if name != PLAIN and all(_knows(name, root) for root in roots)]
    if DESCRIBED in known:
        return DESCRIBED
    if len(known) > 1:  # several readers know the ending .csv; a single one reads the content
        known = [name for name in known if _reads(name, roots[0])] or known
    if len(known) == 1:
        return known[0]
    if known:
        raise UserError(f"{roots[0]} may be a recording of {' or '.join(known)}; choose the reader")
    if all(_knows(PLAIN, root) for root in roots):
        return PLAIN
    readers = ", ".join(recordings.names())
    raise UserError(
        f"{', '.join(map(str, roots[:3]))}: no reader knows these files all; choose one of {readers}, or give them apart"
    )


def _knows(name: str, root: str | os.PathLike[str]) -> bool:
    if name == PLAIN and os.path.isfile(root) and not os.fspath(root).lower().endswith(TABLES):
        return False
    try:
        return bool(recordings.find(name, Path(root)))
    except UserError:
        return False


def _reads(name: str, root: str | os.PathLike[str]) -> bool:
    """True if a reader loads the first recording that it finds."""
    try:
        recordings.find(name, Path(root))[0].load()
    except UserError:
        return False
    return True
