"""Folders of named byte blobs, on a local disk or in an object store, with the same interface.

Every write is atomic: a name holds either a whole blob or nothing.
"""

import errno
import functools
import io
import itertools
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorstore as ts

from accdistill_jax.errors import UserError, refuse_password
from accdistill_jax.files import open_regular, remove_matching
from accdistill_jax.text import readable
from accdistill_jax.user_paths import expanded

_URL_SCHEMES = ("gs://", "s3://", "memory://")
_TEMPORARY = ".writing-"
_LEFTOVER = re.compile(r".+\.writing-\d+-\d+")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_DETAILS = re.compile(r" \[[\w -]+='.*| \[source locations=.*")  # what TensorStore appends to its messages
_counter = itertools.count()
# With TensorStore's default limits, a wrong address is reported only after a quarter of an hour.
RETRIES = {"max_retries": 5, "initial_delay": "1s", "max_delay": "8s"}
DEADLINE_S = 120.0
_STALLED_S = 20
SLOWEST_WRITE_BYTES_PER_S = 100_000
_FEW = 8  # so few names are looked up one by one; more, in a listing of the whole folder


@functools.cache
def root_context() -> ts.Context:
    """The TensorStore context that all others share; its retries are `RETRIES`."""
    # Without these, a connection that the server has dropped blocks a request for half an hour.
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(_STALLED_S))
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
    return ts.Context({"memory_key_value_store": {}, "s3_request_retries": RETRIES, "gcs_request_retries": RETRIES})


@functools.cache
def context(cache_bytes: int = 0, concurrency: int | None = None) -> ts.Context:
    """A TensorStore context; all contexts of this process share one memory:// store.

    Args:
        cache_bytes: size of the chunk cache.
        concurrency: simultaneous requests to an object store; None: TensorStore's default, 32.
    """
    spec = {"cache_pool": {"total_bytes_limit": cache_bytes}}
    if concurrency is not None:
        spec |= {f"{service}_request_concurrency": {"limit": concurrency} for service in ("s3", "gcs")}
    return ts.Context(spec, parent=root_context())


def open_folder(path: str | os.PathLike) -> "LocalFolder | RemoteFolder":
    """Folder at a local path, a file:// URL or an object-store URL (gs://, s3://, memory:// in tests).

    s3:// uses the service at AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL (MinIO and others) if one of these variables is set, else AWS.

    Raises:
        UserError: another scheme (http:// has no listing and no way to write), or a password in the address.
    """
    text = os.fspath(path)
    refuse_password(text)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if text.startswith(_URL_SCHEMES):
        return RemoteFolder(text)
    if text.startswith(("http://", "https://")):
        address = text.partition("?")[0]  # the query may hold a signature
        raise UserError(
            f"{address}: a store cannot be read over http; use gs://..., s3://... (AWS_ENDPOINT_URL names another "
            "service than AWS) or a local copy"
        )
    if "://" in text:
        raise UserError(f"{text}: unknown URL scheme; use a local path or one of {', '.join(_URL_SCHEMES)}")
    return LocalFolder(text)


