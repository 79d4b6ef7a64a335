"""Polar Verity Sense, OH1 and other Polar sensors: text files of the app Polar Sensor Logger (`.txt` or `.csv`, cells separated by ";").

Files with the same NAME are a recording: `NAME_ACC.txt` (mg) and, where they exist, `NAME_PPG.txt` (counts of reflected light, so the
systole points down; the channel `ambient` is not read), `NAME_PPI.txt` and `NAME_HR.txt`. Other files, such as `_GYRO` and `_MAGN`, are not read.
Acceleration and PPG have the sensor's clock (ns since 2000), heart rates the phone's. The phone receives samples late, so the smallest
difference of both clocks joins them. In files of older versions all samples of a packet have one stamp, that of the packet's last
sample. The phone writes local time: `--utc-offset-h` makes it UTC. A recording during which the phone's clock jumps, as at a change to daylight saving time, is refused.

Beats are the PPI intervals without the flag "blocker", with contact to the skin, and with an error estimate of at most `--most-error-ms`.
The heart rate counts from its first change on: before, the app repeats an old value, or 0.

Source: files of the app; the meaning of the flags, of the error estimate and of a packet's stamp is that of Polar's SDK.
"""

import functools
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from accdistill_jax.data.preprocessing.reference_rate import cleaned
from accdistill_jax.data.recording import (
    STARTS_UNIX_S,
    Beats,
    HeartRateWindows,
    Participant,
    Recording,
    RecordingSource,
    Stream,
    named,
)
from accdistill_jax.data.recordings.common.files import Naming, ids_below, participant_of, read_bytes
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

CAN_CRASH = False
DEVICE = "Polar"
EPOCH_UNIX_S = 946_684_800  # 2000-01-01, where the sensor's clock begins
HR_WINDOW_S = 5.0  # the sensor averages over some seconds; the exact number is not published
TAGS = ("ACC", "PPG", "PPI", "HR")
_NAME = re.compile(r"(.+)_(ACC|PPG|PPI|HR)", re.IGNORECASE)
_ENDINGS = (".txt", ".csv")
_PHONE = re.compile(r"phone\b.*\btimestamp", re.IGNORECASE)
_SENSOR = "sensor timestamp [ns]"
_AXES = ("x [mg]", "y [mg]", "z [mg]")
_CLOCK_ROWS = 2000
_LEAST_JUMP_S = 1500.0  # time zones differ by 30 min or more; the radio delays samples by less
_BAD_CELL = "a cell is missing or not a number; copy the file from the phone again"
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ][\d:.]+")


class _Text(NamedTuple):
    """A file: its path, the columns of its header in lower case, and its lines without the header."""

    path: Path
    header: list[str]
    lines: list[str]


def find(
    tree: Tree, *, participant_from: Naming = "auto", utc_offset_h: float = 0.0, most_error_ms: float = 30.0
) -> list[RecordingSource]:
    """Finds files `NAME_ACC.txt` and the like at any depth.

    Args:
        tree: the files to search.
        participant_from: the participant's id: NAME, its prefix up to the first "_", or the parent folder of the files; auto is
            NAME, and asks in a preparation if names hold dates.
        utc_offset_h: hours by which the phone's local time is ahead of UTC.
        most_error_ms: largest error estimate of an interval between beats, in ms.
    """
    found: dict[Path, dict[str, Path]] = defaultdict(dict)
    for path in tree.files:
        match = _NAME.fullmatch(path.stem) if path.suffix.lower() in _ENDINGS else None
        if match:
            found[path.with_name(match[1] + path.suffix)][match[2].upper()] = path
    found = {base: files for base, files in found.items() if "ACC" in files}
    sources, folders = [], tree.folders()
    ids = ids_below(tree.root, found) if tree.root.is_dir() else [base.stem for base in found]
    for (base, files), recording_id in zip(found.items(), ids, strict=True):
        others = [path for path in folders[base.parent] if path.name.startswith(f"{base.stem}_")]
        tree.claim(*files.values(), *others)
        participant = participant_of(base, participant_from)
        read = functools.partial(load, files, recording_id, participant, utc_offset_h, most_error_ms)
        sources.append(RecordingSource(recording_id, participant, read))
    tree.expect(*_ENDINGS, reason="no file NAME_ACC.txt of a Polar sensor, or none beside it")
    return sources


