"""Empatica EmbracePlus: raw data in Avro files, as Empatica's platform delivers them.

Each file holds at most half an hour. Files of one participant and device whose starts are less than `JOIN_S` apart belong to one
session and become one recording; the time between them stays a gap. A file that starts up to `MOST_OVERLAP_S` before the end of the one
before (the device's clock was set back, or samples are in both) has its samples of that time left out. A folder of the platform (participant_data/DATE/NAME/raw_data/v6)
or any folder with `.avro` files will do. "accel" is in g by the sensor's own scale and range, at the rate that each file states; "ppg" is the
blood volume pulse, whose systole points down; the beats are the device's systolic peaks. Streams start up to some seconds apart: each
has its own time stamps. Gyroscope, EDA, temperature, steps and tags are not read.

The participant is the platform's full id, such as "1-2-anna": study, site and the id within the site, because two sites may number their
people alike. It comes from the file's name, or else from the file itself. Files need the package fastavro: pip install 'accdistill_jax[devices]'.

Source: Empatica, "EmbracePlus: raw data files (Avro)", schema 6.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accdistill_jax.data.recording import Beats, Participant, Recording, RecordingSource, Stream, named
from accdistill_jax.data.recordings.common.files import files_ending, ids_below, read_bytes
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

DEVICE = "Empatica EmbracePlus"
JOIN_S = 2400.0  # a file lasts 1800 s at most
MOST_OVERLAP_S = 1.0
LONGEST_BEAT_S = 3.0
RATE_TOLERANCE = 0.02
SCALE_TOLERANCE = 0.01
NOMINAL_HZ = 64.0
_MAGIC = b"Obj\x01"
_MARKER_BYTES = 16  # Avro writes it at the end of the header and of each block; fastavro does not check the last one
_COUNTS = (-(2**15), 2**15 - 1)  # of the sensor; a scale may name 2**15, which no sample reaches
_SCHEMAS = (6,)  # major versions
_NAME = re.compile(r"(?P<participant>.+)_(?P<start>\d{9,11})")
_FULL_ID = re.compile(r"\d+-\d+-(?P<within_site>.+)")


class _Piece(NamedTuple):
    """A stream in one file: unix start in seconds, rate in Hz, values [samples, channels], lowest and highest value that it can hold."""

    path: Path
    start_s: float
    rate_hz: float
    values: np.ndarray
    range: tuple[float, float] | None = None

    def times_s(self, since_s: float) -> np.ndarray:
        """Time of each sample in seconds since a unix time."""
        return self.start_s - since_s + np.arange(len(self.values)) / self.rate_hz

    @property
    def end_s(self) -> float:
        return self.start_s + len(self.values) / self.rate_hz


def find(tree: Tree) -> list[RecordingSource]:
    """Finds sessions of `.avro` files at any depth.

    A file whose name is not that of the platform, PARTICIPANT_START.avro, is a recording of its own.

    Args:
        tree: the files to search.
    """
    files = files_ending(tree, ".avro")
    tree.claim(*files)
    sources = []
    sessions = list(_sessions(files))
    ids = ids_below(tree.root, [session[0] for session in sessions])
    for session, recording_id in zip(sessions, ids, strict=True):
        participant = _participant(session[0])
        read = functools.partial(load, tuple(session), recording_id, participant)
        sources.append(RecordingSource(recording_id, participant, read))
    return sources


def _sessions(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Files that belong together, in order of their starts."""
    groups: dict[tuple[Path, str], list[tuple[int, Path]]] = {}
    for path in files:
        match = _NAME.fullmatch(path.stem)
        key = (path.parent, match["participant"]) if match else (path, "")
        groups.setdefault(key, []).append((int(match["start"]) if match else 0, path))
    for key in sorted(groups, key=str):
        session: list[Path] = []
        previous = 0
        for start, path in sorted(groups[key]):
            if session and start - previous > JOIN_S:
                yield session
                session = []
            session.append(path)
            previous = start
        yield session


def _participant(path: Path) -> str:
    """The full id in a file's name, such as "1-2-anna" in "1-2-anna_1714159675"; or else the one in the file itself."""
    match = _NAME.fullmatch(path.stem)
    if match is not None and _FULL_ID.fullmatch(match["participant"]):
        return match["participant"]
    try:
        return _enrolled(_record(path))
    except (UserError, KeyError, TypeError):  # loading reports the error
        return match["participant"] if match else path.stem


