"""EDF, EDF+ and BDF files: signals are found by their labels.

Each file is a recording. PPG: labels with ppg, pleth or bvp. Acceleration: three labels with acc and an axis, such as "Acc x"; its unit
is the file's (g, mg, m/s2). Flags choose otherwise. Records of a discontinuous EDF+D file keep their own times. Times have no time zone:
--utc-offset-h says how far the clock is ahead of UTC.

Source: Kemp et al., "A simple format for exchange of digitized polygraphic recordings", 1992, and the EDF+ specification, 2003.
"""

import datetime
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from accdistill_jax.data.recording import Participant, Recording, RecordingSource, named
from accdistill_jax.data.recordings.common.files import Naming, file_sources, files_ending, read_bytes
from accdistill_jax.data.recordings.common.signals import Choice, Signal, chosen_names, signal_streams
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

CAN_CRASH = False
HEADER_BYTES = SIGNAL_BYTES = 256
_FIELDS = {
    "label": 16,
    "transducer": 80,
    "unit": 8,
    "low": 8,
    "high": 8,
    "digital_low": 8,
    "digital_high": 8,
    "filter": 80,
    "samples": 8,
    "reserved": 32,
}
_ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


class _EdfHeader(NamedTuple):
    start_unix_s: float
    records: int
    record_s: float
    discontinuous: bool
    sample_bytes: int
    signals: list[dict[str, str]]
    size: int


def find(
    tree: Tree,
    *,
    participant_from: Naming = "auto",
    utc_offset_h: float = 0.0,
    ppg_signals: tuple[str, ...] = (),
    accel_signals: tuple[str, ...] = (),
    accel_unit: str = "",
) -> list[RecordingSource]:
    """Finds `.edf`, `.rec` and `.bdf` files at any depth.

    Args:
        tree: the files to search.
        participant_from: the participant's id: the file's name, its prefix up to the first "_", or its parent folder;
            auto is the name, and asks in a preparation if names hold dates.
        utc_offset_h: hours that the clock is ahead of UTC.
        ppg_signals: labels of the PPG signals; found by their names if not given.
        accel_signals: labels of the axes x, y and z; found by their names if not given.
        accel_unit: unit of the acceleration (g, mg, m/s2) if the file's is wrong or missing.
    """
    choice = Choice(ppg_signals, accel_signals, accel_unit)
    files = files_ending(tree, ".edf", ".rec", ".bdf")
    return file_sources(tree, files, load, participant_from, choice=choice, utc_offset_h=utc_offset_h)


def load(path: Path, recording_id: str, participant_id: str, *, choice: Choice, utc_offset_h: float) -> Recording:
    """Reads one file.

    Raises:
        UserError: the file is no EDF file, is cut off, or lacks the signals; the message names the file and the field.
    """
    content = read_bytes(path)
    with named(path):
        header = _header(content)
        labels = [signal["label"] for signal in header.signals if signal["label"] not in _ANNOTATIONS]
        ppg, accel = chosen_names(labels, choice)
        data = np.frombuffer(content, np.uint8, offset=header.size).reshape(header.records, -1)
        onsets = _onsets(data, header)
        start = header.start_unix_s + onsets[0] - 3600 * utc_offset_h
        onsets = onsets - onsets[0]
        sets = [[_signal(data, header, label, onsets) for label in chosen] for chosen in (ppg, accel)]
        streams = signal_streams(sets[0], sets[1], choice.accel_unit)
        return Recording(recording_id, Participant(participant_id), "EDF", "edf", start, streams)


def _header(content: bytes) -> _EdfHeader:
    if len(content) < HEADER_BYTES or content[:8] not in (b"0       ", b"\xffBIOSEMI"):
        raise UserError("is no EDF or BDF file: its first 8 bytes are not the version")
    text = content[:HEADER_BYTES].decode("latin-1")
    count = _whole(text[252:256], "number of signals")
    size = HEADER_BYTES + count * SIGNAL_BYTES
    if count < 1 or len(content) < size or _whole(text[184:192], "size of the header") != size:
        raise UserError(f"the header is damaged or cut off: {count} signals need {size} bytes")
    columns, at = {}, HEADER_BYTES
    for field, width in _FIELDS.items():
        part = content[at : at + width * count].decode("latin-1")
        columns[field] = [part[i * width : (i + 1) * width].strip() for i in range(count)]
        at += width * count
    signals = [{field: columns[field][i] for field in _FIELDS} for i in range(count)]
    records, record_s = _whole(text[236:244], "number of data records"), _number(text[244:252], "duration of a record")
    if records == -1:
        raise UserError(
            "states -1 data records: the recording was not closed; repair it with the program that wrote it"
        )
    sample_bytes = 3 if content[0] == 0xFF else 2
    expected = size + records * sample_bytes * sum(
        _whole(signal["samples"], "samples in a record") for signal in signals
    )
    if records < 1 or record_s <= 0 or len(content) != expected:
        raise UserError(
            f"has {len(content)} bytes, but {records} records of {record_s:g} s need {expected}: it is cut off or damaged; copy it again"
        )
    start = _start(text[168:176], text[176:184], text[88:168])
    return _EdfHeader(start, records, record_s, text[192:197] in ("EDF+D", "BDF+D"), sample_bytes, signals, size)