def load(
    files: Mapping[str, Path], recording_id: str, participant_id: str, utc_offset_h: float, most_error_ms: float
) -> Recording:
    """Reads one recording.

    Raises:
        UserError: a file is damaged, lacks a column or has a clock that goes back; the message names the file and the line.
    """
    texts = {tag: _text(path) for tag, path in files.items()}
    stamps, values, lags = {}, {}, []
    for tag in ("ACC", "PPG"):
        if tag in texts:
            with named(texts[tag].path):
                stamps[tag], values[tag] = _samples(texts[tag], _AXES if tag == "ACC" else _lights(texts[tag]))
                lags.append(_phone_lag(texts[tag], stamps[tag]))
    first = min(int(stamp[0]) for stamp in stamps.values())
    start = first / 1e9 + min(lags)  # of the phone's clock
    streams = {}
    for tag, name in (("ACC", "accel"), ("PPG", "ppg")):
        if tag in texts:
            with named(texts[tag].path):
                streams[name] = _stream(name, (stamps[tag] - first) / 1e9, values[tag])
    return Recording(
        recording_id,
        Participant(participant_id),
        DEVICE,
        "polar",
        start - 3600 * utc_offset_h,
        streams,
        beats=_beats(texts["PPI"], start, most_error_ms) if "PPI" in texts else None,
        heart_rate=_heart_rate(texts["HR"], start) if "HR" in texts else None,
    )


def _text(path: Path) -> _Text:
    lines = read_bytes(path).decode("utf-8-sig", errors="replace").splitlines()
    header = [cell.strip().lower() for cell in "".join(lines[:1]).rstrip("; ").split(";")]
    if not _PHONE.fullmatch(header[0]) or len(header) < 2:
        raise UserError(
            f"{path}: line 1: not a file of Polar Sensor Logger, whose header begins with 'Phone timestamp;' ({';'.join(header)[:60]!r})"
        )
    return _Text(path, header, [line for line in lines[1:] if line.strip()])


def _numbers(text: _Text, names: Sequence[str]) -> list[np.ndarray]:
    """Columns of numbers; the sensor's clock is int64, the others are float64."""
    for name in names:
        if name not in text.header:
            raise UserError(f"line 1: the column {name!r} is missing; it has {'; '.join(text.header)[:100]}")
    places = [text.header.index(name) for name in names]
    kinds = [(f"c{k}", np.int64 if name == _SENSOR else np.float64) for k, name in enumerate(names)]
    if not text.lines:
        return [np.zeros(0, kind) for _, kind in kinds]
    try:
        table = np.loadtxt(
            io.StringIO("\n".join(text.lines)),
            dtype=np.dtype(kinds),
            delimiter=";",
            comments=None,
            usecols=places,
            ndmin=1,
        )
    except (ValueError, OverflowError) as error:
        bad = next((row for row, line in enumerate(text.lines) if not _are_numbers(line, places)), None)
        line = "a line" if bad is None else f"line {bad + 2}"
        raise UserError(f"{line}: {_BAD_CELL}") from error
    return [table[name] for name, _ in kinds]


def _are_numbers(line: str, places: Sequence[int]) -> bool:
    cells = line.split(";")
    try:
        return all(abs(float(cells[place])) < 2**63 for place in places)
    except (ValueError, IndexError):
        return False


