"""File lock between the processes of one machine."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from accdistill_jax.errors import UserError

SAY_AFTER_S = 2.0
_POLL_S = 0.05


@contextlib.contextmanager
def file_lock(path: str | os.PathLike, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds a lock between the processes of this machine; the system releases it when its holder ends, even by a kill.

    Args:
        path: the lock file; created if missing, never removed (a process may be waiting for it).
        waiting: called once if another process holds the lock for more than two seconds.

    Raises:
        UserError: the file cannot be created or locked; names it.
    """
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        file = open(path, "ab")
    except OSError as error:
        raise UserError(f"{path}: the lock file cannot be made ({error.strerror})") from error
    with file:
        try:
            _wait(file, waiting)
        except OSError as error:
            raise UserError(f"{path}: cannot be locked ({error.strerror}); use a folder on a local disk") from error
        yield


def _wait(file, waiting: Callable[[], None]) -> None:
    patience = time.monotonic() + SAY_AFTER_S
    while time.monotonic() < patience:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        time.sleep(_POLL_S)
    waiting()
    fcntl.flock(file, fcntl.LOCK_EX)
