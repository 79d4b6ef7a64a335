"""The manifest of a store: which files there are, of what content, and what they hold."""

import hashlib
import json
import math
import os

from accdistill_jax.data.folder import LocalFolder, RemoteFolder, first_line, open_folder
from accdistill_jax.errors import UserError

FORMAT = "accdistill_jax segment store"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
SEGMENTS = "segments.parquet"
PARTICIPANTS = "participants.parquet"
SIGNALS = ("ppg", "accel")


def read_manifest(path: str | os.PathLike) -> dict | None:
    """manifest.json of a store, None where there is none.

    Raises:
        UserError: it is damaged, of something else, or of another format version.
    """
    folder = open_folder(path)
    content = folder.read(MANIFEST)
    if content is None:
        return None
    where = folder.where(MANIFEST)
    try:
        manifest = json.loads(content)
        version = manifest["format_version"]
        named = manifest["format"] == FORMAT
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{where}: not a readable store manifest ({first_line(error)}); prepare the store again") from error
    if not named or type(version) is not int:
        raise UserError(f"{where}: not the manifest of a {FORMAT}")
    if version > FORMAT_VERSION:
        raise UserError(f"{where}: the store has format version {version}, this program reads version "
                        f"{FORMAT_VERSION}; update accdistill_jax")
    if version < FORMAT_VERSION:
        raise UserError(f"{where}: the store has format version {version}, this program reads version "
                        f"{FORMAT_VERSION}; prepare it again with --overwrite, or delete that folder if a run made it "
                        "(the run makes it again)")
    if manifest.get("fingerprint") != fingerprint(manifest):
        raise UserError(f"{where}: the manifest was changed after it was written "
                        "(its fingerprint does not match); prepare the store again")
    for key, fits in _MANIFEST_KEYS.items():
        if not fits(manifest.get(key)):
            raise UserError(f"{where}: key {key!r} is missing or malformed; prepare the store again")
    return manifest


def _is_count(value) -> bool:
    return type(value) is int and value > 0


def _is_amount(value) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _is_file(entry) -> bool:
    return isinstance(entry, dict) and type(entry.get("bytes")) is int and isinstance(entry.get("sha256"), str)


def _are_names(value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _is_dict(value) -> bool:
    return isinstance(value, dict)


# What reading relies on; a manifest whose fingerprint fits can still be of other software, or made by hand.
_MANIFEST_KEYS = {
    "num_segments": _is_count, "samples": _is_count, "rate_hz": _is_amount, "segment_s": _is_amount,
    "channels": lambda value: _is_dict(value) and all(_are_names(value.get(name)) for name in SIGNALS),
    "units": _is_dict, "counts": _is_dict, "split": _is_dict, "preprocess": _is_dict, "source_settings": _is_dict,
    "skipped": _is_dict, "source": lambda value: isinstance(value, str),
    "prepared": lambda value: isinstance(value, list) and all(_is_dict(own) and "unit" in own for own in value),
    "files": lambda value: _is_dict(value) and all(map(_is_file, value.values())),
    "not_read": lambda value: value is None or _is_dict(value),  # only there where something was not read
}


def fingerprint(manifest: dict) -> str:
    """Hex hash of the manifest without the software versions: the same data and settings give the same one."""
    content = {key: value for key, value in manifest.items() if key not in ("fingerprint", "software")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def checksum(data: bytes) -> str:
    """The manifest's checksum of one file."""
    return hashlib.sha256(data).hexdigest()


def partial_path(path: str | os.PathLike) -> str:
    """Where the unfinished parts of a store are kept: beside it."""
    return open_folder(path).path + ".partial"


def folder_is_partial(path: str | os.PathLike) -> bool:
    """Whether an unfinished preparation of this store exists."""
    return bool(open_folder(partial_path(path)).names())


def verify_checksums(path: str | os.PathLike, *, progress=None) -> int:
    """Reads every file of a store and compares it with the manifest.

    Args:
        path: folder or URL.
        progress: called with the number of bytes checked so far.

    Returns:
        Number of bytes checked.

    Raises:
        UserError: naming every missing or damaged file.
    """
    folder = open_folder(path)
    manifest = read_manifest(path)
    if manifest is None:
        raise UserError(f"{folder.path}: not a store (no {MANIFEST} there)")
    damaged, checked = [], 0
    for name, entry in manifest["files"].items():
        content = folder.read(name)
        if content is None:
            damaged.append(f"{name} is missing")
        elif len(content) != entry["bytes"]:
            damaged.append(f"{name} has {len(content)} bytes instead of {entry['bytes']}")
        elif checksum(content) != entry["sha256"]:
            damaged.append(f"{name} does not match its checksum")
        checked += entry["bytes"]
        if progress is not None:
            progress(checked)
    if damaged:
        raise UserError(f"{folder.path}: damaged: {'; '.join(damaged)}; restore these files or prepare the store again")
    return checked


def is_shard(name: str) -> bool:
    """Whether a file holds segments: all others are small, and checked when a store is opened."""
    return name.startswith(tuple(f"{signal}/c/" for signal in SIGNALS))


def check_sizes(folder: LocalFolder | RemoteFolder, manifest: dict) -> None:
    """Raises UserError for the first file of a store that is missing or of another size (local folders)."""
    expected = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    found = folder.sizes(list(expected))
    for name, size in expected.items():
        if name not in found:
            raise UserError(f"{folder.where(name)}: this file of the store is missing; restore it or prepare again")
        if found[name] is not None and found[name] != size:
            raise UserError(f"{folder.where(name)}: {found[name]} bytes instead of {size}, the file is damaged; "
                            "restore it or prepare again")


def read_checked(folder: LocalFolder | RemoteFolder, manifest: dict, name: str) -> bytes:
    """Content of a file of a store; raises UserError where it does not have the manifest's checksum."""
    content = folder.read(name)
    if content is None or checksum(content) != manifest["files"][name]["sha256"]:
        raise UserError(f"{folder.where(name)}: the file does not match its checksum; restore it or prepare again")
    return content
