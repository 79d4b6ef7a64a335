"""Empatica E4 export: plain folder, zip, zip of zips, or a folder of many.

A session is a folder (on disk or inside a zip) with `BVP.csv` and `ACC.csv`, as the E4 manager and E4 connect write them: first
line the start (unix seconds, UTC), second line the rate in Hz, then samples. `IBI.csv` (first line the start; then time of
a beat in seconds after the start, and the interval that ended with it) is optional; some exports write stretches of it twice,
header line included, so its beats are sorted and repetitions dropped. BVP (64 Hz, arbitrary
units, systole up) becomes "ppg"; ACC (32 Hz, 1/64 g per count, +-2 g) becomes "accel" in g. HR.csv is not used: it is smoothed
and lags by 20 to 30 s; EDA and TEMP are not read.

Who wore it (`participant_from`): a session's name is that of its folder, or of the zip that holds it.

- "name": the session's name, e.g. S01 for S01/BVP.csv and S16 for S16.zip.
- "prefix": the session's name up to its last "_", e.g. 15 for 15_1594149654.zip.
- "parent": the folder or zip around the session, e.g. anna for anna/1539693155_A00D2A.zip.
- "auto" (default): "prefix" if the name ends in "_" and a unix time, "parent" if it is a unix time, "_" and a serial number
  (as the device names its exports), else "name".

File names may be in upper or lower case, and members of a zip may have backslashes in their names.

The same session found twice (equal start, equal sizes of BVP.csv and ACC.csv: a zip beside its unpacked folder) is read once,
from the first place in alphabetical order; `RecordingSource.copies` names the others.
"""

import dataclasses
import functools
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from accdistill_jax.data import zips
from accdistill_jax.data.recording import Beats, Participant, Recording, RecordingSource, Stream, named
from accdistill_jax.data.tree import (
    Tree,
    counted,
    ending,
    reason_to_leave_out,
    recording_ids,
    regular_file,
    same_name,
)
from accdistill_jax.errors import UserError
from accdistill_jax.text import readable

DEVICE = "Empatica E4"
CAN_CRASH = False  # no compiled parser sees the files
COUNTS_PER_G = 64.0
ACCEL_RANGE_G = (-128 / COUNTS_PER_G, 127 / COUNTS_PER_G)
RATE_HZ = {"BVP.csv": 64.0, "ACC.csv": 32.0}
CHANNELS = {"BVP.csv": 1, "ACC.csv": 3}
ZIP_DEPTH = 4
MOST_APART_S = 86_400.0
_FILES = (*RATE_HZ, "IBI.csv")
_NO_SESSION = "holds neither BVP.csv nor ACC.csv"
# The longest session that the device's memory holds, 60 h, makes a BVP.csv of 110 MB.
_MOST_BYTES = 512 * 2**20
_MOST_HEADER_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a session's files lie: a path on disk, then zips within zips, then a folder in the innermost."""

    path: Path
    zips: tuple[str, ...] = ()
    folder: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (str(self.path), *self.zips, self.folder.rstrip("/")) if part)

    def read(self, name: str) -> bytes | None:
        """The bytes of one of the session's files; None where there is none."""
        if self.path.is_dir():
            found = same_name(name, os.listdir(self.path))
            if found is None:
                return None
            file = regular_file(self.path / found)
            return zips.read_file(file, most=_MOST_BYTES)
        with zips.damage_named(self), _open(self.path, self.zips) as archive:
            members = zips.members(archive)
            found = same_name(
                name, [member.removeprefix(self.folder) for member in members if member.startswith(self.folder)]
            )
            return None if found is None else zips.unpacked(archive, members[self.folder + found], most=_MOST_BYTES)


def _open(path: Path, zips_within: tuple[str, ...]) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(regular_file(path))
    for inner in zips_within:
        with archive:
            archive = zips.inner_zip(archive, zips.members(archive)[inner])
    return archive


