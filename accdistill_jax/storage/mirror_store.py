"""The remote side of a mirrored work directory: its files, and the manifest that says which of them are a complete copy."""

import concurrent.futures
import hashlib
import json
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorstore as ts

from accdistill_jax.errors import UserError
from accdistill_jax.files import sealed, unsealed
from accdistill_jax.storage.folder import (
    SLOWEST_WRITE_BYTES_PER_S,
    LocalFolder,
    context,
    first_line,
    open_folder,
    result,
)
from accdistill_jax.storage.mirror_files import MANIFEST, Content, is_marker

KEPT = ".mirror"
_OBJECTS = "objects"  # of format 1
_FORMAT = 2
_THREADS = 8
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0


class Conflict(UserError):
    """Another run writes at the address, or the folder and the address hold different states; trying again does not help."""


class Manifest(NamedTuple):
    """A complete copy at an address.

    Attributes:
        run: identifies the run.
        generation: number of the copy, from 1; 0: the first copy is under way.
        push: identifies the copy.
        files: content by name.
        stale: names at the address that belong to no complete copy, to be removed after the next one: files of copies that were cut
            off, and files that this copy no longer has.
        writing: identifies a copy that was begun after this one and is not complete; "" if there is none.
        is_plain: False for a copy in format 1 of earlier versions, which named objects by their content.
    """

    run: str
    generation: int
    push: str
    files: dict[str, Content]
    stale: list[str] = []
    writing: str = ""
    is_plain: bool = True


class Patience:
    """Repeats operations that the object store refuses, until it has refused everything for `seconds`."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._ended = threading.Event()
        self._refused_since: float | None = None

    def renew(self) -> None:
        """Restarts the time limit."""
        self._ended.clear()
        self._refused_since = None

    def end(self) -> None:
        """Ends the retries: from now on the first refusal raises."""
        self._ended.set()

    def __call__(self, operation: Callable[[], Any]) -> Any:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                value = operation()
                self._refused_since = None
                return value
            except Conflict:
                raise
            except UserError:
                now = time.monotonic()
                if self._refused_since is None:
                    self._refused_since = now
                left_s = self._refused_since + self._seconds - now
                if left_s <= 0 or self._ended.wait(min(pause_s, left_s)):
                    raise
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class CopyStore:
    """Manifest and files at an address; every call retries until the patience is over. For one thread at a time."""

    def __init__(self, url: str, patience: Patience):
        self.url = url.rstrip("/")
        self._folder = open_folder(self.url)
        self._patience = patience
        self._version = b""  # of the manifest that this process has read or written last
        self._stale: set[str] = set()

    def read(self) -> Manifest | None:
        """The last complete copy, or None.

        Raises:
            Conflict: the manifest is damaged or no manifest.
            UserError: the store refuses.
        """
        value, self._version = self._patience(lambda: read_versioned(self._folder, MANIFEST))
        manifest = None if value is None else parse_manifest(value, where=self._folder.where(MANIFEST))
        self._stale = set(manifest.stale) if manifest is not None else set()
        return manifest if manifest is not None and manifest.generation else None

    def begin(self, base: Manifest, names: Iterable[str]) -> None:
        """Announces a copy in the manifest, so that no other process can complete one.

        Args:
            base: the last complete copy; generation 0: none.
            names: files that the new copy writes.

        Raises:
            Conflict: another process has replaced the manifest.
            UserError: the store refuses.
        """
        self._stale |= set(names) - set(base.files)
        self._replace_manifest(base._replace(stale=sorted(self._stale), writing=uuid.uuid4().hex))

    def upload(self, files: Mapping[str, Path], base: Mapping[str, Content]) -> dict[str, Content]:
        """Uploads files that are not yet there as they are, markers last; `begin` comes first.

        Args:
            files: what to read, by name.
            base: files of the last complete copy. Each of them stays available until `clean`.

        Returns:
            What was read, by name.

        Raises:
            Conflict: another process writes at the address.
            UserError: the store refuses, or a file cannot be read.
        """

        def upload(name: str) -> tuple[str, Content]:
            try:
                data = files[name].read_bytes()
            except OSError as error:
                raise UserError(f"{name} cannot be read ({error.strerror or error})") from error
            content = Content(len(data), hashlib.sha256(data).hexdigest())
            if content != base.get(name):
                self._patience(lambda: self._replace(name, data, base.get(name)))
            return name, content

        return dict(pair for names in _markers_last(files) for pair in _in_parallel(upload, names))

    def commit(self, manifest: Manifest, base: Mapping[str, Content]) -> None:
        """Replaces the manifest by that of a copy whose files are all there; `base` are the files of the copy before.

        Raises:
            Conflict: another process has replaced the manifest.
            UserError: the store refuses.
        """
        self._stale = (self._stale | base.keys()) - manifest.files.keys()
        self._replace_manifest(manifest._replace(stale=sorted(self._stale)))

    def clean(self) -> None:
        """Removes what the last complete copy does not need.

        Raises:
            UserError: the store refuses.
        """
        kept = self._patience(lambda: self._folder.names(KEPT))
        for name in (*sorted(self._stale, key=is_marker, reverse=True), *kept):
            self._patience(lambda name=name: self._folder.remove(name))
        self._stale = set()

    def download(self, manifest: Manifest, names: Iterable[str], target: LocalFolder) -> str | None:
        """Fetches files of a copy, markers last.

        Returns:
            A file that is not there as the manifest says, because the copy was replaced meanwhile or is damaged; None if all
            were fetched.

        Raises:
            UserError: the disk is full, or the store refuses.
        """

        def download(name: str) -> str | None:
            data = self._find(manifest, name)
            if data is None:
                return name
            target.write(name, data)
            return None

        for group in _markers_last(names):
            if missing := [name for name in _in_parallel(download, group) if name is not None]:
                return missing[0]
        return None

    def read_newer(self, before: Manifest, *, missing: str) -> Manifest:
        """The copy that has replaced `before`, of which a file is missing.

        Raises:
            UserError: there is none: the file is damaged.
        """
        copy = self.read()
        if copy is None or copy.push == before.push or copy.run != before.run:
            raise UserError(
                f"{self._folder.where(missing)} is damaged or missing; restore it from a copy of the bucket"
            )
        return copy

    def _find(self, manifest: Manifest, name: str) -> bytes | None:
        sha256 = manifest.files[name].sha256
        for place in (name, f"{KEPT}/{sha256}") if manifest.is_plain else (f"{_OBJECTS}/{sha256}",):
            data = self._patience(lambda place=place: self._folder.read(place))
            if data is not None and hashlib.sha256(data).hexdigest() == sha256:
                return data
        return None

    def _replace(self, name: str, data: bytes, base: Content | None) -> None:
        """Writes a file; keeps its content of the last complete copy, and overwrites no other process's file."""
        while True:
            found, version = read_versioned(self._folder, name)
            if found == data:
                return
            if found is not None:
                sha256 = hashlib.sha256(found).hexdigest()
                if base is not None and sha256 == base.sha256:
                    self._folder.write(f"{KEPT}/{sha256}", found)
                elif read_versioned(self._folder, MANIFEST)[1] != self._version:
                    raise self._conflict()
            if write_if_unchanged(self._folder, name, data, version) is not None:
                return

    def _replace_manifest(self, manifest: Manifest) -> None:
        about = {"format": _FORMAT, "host": platform.node(), "time": time.strftime("%FT%TZ", time.gmtime())}
        record = {key: value for key, value in manifest._asdict().items() if key != "is_plain"}
        data = json.dumps(sealed(about | record)).encode()
        version = self._patience(lambda: write_if_unchanged(self._folder, MANIFEST, data, self._version))
        if version is None:
            found, version = self._patience(lambda: read_versioned(self._folder, MANIFEST))
            if found != data:  # else an answer was lost and the write repeated
                raise self._conflict()
        self._version = version

    def _conflict(self) -> Conflict:
        return Conflict(
            f"another run writes at {self.url}; stop one of the two. The manifest there is not this run's last one"
        )


