"""The remote side of a mirrored work directory: objects named by their content, and the manifest that names them."""

import concurrent.futures
import hashlib
import json
import platform
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorstore as ts

from accdistill_jax.errors import UserError
from accdistill_jax.files import sealed, unsealed
from accdistill_jax.storage.folder import LocalFolder, context, first_line, open_folder, result
from accdistill_jax.storage.mirror_files import Content, is_marker

MANIFEST = "mirror.json"
OBJECTS = "objects"
_FORMAT = 1
_THREADS = 8
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0


class Conflict(UserError):
    """Another run writes at the address, or the local folder and the address have parted: trying again is no use."""


class Manifest(NamedTuple):
    """A complete copy at an address.

    Attributes:
        run: identifies the run.
        generation: number of the copy, from 1.
        push: identifies the copy.
        files: content by name.
    """

    run: str
    generation: int
    push: str
    files: dict[str, Content]


class Patience:
    """Calls again what the object store refuses, until it has refused everything for `seconds`."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._ended = threading.Event()
        self._refused_since: float | None = None

    def renew(self) -> None:
        """Begins anew."""
        self._ended.clear()
        self._refused_since = None

    def end(self) -> None:
        """From now on the first refusal counts."""
        self._ended.set()

    def __call__(self, operation: Callable[[], Any]) -> Any:
        pause_s = _FIRST_PAUSE_S
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
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class CopyStore:
    """Manifest and objects at an address; every call retries until the patience is over."""

    def __init__(self, url: str, patience: Patience):
        self.url = url.rstrip("/")
        self._folder = open_folder(self.url)
        self._patience = patience

    def read(self) -> tuple[Manifest | None, bytes]:
        """The last complete copy, or None, and the store's version of the manifest, for `commit`.

        Raises:
            Conflict: what lies there is no manifest.
            UserError: the store refuses.
        """
        value, version = self._patience(lambda: read_versioned(self._folder, MANIFEST))
        return (None if value is None else _parse(value, where=self._folder.where(MANIFEST))), version

    def commit(self, own: Manifest, version: bytes) -> bytes:
        """Replaces the manifest of that version; returns the new version.

        Raises:
            Conflict: somebody else has replaced it.
            UserError: the store refuses.
        """
        about = {"format": _FORMAT, "host": platform.node(), "time": time.strftime("%FT%TZ", time.gmtime())}
        data = json.dumps(sealed(about | own._asdict())).encode()
        new = self._patience(lambda: write_if_unchanged(self._folder, MANIFEST, data, version))
        if new is not None:
            return new
        found, now = self.read()
        if found is not None and found.push == own.push:
            return now  # an answer was lost and the write done again
        raise Conflict(
            f"another run writes at {self.url}; stop one of the two. The manifest there is not this run's last one"
        )

    def upload(self, files: Mapping[str, Path], base: Mapping[str, Content]) -> dict[str, Content]:
        """Uploads the content of files that is not there yet.

        Args:
            files: what to read, by name.
            base: content of the last copy, which is there.

        Returns:
            What was read, by name.

        Raises:
            UserError: the store refuses, or a file cannot be read.
        """
        if not files:
            return {}
        present = {content.sha256 for content in base.values()} | self._present()

        def upload(name: str) -> tuple[str, Content]:
            try:
                data = files[name].read_bytes()
            except OSError as error:
                raise UserError(f"{name} cannot be read ({error.strerror or error})") from error
            content = Content(len(data), hashlib.sha256(data).hexdigest())
            if content.sha256 not in present:
                self._patience(lambda: self._folder.write(f"{OBJECTS}/{content.sha256}", data))
            return name, content

        return dict(_in_parallel(upload, files))

    def download(self, found: Manifest, names: Iterable[str], target: LocalFolder) -> bool:
        """Fetches files of a copy, markers last.

        Returns:
            False if an object is there no more, because the copy was replaced meanwhile.

        Raises:
            UserError: the disk is full, an object is damaged, or the store refuses.
        """

        def download(name: str) -> bool:
            key = f"{OBJECTS}/{found.files[name].sha256}"
            data = self._patience(lambda: self._folder.read(key))
            if data is None:
                return False
            if hashlib.sha256(data).hexdigest() != found.files[name].sha256:
                raise UserError(f"{self._folder.where(key)} ({name}) is damaged; restore it from a copy of the bucket")
            target.write(name, data)
            return True

        names = list(names)
        return all(
            all(_in_parallel(download, [name for name in names if is_marker(name) == last])) for last in (False, True)
        )

    def collect(self, kept: set[str]) -> None:
        """Removes the objects that are not kept.

        Raises:
            UserError: the store refuses.
        """
        for sha256 in self._present() - kept:
            self._patience(lambda key=f"{OBJECTS}/{sha256}": self._folder.remove(key))

    def _present(self) -> set[str]:
        return {name.rpartition("/")[2] for name in self._patience(lambda: self._folder.names(OBJECTS))}


def read_versioned(folder: Any, name: str) -> tuple[bytes | None, bytes]:
    """An object and the store's version of it; None where it is missing, which has a version too."""
    found = _call(folder, name, lambda store: store.read(name))
    return (None if found.state == "missing" else found.value), found.stamp.generation


def write_if_unchanged(folder: Any, name: str, data: bytes, version: bytes) -> bytes | None:
    """Replaces an object if it still has the version given; returns the new version, None if it has another one.

    On S3 TensorStore asks and then writes: two writers within the same moment are noticed at the next copy only.
    """
    return _call(folder, name, lambda store: store.write(name, data, if_equal=version)).generation or None


def _call(folder: Any, name: str, operation: Callable[[ts.KvStore], ts.Future]) -> Any:
    try:
        return result(operation(result(ts.KvStore.open(folder.kvstore(), context=context()))))
    except Exception as error:
        # TensorStore reports what an object store refuses with many exception types.
        raise UserError(
            f"{folder.where(name)}: the object store cannot be used ({first_line(error)}); check the address, the "
            "credentials and the network"
        ) from error


def _parse(data: bytes, *, where: str) -> Manifest:
    try:
        record = unsealed(json.loads(data))
        if record["format"] != _FORMAT:
            raise ValueError(f"format {record['format']}, this version reads {_FORMAT}")
        files = {name: Content(*content) for name, content in record["files"].items()}
        for name in files:
            if "\0" in name or not set(name.split("/")).isdisjoint(("", ".", "..")):
                raise ValueError(f"file name {name!r}")
        return Manifest(str(record["run"]), int(record["generation"]), str(record["push"]), files)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Conflict(f"{where} is no list of a run's files ({error!r}); use another address") from error


def _in_parallel(function: Callable[[Any], Any], items: Iterable[Any]) -> list:
    with concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="mirror") as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