def find(
    tree: Tree,
    *,
    participant_from: Literal["auto", "name", "prefix", "parent"] = "auto",
) -> list[RecordingSource]:
    """Finds E4 sessions: a session's folder, a zip, or a folder with any number of both at any depth.

    A zip that cannot be opened is listed as a recording; loading it raises the error.

    Args:
        tree: the files to search.
        participant_from: where the participant's id comes from: the session's name, the part of the name before the last
            "_", or the folder or zip around the session; auto decides by the form of the name.

    Raises:
        UserError: an unknown `participant_from`, or copies of one session that belong to two participants.
    """
    rules = ("auto", "name", "prefix", "parent")
    if participant_from not in rules:
        raise UserError(f"participant_from must be one of {', '.join(rules)}, got {participant_from!r}")
    found: dict[object, RecordingSource] = {}
    sessions = sorted(_sessions(tree), key=lambda item: str(item[0]))
    ids = recording_ids(_parts(tree.root, place) for place, _ in sessions)
    for (place, identity), recording_id in zip(sessions, ids, strict=True):
        participant = _participant(place, participant_from)
        if identity in found:
            first = found[identity]
            if first.participant_id != participant:
                raise UserError(
                    f"{place}: holds the same session as recording {first.recording_id!r}, but participant would be "
                    f"{participant!r} here and {first.participant_id!r} there; remove one copy or choose another participant_from"
                )
            found[identity] = dataclasses.replace(first, copies=(*first.copies, str(place)))
            continue
        found[identity] = RecordingSource(
            recording_id, participant, functools.partial(load, place, recording_id, participant)
        )
    return list(found.values())


def _sessions(tree: Tree) -> Iterator[tuple[_Place, object]]:
    """All sessions with an identity that two copies of one session share."""
    for folder, files in tree.folders().items():
        names = [file.name for file in files]
        if tree.root.is_dir() and any(_canonical(name) in RATE_HZ for name in names):
            tree.claim(*files)
            yield _Place(folder), _identity_on_disk(folder, names)
        for file in files:
            if ending(file.name) == ".zip":
                tree.claim(file)
                try:
                    with zipfile.ZipFile(file) as archive:
                        yield from _sessions_in_zip(tree, archive, file, ())
                except Exception:  # loading says what is wrong
                    yield _Place(file), str(file)
    tree.expect(".csv", reason="no file of a session: there is neither BVP.csv nor ACC.csv beside it")


def _canonical(name: str) -> str:
    """The name that the E4 gives a file, where `name` differs from it in case only."""
    return next((known for known in _FILES if known.lower() == name.lower()), name)


def _identity_on_disk(folder: Path, names: list[str]) -> object:
    try:
        files = [regular_file(folder / (same_name(name, names) or name)) for name in RATE_HZ]
        with files[0].open("rb") as lines:
            header = lines.readline(_MOST_HEADER_BYTES)
        return _identity([file.stat().st_size for file in files], header, str(folder))
    except (OSError, UserError):  # loading says what is wrong
        return str(folder)


def _sessions_in_zip(
    tree: Tree, archive: zipfile.ZipFile, path: Path, outer: tuple[str, ...]
) -> Iterator[tuple[_Place, object]]:
    here = _Place(path, outer)
    members = {}
    for name in zips.repeated(archive):
        tree.leave_out(f"{here}/{name}", "stands more than once in its zip; the last one is read")
    for name, info in zips.members(archive).items():
        *folders, file = PurePosixPath(name).parts
        for depth, part in enumerate((*folders, file)):
            reason = reason_to_leave_out(part, is_folder=depth < len(folders))
            if reason:
                tree.leave_out(f"{here}/{'/'.join(PurePosixPath(name).parts[: depth + 1])}", reason)
                break
        else:
            members[name] = info
    sessions = sorted(
        {str(PurePosixPath(name).parent) for name in members if _canonical(PurePosixPath(name).name) in RATE_HZ}
    )
    for folder in sessions:
        prefix = "" if folder == "." else folder + "/"
        place = _Place(path, outer, prefix)
        yield place, _identity_in_zip(archive, members, place)
    inner_zips = [name for name in sorted(members) if ending(name) == ".zip"]
    if not sessions and not inner_zips:
        tree.leave_out(str(here), f"{_NO_SESSION} ({counted(Counter(map(ending, members)))})")
    for name in inner_zips:
        place = _Place(path, (*outer, name))
        if len(outer) >= ZIP_DEPTH:
            tree.leave_out(str(place), f"a zip within {ZIP_DEPTH + 1} zips; unpack it")
            continue
        try:
            with zips.inner_zip(archive, members[name]) as nested:
                yield from _sessions_in_zip(tree, nested, path, place.zips)
        except Exception:  # loading says what is wrong
            yield place, str(place)


