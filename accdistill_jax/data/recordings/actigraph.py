"""ActiGraph loggers: `.gt3x` files and ActiLife's CSV of raw data (accelerometer, no PPG).

Each file is a recording. `.gt3x` of all firmwares: `log.bin` with its checksums (GT3X+ from 3.0, wGT3X-BT, GT9X Link), and `activity.bin`
of older firmware. Seconds without data, such as in idle sleep mode, are gaps. A CSV beside the `.gt3x` of the same name is not read. The
time zone comes from the `.gt3x`; CSV files have none: --utc-offset-h says how far their clock is ahead of UTC.

Source: the maker's descriptions of the formats, actigraph/GT3X-File-Format and actigraph/NHANES-GT3X-File-Format.
"""

import datetime
import re
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from accdistill_jax.data import zips
from accdistill_jax.data.recording import RATES_HZ, Participant, Recording, RecordingSource, Stream, named
from accdistill_jax.data.recordings.common.files import Naming, file_sources, files_ending, first_lines
from accdistill_jax.data.recordings.tables.table import Layout, Table
from accdistill_jax.data.tree import Tree, ending, regular_file
from accdistill_jax.errors import UserError

COLUMNS = ("Accelerometer X", "Accelerometer Y", "Accelerometer Z")
MOST_BYTES = 2 * 2**30
_CSV_HEADER_LINES = 10
_TICKS_TO_1970_S = 62_135_596_800
_ACTIVITY, _ACTIVITY2 = 0, 26
_PER_G = {
    "NEO": 341.0,
    "CLE": 341.0,
    "MRA": 341.0,
    "MOS": 256.0,
    "TAS": 256.0,
}  # by the first letters of the serial number
_RANGE_G = {341.0: 6.0, 256.0: 8.0}
_MOST_DAYS = 400


class _Samples(NamedTuple):
    """Counts [n, 3] float32 in the order x, y, z, NaN where missing; first sample in seconds since 1970 on the device's clock."""

    counts: np.ndarray
    start_s: float


def find(
    tree: Tree,
    *,
    participant_from: Naming = "auto",
    utc_offset_h: float = 0.0,
    damaged: Literal["refuse", "gap"] = "refuse",
) -> list[RecordingSource]:
    """Finds `.gt3x` files, and `.csv` files without a `.gt3x` of the same name, at any depth.

    Args:
        tree: the files to search.
        participant_from: the participant's id: the file's name, its prefix up to the first "_", or its parent folder;
            auto is the name, and asks in a preparation if names hold dates.
        utc_offset_h: hours that the clock is ahead of UTC, for files without a time zone.
        damaged: refuse a `.gt3x` with damaged records, or read them as a gap.
    """
    options = {"utc_offset_h": utc_offset_h, "damaged": damaged}
    files = files_ending(tree, ".gt3x", ".csv")
    binary = {path.with_suffix("") for path in files if ending(path.name) == ".gt3x"}
    copies = [path for path in files if ending(path.name) == ".csv" and path.with_suffix("") in binary]
    for path in copies:
        tree.claim(path)
        tree.leave_out(path, "the .gt3x of the same name is read")
    return file_sources(tree, [path for path in files if path not in copies], load, participant_from, **options)


def load(path: Path, recording_id: str, participant_id: str, *, utc_offset_h: float, damaged: str) -> Recording:
    """Reads one file.

    Raises:
        UserError: the file is damaged, cut off or of an unknown kind; the message names the file and the record or line.
    """
    read = _gt3x if ending(path.name) == ".gt3x" else _csv
    with named(path):
        accel, start, device = read(path, utc_offset_h, damaged)
        return Recording(recording_id, Participant(participant_id), device, "actigraph", start, {"accel": accel})


