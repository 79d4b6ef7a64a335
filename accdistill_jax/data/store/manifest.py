"""The manifest of a store: which files there are, of what content, and what they hold."""

import hashlib
import json
import os

from accdistill_jax.data.store.checks import MANIFEST_BYTES, SIGNALS, malformed_key, missing_room
from accdistill_jax.errors import UserError
from accdistill_jax.storage.folder import LocalFolder, RemoteFolder, first_line, open_folder

FORMAT = "accdistill_jax segment store"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
SEGMENTS = "segments.parquet"
PARTICIPANTS = "participants.parquet"
CONTENT = "content.hashes"
_BLOCK_BYTES = 1 << 20


def read_manifest(path: str | os.PathLike) -> dict | None:
    """manifest.json of a store, None where there is none.

    Raises:
        UserError: it is damaged, of something else, or of another format version.
    """
    folder = open_folder(path)
    content = folder.read(MANIFEST, limit_bytes=MANIFEST_BYTES)
    if content is None:
        return None
    where = folder.where(MANIFEST)
    try:
        manifest = json.loads(content)
        version = manifest["format_version"]
        named = manifest["format"] == FORMAT
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{where}: not a readable store manifest ({first_line(error)}); prepare the store again"
        ) from error
    if not named or type(version) is not int:
        raise UserError(f"{where}: not the manifest of a {FORMAT}")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{where}: the store has format version {version}, this program reads version "
            f"{FORMAT_VERSION}; update accdistill_jax"
        )
    if version < FORMAT_VERSION:
        raise UserError(
            f"{where}: the store has format version {version}, this program reads version "
            f"{FORMAT_VERSION}; prepare it again with --overwrite, or delete that folder if a run made it "
            "(the run makes it again)"
        )
    if manifest.get("fingerprint") != fingerprint(manifest):
        raise UserError(
            f"{where}: the manifest was changed after it was written "
            "(its fingerprint does not match); prepare the store again"
        )
    key = malformed_key(manifest)  # one whose fingerprint fits can still be of other software, or made by hand
    if key:
        raise UserError(f"{where}: key {key!r} is missing or malformed; prepare the store again")
    array = missing_room(manifest)
    if array:
        raise UserError(
            f"{where}: {manifest['num_segments']} segments of {manifest['samples']} samples do not fit into the "
            f"files of {array}; prepare the store again"
        )
    return manifest


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
    """True if an unfinished preparation of this store exists."""
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
        found = _content(folder, name)
        if found is None:
            damaged.append(f"{name} is missing")
        elif found[0] != entry["bytes"]:
            damaged.append(f"{name} has {found[0]} bytes instead of {entry['bytes']}")
        elif found[1] != entry["sha256"]:
            damaged.append(f"{name} does not match its checksum")
        checked += entry["bytes"]
        if progress is not None:
            progress(checked)
    if damaged:
        raise UserError(f"{folder.path}: damaged: {'; '.join(damaged)}; restore these files or prepare the store again")
    return checked


def _content(folder: LocalFolder | RemoteFolder, name: str) -> tuple[int, str] | None:
    """Bytes and checksum of a file, None where there is none; a local one is not held in memory."""
    file = folder.open(name)
    if file is None:
        return None
    digest, size = hashlib.sha256(), 0
    try:
        with file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise UserError(f"{folder.where(name)}: cannot be read ({error.strerror or error})") from error
    return size, digest.hexdigest()


def is_shard(name: str) -> bool:
    """True if a file holds segments: all others are small, and checked when a store is opened."""
    return name.startswith(tuple(f"{signal}/c/" for signal in SIGNALS))


def check_sizes(folder: LocalFolder | RemoteFolder, manifest: dict) -> None:
    """Raises UserError for the first file of a store that is missing or of another size (local folders)."""
    expected = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    found = folder.sizes(list(expected))
    for name, size in expected.items():
        if name not in found:
            raise UserError(f"{folder.where(name)}: this file of the store is missing; restore it or prepare again")
        if found[name] is not None and found[name] != size:
            raise UserError(
                f"{folder.where(name)}: {found[name]} bytes instead of {size}, the file is damaged; "
                "restore it or prepare again"
            )


def read_checked(folder: LocalFolder | RemoteFolder, manifest: dict, name: str) -> bytes:
    """Content of a file of a store; raises UserError where it does not have the manifest's checksum."""
    content = folder.read(name, limit_bytes=manifest["files"][name]["bytes"])
    if content is None or checksum(content) != manifest["files"][name]["sha256"]:
        raise UserError(f"{folder.where(name)}: the file does not match its checksum; restore it or prepare again")
    return content