def _identity_in_zip(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], place: _Place) -> object:
    try:
        names = [name.removeprefix(place.folder) for name in members if name.startswith(place.folder)]
        infos = [members[place.folder + (same_name(name, names) or name)] for name in RATE_HZ]
        with archive.open(infos[0]) as file:
            header = file.readline(_MOST_HEADER_BYTES)
        return _identity([info.file_size for info in infos], header, str(place))
    except Exception:  # loading says what is wrong
        return str(place)


def _identity(sizes: list[int], header: bytes, otherwise: str) -> object:
    """Start and sizes, or the place itself for a session that is not whole."""
    return (*sizes, header.strip()) if all(sizes) and header.strip() else otherwise


def _lineage(place: _Place) -> list[str]:
    """Names around the session, innermost last: folders and zips without their suffix."""
    names = [place.path.parent.name, place.path.name if place.path.is_dir() else place.path.stem]
    for inner in place.zips:
        names += PurePosixPath(inner).with_suffix("").parts
    return [readable(name) for name in (*names, *PurePosixPath(place.folder).parts) if name]


def _participant(place: _Place, rule: str) -> str:
    *_, parent, name = ["unknown", *_lineage(place)]
    if rule == "auto":
        if re.fullmatch(r".+_\d{9,11}", name):
            rule = "prefix"
        elif re.fullmatch(r"\d{9,11}_[0-9A-Za-z]{6}", name):
            rule = "parent"
        else:
            rule = "name"
    return {"name": name, "parent": parent, "prefix": name.rpartition("_")[0] or name}[rule]


def _parts(root: Path, place: _Place) -> list[str]:
    """Names on the way from `root` to the session."""
    if place.path == root:
        parts = [root.name if root.is_dir() else root.stem]
    else:
        relative = place.path.relative_to(root)
        parts = list((relative if place.path.is_dir() else relative.with_suffix("")).parts)
    for inner in place.zips:
        parts += PurePosixPath(inner).with_suffix("").parts
    return [*parts, *PurePosixPath(place.folder).parts]


def load(place: _Place, recording_id: str, participant_id: str) -> Recording:
    """Reads one session.

    Raises:
        UserError: naming the file, and the line where there is one, for a missing or damaged file, a bad header, a column
            too few, a cell that is not a number, or no samples.
    """
    starts, streams = {}, {}
    for file, name in (("BVP.csv", "ppg"), ("ACC.csv", "accel")):
        content = place.read(file)
        if content is None:
            raise UserError(f"{place}: has no {file}; an E4 session needs BVP.csv and ACC.csv")
        with named(f"{place}/{file}"):
            starts[name], samples = _parse(content, file)
            if name == "accel":
                _check_counts(samples)
            streams[name] = Stream(
                name="ppg" if name == "ppg" else "accel",
                values=samples if name == "ppg" else samples / COUNTS_PER_G,
                channels=("bvp",) if name == "ppg" else ("x", "y", "z"),
                unit="a.u." if name == "ppg" else "g",
                rate_hz=RATE_HZ[file],
                range=None if name == "ppg" else ACCEL_RANGE_G,
                polarity="systole_up" if name == "ppg" else None,
                scale=1.0 if name == "ppg" else 1 / COUNTS_PER_G,
            )
    start = min(starts.values())
    streams = {name: dataclasses.replace(s, start_s=starts[name] - start) for name, s in streams.items()}
    content = place.read("IBI.csv")
    with named(f"{place}/IBI.csv"):
        beats = _parse_beats(content, start)
    return Recording(recording_id, Participant(participant_id), DEVICE, "empatica_e4", start, streams, beats)