def _enrolled(record: Mapping[str, Any]) -> str:
    """The full id in a file: study, site and participant; the participant's alone in a file that does not hold the others."""
    enrollment = record["enrollment"]
    parts = [enrollment.get(key) for key in ("studyID", "siteID")] + [enrollment["participantID"]]
    return "-".join(str(part) for part in (parts if all(parts) else parts[-1:]))


def load(paths: tuple[Path, ...], recording_id: str, participant_id: str) -> Recording:
    """Reads the files of one session.

    Raises:
        UserError: fastavro is not installed; or a file is damaged, has another schema, belongs to another participant or device, or
            overlaps the one before; the message names the file.
    """
    pieces: dict[str, list[_Piece]] = {"accel": [], "ppg": []}
    peaks, device = [], ""
    for path in paths:
        record = _record(path)
        with named(path), _missing_keys_named():
            _check(record, path, participant_id)
            serial = str(record["deviceSn"])
            if device not in ("", serial):
                raise UserError(f"written by the device {serial}, the file before by {device}; prepare them apart")
            device = serial
            raw = record["rawData"]
            for name, piece in (("accel", _accel(path, raw["accelerometer"])), ("ppg", _ppg(path, raw["bvp"]))):
                if piece is not None:
                    pieces[name].append(piece)
            peaks.append(np.asarray(raw["systolicPeaks"]["peaksTimeNanos"], np.float64) / 1e9)
    if not pieces["accel"]:
        raise UserError(f"{paths[0]}: no acceleration in the {len(paths)} files of this session")
    start = min(piece[0].start_s for piece in pieces.values() if piece)
    streams = {"accel": _joined(pieces["accel"], start, "accel")}
    if pieces["ppg"]:
        streams["ppg"] = _joined(pieces["ppg"], start, "ppg")
    return Recording(
        recording_id,
        Participant(participant_id),
        DEVICE,
        "empatica_embraceplus",
        start,
        streams,
        _beats(peaks, start, pieces["ppg"]),
    )


def _record(path: Path) -> Mapping[str, Any]:
    """The only record of a file."""
    content = read_bytes(path)
    if not content.startswith(_MAGIC):
        raise UserError(f"{path}: not a whole Avro file (it does not begin as one); copy it from the platform again")
    try:
        import fastavro
    except ImportError as error:
        raise UserError("EmbracePlus files need the package fastavro: pip install 'accdistill_jax[devices]'") from error
    try:
        records = list(fastavro.reader(io.BytesIO(content)))
    except Exception as error:  # fastavro raises many types for damaged files
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: not a whole Avro file ({reason}); copy it from the platform again") from error
    if content.find(content[-_MARKER_BYTES:]) >= len(content) - _MARKER_BYTES:
        raise UserError(
            f"{path}: not a whole Avro file (it does not end with its marker); copy it from the platform again"
        )
    if len(records) != 1 or not isinstance(records[0], Mapping):
        raise UserError(
            f"{path}: {len(records)} records, a file of the EmbracePlus has one; copy it from the platform again"
        )
    return records[0]


def _check(record: Mapping[str, Any], path: Path, participant_id: str) -> None:
    try:
        major = record["schemaVersion"]["major"]
        within_site = str(record["enrollment"]["participantID"])
        enrolled = _enrolled(record)
        raw = record["rawData"]
        present = {"accelerometer", "bvp", "systolicPeaks"} <= set(raw) and "deviceSn" in record
    except (KeyError, TypeError) as error:
        raise UserError(f"not raw data of an EmbracePlus: {error} is missing") from error
    if major not in _SCHEMAS:
        raise UserError(f"schema version {major}, this reader knows {', '.join(map(str, _SCHEMAS))}")
    if not present:
        raise UserError("not raw data of an EmbracePlus: accelerometer, bvp, systolicPeaks or deviceSn is missing")
    match = _NAME.fullmatch(path.stem)
    said = match["participant"] if match else participant_id
    full = _FULL_ID.fullmatch(said)
    if said not in (within_site, enrolled) and not (full and full["within_site"] == within_site):
        raise UserError(f"the file is of participant {enrolled!r}, its name says {said!r}; rename one of them")
    if not full and enrolled != participant_id:
        raise UserError(
            f"the file is of participant {enrolled!r}, the files before of {participant_id!r}; put them apart"
        )


@contextlib.contextmanager
def _missing_keys_named() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"not raw data of an EmbracePlus: {error} is missing or malformed") from error


