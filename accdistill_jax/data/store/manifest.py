"""Manifest of a store: its files with their checksums, and its properties."""

import hashlib
import json
import os
from collections.abc import Callable

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
    """Reads manifest.json of a store; None if there is no such file.

    Raises:
        UserError: the manifest is damaged, of another kind of folder, or of another format version.
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
    if manifest.get("fingerprint") != manifest_fingerprint(manifest):
        raise UserError(
            f"{where}: the manifest was changed after it was written "
            "(its fingerprint does not match); prepare the store again"
        )
    key = malformed_key(manifest)  # a matching fingerprint does not exclude a manifest of other software or by hand
    if key:
        raise UserError(f"{where}: key {key!r} is missing or malformed; prepare the store again")
    array = missing_room(manifest)
    if array:
        raise UserError(
            f"{where}: {manifest['num_segments']} segments of {manifest['samples']} samples do not fit into the "
            f"files of {array}; prepare the store again"
        )
    return manifest


def manifest_fingerprint(manifest: dict) -> str:
    """Hex hash of the manifest without the software versions. Equal data and settings give equal fingerprints."""
    content = {key: value for key, value in manifest.items() if key not in ("fingerprint", "software")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def checksum(data: bytes | memoryview) -> str:
    """Checksum of a file's content, as in the manifest."""
    return hashlib.sha256(data).hexdigest()


def partial_path(path: str | os.PathLike) -> str:
    """Staging folder of an unfinished store, beside the store."""
    return open_folder(path).path + ".partial"


def folder_is_partial(path: str | os.PathLike) -> bool:
    """True if an unfinished preparation of this store exists."""
    return bool(open_folder(partial_path(path)).names())


def verify_checksums(path: str | os.PathLike, *, progress: Callable[[int], None] | None = None) -> int:
    """Reads every file of a store and compares it with the manifest.

    Args:
        path: folder or URL.
        progress: called with the number of bytes checked so far.

    Returns:
        Number of bytes checked.

    Raises:
        UserError: missing or damaged files; the message names all of them.
    """
    folder = open_folder(path)
    manifest = read_manifest(path)
    if manifest is None:
        raise UserError(f"{folder.path}: not a store (no {MANIFEST} there)")
    damaged, checked = [], 0
    for name, entry in manifest["files"].items():
        content = _size_and_checksum(folder, name)
        if content is None:
            damaged.append(f"{name} is missing")
        elif content[0] != entry["bytes"]:
            damaged.append(f"{name} has {content[0]} bytes instead of {entry['bytes']}")
        elif content[1] != entry["sha256"]:
            damaged.append(f"{name} does not match its checksum")
        checked += entry["bytes"]
        if progress is not None:
            progress(checked)
    if damaged:
        raise UserError(f"{folder.path}: damaged: {'; '.join(damaged)}; restore these files or prepare the store again")
    return checked


def _size_and_checksum(folder: LocalFolder | RemoteFolder, name: str) -> tuple[int, str] | None:
    """Number of bytes and checksum of a file; None if it is missing. A local file is read block by block."""
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
    """True for files with segments. All other files are small, and are checked when a store is opened."""
    return name.startswith(tuple(f"{signal}/c/" for signal in SIGNALS))


def check_sizes(folder: LocalFolder | RemoteFolder, manifest: dict) -> None:
    """Raises UserError for the first file of a local store that is missing or has another size."""
    expected = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    sizes = folder.sizes(list(expected))
    for name, size in expected.items():
        if name not in sizes:
            raise UserError(f"{folder.where(name)}: this file of the store is missing; restore it or prepare again")
        if sizes[name] is not None and sizes[name] != size:
            raise UserError(
                f"{folder.where(name)}: {sizes[name]} bytes instead of {size}, the file is damaged; "
                "restore it or prepare again"
            )


def read_checked(folder: LocalFolder | RemoteFolder, manifest: dict, name: str) -> bytes:
    """Content of a file of a store; raises UserError if its checksum differs from the manifest."""
    content = folder.read(name, limit_bytes=manifest["files"][name]["bytes"])
    if content is None or checksum(content) != manifest["files"][name]["sha256"]:
        raise UserError(f"{folder.where(name)}: the file does not match its checksum; restore it or prepare again")
    return content
