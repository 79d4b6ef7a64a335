"""Verily Study Watch in TSDF: descriptions `*_meta.json`, each with raw binary files beside it.

A description with the channels acceleration_x, _y and _z is a recording. The PPG (channels such as green) of the description of the same name,
with ppg in place of imu, joins it: `imu/imu_meta.json` and `ppg/ppg_meta.json`. Values inherit from the levels around them: units,
scale factors, type, bits, byte order. The samples' times are the start of the description plus the steps in ms. "accel" is in g; "ppg" is in
counts of reflected light, so its systole points down. Gyroscope and quality are not read. The participant is `subject_id`.

Source: TSDF (Time Series Data Format), Claes et al. 2022, arXiv 2211.11294; files of ParaDigMa (biomarkersParkinson/paradigma).
"""

import datetime
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accdistill_jax.data.recording import G_PER_UNIT, Participant, Recording, RecordingSource, Stream, named
from accdistill_jax.data.recordings.common.files import read_bytes
from accdistill_jax.data.tree import Tree, recording_ids
from accdistill_jax.errors import UserError

CAN_CRASH = False
END = "_meta.json"
ACCEL = ("acceleration_x", "acceleration_y", "acceleration_z")
LIGHTS = ("green", "red", "infrared")
STEPS = ("time_delta_ms", "difference_ms")
MOST_LEVELS = 8
END_TOLERANCE_S = 2.0  # the description counts whole seconds
_LARGEST_FACTOR = 1e9
_KIND = re.compile(r"(?<![A-Za-z])(imu|ppg)(?![A-Za-z])", re.IGNORECASE)
_TYPES = {"float": "f", "int": "i", "integer": "i", "uint": "u"}
_ORDERS = {"little": "<", "big": ">", "not applicable": "<"}
_UNITS = {"m/s/s": "m/s2", "m/s^2": "m/s2", "m/s**2": "m/s2"}


class _Description(NamedTuple):
    """A description: its path, its own keys, and the keys of each binary file with those of the levels around it."""

    path: Path
    top: Mapping[str, Any]
    files: list[dict[str, Any]]

    def holding(self, *channels: str) -> dict[str, Any] | None:
        """The keys of the file that holds one of these channels."""
        return next((file for file in self.files if set(channels) & set(file["channels"])), None)