def read_versioned(folder: Any, name: str) -> tuple[bytes | None, bytes]:
    """Content and version of an object; a missing object has the content None and a version too."""
    reply = _call(folder, name, lambda store: store.read(name))
    return (None if reply.state == "missing" else reply.value), reply.stamp.generation


def write_if_unchanged(folder: Any, name: str, data: bytes, version: bytes) -> bytes | None:
    """Replaces an object if it still has this version; returns the new version, or None if it has another one.

    On S3, TensorStore reads the version and then writes: two writers within the same moment are noticed only at the next copy.
    """
    extra_s = len(data) / SLOWEST_WRITE_BYTES_PER_S
    return (
        _call(folder, name, lambda store: store.write(name, data, if_equal=version), extra_s=extra_s).generation or None
    )


def _call(folder: Any, name: str, operation: Callable[[ts.KvStore], ts.Future], *, extra_s: float = 0.0) -> Any:
    try:
        return result(operation(result(ts.KvStore.open(folder.kvstore(), context=context()))), extra_s=extra_s)
    except Exception as error:
        # TensorStore reports what an object store refuses with many exception types.
        raise UserError(
            f"{folder.where(name)}: the object store cannot be used ({first_line(error)}); check the address, the "
            "credentials and the network"
        ) from error


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """Reads a manifest.

    Args:
        data: content of the object.
        where: its address, for messages.

    Raises:
        Conflict: it is damaged, or of an unknown format.
    """
    try:
        record = unsealed(json.loads(data))
        if record["format"] not in (1, _FORMAT):
            raise ValueError(f"format {record['format']}, this version reads 1 and {_FORMAT}")
        is_plain = record["format"] == _FORMAT
        files = {name: Content(*content) for name, content in record["files"].items()}
        stale = list(record["stale"]) if is_plain else []
        for name in (*files, *stale):
            if "\0" in name or not set(name.split("/")).isdisjoint(("", ".", "..")):
                raise ValueError(f"file name {name!r}")
        writing = str(record["writing"]) if is_plain else ""
        return Manifest(
            str(record["run"]), int(record["generation"]), str(record["push"]), files, stale, writing, is_plain
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Conflict(f"{where} is no list of a run's files ({error!r}); use another address") from error


def _markers_last(names: Iterable[str]) -> tuple[list[str], list[str]]:
    names = list(names)
    return [name for name in names if not is_marker(name)], [name for name in names if is_marker(name)]


def _in_parallel(function: Callable[[Any], Any], items: Iterable[Any]) -> list:
    with concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="mirror") as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
