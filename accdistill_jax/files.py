"""Local files that are either whole or absent; reading with a limit; records with a checksum."""

import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import re
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from accdistill_jax.errors import UserError, refuse_password

RECORD_BYTES = 256 * 2**20  # limit for records that are read whole (JSON, metrics); real ones are far smaller
_LEFTOVER = re.compile(r"\..*\.\d+-\d+\.tmp")


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a small file so that a reader sees the old content or the new one, never a part.

    Args:
        path: local path; its folder must exist.
        content: text (UTF-8) or bytes.

    Raises:
        OSError: the file system refused, for example because it is full; nothing is left behind.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp"
    data = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_leftover(name: str) -> bool:
    """True for the name of a temporary file that `write_atomically` leaves if it is killed."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files of killed `write_atomically` calls below a folder; no process may be writing there."""
    for path in Path(folder).rglob(".*.tmp"):
        if is_leftover(path.name):
            path.unlink(missing_ok=True)


def remove_matching(folder: str | os.PathLike, is_ours: Callable[[str], bool]) -> bool:
    """Removes this program's files below a local folder, and each folder that is empty afterwards; a user's files stay.

    Args:
        folder: need not exist.
        is_ours: called with a file's path relative to `folder`, parts separated by "/"; True: remove it.

    Returns:
        True if the folder is gone.
    """
    emptied = {os.fspath(folder)}
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            if is_ours(os.path.relpath(os.path.join(path, name), folder).replace(os.sep, "/")):
                os.unlink(os.path.join(path, name))
                emptied.add(path)
        if path in emptied:
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(path)
                emptied.add(os.path.dirname(path))
    return not os.path.lexists(folder)


def free_name(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, ... that does not exist."""
    names = itertools.chain([path.name], (f"{path.name}-{number}" for number in itertools.count(2)))
    return next(other for name in names if not os.path.lexists(other := path.with_name(name)))


def open_regular(path: str | os.PathLike) -> io.BufferedReader:
    """Opens a local file for reading; refuses files that never end or that block, such as /dev/zero or a FIFO.

    Raises:
        OSError: as `open`; also for a file that is not regular and a name that no file can have.
    """
    try:
        file = open(
            path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
        )  # else a FIFO would block
    except ValueError as error:
        raise OSError(errno.EINVAL, f"not a file name: {error}", os.fspath(path)) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return file


def read_regular(path: str | os.PathLike, *, limit_bytes: int = RECORD_BYTES) -> bytes:
    """The content of a local file.

    Raises:
        OSError: as `open_regular`; also if the file is larger than the limit.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > limit_bytes:
            raise OSError(errno.EFBIG, f"more than {limit_bytes} bytes", os.fspath(path))
        return file.read()


def sealed(record: Mapping) -> dict:
    """Adds a checksum over everything else to a record of JSON values."""
    return {**record, "checksum": record_checksum(record)}


def record_checksum(record: Mapping) -> str:
    """Checksum of a record, computed without its "checksum" entry."""
    plain = json.loads(json.dumps({key: value for key, value in record.items() if key != "checksum"}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def unsealed(record: Mapping) -> dict:
    """Removes the checksum of a record and verifies it; records of earlier versions have none.

    Raises:
        ValueError: the record was changed after it was written.
    """
    if record.get("checksum", "") not in ("", record_checksum(record)):
        raise ValueError("it was changed after it was written")
    return {key: value for key, value in record.items() if key != "checksum"}


def is_address(workdir: str) -> bool:
    """True if a work directory is an object-store address.

    Raises:
        UserError: the address cannot be written to, or holds a password.
    """
    refuse_password(workdir)
    if workdir.startswith(("http://", "https://")):
        raise UserError(f"--workdir={workdir} cannot be written to; use gs://..., s3://... or a local folder")
    return "://" in workdir and not workdir.startswith("file://")