def _timing(sensor: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Unix start in seconds, and rate in Hz."""
    start, rate = float(sensor["timestampStart"]) / 1e6, float(sensor["samplingFrequency"])
    if not 1e9 < start < 7e9:
        raise UserError(f"{name}: timestampStart {sensor['timestampStart']} is not a time in microseconds since 1970")
    if abs(rate / NOMINAL_HZ - 1) > RATE_TOLERANCE:
        raise UserError(f"{name}: samplingFrequency {rate:g} Hz, the EmbracePlus samples at {NOMINAL_HZ:g} Hz")
    return start, rate


def _accel(path: Path, sensor: Mapping[str, Any]) -> _Piece | None:
    counts = [np.asarray(sensor[axis], np.float64) for axis in "xyz"]
    if len({len(axis) for axis in counts}) != 1:
        raise UserError(f"accelerometer: x, y and z have {', '.join(str(len(axis)) for axis in counts)} samples")
    if not len(counts[0]):
        return None
    scale = sensor["imuParams"]
    low, high = float(scale["digitalMin"]), float(scale["digitalMax"])
    physical_low, physical_high = float(scale["physicalMin"]), float(scale["physicalMax"])
    if not (low < high and physical_low < physical_high and physical_high <= 32):
        raise UserError(f"accelerometer: imuParams {dict(scale)} are no scale from counts to g")
    values = np.stack(counts, axis=1)
    if values.min() < low or values.max() > high:
        raise UserError(f"accelerometer: counts from {values.min():g} to {values.max():g}, outside {low:g} to {high:g}")
    factor = scale.get("conversionFactor")  # of newer schemas; the older ones have a span of counts alone
    if factor is not None and abs(factor * (high - low) / (physical_high - physical_low) - 1) > SCALE_TOLERANCE:
        raise UserError(f"accelerometer: imuParams {dict(scale)} contradict each other")

    def in_g(count: np.ndarray) -> np.ndarray:
        if factor is not None:
            return (factor * count).astype(np.float32)
        return ((count - low) / (high - low) * (physical_high - physical_low) + physical_low).astype(np.float32)

    ends = in_g(np.array([max(low, _COUNTS[0]), min(high, _COUNTS[1])]))
    return _Piece(path, *_timing(sensor, "accelerometer"), in_g(values), (float(ends[0]), float(ends[1])))


def _ppg(path: Path, sensor: Mapping[str, Any]) -> _Piece | None:
    values = np.asarray(sensor["values"], np.float64)
    return _Piece(path, *_timing(sensor, "bvp"), values[:, None]) if len(values) else None


def _joined(pieces: Sequence[_Piece], start_s: float, name: str) -> Stream:
    """One stream of all files, with a time stamp for each sample, each later than the one before."""
    first = pieces[0]
    times, values, before = [first.times_s(start_s)], [first.values], first
    for piece in pieces[1:]:
        if before.end_s - piece.start_s > MOST_OVERLAP_S:
            raise UserError(
                f"{piece.path}: {name} starts {before.end_s - piece.start_s:.1f} s before {before.path.name} ends; "
                "is one of them a copy?"
            )
        if piece.range != first.range:
            raise UserError(
                f"{piece.path}: {name} has the range {piece.range}, in {first.path.name} {first.range}; prepare them apart"
            )
        moments = piece.times_s(start_s)
        new = moments > before.end_s - start_s - 0.5 / before.rate_hz  # the next sample is due at the end
        times.append(moments[new])
        values.append(piece.values[new])
        before = max(before, piece, key=lambda one: one.end_s)
    accel = name == "accel"
    return Stream(
        name=name,
        values=np.concatenate(values).astype(np.float32),
        channels=("x", "y", "z") if accel else ("bvp",),
        unit="g" if accel else "a.u.",
        time_s=np.concatenate(times),
        range=first.range,
        polarity=None if accel else "systole_down",
    )


def _beats(peaks: Sequence[np.ndarray], start_s: float, pieces: Sequence[_Piece]) -> Beats | None:
    """Intervals between systolic peaks; longer ones than `LONGEST_BEAT_S` have a missed peak or a gap inside.

    Peaks in a time that two of the PPG's `pieces` tell of, and intervals across it, are left out: these clocks disagree.
    """
    times = np.unique(np.concatenate(peaks)) - start_s
    seams = [
        (after.start_s - start_s, before.end_s - start_s)
        for before, after in zip(pieces, pieces[1:], strict=False)
        if before.end_s - after.start_s > 0.5 / before.rate_hz
    ]
    for first, end in seams:
        times = times[(times < first) | (times >= end)]
    intervals = np.diff(times)
    kept = intervals <= LONGEST_BEAT_S
    for first, end in seams:
        kept &= (times[1:] < first) | (times[:-1] >= end)
    return Beats(times[1:][kept], intervals[kept]) if kept.any() else None