def _parse(content: bytes, file: str) -> tuple[float, np.ndarray]:
    """Start (unix seconds) and samples [n, channels] float32 of BVP.csv or ACC.csv."""
    columns = CHANNELS[file]
    lines = content.decode("utf-8-sig", errors="replace").splitlines()
    if len(lines) < 2:
        raise UserError("is empty: the two header lines (start time, sample rate) are missing")
    start, rate = (_numbers(lines[i], i + 1, columns) for i in range(2))
    if not np.isfinite(start).all() or start[0] <= 0 or (start != start[0]).any():
        raise UserError(f"line 1: the start time must be unix seconds, got {lines[0]!r}")
    if (rate != RATE_HZ[file]).any():
        raise UserError(
            f"line 2: the sample rate must be {RATE_HZ[file]:g} Hz, as every E4 writes it, got {lines[1]!r}"
        )
    samples = _table(lines, 2, columns)
    if not len(samples):
        raise UserError("holds no sample after its two header lines: the session is empty")
    return float(start[0]), samples.astype(np.float32)


def _check_counts(samples: np.ndarray) -> None:
    low, high = (limit * COUNTS_PER_G for limit in ACCEL_RANGE_G)
    beyond = np.flatnonzero(((samples < low) | (samples > high)).any(1))
    if beyond.size:
        raise UserError(
            f"line {beyond[0] + 3}: beyond the sensor's {low:g} to {high:g} counts ({samples[beyond[0]].tolist()})"
        )


def _parse_beats(content: bytes | None, start_unix_s: float) -> Beats | None:
    """Beats of IBI.csv, times made relative to `start_unix_s`; None without the file or without a beat in it."""
    if content is None or not content.strip():
        return None
    lines = content.decode("utf-8-sig", errors="replace").splitlines()
    start = _numbers(lines[0].split(",")[0], 1, 1)[0]
    if not np.isfinite(start) or start <= 0:
        raise UserError(f"line 1: the start time must be unix seconds, got {lines[0]!r}")
    if abs(start - start_unix_s) > MOST_APART_S:
        raise UserError(
            f"line 1: the beats begin {abs(start - start_unix_s) / 86_400:.4g} days away from BVP.csv and ACC.csv; "
            "is this the file of another session? Remove it or put the right one there"
        )
    table = _table(lines, 1, 2, repeated_header=lines[0])
    if not np.isfinite(table[:, 0]).all():
        line = next(
            i for i, line in enumerate(lines[1:], 2) if line != lines[0] and not np.isfinite(float(line.split(",")[0]))
        )
        raise UserError(f"line {line}: the beat has no time; repair or remove the line")
    table = np.unique(table[np.isfinite(table).all(1)], axis=0)
    return Beats(table[:, 0] + (start - start_unix_s), table[:, 1]) if len(table) else None


def _table(lines: list[str], skip: int, columns: int, *, repeated_header: str | None = None) -> np.ndarray:
    """Numbers [n, columns] float64 from the lines after the first `skip`; names the first bad line."""
    body = lines[skip:]
    while body and not body[-1].strip():
        body.pop()
    if not body:
        return np.zeros((0, columns))
    try:
        table = np.loadtxt(body, delimiter=",", ndmin=2, comments=None)
        if table.shape == (len(body), columns):
            return table
    except ValueError:
        pass  # line by line, then, to find the one at fault
    rows = [_numbers(line, i, columns) for i, line in enumerate(body, skip + 1) if line != repeated_header]
    return np.stack(rows) if rows else np.zeros((0, columns))


def _numbers(line: str, number: int, columns: int) -> np.ndarray:
    cells = line.split(",")
    if len(cells) != columns:
        raise UserError(
            f"line {number}: expected {columns} column{'s' * (columns > 1)}, got {len(cells)} ({line[:60]!r})"
        )
    try:
        if "_" in line:  # Python reads 1_000 as 1000
            raise ValueError
        return np.array([float(cell) for cell in cells])
    except ValueError:
        raise UserError(f"line {number}: not a number ({line[:60]!r})") from None
