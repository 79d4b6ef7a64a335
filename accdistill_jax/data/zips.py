"""Zips by strangers: damaged, made by other systems, or made to fill the memory."""

import contextlib
import io
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from accdistill_jax.errors import UserError

_MOST_ZIP_BYTES = 2**30
_PACKED_PIECE_BYTES = 4096  # what so little unpacks to fits into memory, whatever the compression
_PIECE_BYTES = 2**20


@contextlib.contextmanager
def damage_named(place: object) -> Iterator[None]:
    """Turns whatever damage to a zip makes Python's modules raise into a `UserError` that names it."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"{place}: the zip is damaged or cut off ({str(error) or type(error).__name__}); copy it again"
        ) from error


def members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files in a zip by their path, "/" between folders; of several with one path the last, as unpackers leave it."""
    return {name: info for info in archive.infolist() if (name := _path(info))}


def repeated(archive: zipfile.ZipFile) -> list[str]:
    """Paths that stand more than once in a zip."""
    return [name for name, count in Counter(map(_path, archive.infolist())).items() if name and count > 1]


def inner_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> zipfile.ZipFile:
    """A zip within a zip, in memory.

    Raises:
        UserError: it is larger than 1 GB.
    """
    return zipfile.ZipFile(io.BytesIO(unpacked(archive, member, most=_MOST_ZIP_BYTES)))


def unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, most: int) -> bytes:
    """The bytes of a member.

    Raises:
        UserError: there are more than `most`, whatever the zip says.
    """
    with archive.open(member) as content:
        return _bounded(content, member.file_size, most=most, piece=_PACKED_PIECE_BYTES, name=_path(member))


def read_file(path: Path, *, most: int) -> bytes:
    """The bytes of a file on disk.

    Raises:
        UserError: it cannot be read, or there are more than `most`.
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
        raise UserError(f"{name} has {max(size, length) / 2**20:.0f} MB or more; up to {most / 2**20:.0f} MB are read")
    return b"".join(pieces)


def _path(info: zipfile.ZipInfo) -> str:
    name = info.filename.replace("\\", "/")
    return "" if name.endswith("/") else "/".join(part for part in PurePosixPath(name).parts if part != "/")