def _number(text: str, name: str) -> float:
    if not re.fullmatch(r"\s*[-+]?\d*\.?\d+([eE][-+]?\d+)?\s*", text):
        raise UserError(f"the {name} must be a number, got {text.strip()!r}: the header is damaged")
    return float(text)


def _whole(text: str, name: str) -> int:
    number = _number(text, name)
    if number != int(number):
        raise UserError(f"the {name} must be a whole number, got {text.strip()!r}")
    return int(number)


def _start(date: str, time: str, recording: str) -> float:
    """Unix seconds of the start, on the clock of the file. EDF+ states the year with four digits."""
    full = re.match(r"Startdate (\d\d)-([A-Z]{3})-(\d{4})", recording)
    try:
        day, month, year = (int(part) for part in date.split("."))
        year += 1900 if year >= 85 else 2000
        if full and full[2] in _MONTHS:
            day, month, year = int(full[1]), _MONTHS.index(full[2]) + 1, int(full[3])
        hour, minute, second = (int(part) for part in time.split("."))
        return datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC).timestamp()
    except ValueError:
        raise UserError(f"the start {date!r} {time!r} is no date dd.mm.yy hh.mm.ss: the header is damaged") from None


def _places(header: _EdfHeader) -> list[tuple[int, int]]:
    """First byte and number of bytes of each signal in a record."""
    places, at = [], 0
    for signal in header.signals:
        length = header.sample_bytes * int(float(signal["samples"]))
        places.append((at, length))
        at += length
    return places


def _onsets(data: np.ndarray, header: _EdfHeader) -> np.ndarray:
    """Start of each record [records], seconds after the file's start."""
    regular = np.arange(header.records) * header.record_s
    index = next((i for i, signal in enumerate(header.signals) if signal["label"] in _ANNOTATIONS), None)
    if index is None:
        if header.discontinuous:
            raise UserError("is discontinuous (EDF+D), but has no annotations with the records' times")
        return regular
    at, length = _places(header)[index]
    texts = (bytes(data[record, at : at + length]) for record in range(header.records if header.discontinuous else 1))
    found = [re.match(rb"([+-]\d+(?:\.\d*)?)\x14\x14", text) for text in texts]
    missing = next((number for number, match in enumerate(found, 1) if match is None), None)
    if missing is not None:
        raise UserError(f"record {missing} does not begin with its time: the annotations are damaged")
    onsets = np.array([float(match[1]) for match in found if match is not None])
    if not header.discontinuous:
        return regular + onsets[0]
    if (np.diff(onsets) < header.record_s - 1e-6).any():
        raise UserError("its records overlap or go back in time: the annotations are damaged")
    return onsets


def _signal(data: np.ndarray, header: _EdfHeader, label: str, onsets: np.ndarray) -> Signal:
    index = next(i for i, signal in enumerate(header.signals) if signal["label"] == label)
    field, (at, length) = header.signals[index], _places(header)[index]
    octets = np.ascontiguousarray(data[:, at : at + length])
    if header.sample_bytes == 2:
        digital = octets.view("<i2").astype(np.float64)
    else:
        low, middle, high = (octets[:, i::3].astype(np.int32) for i in range(3))
        digital = ((low | middle << 8 | high << 16) ^ 0x800000).astype(np.float64) - 0x800000
    low, high, digital_low, digital_high = (
        _number(field[key], f"{key.replace('_', ' ')} of {label!r}")
        for key in ("low", "high", "digital_low", "digital_high")
    )
    if digital_high <= digital_low or low == high:
        raise UserError(f"the range of {label!r} is empty: the header is damaged")
    values = low + (digital - digital_low) * (high - low) / (digital_high - digital_low)
    rate_hz = values.shape[1] / header.record_s
    times = onsets[:, None] + np.arange(values.shape[1]) / rate_hz if header.discontinuous else None
    return Signal(label, field["unit"], values.reshape(-1), rate_hz, None if times is None else times.reshape(-1))
