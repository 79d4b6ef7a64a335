"""Empatica E4 export: plain folder, zip, zip of zips, or a folder of many.

A session is a folder (on disk or inside a zip) with `BVP.csv` and `ACC.csv`, as E4 manager and E4 connect write them: the first
line is the start (unix seconds, UTC), the second line the rate in Hz; samples follow. `IBI.csv` is optional: its first line is the
start; the other lines hold the time of a beat in seconds after the start, and the interval that ends with the beat. Some exports
contain parts of IBI.csv twice, so beats are sorted and repetitions dropped. BVP (64 Hz, arbitrary units, systole up) becomes "ppg";
ACC (32 Hz, 1/64 g per count, +-2 g) becomes "accel" in g. HR.csv is not used, because it is smoothed and lags by 20 to 30 s; EDA
and TEMP are not read.

The participant (`participant_from`) comes from the session's name, which is the name of its folder or of the zip around it:

- "name": the session's name, e.g. S01 for S01/BVP.csv and S16 for S16.zip.
- "prefix": the session's name up to its last "_", e.g. 15 for 15_1594149654.zip.
- "parent": the folder or zip around the session, e.g. anna for anna/1539693155_A00D2A.zip.
- "auto" (default): "prefix" if the name ends in "_" and a unix time; "parent" if it is a unix time, "_" and a serial number
  (the device names its exports so); else "name".

File names may be in upper or lower case, and names of members of a zip may contain backslashes.

If the same session is found twice, such as a zip beside its unpacked folder (equal start, equal sizes of BVP.csv and ACC.csv), the
first one in alphabetical order is read; `RecordingSource.copies` names the others.
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
    ending,
    endings_text,
    reason_to_leave_out,
    recording_ids,
    regular_file,
    same_name,
)
from accdistill_jax.errors import UserError
from accdistill_jax.text import readable

DEVICE = "Empatica E4"
CAN_CRASH = False  # no compiled parser reads the files
COUNTS_PER_G = 64.0
ACCEL_RANGE_G = (-128 / COUNTS_PER_G, 127 / COUNTS_PER_G)
RATE_HZ = {"BVP.csv": 64.0, "ACC.csv": 32.0}
CHANNELS = {"BVP.csv": 1, "ACC.csv": 3}
ZIP_DEPTH = 4
MOST_APART_S = 86_400.0
_FILES = (*RATE_HZ, "IBI.csv")
_NO_SESSION = "holds neither BVP.csv nor ACC.csv"
# BVP.csv of the longest session that fits into the device's memory (60 h) has 110 MB.
MOST_BYTES = 512 * 2**20
_MOST_HEADER_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class _Place:
    """The place of a session's files: a path on disk, zips within zips, and a folder in the innermost zip."""

    path: Path
    zips: tuple[str, ...] = ()
    folder: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (str(self.path), *self.zips, self.folder.rstrip("/")) if part)

    def read(self, name: str) -> bytes | None:
        """The bytes of a file of the session; None if the file is missing."""
        if self.path.is_dir():
            actual_name = same_name(name, os.listdir(self.path))
            if actual_name is None:
                return None
            file = regular_file(self.path / actual_name)
            return zips.read_file(file, most=MOST_BYTES)
        with zips.damage_named(self), _open(self.path, self.zips) as archive:
            members = zips.members(archive)
            actual_name = same_name(
                name, [member.removeprefix(self.folder) for member in members if member.startswith(self.folder)]
            )
            if actual_name is None:
                return None
            return zips.unpacked(archive, members[self.folder + actual_name], most=MOST_BYTES)


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
            "_", or the folder or zip around the session; auto decides by the form of the name, and asks in a preparation if ids hold
            dates.

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
                    f"{place}: contains the same session as recording {first.recording_id!r}, but the participant is "
                    f"{participant!r} here and {first.participant_id!r} there; remove one copy or choose another participant_from"
                )
            found[identity] = dataclasses.replace(first, copies=(*first.copies, str(place)))
            continue
        found[identity] = RecordingSource(
            recording_id, participant, functools.partial(load, place, recording_id, participant)
        )
    return list(found.values())


def _sessions(tree: Tree) -> Iterator[tuple[_Place, object]]:
    """All sessions, each with an identity that is equal for copies of the same session."""
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
                except Exception:  # loading reports the error
                    yield _Place(file), str(file)
    tree.expect(".csv", reason="no file of a session: there is neither BVP.csv nor ACC.csv beside it")


def _canonical(name: str) -> str:
    """The E4's name of a file, if `name` differs from it only in case; else `name`."""
    return next((known for known in _FILES if known.lower() == name.lower()), name)


