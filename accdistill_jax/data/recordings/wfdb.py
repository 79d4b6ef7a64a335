"""WFDB records, the format of PhysioNet: `.hea` with its `.dat`; signals are found by their names.

Each header is a recording. PPG: names with ppg, pleth or bvp. Acceleration: three names with acc and an axis, such as "wrist_acc_x"; its
unit is the file's (g, mg, m/s2). Flags choose otherwise. Formats 16, 24, 32, 61, 80 and 212, several samples per frame, and checksums are
read; records of several segments are refused. Times have no time zone: --utc-offset-h says how far the clock is ahead of UTC.

Source: PhysioNet, WFDB Applications Guide, header(5) and signal(5).
"""

import dataclasses
import datetime
import re
from pathlib import Path

import numpy as np

from accdistill_jax.data.recording import Participant, Recording, RecordingSource, named
from accdistill_jax.data.recordings.common.files import Naming, file_sources, files_ending, read_bytes
from accdistill_jax.data.recordings.common.signals import Choice, Signal, chosen_names, signal_streams
from accdistill_jax.data.tree import Tree, sibling
from accdistill_jax.errors import UserError

CAN_CRASH = False
_BITS = {16: 16, 24: 24, 32: 32, 61: 16, 80: 8, 212: 12}
_LINE = re.compile(
    r"(?P<file>\S+)\s+(?P<format>\d+)(?:x(?P<frame>\d+))?(?::(?P<skew>\d+))?(?:\+(?P<offset>\d+))?"
    r"(?:\s+(?P<gain>[-\d.eE+]+)(?:\((?P<baseline>-?\d+)\))?(?:/(?P<unit>\S+))?"
    r"(?:\s+(?P<resolution>\d+)(?:\s+(?P<zero>-?\d+)(?:\s+(?P<first>-?\d+)(?:\s+(?P<checksum>-?\d+)"
    r"(?:\s+(?P<block>\d+)(?:\s+(?P<name>.+))?)?)?)?)?)?)?\s*"
)


@dataclasses.dataclass(frozen=True)
class _WfdbHeader:
    """A header: rate of frames, number of frames (0: not stated), start in unix seconds (None: unknown), lines of signals."""

    rate_hz: float
    frames: int
    start_unix_s: float | None
    signals: list[dict[str, str]]


def find(
    tree: Tree,
    *,
    participant_from: Naming = "auto",
    utc_offset_h: float = 0.0,
    ppg_signals: tuple[str, ...] = (),
    accel_signals: tuple[str, ...] = (),
    accel_unit: str = "",
) -> list[RecordingSource]:
    """Finds `.hea` files at any depth.

    Args:
        tree: the files to search.
        participant_from: the participant's id: the file's name, its prefix up to the first "_", or its parent folder;
            auto is the name, and asks in a preparation if names hold dates.
        utc_offset_h: hours that the clock is ahead of UTC.
        ppg_signals: names of the PPG signals; found by their names if not given.
        accel_signals: names of the axes x, y and z; found by their names if not given.
        accel_unit: unit of the acceleration (g, mg, m/s2) if the file's is wrong or missing.
    """
    choice = Choice(ppg_signals, accel_signals, accel_unit)
    files = files_ending(tree, ".hea")
    tree.claim(*(path.with_suffix(".dat") for path in files))
    tree.expect(".dat", reason="there is no .hea of the same name beside it")
    return file_sources(tree, files, load, participant_from, choice=choice, utc_offset_h=utc_offset_h)


def load(path: Path, recording_id: str, participant_id: str, *, choice: Choice, utc_offset_h: float) -> Recording:
    """Reads one record.

    Raises:
        UserError: a file is missing, cut off or damaged, has an unknown format, or lacks the signals; the message names the file.
    """
    with named(path):
        header = _header(read_bytes(path).decode("utf-8-sig", errors="replace").splitlines())
        names = [signal["name"] for signal in header.signals]
        ppg, accel = chosen_names(names, choice)
        counts = _counts(path, header)
        sets = [[_signal(header, counts, names.index(name)) for name in chosen] for chosen in (ppg, accel)]
        streams = signal_streams(sets[0], sets[1], choice.accel_unit)
        start = 0.0 if header.start_unix_s is None else header.start_unix_s - 3600 * utc_offset_h
        return Recording(recording_id, Participant(participant_id), "WFDB", "wfdb", start, streams)


