"""Manifest of a store: its files with their checksums, and its properties."""

import hashlib
import json
import os
import posixpath
from collections.abc import Callable, Mapping
from typing import BinaryIO

from accdistill_jax.data.store.checks import MANIFEST_BYTES, SIGNALS, malformed_key, missing_room
from accdistill_jax.errors import UserError
from accdistill_jax.storage.folder import LocalFolder, RemoteFolder, first_line, open_folder

FORMAT = "accdistill_jax segment store"
FORMAT_OF_PARTS = "accdistill_jax store of parts"  # its arrays are those of other stores (parts.py)
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
SEGMENTS = "segments.parquet"
PARTICIPANTS = "participants.parquet"
CONTENT = "content.hashes"
ADDED = "added"  # folder of a new version, a store with the recordings that the version added
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
        named = manifest["format"] in (FORMAT, FORMAT_OF_PARTS)
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
    key = malformed_key(
        manifest, of_parts=has_parts(manifest)
    )  # a matching fingerprint does not exclude a manifest of other software or by hand
    if key:
        raise UserError(f"{where}: key {key!r} is missing or malformed; prepare the store again")
    array = None if has_parts(manifest) else missing_room(manifest)
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


def has_parts(manifest: Mapping) -> bool:
    """True if the arrays of a store are those of other stores, which the manifest names."""
    return manifest["format"] == FORMAT_OF_PARTS


def parts_of(folder: LocalFolder | RemoteFolder, manifest: dict) -> list[tuple[LocalFolder | RemoteFolder, dict]]:
    """Folders and manifests of the stores with the arrays: the parts, or the store itself if it has none.

    Raises:
        UserError: a part is missing, was replaced, or is itself a store of parts.
    """
    if not has_parts(manifest):
        return [(folder, manifest)]
    parts = []
    for entry in manifest["parts"]:
        part = open_folder(joined_path(folder.path, entry["path"]))
        held = read_manifest(part.path)
        if held is None:
            raise UserError(
                f"{folder.path}: its part {part.path} is missing; put that store back, or merge the parts again"
            )
        if held["fingerprint"] != entry["fingerprint"] or has_parts(held):
            raise UserError(
                f"{folder.path}: its part {part.path} is another store by now; put the former back, or merge the parts again"
            )
        parts.append((part, held))
    return parts


def real_path(path: str) -> str:
    """A local path with all links resolved; a URL as it is."""
    return path if "://" in path else os.path.realpath(path)


def joined_path(folder: str, relative: str) -> str:
    """Path or URL of a part, from the path or URL of the store and the part's path relative to it."""
    scheme, separator, place = folder.rpartition("://")
    if not separator:
        return os.path.normpath(os.path.join(real_path(folder), relative))
    bucket, _, key = place.partition("/")
    return f"{scheme}://{bucket}{posixpath.normpath(posixpath.join('/' + key, relative))}"


def relative_path(folder: str, part: str) -> str:
    """Path of a part relative to a store, see `joined_path`. Links are resolved, so a store has the same parts under every path.

    Raises:
        UserError: one is local and the other is not, or they are in different buckets.
    """
    places = []
    for path in (real_path(folder), real_path(part)):
        scheme, separator, place = path.rpartition("://")
        bucket, _, key = place.partition("/") if separator else ("", "", place)
        places.append((f"{scheme}://{bucket}" if separator else "", f"/{key}" if separator else key))
    (base, start), (other, target) = places
    if base != other:
        raise UserError(
            f"{folder} and {part}: a store and its parts must all be local folders, or all in one bucket; copy one of them"
        )
    return posixpath.relpath(target, start) if base else os.path.relpath(target, start)


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
    """Reads every file of a store, and of its parts, and compares it with the manifest.

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
    stores = parts_of(folder, manifest)
    if has_parts(manifest):
        stores = [(folder, manifest), *stores]
    damaged, checked = [], 0
    for held, name, entry in ((held, *item) for held, about in stores for item in about["files"].items()):
        content = _size_and_checksum(held, name)
        name = name if held is folder else held.where(name)
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
    with file:
        return _size_and_digest(folder, name, file)


def _size_and_digest(folder: LocalFolder | RemoteFolder, name: str, file: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    try:
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


def open_checked(folder: LocalFolder | RemoteFolder, manifest: Mapping, name: str) -> BinaryIO:
    """Opens a file of a store that may be large, at its beginning; raises UserError if its checksum differs from the manifest."""
    file = folder.open(name)
    if file is None:
        raise _wrong_checksum(folder, name)
    try:
        if _size_and_digest(folder, name, file)[1] != manifest["files"][name]["sha256"]:
            raise _wrong_checksum(folder, name)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def check_content(folder: LocalFolder | RemoteFolder, manifest: Mapping, name: str) -> None:
    """Compares a file with its checksum; raises UserError if they differ."""
    open_checked(folder, manifest, name).close()


def read_checked(folder: LocalFolder | RemoteFolder, manifest: dict, name: str) -> bytes:
    """Content of a file of a store; raises UserError if its checksum differs from the manifest."""
    content = folder.read(name, limit_bytes=manifest["files"][name]["bytes"])
    if content is None or checksum(content) != manifest["files"][name]["sha256"]:
        raise _wrong_checksum(folder, name)
    return content


def _wrong_checksum(folder: LocalFolder | RemoteFolder, name: str) -> UserError:
    return UserError(f"{folder.where(name)}: the file does not match its checksum; restore it or prepare again")