def find(tree: Tree) -> list[RecordingSource]:
    """Finds files `*_meta.json` at any depth.

    Args:
        tree: the files to search.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in tree.files:
        if path.name.lower().endswith(END):
            kind, problem = _kind(path)
            if problem:
                tree.leave_out(path, problem)
                continue
            group = found.setdefault(_group(tree, path), {})
            if kind in group:
                raise UserError(f"{path}: has the same name and kind as {group[kind]}; rename one of them")
            group[kind] = path
    sources = []
    with_accel = {name: group for name, group in found.items() if "imu" in group}
    for name, group in found.items():
        if name not in with_accel:
            tree.leave_out(
                group["ppg"], "PPG without acceleration: no description of the same name with imu in place of ppg"
            )
    ids = recording_ids(tuple(name.split("/")) for name in with_accel)
    for group, recording_id in zip(with_accel.values(), ids, strict=True):
        tree.claim(*group.values())
        participant = _subject(group["imu"])
        for path in group.values():
            tree.claim(*(file for file in path.parent.glob("*.bin")))
        read = functools.partial(load, group["imu"], group.get("ppg"), recording_id, participant)
        sources.append(RecordingSource(recording_id, participant, read))
    return sources


def _group(tree: Tree, path: Path) -> str:
    """The place of a description without the words imu and ppg: "night1/imu/imu_meta.json" -> "night1"."""
    relative = path.relative_to(tree.root) if tree.root.is_dir() else Path(path.name)
    parts = [_KIND.sub("", part).strip("._- ") for part in (*relative.parts[:-1], relative.name[: -len(END)])]
    return "/".join(part for part in parts if part) or (tree.root.name if tree.root.is_dir() else relative.name)


def _kind(path: Path) -> tuple[str, str]:
    """The kind (imu or ppg), and "" or why the description is left out."""
    try:
        description = _read(path)
    except UserError:  # loading reports the error
        match = _KIND.search(path.name)
        return (match[1].lower() if match else "imu"), ""
    if description.holding(*ACCEL):
        return "imu", ""
    if description.holding(*LIGHTS):
        return "ppg", ""
    return "", "describes neither acceleration nor PPG"


def _subject(path: Path) -> str:
    try:
        return str(_read(path).top.get("subject_id") or path.parent.name)
    except UserError:  # loading reports the error
        return path.parent.name


def load(imu: Path, ppg: Path | None, recording_id: str, participant_id: str) -> Recording:
    """Reads one recording.

    Raises:
        UserError: a description is damaged or lacks a key, or a binary file is missing or has another size than its description says;
            the message names the file.
    """
    descriptions = {"accel": _read(imu)} | ({"ppg": _read(ppg)} if ppg else {})
    starts = {name: _moment(description, "start_iso8601") for name, description in descriptions.items()}
    start = min(starts.values())
    streams = {}
    for name, description in descriptions.items():
        with named(description.path):
            time_s = _times(description) + (starts[name] - start)
            streams[name] = _accel(description, time_s) if name == "accel" else _light(description, time_s)
    top = descriptions["accel"].top
    if ppg and descriptions["ppg"].top.get("subject_id") != top.get("subject_id"):
        raise UserError(
            f"{ppg}: is of another subject_id than {imu}; keep the recordings of each in folders of their own"
        )
    device = str(top.get("device_id") or "Verily Study Watch")
    return Recording(recording_id, Participant(participant_id), device, "verily_tsdf", start, streams)


def _read(path: Path) -> _Description:
    try:
        top = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a whole JSON file ({error}); copy it again") from error
    with named(path):
        if not isinstance(top, dict):
            raise UserError("holds no JSON object; is it a description of TSDF?")
        files = list(_leaves(top, {}, MOST_LEVELS))
        if not files:
            raise UserError("names no binary file (key 'file_name'); is it a description of TSDF?")
        return _Description(path, top, files)


def _leaves(level: Mapping[str, Any], around: Mapping[str, Any], deeper: int) -> Iterator[dict[str, Any]]:
    """The keys of each binary file, with those of the levels around it."""
    keys = {**around, **{key: value for key, value in level.items() if key != "sensors"}}
    if "file_name" in level:
        channels = keys.get("channels")
        texts = (keys["file_name"], *(channels if isinstance(channels, list) else ()))
        if not isinstance(channels, list) or not channels or not all(isinstance(text, str) for text in texts):
            raise UserError(f"file_name {keys['file_name']!r}: needs a text, and a list of channels that are texts")
        yield keys
    inner = level.get("sensors", [])
    if not isinstance(inner, list) or (inner and not deeper) or not all(isinstance(one, dict) for one in inner):
        raise UserError(f"the key 'sensors' must be a list of objects, at most {MOST_LEVELS} levels deep")
    for one in inner:
        yield from _leaves(one, keys, deeper - 1)


def _moment(description: _Description, key: str) -> float:
    """A time of the description in unix seconds; UTC unless it names a zone."""
    text = description.top.get(key)
    try:
        moment = datetime.datetime.fromisoformat(text)  # pyrefly: ignore[bad-argument-type]
    except (ValueError, TypeError):
        raise UserError(f"{description.path}: {key} must be a time in ISO 8601, got {text!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _table(description: _Description, keys: Mapping[str, Any]) -> np.ndarray:
    """The numbers of a binary file, [rows, channels] in its own type."""
    channels, rows, bits = len(keys["channels"]), keys.get("rows"), keys.get("bits")
    kind, order = _TYPES.get(str(keys.get("data_type"))), _ORDERS.get(str(keys.get("endianness")))
    name = keys["file_name"]
    if type(rows) is not int or rows < 1 or kind is None or order is None or bits not in (8, 16, 32, 64):
        shown = ", ".join(f"{key} {keys.get(key)!r}" for key in ("rows", "data_type", "bits", "endianness"))
        raise UserError(f"{name}: its numbers cannot be read as {shown}")
    if kind == "f" and bits == 8 or "/" in name or "\\" in name:
        raise UserError(f"{name}: no such type, or no plain name of a file")
    path = description.path.parent / name
    content = read_bytes(path)
    expected = rows * channels * bits // 8
    if len(content) != expected:
        raise UserError(
            f"{name}: has {len(content)} bytes, its description says {expected} ({rows} rows of {channels} channels); copy both again"
        )
    return np.frombuffer(content, np.dtype(f"{order}{kind}{bits // 8}")).reshape(rows, channels)


def _times(description: _Description) -> np.ndarray:
    """Seconds after the start of the description, [rows] float64."""
    keys = description.holding("time")
    unit = (keys or {}).get("units")
    if keys is None or len(keys["channels"]) != 1 or not isinstance(unit, list) or len(unit) != 1:
        raise UserError("no binary file of the channel 'time' with one unit")
    if unit[0] not in STEPS:
        raise UserError(
            f"{keys['file_name']}: the unit of the times is {unit[0]!r}, this reader knows {' and '.join(STEPS)}"
        )
    steps = _table(description, keys)[:, 0].astype(np.float64) * _scales(keys)[0] / 1000
    bad = np.flatnonzero(~(np.isfinite(steps) & (steps >= 0)))
    if bad.size:
        raise UserError(
            f"{keys['file_name']}: step {bad[0]} is {1000 * steps[bad[0]]:g} ms: must be a number from 0 on"
        )
    time_s: np.ndarray = np.cumsum(steps)
    stated = _moment(description, "end_iso8601") - _moment(description, "start_iso8601")
    if abs(time_s[-1] - stated) > END_TOLERANCE_S + 0.01 * abs(stated):
        raise UserError(
            f"{keys['file_name']}: its steps last {time_s[-1]:.1f} s, start_iso8601 to end_iso8601 are {stated:.1f} s apart"
        )
    return time_s


def _scales(keys: Mapping[str, Any]) -> np.ndarray:
    """A factor for each channel of a file."""
    count, factors = len(keys["channels"]), keys.get("scale_factors", [1])
    if (
        not isinstance(factors, list)
        or len(factors) not in (1, count)
        or not all(type(f) in (int, float) and f and abs(f) < _LARGEST_FACTOR for f in factors)
    ):
        raise UserError(f"{keys['file_name']}: scale_factors must be {count} numbers other than 0, got {factors!r}")
    return np.broadcast_to(np.asarray(factors, np.float64), (count,))


def _values(
    description: _Description, keys: Mapping[str, Any], channels: Sequence[str], time_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """The numbers [rows, channels] of channels as stored, their factors, and the largest number that the type holds."""
    table = _table(description, keys)
    if len(table) != len(time_s):
        raise UserError(f"{keys['file_name']}: has {len(table)} rows, and there are {len(time_s)} times")
    places = [keys["channels"].index(name) for name in channels]
    largest = float(np.iinfo(table.dtype).max) if table.dtype.kind in "iu" else np.inf
    return table[:, places].astype(np.float64), _scales(keys)[places], largest


def _accel(description: _Description, time_s: np.ndarray) -> Stream:
    keys = description.holding(*ACCEL) or {"channels": [], "file_name": ""}
    missing = [name for name in ACCEL if name not in keys["channels"]]
    if missing:
        raise UserError(f"{keys['file_name'] or 'no file'}: the channel {missing[0]!r} is missing")
    units = keys.get("units")
    if not isinstance(units, list) or len(units) != len(keys["channels"]):
        raise UserError(f"{keys['file_name']}: needs a unit for each of its {len(keys['channels'])} channels")
    unit = {_UNITS.get(u, u) for u in (units[keys["channels"].index(name)] for name in ACCEL)}
    per_unit = G_PER_UNIT.get(str(next(iter(unit)))) if len(unit) == 1 else None
    if per_unit is None:
        raise UserError(
            f"{keys['file_name']}: the acceleration's unit is {' and '.join(sorted(map(str, unit)))}, not g, mg or m/s2"
        )
    numbers, scales, largest = _values(description, keys, ACCEL, time_s)
    scales = scales * per_unit
    ends = (tuple(-largest * scales), tuple(largest * scales)) if np.isfinite(largest) and (scales > 0).all() else None
    return Stream("accel", numbers * scales, ("x", "y", "z"), "g", time_s=time_s, range=ends, scale=float(scales[0]))


def _light(description: _Description, time_s: np.ndarray) -> Stream:
    keys = description.holding(*LIGHTS)
    if keys is None:
        raise UserError(f"holds none of the channels {', '.join(LIGHTS)}")
    lights = tuple(name for name in keys["channels"] if name in LIGHTS)
    numbers, scales, _ = _values(description, keys, lights, time_s)
    return Stream("ppg", numbers * scales, lights, "a.u.", time_s=time_s, polarity="systole_down")
