"""A folder that one process works in at a time, on this machine and, in a folder that machines share, on all of them.

The lock is `flock` on the file `.in-use.lock` in the folder. The system takes it from a process that ends, however it ends. What
the file says, and that its count grows every few seconds, is for two other cases: a file system without `flock`, and one whose
`flock` does not reach other machines (NFS mounted with `nolock`). There a holder is taken to be alive while the count grows. A
start that finds another machine's entry therefore waits some seconds before it takes the folder.
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
_PATIENCE_S = 2.0  # for a process that is just ending
_POLL_S = 0.05
BEAT_S = 5.0
DOUBT_S = 20.0
SETTLE_S = 1.0
_BYTES = 512  # of an entry, padded: each replaces the one before where it stands
_NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


class Entry(NamedTuple):
    """Content of a lock file.

    Attributes:
        host: of the holder.
        pid: its process id there.
        since: when it took the folder.
        beat: grows while it lives.
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
    """Context in which no other process has the sole use of a folder. Who only reads there need not ask.

    Args:
        folder: local; made where missing.
        refusal: from who holds the folder, "process 12 on host, since 2024-05-01 10:00:00", to the line that refuses.
        patience_s: how long a holder may take to end, in seconds.
        machines: whether holders on other machines are looked for where `flock` does not tell; False in a folder inside one that
            is held already.

    Raises:
        UserError: another process holds it, or the lock file cannot be written.
    """
    path = Path(folder) / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, locked = _open(path, refusal, patience_s)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    entry = Entry(socket.gethostname(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S"), 0)
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
    """The open lock file, and whether it is locked: False where the file system has no locks."""
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
                raise UserError(refusal(str(_read(descriptor) or "which has not said which one it is")))
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
    """True if the open file still has its name: a holder that ends removes it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _await_other_machine(
    descriptor: int, path: Path, entry: Entry, *, locked: bool, refusal: Callable[[str], str]
) -> None:
    """Raises UserError where the entry that stands there grows."""
    before = _read(descriptor)
    if before is None or (locked and before.host == entry.host):
        return
    end = time.monotonic() + DOUBT_S
    while time.monotonic() < end and (now := _read_anew(path)) is not None:
        if now != before:
            raise UserError(refusal(str(now)))
        time.sleep(_POLL_S)


def _take(descriptor: int, path: Path, entry: Entry, *, locked: bool, refusal: Callable[[str], str]) -> None:
    try:
        write_entry(descriptor, entry)
    except OSError as error:
        if not locked:  # on a full disk the lock alone does
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    if not locked:  # the last of those that began together has the folder
        time.sleep(SETTLE_S)
        now = _read_anew(path)
        if now is None or now[:3] != entry[:3]:
            raise UserError(refusal(str(now or "which began at the same moment")))


@contextlib.contextmanager
def _beating(descriptor: int, entry: Entry) -> Iterator[None]:
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


def write_entry(descriptor: int, entry: Entry) -> None:
    os.pwrite(descriptor, json.dumps(entry._asdict()).encode().ljust(_BYTES) + b"\n", 0)
    os.fsync(descriptor)  # a network file system keeps it to itself otherwise


def _read(descriptor: int) -> Entry | None:
    try:
        found = json.loads(os.pread(descriptor, 2 * _BYTES, 0))
        return Entry(str(found["host"]), int(found["pid"]), str(found["since"]), int(found["beat"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _read_anew(path: Path) -> Entry | None:
    """Content of the lock file, opened anew: a network file system answers an open file from memory."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)
