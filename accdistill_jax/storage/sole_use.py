"""Sole use of a folder by one process, among the processes of this machine and of machines that share the folder.

The lock is `flock` on the file `.in-use.lock` in the folder. The system releases it when the holder ends, even by a kill. The entry
in the file, with a count that grows every few seconds, serves two other cases: a file system without `flock`, and one whose `flock`
does not reach other machines (NFS mounted with `nolock`). There a holder counts as alive while its count grows. So a start that
finds an entry of another machine waits some seconds before it takes the folder.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from accdistill_jax.errors import UserError

LOCK = ".in-use.lock"
_PATIENCE_S = 2.0  # for a holder that is ending
_POLL_S = 0.05
BEAT_S = 5.0
DOUBT_S = 20.0
SETTLE_S = 1.0
_BYTES = 512  # of an entry, padded: each entry overwrites the one before in place
_NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


class LockContent(NamedTuple):
    """Content of a lock file.

    Attributes:
        host: machine of the holder.
        pid: process id of the holder.
        since: time at which the holder took the folder.
        beat: count that grows while the holder lives.
    """

    host: str
    pid: int
    since: str
    beat: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextlib.contextmanager
def sole_use(
    folder: str | os.PathLike, *, refusal: Callable[[str], str], patience_s: float = _PATIENCE_S, machines: bool = True
) -> Iterator[None]:
    """Context in which this process has the sole use of a folder; processes that only read do not need it.

    Args:
        folder: local folder; created if missing.
        refusal: makes the error message from the holder, "process 12 on host, since 2024-05-01 10:00:00".
        patience_s: time that a holder gets to end, in seconds.
        machines: True also checks for holders on other machines that `flock` does not show; False for a folder inside one that this
            process holds already.

    Raises:
        UserError: another process holds it, or the lock file cannot be written.
    """
    path = Path(folder) / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, locked = _open(path, refusal, patience_s)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    entry = LockContent(socket.gethostname(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S"), 0)
    try:
        if machines:
            _await_other_machine(descriptor, path, entry, locked=locked, refusal=refusal)
        _take(descriptor, path, entry, locked=locked, refusal=refusal)
        with _beating(descriptor, entry) if machines else contextlib.nullcontext():
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    if _is_at(descriptor, path):
                        path.unlink()
    finally:
        os.close(descriptor)


def _open(path: Path, refusal: Callable[[str], str], patience_s: float) -> tuple[int, bool]:
    """Opens and locks the lock file; the second value is False if the file system has no locks."""
    patience = time.monotonic() + patience_s
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                got = _flock(descriptor)
            except OSError as error:
                if error.errno in _NO_FLOCK:
                    return descriptor, False
                raise
            if got and _is_at(descriptor, path):
                return descriptor, True
            if not got and time.monotonic() >= patience:
                raise UserError(refusal(str(_read(descriptor) or "which has not written its name yet")))
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not got:
            time.sleep(_POLL_S)


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise


def _is_at(descriptor: int, path: Path) -> bool:
    """True if the open file still exists under its name; a holder that ends removes it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _await_other_machine(
    descriptor: int, path: Path, entry: LockContent, *, locked: bool, refusal: Callable[[str], str]
) -> None:
    """Raises UserError if the count of the entry in the file grows."""
    before = _read(descriptor)
    if before is None or (locked and before.host == entry.host):
        return
    end = time.monotonic() + DOUBT_S
    while time.monotonic() < end and (now := _read_anew(path)) is not None:
        if now != before:
            raise UserError(refusal(str(now)))
        time.sleep(_POLL_S)


def _take(descriptor: int, path: Path, entry: LockContent, *, locked: bool, refusal: Callable[[str], str]) -> None:
    try:
        write_entry(descriptor, entry)
    except OSError as error:
        if not locked:  # the lock alone suffices on a full disk
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    if not locked:  # of several processes that began together, the last one gets the folder
        time.sleep(SETTLE_S)
        now = _read_anew(path)
        if now is None or now[:3] != entry[:3]:
            raise UserError(refusal(str(now or "which began at the same moment")))


@contextlib.contextmanager
def _beating(descriptor: int, entry: LockContent) -> Iterator[None]:
    ended = threading.Event()

    def beat() -> None:
        count = 0
        while not ended.wait(BEAT_S):
            count += 1
            with contextlib.suppress(OSError):
                write_entry(descriptor, entry._replace(beat=count))

    thread = threading.Thread(target=beat, name="in-use", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def write_entry(descriptor: int, entry: LockContent) -> None:
    """Overwrites the entry of a lock file in place."""
    os.pwrite(descriptor, json.dumps(entry._asdict()).encode().ljust(_BYTES) + b"\n", 0)
    os.fsync(descriptor)  # otherwise a network file system may keep the write on this machine


def _read(descriptor: int) -> LockContent | None:
    try:
        entry = json.loads(os.pread(descriptor, 2 * _BYTES, 0))
        return LockContent(str(entry["host"]), int(entry["pid"]), str(entry["since"]), int(entry["beat"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _read_anew(path: Path) -> LockContent | None:
    """Reads the lock file through a new descriptor, as a network file system answers an old one from its cache."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)
