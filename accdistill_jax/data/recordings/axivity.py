"""Axivity AX3 and AX6 loggers: `.cwa` files (accelerometer, no PPG).

Each file is a recording. The range, the rate and the packing of the samples are read from each block, so AX3 and AX6 files (with
gyroscope) are told apart by their content. Sample times follow the blocks' time stamps, with fractions of a second where the firmware
writes them, so the logger's true rate is used; lost blocks stay gaps. The clock has no time zone: --utc-offset-h says how far it is
ahead of UTC. A block with a wrong checksum refuses the file, or becomes a gap with --damaged gap.

Source: the maker's description of the format, openmovementproject/openmovement, Docs/ax3/cwa.h.
"""

import datetime
from pathlib import Path
from typing import Literal

import numpy as np

from accdistill_jax.data.recording import Participant, Recording, RecordingSource, Stream, named
from accdistill_jax.data.recordings.common.blocks import block_times
from accdistill_jax.data.recordings.common.files import Naming, file_sources, files_ending, read_bytes
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

CAN_CRASH = False
HEADER_BYTES, BLOCK_BYTES = 1024, 512
# Samples fill the block: 480 bytes.
_BLOCK = np.dtype(
    [
        ("magic", "S2"),
        ("length", "<u2"),
        ("fraction", "<u2"),
        ("session", "<u4"),
        ("sequence", "<u4"),
        ("time", "<u4"),
        ("light", "<u2"),
        ("temperature", "<u2"),
        ("events", "u1"),
        ("battery", "u1"),
        ("rate", "u1"),
        ("packing", "u1"),
        ("offset", "<i2"),
        ("count", "<u2"),
        ("data", "u1", 480),
        ("checksum", "<u2"),
    ]
)
_NAMES = {0x64: "Axivity AX6"}
_BYTES_PER_SAMPLE = {0x30: 4, 0x32: 6, 0x62: 12, 0x92: 18}


def find(
    tree: Tree,
    *,
    participant_from: Naming = "auto",
    utc_offset_h: float = 0.0,
    damaged: Literal["refuse", "gap"] = "refuse",
) -> list[RecordingSource]:
    """Finds `.cwa` files at any depth.

    Args:
        tree: the files to search.
        participant_from: the participant's id: the file's name, its prefix up to the first "_", or its parent folder;
            auto is the name, and asks in a preparation if names hold dates.
        utc_offset_h: hours that the logger's clock is ahead of UTC.
        damaged: refuse a file with damaged blocks, or read them as a gap.
    """
    options = {"utc_offset_h": utc_offset_h, "damaged": damaged}
    return file_sources(tree, files_ending(tree, ".cwa"), load, participant_from, **options)


def load(path: Path, recording_id: str, participant_id: str, *, utc_offset_h: float, damaged: str) -> Recording:
    """Reads one file.

    Raises:
        UserError: the file is no CWA file, is cut off or damaged, or changes its settings; the message names the file and the block.
    """
    content = read_bytes(path)
    with named(path):
        blocks = _blocks(content, damaged)
        rate_hz = 3200 / 2 ** (15 - (int(blocks["rate"][0]) & 0x0F))
        range_g = 16 >> (int(blocks["rate"][0]) >> 6)
        values = _values(blocks)
        stamps, anchors = _stamps(blocks, rate_hz)
        stamps -= 3600 * utc_offset_h
        start = float(np.floor(stamps[0]))
        times = block_times(
            stamps - start,
            anchors,
            blocks["count"],
            rate_hz=rate_hz,
            follows=np.append(False, np.diff(blocks["sequence"].astype(np.int64)) == 1),
        )
        step_g = 2.0**-8 if blocks["packing"][0] in (0x30, 0x32) else 2.0 ** -(8 + (int(blocks["light"][0]) >> 13))
        largest_g = (
            range_g * 511 / 512 if blocks["packing"][0] == 0x30 else range_g - step_g
        )  # 0x30: 10 bits and an exponent
        limits = (-float(range_g), largest_g)
        accel = Stream("accel", values, ("x", "y", "z"), "g", time_s=times, range=limits, scale=step_g)
        return Recording(
            recording_id,
            Participant(participant_id),
            _NAMES.get(content[4], "Axivity AX3"),
            "axivity",
            start,
            {"accel": accel},
        )


