"""A unit: what is prepared at once (a recording, a synthetic participant), as one staged file."""

import dataclasses
import json
import re
import zipfile
import zlib
from io import BytesIO

import numpy as np

from accdistill_jax.data.manifest import SIGNALS, checksum
from accdistill_jax.data.quantise import quantise
from accdistill_jax.data.store import CRC, segment_crc
from accdistill_jax.errors import UserError

_DAMAGES = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, KeyError)


@dataclasses.dataclass
class Unit:
    """A staged unit.

    Attributes:
        about: unit, channels, participant, segments, examined, rejected, notes.
        columns: the unit's columns of the segment table, each [segments]; with the checksums of the segments.
        arrays: ppg, accel int16 [segments, samples, channels] and their scales and offsets, as far as loaded.
    """

    about: dict
    columns: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]


def unit_file(unit_id: str) -> str:
    """File name of a unit: readable, and unique for any id."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", unit_id)[:80]
    return f"{readable}-{checksum(unit_id.encode())[:12]}.npz"


def encode_unit(unit_id: str, batch, *, samples: int) -> bytes:
    """Quantises a unit's segments.

    Args:
        unit_id: unique name of the unit.
        batch: `SegmentBatch`; ppg [segments, samples, channels] and accel [segments, samples, 3] in g, float32.
        samples: per segment.

    Returns:
        Content of the unit's file: an uncompressed npz, whose CRC tells later whether it is whole.

    Raises:
        UserError: wrong shapes or non-finite samples.
        ValueError: the batch's counts do not add up.
    """
    segments = len(batch.ppg)
    numbered = [f"ppg{number}" for number in range(batch.ppg.shape[-1])]
    channels = {"ppg": list(batch.ppg_channels) or numbered, "accel": ["x", "y", "z"]}
    arrays = {}
    for name in SIGNALS:
        values = np.asarray(getattr(batch, name))
        expected = (segments, samples, len(channels[name]))
        if values.shape != expected:
            raise UserError(f"{unit_id}: {name} is {values.shape}, expected {expected} "
                            f"(channels {', '.join(channels[name])})")
        quantised = quantise(values, name=f"{unit_id}: {name}")
        arrays[name] = quantised.values
        arrays[f"{name}_scale"], arrays[f"{name}_offset"] = quantised.scale, quantised.offset
    for name, column in batch.columns.items():
        column = np.asarray(column)
        if column.shape != (segments,):
            raise ValueError(f"{unit_id}: column {name} is {column.shape} for {segments} segments")
        arrays[f"column_{name}"] = column.astype(str) if column.dtype.kind in "OU" else column
    arrays[f"column_{CRC}"] = np.fromiter(map(segment_crc, arrays["ppg"], arrays["accel"]), np.uint32, segments)
    rejected = {reason: int(count) for reason, count in batch.rejected.items()}
    if int(batch.examined) != segments + sum(rejected.values()):
        raise ValueError(f"{unit_id}: {batch.examined} segments examined, but {segments} kept and "
                         f"{sum(rejected.values())} rejected")
    participant = dataclasses.asdict(batch.participant)
    participant["conditions"] = {key: bool(value) for key, value in participant["conditions"].items()}
    about = {
        "unit": unit_id, "channels": channels, "participant": participant, "columns": [*batch.columns, CRC],
        "segments": segments, "examined": int(batch.examined), "rejected": rejected,
        "notes": dict(batch.notes),
    }
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    buffer = BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def decode_unit(file, *, signals: bool) -> Unit:
    """Reads a staged unit.

    Args:
        file: seekable binary file.
        signals: whether to read the arrays too, or only what is about them.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with file, np.load(file, allow_pickle=False) as content:
            about = json.loads(content["about"].tobytes())
            columns = {name: content[f"column_{name}"] for name in about["columns"]}
            arrays = {key: content[key] for key in content.files if signals and key.startswith(SIGNALS)}
    except _DAMAGES as error:
        raise ValueError(str(error)) from error
    return Unit(about, columns, arrays)