def _samples(text: _Text, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The sensor's stamps [rows] int64 in ns, and columns [rows, names] float64."""
    stamps, *columns = _numbers(text, (_SENSOR, *names))
    if len(stamps) < 2:
        raise UserError("holds fewer than two samples: nothing was recorded")
    back = np.flatnonzero(np.diff(stamps) < 0)
    if back.size:
        raise UserError(
            f"line {back[0] + 3}: the sensor's clock goes back by {(stamps[back[0]] - stamps[back[0] + 1]) / 1e9:g} s; "
            "split the file there"
        )
    if stamps[0] == stamps[-1]:
        raise UserError(f"the sensor's clock stands still at {stamps[0]} ns, so the samples have no times")
    return stamps, np.stack(columns, -1)


def _lights(text: _Text) -> list[str]:
    lights = [name for name in text.header if re.fullmatch(r"channel \d+", name)]
    if not lights:
        raise UserError(f"line 1: there is no column 'channel 0'; it has {'; '.join(text.header)[:100]}")
    return lights


def _phone_s(text: _Text, rows: np.ndarray) -> np.ndarray:
    """The phone's time of rows, in seconds since 1970 of its clock."""
    cells = [text.lines[row].partition(";")[0].strip() for row in rows]
    odd = next((row for row, cell in zip(rows, cells, strict=True) if not _TIME.fullmatch(cell)), None)
    try:
        if odd is not None:
            raise ValueError
        seconds = np.array(cells, "datetime64[ms]").astype(np.int64) / 1000
    except ValueError:
        line = (rows[0] if odd is None else odd) + 2
        raise UserError(f"line {line}: no time of the phone such as 2022-04-25T11:39:36.978") from None
    beyond = np.flatnonzero(~((seconds >= STARTS_UNIX_S[0]) & (seconds <= STARTS_UNIX_S[1])))
    if beyond.size:
        raise UserError(f"line {rows[beyond[0]] + 2}: the time of the phone is outside the years 1970 to 2200")
    return seconds


def _phone_lag(text: _Text, stamps: np.ndarray) -> float:
    """Seconds from the sensor's clock to the phone's, without the delays of the radio.

    Raises:
        UserError: the phone's clock jumps, so that its times before and after do not fit together.
    """
    rows = np.unique(np.linspace(0, len(stamps) - 1, _CLOCK_ROWS).astype(int))
    lags = _phone_s(text, rows) - stamps[rows] / 1e9
    jumps = np.flatnonzero(np.abs(np.diff(lags)) > _LEAST_JUMP_S)
    if jumps.size:
        near = np.arange(rows[jumps[0]], rows[jumps[0] + 1] + 1)
        steps = np.diff(_phone_s(text, near) - stamps[near] / 1e9)
        place = int(np.argmax(np.abs(steps)))
        raise UserError(
            f"line {near[place] + 3}: the phone's clock jumps by {steps[place]:+.0f} s against the sensor's, as at a change to daylight "
            "saving time; split all files of the recording there, and prepare both parts, each with its --utc-offset-h"
        )
    return float(np.quantile(lags, 0.05))


def _stream(name: str, time_s: np.ndarray, values: np.ndarray) -> Stream:
    if name == "accel":
        return Stream("accel", values / 1000, ("x", "y", "z"), "g", time_s=time_s, scale=1e-3, packet_stamp="last")
    channels = tuple(f"green{number}" for number in range(values.shape[1]))
    return Stream("ppg", values, channels, "a.u.", time_s=time_s, polarity="systole_down", packet_stamp="last")


def _beats(text: _Text, start_s: float, most_error_ms: float) -> Beats | None:
    """Intervals that the sensor trusts. The phone stamps the beat that begins an interval."""
    with named(text.path):
        interval, error, blocker = _numbers(text, ("pp-interval [ms]", "error estimate [ms]", "blocker"))
        trusted = (blocker == 0) & (error <= most_error_ms) & (interval > 0)
        contacts = [place for place, name in enumerate(text.header) if "contact" in name]
        if len(contacts) == 2:  # contact, and if the sensor knows it
            cells = [line.split(";") for line in text.lines]
            short = next((row for row, line in enumerate(cells) if len(line) <= contacts[1]), None)
            if short is not None:
                raise UserError(f"line {short + 2}: {_BAD_CELL}")
            lost = np.array(
                [row[contacts[0]].strip() == "0" and row[contacts[1]].strip() == "1" for row in cells], bool
            )
            trusted &= ~lost
        if not trusted.any():
            return None
        began = _phone_s(text, np.arange(len(interval))) - start_s
    ends = np.maximum.accumulate(began + interval / 1000)  # packets arrive early or late by some tenths of a second
    return Beats(ends[trusted], interval[trusted] / 1000, "ms")


def _heart_rate(text: _Text, start_s: float) -> HeartRateWindows | None:
    with named(text.path):
        (bpm,) = _numbers(text, ("hr [bpm]",))
        bpm = np.where(bpm > 0, bpm, np.nan)
        changes = np.flatnonzero(np.abs(np.diff(bpm)) > 0)  # False beside an unknown value
        if not changes.size:
            return None
        bpm[: changes[0] + 1] = np.nan
        seconds = _phone_s(text, np.arange(len(bpm))) - start_s
        return cleaned(seconds - HR_WINDOW_S, HR_WINDOW_S, bpm)