def _blocks(content: bytes, damaged: str) -> np.ndarray:
    """The data blocks, checked."""
    if content[:2] != b"MD" or len(content) < HEADER_BYTES:
        raise UserError("is no CWA file: it must begin with the letters MD and a header of 1024 bytes")
    if len(content) == HEADER_BYTES:
        raise UserError("has a header but no data: the logger recorded nothing")
    if len(content) % BLOCK_BYTES:
        raise UserError(
            f"is cut off: {len(content)} bytes are no multiple of {BLOCK_BYTES}; copy it from the logger again"
        )
    blocks = np.frombuffer(content, _BLOCK, offset=HEADER_BYTES)
    words = np.frombuffer(content, "<u2", offset=HEADER_BYTES).reshape(len(blocks), -1)
    bad = (words.sum(1, dtype=np.uint32) & 0xFFFF != 0) | (blocks["magic"] != b"AX") | (blocks["length"] != 508)
    if bad.any() and damaged == "refuse":
        raise UserError(
            f"block {int(np.flatnonzero(bad)[0]) + 1} of {len(blocks)} is damaged (checksum); {int(bad.sum())} in all: copy the "
            "file again, or read damaged blocks as a gap with --damaged gap"
        )
    blocks = blocks[~bad]
    blocks = blocks[blocks["count"] > 0]
    if not len(blocks):
        raise UserError("has no data block without damage")
    for key, meaning in (("rate", "sampling rate or range"), ("packing", "packing of samples"), ("session", "session")):
        other = np.flatnonzero(blocks[key] != blocks[key][0])
        if other.size:
            raise UserError(f"the {meaning} changes within the file, at block {other[0] + 1}; split it there")
    packing = int(blocks["packing"][0])
    if packing not in _BYTES_PER_SAMPLE:
        raise UserError(f"packs its samples in an unknown way (0x{packing:02x}): another firmware? Convert it to CSV")
    if (blocks["count"] * _BYTES_PER_SAMPLE[packing] > 480).any():
        raise UserError("a block states more samples than it can hold; copy the file again")
    return blocks


def _values(blocks: np.ndarray) -> np.ndarray:
    """Acceleration [samples, 3] float32 in g."""
    packing = int(blocks["packing"][0])
    if packing == 0x30:
        packed = np.ascontiguousarray(blocks["data"]).view("<u4")
        exponent = (packed >> 30).astype(np.int32)
        ten_bits = np.stack([(packed >> shift) & 0x3FF for shift in (0, 10, 20)], -1).astype(np.int32)
        counts = (ten_bits - 1024 * (ten_bits >= 512)) << exponent[..., None]
        per_g = np.full(len(blocks), 256.0)
    else:
        axes = packing >> 4
        words = np.ascontiguousarray(blocks["data"]).view("<i2")
        words = words[:, : 240 // axes * axes].reshape(len(blocks), -1, axes)
        counts = words[:, :, :3] if axes == 3 else words[:, :, 3:6]
        per_g = 2.0 ** (8 + (blocks["light"] >> 13).astype(np.float64))
    kept = np.arange(counts.shape[1]) < blocks["count"][:, None]
    return (counts / per_g[:, None, None])[kept].astype(np.float32)


def _stamps(blocks: np.ndarray, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """A time in each block, in seconds since 1970 on the logger's clock, and the sample of the block that it belongs to."""
    seconds = np.array([_seconds(int(packed), number) for number, packed in enumerate(blocks["time"], 1)])
    fraction = np.where(blocks["fraction"] & 0x8000, (blocks["fraction"] & 0x7FFF) / 32768, 0.0)
    # A firmware that writes fractions moves the offset back by as many whole samples, for readers that know whole seconds only.
    return seconds + fraction, blocks["offset"] + np.floor(fraction * rate_hz)


def _seconds(packed: int, number: int) -> float:
    try:
        moment = datetime.datetime(
            2000 + (packed >> 26),
            packed >> 22 & 0x0F,
            packed >> 17 & 0x1F,
            packed >> 12 & 0x1F,
            packed >> 6 & 0x3F,
            packed & 0x3F,
            tzinfo=datetime.UTC,
        )
    except ValueError:
        raise UserError(f"block {number}: the time stamp is no date: was the logger's clock set?") from None
    return moment.timestamp()
