"""npz files with a checksum of the whole file, so that every changed byte is noticed.

The CRCs of a zip archive cover only its members: a flipped bit in the archive's directory can hide a member silently. The
checksum is the archive's comment, at the end of the file, so `numpy.load` and zip programs still read the file.
"""

import hashlib
import zipfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np

_WORD = b"sha256 "
_COMMENT_BYTES = len(_WORD) + 64
_END = b"PK\5\6"  # begins the last 22 bytes of an archive without a comment; the very last two are the comment's length
_END_BYTES = 22
_BLOCK_BYTES = 1 << 20


class DamagedNpz(ValueError):
    """The npz file was changed after it was written, or is not one."""


def encode_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Encodes arrays as an uncompressed npz file with a checksum."""
    buffer, named = BytesIO(), dict[str, Any](arrays)
    np.savez(buffer, **named)
    buffer.seek(-2, 2)
    buffer.write(_COMMENT_BYTES.to_bytes(2, "little"))
    with buffer.getbuffer() as content:
        digest = hashlib.sha256(content).hexdigest()
    buffer.write(_WORD + digest.encode())
    return buffer.getvalue()


def verify_npz(file: BinaryIO) -> bool:
    """Compares a file with its checksum and rewinds it.

    Args:
        file: seekable.

    Returns:
        True if the checksum matches; False if the file has no checksum, as earlier versions wrote it.

    Raises:
        DamagedNpz: the checksum is damaged or does not match.
        OSError: the file cannot be read.
    """
    size = file.seek(0, 2)
    file.seek(max(size - _COMMENT_BYTES, 0))
    tail = file.read()
    file.seek(0)
    end = tail[-_END_BYTES:]
    if end.startswith(_END) and end.endswith(b"\0\0"):
        return False
    if size < _COMMENT_BYTES + _END_BYTES or not tail.startswith(_WORD):
        raise DamagedNpz("no checksum at the end")
    digest, left = hashlib.sha256(), size - _COMMENT_BYTES
    while left:
        block = file.read(min(left, _BLOCK_BYTES))
        if not block:
            raise DamagedNpz("it became shorter while it was read")
        digest.update(block)
        left -= len(block)
    file.seek(0)
    if tail != _WORD + digest.hexdigest().encode():
        raise DamagedNpz("it does not match its checksum")
    return True


def read_npz(file: BinaryIO, names: list[str] | None = None) -> dict[str, np.ndarray]:
    """Reads arrays by name.

    Args:
        file: seekable.
        names: arrays to read; None: all.

    Raises:
        DamagedNpz: an array cannot be read.
    """
    try:
        with np.load(file, allow_pickle=False) as content:
            return {name: content[name] for name in (content.files if names is None else names)}
    except Exception as error:  # numpy and zipfile raise many types for damaged files
        raise DamagedNpz(str(error) or type(error).__name__) from error


def npz_names(file: BinaryIO) -> set[str]:
    """Names of the arrays; rewinds the file.

    Raises:
        DamagedNpz: the file is not an npz file.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception as error:  # see read_npz
        raise DamagedNpz(str(error) or type(error).__name__) from error
    file.seek(0)
    if len(set(names)) != len(names) or not all(name.endswith(".npy") for name in names):
        raise DamagedNpz("it holds other things than arrays")
    return {name.removesuffix(".npy") for name in names}