def _identity_on_disk(folder: Path, names: list[str]) -> object:
    try:
        files = [regular_file(folder / (same_name(name, names) or name)) for name in RATE_HZ]
        with files[0].open("rb") as lines:
            header = lines.readline(_MOST_HEADER_BYTES)
        return _identity([file.stat().st_size for file in files], header, str(folder))
    except (OSError, UserError):  # loading reports the error
        return str(folder)


def _sessions_in_zip(
    tree: Tree, archive: zipfile.ZipFile, path: Path, outer: tuple[str, ...]
) -> Iterator[tuple[_Place, object]]:
    here = _Place(path, outer)
    members = {}
    for name in zips.repeated_paths(archive):
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
        tree.leave_out(str(here), f"{_NO_SESSION} ({endings_text(Counter(map(ending, members)))})")
    for name in inner_zips:
        place = _Place(path, (*outer, name))
        if len(outer) >= ZIP_DEPTH:
            tree.leave_out(str(place), f"a zip within {ZIP_DEPTH + 1} zips; unpack it")
            continue
        try:
            with zips.inner_zip(archive, members[name]) as nested:
                yield from _sessions_in_zip(tree, nested, path, place.zips)
        except Exception:  # loading reports the error
            yield place, str(place)


def _identity_in_zip(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], place: _Place) -> object:
    try:
        names = [name.removeprefix(place.folder) for name in members if name.startswith(place.folder)]
        infos = [members[place.folder + (same_name(name, names) or name)] for name in RATE_HZ]
        with archive.open(infos[0]) as file:
            header = file.readline(_MOST_HEADER_BYTES)
        return _identity([info.file_size for info in infos], header, str(place))
    except Exception:  # loading reports the error
        return str(place)


def _identity(sizes: list[int], header: bytes, otherwise: str) -> object:
    """Start and sizes of the files; for an incomplete session, its place."""
    return (*sizes, header.strip()) if all(sizes) and header.strip() else otherwise


def _lineage(place: _Place) -> list[str]:
    """Names of the folders and zips (without suffix) around the session, innermost last."""
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
    """Names of the folders and zips between `root` and the session."""
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
        UserError: a file is missing or damaged, has a bad header or a wrong number of columns, a cell is not a number, or there
            are no samples; the message names the file and the line.
    """
    starts, streams = {}, {}
    for file, name in (("BVP.csv", "ppg"), ("ACC.csv", "accel")):
        content = place.read(file)
        if content is None:
            raise UserError(f"{place}: {file} is missing; an E4 session needs BVP.csv and ACC.csv")
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
        raise UserError("the two header lines (start time, sample rate) are missing; copy the file again")
    start, rate = (_numbers(lines[i], i + 1, columns) for i in range(2))
    if not np.isfinite(start).all() or start[0] <= 0 or (start != start[0]).any():
        raise UserError(f"line 1: the start time must be unix seconds, got {lines[0]!r}")
    if (rate != RATE_HZ[file]).any():
        raise UserError(f"line 2: the sample rate must be {RATE_HZ[file]:g} Hz, the rate of every E4, got {lines[1]!r}")
    samples = _table(lines, 2, columns)
    if not len(samples):
        raise UserError("has no samples after the two header lines: the session is empty")
    return float(start[0]), samples.astype(np.float32)


def _check_counts(samples: np.ndarray) -> None:
    low, high = (limit * COUNTS_PER_G for limit in ACCEL_RANGE_G)
    beyond = np.flatnonzero(((samples < low) | (samples > high)).any(1))
    if beyond.size:
        raise UserError(
            f"line {beyond[0] + 3}: outside the sensor's range of {low:g} to {high:g} counts ({samples[beyond[0]].tolist()})"
        )


def _parse_beats(content: bytes | None, start_unix_s: float) -> Beats | None:
    """Beats of IBI.csv, with times relative to `start_unix_s`; None if the file is missing or has no beats."""
    if content is None or not content.strip():
        return None
    lines = content.decode("utf-8-sig", errors="replace").splitlines()
    start = _numbers(lines[0].split(",")[0], 1, 1)[0]
    if not np.isfinite(start) or start <= 0:
        raise UserError(f"line 1: the start time must be unix seconds, got {lines[0]!r}")
    if abs(start - start_unix_s) > MOST_APART_S:
        raise UserError(
            f"line 1: the beats begin {abs(start - start_unix_s) / 86_400:.4g} days away from BVP.csv and ACC.csv; "
            "the file may belong to another session: remove it, or replace it by the right one"
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
    """Numbers [n, columns] float64 from the lines after the first `skip`; the error names the first bad line."""
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
        pass  # parsing line by line finds the bad line
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
