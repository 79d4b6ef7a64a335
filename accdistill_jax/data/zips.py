"""Reads untrusted zips: damaged, written by other systems, or made to fill the memory."""

import contextlib
import io
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from accdistill_jax.errors import UserError

_MOST_ZIP_BYTES = 2**30
_PACKED_PIECE_BYTES = 4096  # so few packed bytes unpack to a size that fits into memory
_PIECE_BYTES = 2**20


@contextlib.contextmanager
def damage_named(place: object) -> Iterator[None]:
    """Turns any exception from a damaged zip into a `UserError` that names the zip."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"{place}: the zip is damaged or cut off ({str(error) or type(error).__name__}); copy it again"
        ) from error


def members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Path (with "/") -> member, for the files in a zip; the last one wins if several have the same path."""
    return {name: info for info in archive.infolist() if (name := _path(info))}


def repeated_paths(archive: zipfile.ZipFile) -> list[str]:
    """Paths that occur more than once in a zip."""
    return [name for name, count in Counter(map(_path, archive.infolist())).items() if name and count > 1]


def inner_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> zipfile.ZipFile:
    """Opens a zip within a zip, in memory.

    Raises:
        UserError: the inner zip is larger than 1 GB.
    """
    return zipfile.ZipFile(io.BytesIO(unpacked(archive, member, most=_MOST_ZIP_BYTES)))


def unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, most: int) -> bytes:
    """The bytes of a member of a zip.

    Raises:
        UserError: the member has more than `most` bytes; the size that the zip states is not trusted.
    """
    with archive.open(member) as content:
        return _bounded(content, member.file_size, most=most, piece=_PACKED_PIECE_BYTES, name=_path(member))


def read_file(path: Path, *, most: int) -> bytes:
    """The bytes of a file on disk.

    Raises:
        UserError: the file cannot be read, or has more than `most` bytes.
    """
    try:
        with path.open("rb") as content:
            return _bounded(content, path.stat().st_size, most=most, piece=_PIECE_BYTES, name=path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _bounded(content: IO[bytes], size: int, *, most: int, piece: int, name: object) -> bytes:
    pieces, length = [], 0
    while max(size, length) <= most and (data := content.read(piece)):
        pieces.append(data)
        length += len(data)
    if max(size, length) > most:
        raise UserError(
            f"{name} has {max(size, length) / 2**20:.0f} MB or more; at most {most / 2**20:.0f} MB are allowed"
        )
    return b"".join(pieces)


def _path(info: zipfile.ZipInfo) -> str:
    name = info.filename.replace("\\", "/")
    return "" if name.endswith("/") else "/".join(part for part in PurePosixPath(name).parts if part != "/")
