"""Files of a teacher's stored views.

    <store>/teacher_views/<key>/     <key> is a hash of everything that the embeddings depend on (`described`)
        part-00000, part-00001, ...  records of some thousand segments each: all views of a segment in a row
        views.json                   the description, and the sizes of the parts; written last

For a store that cannot be written (in an object store, or read-only) the folder is <workdir>/data/teacher_views/<key>/.

A record holds an embedding in float32 (float16 would differ from a teacher that runs in every step), the checksum of the
segment's PPG as stored, which allows a check of the acceleration without reading the PPG, and a checksum over the record and
its place. Every read verifies them.
"""

import errno
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.files import open_regular, read_regular, sealed, write_atomically
from accdistill_jax.storage.arrays import Damaged, read_json
from accdistill_jax.storage.folder import no_space_message

RECORD = "views.json"
CRC_BYTES = 4  # of a record's checksum, its last field


class ViewsPlan(NamedTuple):
    """The views of one store.

    Attributes:
        store: the segments' store.
        rows: [n] int64, ascending, rows of the segments in the store.
        views: views of each segment.
        width: features of an embedding.
        part_rows: segments of a part.
        described: everything that the embeddings depend on.
    """

    store: Store
    rows: np.ndarray
    views: int
    width: int
    part_rows: int
    described: dict[str, Any]

    @property
    def key(self) -> str:
        """Hash of `described`: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.described, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def record(self) -> np.dtype:
        """Dtype of a record, which is one view of one segment, little endian."""
        return np.dtype([("embedding", "<f4", (self.width,)), ("ppg_crc", "<u4"), ("crc", "<u4")])

    @property
    def total_bytes(self) -> int:
        """Size of all parts together."""
        return len(self.rows) * self.views * self.record.itemsize

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-len(self.rows) // self.part_rows)

    def places(self, part: int) -> slice:
        """The places in `rows` of the segments that a part holds."""
        return slice(part * self.part_rows, min((part + 1) * self.part_rows, len(self.rows)))

    def part_bytes(self, part: int) -> int:
        """Size of a part."""
        places = self.places(part)
        return (places.stop - places.start) * self.views * self.record.itemsize


def part_name(part: int) -> str:
    return f"part-{part:05d}"


def is_complete(folder: Path, plan: ViewsPlan) -> bool:
    """True if all parts exist with their sizes; their content is verified when they are read."""
    try:
        record = read_json(Path(folder) / RECORD)
        if record["meta"] != plan.described:
            return False
        return all((folder / name).stat().st_size == size for name, size in record["files"].items())
    except (Damaged, OSError):
        return False


def write_record(folder: Path, plan: ViewsPlan, *, seconds: float) -> None:
    """Marks the parts in a folder as complete; `seconds` is the time that they took."""
    files = {part_name(part): plan.part_bytes(part) for part in range(plan.parts)}
    record = sealed({"meta": plan.described, "leaves": [], "files": files, "seconds": seconds})
    write_file(folder / RECORD, json.dumps(record, indent=1).encode())


def write_file(path: Path, content: bytes) -> None:
    """Writes a file of a folder of views, and makes the folder.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(no_space_message(str(path), len(content))) from error
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def encode(plan: ViewsPlan, part: int, embeddings: np.ndarray, ppg_crc: np.ndarray) -> bytes:
    """The content of a part from [n, views, D] float32 and [n] uint32."""
    records = np.empty(embeddings.shape[0] * plan.views, plan.record)
    records["embedding"] = embeddings.reshape(len(records), -1)
    records["ppg_crc"] = np.repeat(ppg_crc, plan.views)
    records["crc"] = _checksums(plan, *_places(plan, part), records)
    return records.tobytes()


def _places(plan: ViewsPlan, part: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and view of each record of a part, in order."""
    rows = plan.rows[plan.places(part)]
    return np.repeat(rows, plan.views), np.tile(np.arange(plan.views), len(rows))


def _checksums(plan: ViewsPlan, rows: np.ndarray, views: np.ndarray, records: np.ndarray) -> np.ndarray:
    """Expected checksums [n] uint32 of records [n] that belong to these rows and views, [n] each."""
    content = records.view(np.uint8).reshape(len(records), plan.record.itemsize)[:, :-CRC_BYTES]
    places = (rows * plan.views + views) & 0xFFFFFFFF  # a record at another record's place is damage too
    return np.array([zlib.crc32(*pair) for pair in zip(content, places.tolist(), strict=True)], np.uint32)


def part_is_whole(folder: Path, plan: ViewsPlan, part: int) -> bool:
    """True if a part exists and the checksums of all its records agree."""
    try:
        content = read_regular(folder / part_name(part), limit_bytes=plan.part_bytes(part))
    except OSError:
        return False
    if len(content) != plan.part_bytes(part):
        return False
    records = np.frombuffer(content, plan.record)
    return bool(np.array_equal(_checksums(plan, *_places(plan, part), records), records["crc"]))


class Views:
    """The finished views of one store. Thread safe.

    Args:
        folder: folder of the parts.
        plan: their plan.
    """

    def __init__(self, folder: Path, plan: ViewsPlan):
        self._folder, self.plan = folder, plan

    def read(self, rows: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reads one view of each segment, in the order of `rows`.

        Args:
            rows: [batch] int64, rows of the store.
            views: [batch] integers, the number of the view.

        Returns:
            embeddings [batch, D] float32, and checksums of the segments' PPG [batch] uint32.

        Raises:
            UserError: a part is missing, unreadable or damaged; names it.
        """
        plan, size = self.plan, self.plan.record.itemsize
        places = np.searchsorted(plan.rows, rows)
        parts, inside = np.divmod(places, plan.part_rows)
        content = np.empty((len(rows), size), np.uint8)
        for part in np.unique(parts).tolist():
            mine = np.flatnonzero(parts == part)
            offsets = (inside[mine] * plan.views + views[mine]) * size
            self._read_part(part, content, mine.tolist(), offsets.tolist())
        records = content.view(plan.record)[:, 0]
        wrong = np.flatnonzero(_checksums(plan, rows, views, records) != records["crc"])
        if len(wrong):
            raise self._error(int(parts[wrong[0]]), f"segment {rows[wrong[0]]} is not what was written there")
        return np.ascontiguousarray(records["embedding"]), records["ppg_crc"].copy()

    def _read_part(self, part: int, into: np.ndarray, at: list[int], offsets: list[int]) -> None:
        try:
            with open_regular(self._folder / part_name(part)) as file:
                for place, offset in zip(at, offsets, strict=True):
                    if os.preadv(file.fileno(), [into[place]], offset) != into.shape[1]:
                        raise self._error(part, "too short")
        except OSError as error:
            raise self._error(part, error.strerror or str(error)) from error

    def _error(self, part: int, what: str) -> UserError:
        return UserError(
            f"{self._folder / part_name(part)}: {what}; delete {self._folder / RECORD} and start again: the teacher then "
            "embeds anew what is damaged"
        )