def _gt3x(path: Path, utc_offset_h: float, damaged: str) -> tuple[Stream, float, str]:
    with zips.damage_named("this .gt3x"), zipfile.ZipFile(regular_file(path)) as archive:
        members = zips.members(archive)
        kind = next((name for name in ("log.bin", "activity.bin") if name in members), None)
        if "info.txt" not in members or kind is None:
            raise UserError("must hold info.txt, and log.bin or activity.bin; copy it from ActiLife again")
        info = _info(zips.unpacked(archive, members["info.txt"], most=2**20))
        content = zips.unpacked(archive, members[kind], most=MOST_BYTES)
    rate_hz = _info_number(info, "Sample Rate")
    if not RATES_HZ[0] <= rate_hz <= 1000 or rate_hz % 1:
        raise UserError(f"info.txt: the sample rate must be whole Hz, got {rate_hz:g}")
    serial = info.get("Serial Number", "")
    per_g = _info_number(info, "Acceleration Scale") if "Acceleration Scale" in info else _PER_G.get(serial[:3])
    if not per_g:
        raise UserError(
            f"info.txt: the scale of the device {serial!r} is unknown; convert the file to CSV with ActiLife"
        )
    samples = _log(content, int(rate_hz), damaged) if kind == "log.bin" else _activity(content, info)
    limit = _info_number(info, "Acceleration Max") if "Acceleration Max" in info else _RANGE_G.get(per_g)
    start = samples.start_s - 3600 * _zone_h(info, utc_offset_h)
    accel = Stream(
        "accel",
        samples.counts / per_g,
        ("x", "y", "z"),
        "g",
        rate_hz=rate_hz,
        range=None if limit is None else (-limit, limit - 1 / per_g),
        scale=1 / per_g,
    )
    return accel, start, f"ActiGraph {info.get('Device Type') or serial[:3]}"


def _info(text: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in text.decode("utf-8-sig", errors="replace").splitlines())
    return {key.strip(): value.strip() for key, colon, value in lines if colon}


def _info_number(info: dict[str, str], key: str) -> float:
    if not re.fullmatch(r"-?\d+(\.\d+)?", info.get(key, "")):
        raise UserError(f"info.txt: {key!r} must be a number, got {info.get(key)!r}")
    return float(info[key])


def _zone_h(info: dict[str, str], otherwise: float) -> float:
    match = re.fullmatch(r"(-?)(\d\d):(\d\d):\d\d", info.get("TimeZone", ""))
    if not match:
        return otherwise
    return (-1 if match[1] else 1) * (int(match[2]) + int(match[3]) / 60)


