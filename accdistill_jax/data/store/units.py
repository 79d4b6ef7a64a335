"""A unit (a recording or a synthetic participant) as one staged file."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from accdistill_jax.data.preprocessing.quantise import quantise
from accdistill_jax.data.preprocessing.segments import SegmentBatch
from accdistill_jax.data.preprocessing.settings import NO_PPG
from accdistill_jax.data.store.checks import held_signals
from accdistill_jax.data.store.content import content_hashes
from accdistill_jax.data.store.manifest import SIGNALS, checksum
from accdistill_jax.data.store.store import CRC, segment_crc
from accdistill_jax.errors import UserError
from accdistill_jax.storage.checked_npz import DamagedNpz, encode_npz, npz_names, read_npz, verify_npz

_CONTENT = "content"
_ABOUT = ("unit", "channels", "participant", "columns", "segments", "examined", "rejected", "notes")


@dataclasses.dataclass
class Unit:
    """A staged unit.

    Attributes:
        about: unit, channels, participant, segments, examined, rejected, notes; and mended_stamps by stream if there are any.
        columns: columns of the segment table, each [segments], including the checksums of the segments.
        arrays: accel, and ppg if the unit has it, int16 [segments, samples, channels] with their scales and offsets; {} if they are
            not loaded.
        content: [segments, 2] uint64, hashes of the segments' signals (content.py).
    """

    about: dict
    columns: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]
    content: np.ndarray


def unit_file(unit_id: str) -> str:
    """File name of a unit, readable and unique."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", unit_id)[:80]
    return f"{readable}-{checksum(unit_id.encode())[:12]}.npz"


def encode_unit(unit_id: str, batch: SegmentBatch, *, samples: int, signals: Mapping[str, int] | None = None) -> bytes:
    """Quantises a unit's segments.

    Args:
        unit_id: unique name of the unit.
        batch: ppg [segments, samples, channels] and accel [segments, samples, 3] in g, float32; no PPG has 0 channels.
        samples: samples per segment.
        signals: signal name -> hash of the recording's signal (`content.signal_hash`), to find repeated recordings.

    Returns:
        Content of the unit's file: an npz with a checksum of the whole file (see `checked_npz`).

    Raises:
        UserError: wrong shapes or non-finite samples.
        ValueError: the batch's counts do not add up.
    """
    segments = len(batch.accel)
    numbered = [f"ppg{number}" for number in range(batch.ppg.shape[-1])]
    channels = {"ppg": list(batch.ppg_channels) or numbered, "accel": ["x", "y", "z"]}
    arrays = {}
    stored = held_signals(channels)
    for name in stored:
        values = np.asarray(getattr(batch, name))
        expected = (segments, samples, len(channels[name]))
        if values.shape != expected:
            raise UserError(
                f"{unit_id}: {name} is {values.shape}, expected {expected} (channels {', '.join(channels[name])})"
            )
        quantised = quantise(values, name=f"{unit_id}: {name}")
        arrays[name] = quantised.values
        arrays[f"{name}_scale"], arrays[f"{name}_offset"] = quantised.scale, quantised.offset
    for name, column in batch.columns.items():
        column = np.asarray(column)
        if column.shape != (segments,):
            raise ValueError(f"{unit_id}: column {name} is {column.shape} for {segments} segments")
        arrays[f"column_{name}"] = column.astype(str) if column.dtype.kind in "OU" else column
    crcs = map(segment_crc, *(arrays[name] for name in stored))
    arrays[f"column_{CRC}"] = np.fromiter(crcs, np.uint32, segments)
    arrays[_CONTENT] = content_hashes(arrays.get("ppg"), arrays["accel"])
    rejected = {reason: int(count) for reason, count in batch.rejected.items()}
    if int(batch.examined) != segments + sum(rejected.values()):
        raise ValueError(
            f"{unit_id}: {batch.examined} segments examined, but {segments} kept and {sum(rejected.values())} rejected"
        )
    participant: dict[str, Any] = dataclasses.asdict(batch.participant)
    participant["conditions"] = {key: bool(value) for key, value in participant["conditions"].items()}
    if not batch.participant.labels:  # as in units of earlier versions
        participant.pop("labels")
    about = {
        "unit": unit_id,
        "channels": channels,
        "participant": participant,
        "columns": [*batch.columns, CRC],
        "segments": segments,
        "examined": int(batch.examined),
        "rejected": rejected,
        "notes": dict(batch.notes),
        "signals": dict(signals or {}),
    }
    if batch.mended_stamps:
        about["mended_stamps"] = {name: int(count) for name, count in batch.mended_stamps.items()}
    return encode_npz(arrays | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)})