class LocalFolder:
    """Blobs as files below a local folder; writes go to a temporary name, are synced and renamed."""

    is_local = True

    def __init__(self, path: str | os.PathLike):
        self.path = str(Path(expanded(path)).absolute())
        try:
            self.path.encode()
        except UnicodeEncodeError:  # TensorStore cannot open such a path
            raise UserError(
                f"{readable(self.path)}: this path is not UTF-8; choose another folder (or set PYTHONUTF8=1, where "
                "the system's encoding is another one)"
            ) from None

    def __truediv__(self, name: str) -> "LocalFolder":
        return LocalFolder(os.path.join(self.path, name))

    def where(self, name: str) -> str:
        """Full path of a blob, for messages."""
        return os.path.join(self.path, name)

    def kvstore(self) -> dict:
        """TensorStore key-value spec for reading."""
        return {"driver": "file", "path": self.path + "/"}

    def read(self, name: str, *, limit_bytes: int | None = None) -> bytes | None:
        """Content of a blob, or None if it does not exist.

        Raises:
            UserError: it cannot be read, or is larger than the limit.
        """
        file = self.open(name)
        if file is None:
            return None
        with file:
            try:
                size = os.fstat(file.fileno()).st_size
                if limit_bytes is not None and size > limit_bytes:
                    raise UserError(
                        f"{self.where(name)}: {size} bytes instead of {limit_bytes} at most; the file is damaged"
                    )
                return file.read()
            except OSError as error:
                raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: OSError) -> UserError:
        return UserError(f"{self.where(name)}: cannot be read ({error.strerror})")

    def write(self, name: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        """Writes a blob whole or not at all.

        Args:
            name: name of the blob.
            data: content.
            durable: True waits for the disk, so that the blob survives a power failure.

        Raises:
            UserError: the disk is full or the folder is not writable.
        """
        target = self.where(name)
        temporary = f"{target}{_TEMPORARY}{os.getpid()}-{next(_counter)}"
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                os.replace(temporary, target)
            except BaseException:
                if os.path.exists(temporary):
                    os.unlink(temporary)
                raise
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise UserError(no_space_message(target, len(data))) from error
            raise UserError(f"{target}: cannot be written ({error.strerror})") from error

    def open(self, name: str):
        """A blob as a seekable binary file, or None if it does not exist."""
        try:
            return open_regular(self.where(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._unreadable(name, error) from error

    def names(self, below: str = "") -> list[str]:
        """Sorted names of the blobs whose name starts with the folder `below`."""
        root = os.path.join(self.path, below)
        paths = [
            os.path.relpath(os.path.join(folder, name), self.path)
            for folder, _, names in os.walk(root)
            for name in names
        ]
        return sorted(path for path in paths if _TEMPORARY not in path)

    def sizes(self, names: list[str]) -> dict[str, int | None]:
        """Bytes of each of `names` that exists."""
        sizes: dict[str, int | None] = {}
        for name in names:
            try:
                state = os.stat(self.where(name))
                if not stat.S_ISREG(state.st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
                sizes[name] = state.st_size
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise self._unreadable(name, error) from error
        return sizes

    def remove(self, name: str) -> None:
        """Removes one blob, if it exists; raises UserError if it cannot be removed."""
        try:
            Path(self.where(name)).unlink(missing_ok=True)
        except NotADirectoryError:  # a file stands in the folder's place, so there is no blob
            return
        except OSError as error:
            raise UserError(f"{self.where(name)}: cannot be removed ({error.strerror})") from error

    def remove_ours(self, is_ours: Callable[[str], bool]) -> bool:
        """Removes the blobs for which `is_ours` is True and the folders that become empty; True if nothing is left."""
        try:
            return remove_matching(self.path, is_ours)
        except OSError as error:
            raise UserError(f"{error.filename or self.path}: cannot be removed ({error.strerror})") from error

    def remove_leftovers(self) -> None:
        """Removes temporary files of killed processes."""
        for folder, _, names in os.walk(self.path):
            for name in names:
                if _LEFTOVER.fullmatch(name):
                    Path(folder, name).unlink(missing_ok=True)

    def free_bytes(self) -> int | None:
        """Free bytes on the disk of this folder."""
        folder = self.path
        while not os.path.exists(folder):
            folder = os.path.dirname(folder)
        return shutil.disk_usage(folder).free


class RemoteFolder:
    """Blobs as objects below an object-store URL; object stores write whole objects."""

    is_local = False

    def __init__(self, url: str):
        self.path = url.rstrip("/")

    def __truediv__(self, name: str) -> "RemoteFolder":
        return RemoteFolder(f"{self.path}/{name}")

    def where(self, name: str) -> str:
        """Full URL of a blob, for messages."""
        return f"{self.path}/{name}"

    def kvstore(self) -> str | dict:
        """TensorStore key-value spec or URL."""
        if not self.path.startswith("s3://"):
            return self.path + "/"
        bucket, _, path = self.path.removeprefix("s3://").partition("/")
        spec: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": path + "/" if path else ""}
        if {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= os.environ.keys():
            spec["aws_credentials"] = {
                "type": "environment"
            }  # else AWS's library logs every credentials file that it tries
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            spec |= {"endpoint": endpoint, "aws_region": region}
        return spec

    def _call(self, what: str, function, *, extra_s: float = 0.0):
        try:
            return result(function(result(ts.KvStore.open(self.kvstore(), context=context()))), extra_s=extra_s)
        except Exception as error:
            raise UserError(
                f"{self.where(what)}: the object store cannot be used ({first_line(error)}); check the "
                "address, the credentials and the network"
            ) from error

    def read(self, name: str, *, limit_bytes: int | None = None) -> bytes | None:
        """Content of an object, or None if it does not exist; `limit_bytes` has an effect in local folders only."""
        del limit_bytes  # an object is read whole or not at all
        reply = self._call(name, lambda kv: kv.read(name))
        return None if reply.state == "missing" else reply.value

    def write(self, name: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        """Writes one object; always durable."""
        self._call(name, lambda kv: kv.write(name, bytes(data)), extra_s=len(data) / SLOWEST_WRITE_BYTES_PER_S)

    def open(self, name: str):
        """An object as a seekable binary file, or None if it does not exist."""
        data = self.read(name)
        return None if data is None else io.BytesIO(data)

    def names(self, below: str = "") -> list[str]:
        """Sorted names of the objects whose name starts with the folder `below`."""
        prefix = below.rstrip("/") + "/" if below else ""
        everything = ts.KvStore.KeyRange(prefix, prefix[:-1] + "0") if prefix else ts.KvStore.KeyRange()
        keys = self._call(below, lambda kv: kv.list(everything))
        return sorted(key.decode() for key in keys)

    def sizes(self, names: list[str]) -> dict[str, int | None]:
        """The existing ones of `names`; sizes are None, as an object store lists names only."""
        if len(names) > _FEW:
            return dict.fromkeys(set(names).intersection(self.names()))
        ranges = {name: ts.KvStore.KeyRange(name, name + "\0") for name in names}
        return {name: None for name, only in ranges.items() if self._call(name, lambda kv, only=only: kv.list(only))}

    def remove(self, name: str) -> None:
        """Removes one object, if it exists."""
        self._call(name, lambda kv: kv.delete_range(ts.KvStore.KeyRange(name, name + "\0")))

    def remove_ours(self, is_ours: Callable[[str], bool]) -> bool:
        """Removes the objects for which `is_ours` is True; True if nothing is left."""
        names = self.names()
        for name in filter(is_ours, names):
            self.remove(name)
        return all(map(is_ours, names))

    def remove_leftovers(self) -> None:
        """Does nothing: an object store has no half-written objects."""

    def free_bytes(self) -> None:
        """Always None: object stores have no limit of free space."""
        return None


def result(future: ts.Future, *, extra_s: float = 0.0):
    """The result of a TensorStore operation.

    Raises:
        TimeoutError: no result within two minutes plus `extra_s` seconds.
    """
    seconds = DEADLINE_S + extra_s
    try:
        return future.result(timeout=seconds)
    except TimeoutError as error:
        future.cancel()
        raise TimeoutError(f"no answer within {seconds:.0f} s") from error


def first_line(error: Exception) -> str:
    """First line of an error message, without the source locations and details that libraries append."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _DETAILS.sub("", lines[0]) if lines else type(error).__name__


def no_space_message(target: str, needed: int) -> str:
    """Error message for a full disk, in one line."""
    return (
        f"{target}: the disk is full; about {max(needed / 1e6, 0.1):.1f} MB more are needed there. "
        "What is done so far is kept: free some space and run the same command again"
    )