def _packed(payload: bytes) -> np.ndarray:
    """Counts [n, 3] in the order x, y, z of 12-bit numbers in the order y, x, z."""
    octets = np.frombuffer(payload[: len(payload) // 9 * 9 + (5 if len(payload) % 9 >= 5 else 0)], np.uint8).astype(
        np.int32
    )
    nibbles = np.stack([octets >> 4, octets & 0x0F], -1).reshape(-1)
    nibbles = nibbles[: len(nibbles) // 9 * 9].reshape(-1, 3, 3)
    values = nibbles[..., 0] << 8 | nibbles[..., 1] << 4 | nibbles[..., 2]
    return (values - 4096 * (values >= 2048))[:, [1, 0, 2]]


def _activity(content: bytes, info: dict[str, str]) -> _Samples:
    """`activity.bin`: all samples without a break since the start date."""
    counts = _packed(content)
    if not len(counts):
        raise UserError("activity.bin holds no sample: the device recorded nothing")
    return _Samples(counts.astype(np.float32), _info_number(info, "Start Date") / 1e7 - _TICKS_TO_1970_S)


def _log(content: bytes, rate_hz: int, damaged: str) -> _Samples:
    """`log.bin`: records, of which two kinds hold a second of samples."""
    seconds: list[int] = []
    payloads: list[np.ndarray] = []
    for second, kind, payload in _records(content, damaged):
        if kind == _ACTIVITY2:
            counts = np.frombuffer(payload[: len(payload) // 6 * 6], "<i2").reshape(-1, 3)
        elif kind == _ACTIVITY and len(payload) > 1:  # a payload of one byte notes that a cable was plugged in
            counts = _packed(payload)
        else:
            continue
        if len(counts) > rate_hz:
            raise UserError(f"log.bin: a second holds {len(counts)} samples, but the rate of info.txt is {rate_hz} Hz")
        if seconds and second <= seconds[-1]:
            raise UserError(
                f"log.bin: the clock goes back at record {len(seconds) + 1} of the activity; split the file there"
            )
        seconds.append(second)
        payloads.append(counts)
    if not seconds:
        raise UserError("log.bin holds no activity: the device recorded nothing")
    length = seconds[-1] - seconds[0] + 1
    if length > _MOST_DAYS * 86_400:
        raise UserError(f"log.bin covers {length / 86_400:.0f} days: a time stamp is wrong")
    values = np.full((length, rate_hz, 3), np.nan, np.float32)
    for second, counts in zip(seconds, payloads, strict=True):
        values[second - seconds[0], : len(counts)] = counts
    return _Samples(values.reshape(-1, 3), float(seconds[0]))


def _records(content: bytes, damaged: str) -> list[tuple[int, int, bytes]]:
    """Second, kind and payload of each record."""
    records, at = [], 0
    while at < len(content):
        if content[at] == 0:  # devices leave zeros between records now and then
            at += 1
            continue
        size = int.from_bytes(content[at + 6 : at + 8], "little")
        end = at + 8 + size
        problem = ""
        if content[at] != 0x1E:
            problem = f"no record begins at byte {at}"
        elif end >= len(content):
            problem = f"is cut off within record {len(records) + 1}"
        elif np.bitwise_xor.reduce(np.frombuffer(content, np.uint8, end - at, at)) ^ 0xFF != content[end]:
            problem = f"record {len(records) + 1} at byte {at} has a wrong checksum"
        if not problem:
            second = int.from_bytes(content[at + 2 : at + 6], "little")
            records.append((second, content[at + 1], content[at + 8 : end]))
            at = end + 1
        elif damaged == "refuse":
            raise UserError(
                f"log.bin {problem}: copy the file again, or read damaged records as a gap with --damaged gap"
            )
        else:
            following = content.find(0x1E, at + 1)
            at = following if following >= 0 else len(content)
    return records


def _csv(path: Path, utc_offset_h: float, damaged: str) -> tuple[Stream, float, str]:
    del damaged  # a CSV has no checksums: any bad line refuses it
    lines = first_lines(path, _CSV_HEADER_LINES + 2)
    if "Data File Created By ActiGraph" not in lines[0] or len(lines) < _CSV_HEADER_LINES + 2:
        raise UserError(
            "is no raw data of ActiLife: ten lines of header must begin with 'Data File Created By ActiGraph'"
        )
    rate = re.search(r" at (\d+) Hz", lines[0])
    form = re.search(r"date format ([A-Za-z/.\-]+)", lines[0])
    if not rate or not form:
        raise UserError(
            "line 1: the sampling rate or the date format is missing; export raw data, not epochs, from ActiLife"
        )
    keys = dict(
        re.findall(
            r"^(Serial Number|Start Time|Start Date|Epoch Period \(hh:mm:ss\)):? (\S+)", "\n".join(lines[1:10]), re.M
        )
    )
    if keys.get("Epoch Period (hh:mm:ss)") != "00:00:00":
        raise UserError("holds counts per epoch, not raw acceleration: export raw data from ActiLife")
    start = _date(keys.get("Start Date", ""), form[1], keys.get("Start Time", ""))
    table = Table(path, COLUMNS, None, Layout(skip_rows=_CSV_HEADER_LINES, every_row_counts=True))
    values = np.stack([table.numbers(name) for name in COLUMNS], -1)
    if not len(values):
        raise UserError("has no samples after its header")
    rate_hz = float(rate[1])
    device = re.search(r"ActiGraph (.+?) ActiLife", lines[0])
    accel = Stream("accel", values, ("x", "y", "z"), "g", rate_hz=rate_hz)
    return accel, start - 3600 * utc_offset_h, f"ActiGraph {device[1] if device else keys.get('Serial Number', '')[:3]}"


def _date(text: str, form: str, time: str) -> float:
    pattern = re.sub(r"[Md]+|y+", lambda letters: {"M": "%m", "d": "%d", "y": "%Y"}[letters[0][0]], form)
    try:
        moment = datetime.datetime.strptime(f"{text} {time}", f"{pattern} %H:%M:%S")
    except ValueError:
        raise UserError(f"the start {text!r} {time!r} is no date of the form {form}") from None
    return moment.replace(tzinfo=datetime.UTC).timestamp()