def decode_unit(file: BinaryIO, *, signals: bool) -> Unit:
    """Reads a staged unit.

    Args:
        file: seekable binary file; it is closed afterwards.
        signals: True reads the arrays too, and compares the whole file with its checksum first. A unit of an earlier version
            has no checksum; it is compared with the checksums of its segments. False reads the other entries only.

    Raises:
        DamagedNpz: the file is damaged.
    """
    with file:
        try:
            sealed = signals and verify_npz(file)
            names = npz_names(file)
            about = _parse_about(read_npz(file, ["about"])["about"])
            file.seek(0)
            columns = [f"column_{name}" for name in about["columns"]]
            stored = held_signals(about["channels"])
            expected = [f"{signal}{part}" for signal in stored for part in ("", "_scale", "_offset")]
            if names - {_CONTENT} != {"about", *columns, *expected}:
                raise DamagedNpz("arrays are missing or superfluous")
            hashed = _CONTENT in names  # units of an earlier version have no hashes
            arrays = read_npz(
                file, [*columns, *([_CONTENT] if hashed else []), *(expected if signals or not hashed else ())]
            )
        except OSError as error:
            raise DamagedNpz(error.strerror or str(error)) from error
    content = arrays.pop(_CONTENT, np.zeros((about["segments"], len(SIGNALS)), np.uint64))
    unit = Unit(about, {name: arrays.pop(f"column_{name}") for name in about["columns"]}, arrays, content)
    _check_shapes(unit)
    if not hashed:
        unit.content = content_hashes(arrays.get("ppg"), arrays["accel"])
    if not signals:
        unit.arrays = {}
    if signals and not sealed:
        checksums = np.fromiter(map(segment_crc, *(unit.arrays[name] for name in stored)), np.uint32)
        if not np.array_equal(checksums, unit.columns[CRC]):
            raise DamagedNpz("a segment is not what was written")
    return unit


def same_unit(first: Unit, second: Unit) -> bool:
    """True if two readings of a unit have equal columns, hashes and properties."""
    return (
        first.about == second.about
        and np.array_equal(first.content, second.content)
        and all(
            np.array_equal(column, second.columns[name], equal_nan=column.dtype.kind == "f")
            for name, column in first.columns.items()
        )
    )


def common_channels(abouts: Sequence[dict]) -> dict[str, list[str]]:
    """Names of the channels that all units have, by signal, from their `about`.

    Raises:
        UserError: units with different channels.
    """
    first = abouts[0]
    for about in abouts[1:]:
        for name in SIGNALS:
            a, b = first["channels"][name], about["channels"][name]
            if a != b:
                common = "or choose what they have in common with --ppg-channels"
                if not (a and b):
                    common = f"or leave out the PPG of all with --ppg-channels {NO_PPG}"
                raise UserError(
                    f"{name} channels differ: {first['unit']} has {', '.join(a) or 'none'}, {about['unit']} has "
                    f"{', '.join(b) or 'none'}; prepare them as separate stores, {common}"
                )
    return first["channels"]


def _parse_about(content: np.ndarray) -> dict:
    try:
        about = json.loads(content.tobytes())
        if (
            not set(_ABOUT) <= about.keys()
            or CRC not in about["columns"]
            or not set(SIGNALS) <= about["channels"].keys()
            or not about["channels"]["accel"]
        ):
            raise ValueError("keys are missing")
        if not all(type(value) is int and 0 <= value < 2**64 for value in about.get("signals", {}).values()):
            raise ValueError("a hash is no number")
        if type(about["segments"]) is not int or about["segments"] < 0:
            raise ValueError("segments are no number")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedNpz(f"what is about it cannot be read ({error})") from error
    return about


def _check_shapes(unit: Unit) -> None:
    segments, samples = unit.about["segments"], None
    if unit.content.shape != (segments, len(SIGNALS)) or unit.content.dtype != np.uint64:
        raise DamagedNpz(f"the hashes are {unit.content.dtype.name} {unit.content.shape} for {segments} segments")
    for name, column in unit.columns.items():
        if column.shape != (segments,) or (name == CRC and column.dtype != np.uint32):
            raise DamagedNpz(f"column {name} is {column.dtype.name} {column.shape} for {segments} segments")
    for name, values in unit.arrays.items():
        signal, _, part = name.partition("_")
        channels = len(unit.about["channels"][signal])
        samples = samples or (values.shape[1] if not part and values.ndim == 3 else None)
        shape = (segments, channels) if part else (segments, samples, channels)
        if values.shape != shape or values.dtype != (np.float32 if part else np.int16):
            raise DamagedNpz(f"{name} is {values.dtype.name} {values.shape}, not {shape}")