def _header(lines: list[str]) -> _WfdbHeader:
    lines = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    parts = lines[0].split() if lines else []
    if len(parts) < 2 or not parts[1].isdecimal():
        raise UserError("is no WFDB header: its first line must hold a name and the number of signals")
    if "/" in parts[0]:
        raise UserError("is a record of several segments, which is not read: join the segments first")
    rate = re.match(r"[\d.]+", parts[2]) if len(parts) > 2 else None
    if not rate or float(rate[0]) <= 0:
        raise UserError("line 1: the sampling rate is missing")
    count = int(parts[1])
    signals = []
    for number, line in enumerate(lines[1 : count + 1], 2):
        match = _LINE.fullmatch(line)
        if not match:
            raise UserError(f"line {number}: cannot be read as a signal ({line[:60]!r})")
        if int(match["format"]) not in _BITS:
            raise UserError(
                f"line {number}: the format {match['format']} is not read; convert it to format 16 with xform"
            )
        if match["skew"] or match["offset"]:
            raise UserError(f"line {number}: a skew or offset of signals is not read; convert the record with xform")
        signals.append({key: value for key, value in match.groupdict().items() if value is not None})
        signals[-1].setdefault("name", f"signal {number - 1}")
    if not signals or len(signals) < count:
        raise UserError(f"states {count} signals, but describes {len(signals)}: it is cut off")
    frames = int(parts[3]) if len(parts) > 3 and parts[3].isdecimal() else 0
    return _WfdbHeader(float(rate[0]), frames, _start(parts[4:6]), signals)


def _start(parts: list[str]) -> float | None:
    if len(parts) < 2:
        return None  # a time without a date
    try:
        moment = datetime.datetime.strptime(
            " ".join(parts)[:26], "%H:%M:%S.%f %d/%m/%Y" if "." in parts[0] else "%H:%M:%S %d/%m/%Y"
        )
    except ValueError:
        raise UserError(f"line 1: the start {' '.join(parts)!r} is no time and date") from None
    return moment.replace(tzinfo=datetime.UTC).timestamp()


def _counts(path: Path, header: _WfdbHeader) -> list[np.ndarray]:
    """Counts of each signal [samples], checked against the header's first values and checksums."""
    counts: list[np.ndarray] = []
    files = list(dict.fromkeys(signal["file"] for signal in header.signals))
    for name in files:
        inside = [signal for signal in header.signals if signal["file"] == name]
        if "/" in name or len({signal["format"] for signal in inside}) > 1:
            raise UserError(f"the signals of {name} have several formats, or lie in another folder")
        sizes = [int(signal.get("frame", 1)) for signal in inside]
        file = sibling(path.with_name(name))
        samples = _decoded(read_bytes(file), int(inside[0]["format"]))
        frames = header.frames or len(samples) // sum(sizes)
        if not 0 < frames * sum(sizes) <= len(samples):
            raise UserError(
                f"{name} is cut off: {frames} frames of {sum(sizes)} samples are stated, it holds {len(samples)} samples"
            )
        table = samples[: frames * sum(sizes)].reshape(frames, sum(sizes))
        at = 0
        for signal, size in zip(inside, sizes, strict=True):
            one = table[:, at : at + size].reshape(-1)
            at += size
            stated = signal.get("checksum")
            if stated is not None and (int(one.sum()) - int(stated)) & 0xFFFF:
                raise UserError(f"{name}: the signal {signal['name']!r} has a wrong checksum; copy the file again")
            counts.append(one)
    order = [i for name in files for i, signal in enumerate(header.signals) if signal["file"] == name]
    return [counts[order.index(i)] for i in range(len(order))]


def _decoded(content: bytes, form: int) -> np.ndarray:
    """Counts [samples] int64 of a signal file."""
    if form in (16, 61):
        return np.frombuffer(content[: len(content) // 2 * 2], "<i2" if form == 16 else ">i2").astype(np.int64)
    if form == 32:
        return np.frombuffer(content[: len(content) // 4 * 4], "<i4").astype(np.int64)
    octets = np.frombuffer(content, np.uint8).astype(np.int64)
    if form == 80:
        return octets - 128
    odd = form == 212 and len(octets) % 3 == 2  # an odd number of 12-bit samples
    octets = (np.append(octets, 0) if odd else octets[: len(octets) // 3 * 3]).reshape(-1, 3)
    if form == 24:
        return ((octets[:, 0] | octets[:, 1] << 8 | octets[:, 2] << 16) ^ 0x800000) - 0x800000
    pair = np.stack([octets[:, 0] | (octets[:, 1] & 0x0F) << 8, octets[:, 2] | (octets[:, 1] & 0xF0) << 4], -1)
    return (((pair ^ 0x800) - 0x800).reshape(-1))[: -1 if odd else None]


def _signal(header: _WfdbHeader, counts: list[np.ndarray], index: int) -> Signal:
    signal = header.signals[index]
    gain = float(signal.get("gain", 0)) or 200.0  # the format's default
    baseline = int(signal.get("baseline", signal.get("zero", 0)))
    missing = counts[index] == -(2 ** (_BITS[int(signal["format"])] - 1))
    values = np.where(missing, np.nan, (counts[index] - baseline) / gain)
    return Signal(signal["name"], signal.get("unit", "mV"), values, header.rate_hz * int(signal.get("frame", 1)))
