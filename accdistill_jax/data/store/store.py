"""The segment store, which training reads.

A store is a folder or an object-store URL with

    ppg/, accel/                 Zarr v3 [segments, samples, channels] int16, sharded, an inner chunk per segment; a store
                                 without PPG has no ppg/
    ppg_scale/, ppg_offset/      Zarr v3 [segments, channels] float32: signal = offset + scale * int16, in the
    accel_scale/, accel_offset/  manifest's units (accel in g)
    segments.parquet             one row per segment: participant, recording, start, labels, quality, and crc32: the
                                 checksum of the segment's PPG row and then its acceleration row, as stored
    participants.parquet         one row per participant: split, attributes, conditions
    content.hashes               hashes of the segments, to find equal segments in other stores (content.py); computed from
                                 the arrays if missing
    manifest.json                format version, rates, units, channels, settings, counts, split, checksums;
                                 written last: a folder without it is not a store

A store of parts (merge.py) has tables, hashes and a manifest alone; the manifest names the stores with the arrays.
"""

import copy
import functools
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from accdistill_jax.data.store.arrays import StoreArrays
from accdistill_jax.data.store.checks import check_array, check_part, decode_texts, held_signals, read_table
from accdistill_jax.data.store.columns import SegmentColumns
from accdistill_jax.data.store.manifest import (
    MANIFEST,
    PARTICIPANTS,
    SEGMENTS,
    SIGNALS,
    check_content,
    check_sizes,
    folder_is_partial,
    has_parts,
    is_shard,
    open_checked,
    parts_of,
    read_checked,
    read_manifest,
    verify_checksums,
)
from accdistill_jax.data.store.split import SPLITS
from accdistill_jax.errors import UserError
from accdistill_jax.storage.folder import LocalFolder, RemoteFolder, context, first_line, open_folder

CRC = "crc32"


class RemoteReading(NamedTuple):
    """Settings for reading from an object store. In a process, stores with equal settings share their limits.

    Attributes:
        concurrency: number of concurrent requests.
        cache_mb: memory in MB for the shards' indices (16 kB for 1024 segments of a signal) and for the segments read last.
            With 0 every batch reads the indices of its shards again.
    """

    concurrency: int = 128
    cache_mb: int = 256


_REMOTE = RemoteReading()


class Store:
    """A complete store, open for reading. Thread safe.

    Opening a store checks the content of all files except the signals. A segment is checked when this process reads it for
    the first time.

    Attributes:
        path: folder or URL.
        manifest: content of manifest.json.
        num_segments: rows of every array and of the segment table.
        rate_hz: sampling rate of both signals.
        samples: samples per segment.
        channels: {"ppg": names, "accel": names}; without PPG no names.
        signals: ("ppg", "accel"), or ("accel",) without PPG.
        units: {"ppg": unit, "accel": "g"}, physical units of the signals.
        fingerprint: hex hash of all properties that define the data.
        segments: columns of the segment table, each [num_segments]; a column is decoded when it is first used.
        participants: table with one row per participant.
        parts: paths of the stores that hold the arrays; () if this store holds them.
        num_files, size_bytes: number and size of the store's files, with those of its parts.
    """

    def __init__(
        self,
        path: str,
        manifest: dict,
        *,
        segments: SegmentColumns,
        participants: pa.Table,
        remote: RemoteReading = _REMOTE,
    ):
        folder = open_folder(path)
        limits = context() if folder.is_local else context(remote.cache_mb * 10**6, remote.concurrency)
        parts = parts_of(folder, manifest)
        self.path = folder.path
        self.manifest = manifest
        self.num_segments: int = manifest["num_segments"]
        self.rate_hz: float = manifest["rate_hz"]
        self.samples: int = manifest["samples"]
        self.channels = {name: tuple(manifest["channels"][name]) for name in SIGNALS}
        self.signals = held_signals(self.channels)
        self.units: dict[str, str] = dict(manifest["units"])
        self.fingerprint: str = manifest["fingerprint"]
        self.segments = segments
        self.participants = participants
        self.parts = tuple(part.path for part, _ in parts) if has_parts(manifest) else ()
        stores = [manifest, *(held for _, held in parts)] if self.parts else [manifest]
        self.num_files = sum(len(held["files"]) for held in stores)
        self.size_bytes = sum(entry["bytes"] for held in stores for entry in held["files"].values())
        self._arrays = [StoreArrays(part, held, context=limits) for part, held in parts]
        self._starts = np.cumsum([0, *(arrays.num_segments for arrays in self._arrays)])
        # One byte per segment, not one bit, so that threads can set them without a lock.
        self._checked = np.zeros(self.num_segments, bool)
        self._checked_accel = np.zeros(self.num_segments, bool)

    @classmethod
    def open(cls, path: str | os.PathLike, *, verify: bool = False, remote: RemoteReading = _REMOTE) -> "Store":
        """Opens a store and checks it.

        It checks the format version, the presence and size of all files, that tables and arrays agree, and the content of all
        files except the signals' shards.

        Args:
            path: local folder or URL.
            verify: also read the shards and compare their checksums.
            remote: settings for reading from an object store; no effect on a local store.

        Raises:
            UserError: no store, an incomplete or damaged store, or a store of another format version.
        """
        folder = open_folder(path)
        manifest = read_manifest(path)
        if manifest is None:
            if folder_is_partial(path):
                raise UserError(
                    f"{folder.path}: the preparation of this store was interrupted; "
                    "run the same prepare command again to complete it"
                )
            raise UserError(
                f"{folder.path}: not a store (no {MANIFEST} there); make one with python -m accdistill_jax.data.prepare"
            )
        parts = parts_of(folder, manifest)
        check_sizes(folder, manifest)
        if verify:
            verify_checksums(folder.path)
        segments = _open_segments(folder, manifest)
        participants = _read_participants(folder, manifest)
        for part, held in parts:
            if part is not folder:
                check_sizes(part, held)
                check_part(manifest, part.path, held)
            _check_arrays(part, held)
        unknown = set(segments.codes("participant")[0]) - set(participants["participant"].to_pylist())
        if unknown:
            raise UserError(
                f"{folder.where(PARTICIPANTS)}: no row for participant {sorted(unknown)[0]}; "
                "the store is damaged, prepare it again"
            )
        named = participants["participant"].to_pylist()
        odd = sorted({split for split in participants["split"].to_pylist() if split not in SPLITS}, key=str)
        if odd or len(set(named)) < len(named) or segments[CRC].dtype.kind not in "ui":
            problem = (
                f"split {odd[0]!r} is not one of {', '.join(SPLITS)}" if odd else "a participant stands there twice"
            )
            raise UserError(f"{folder.where(PARTICIPANTS)}: {problem}; the store is damaged, prepare it again")
        return cls(folder.path, manifest, segments=segments, participants=participants, remote=remote)

    def with_splits(self, splits: Mapping[str, str], *, fingerprint: str) -> "Store":
        """The same segments with another split of every participant (`opening.hold_out`); the arrays are shared."""
        names = self.participants["participant"].to_pylist()
        place = self.participants.schema.get_field_index("split")
        column = pa.array([splits[name] for name in names], pa.string())
        other = copy.copy(self)
        other.participants = self.participants.set_column(place, "split", column)
        other.fingerprint = fingerprint
        return other

    def indices(self, split: str) -> np.ndarray:
        """Sorted rows of a split's segments, int64; split is "train", "validation" or "test".

        Raises:
            UserError: unknown split.
        """
        if split not in SPLITS:
            raise UserError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        names = self.participants["participant"].to_pylist()
        splits = self.participants["split"].to_pylist()
        chosen = {name for name, assigned in zip(names, splits, strict=True) if assigned == split}
        people, person = self.segments.codes("participant")
        return np.flatnonzero(np.array([name in chosen for name in people], bool)[person])

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Gathers segments in the order of `indices`; repeats are allowed.

        Args:
            indices: [batch] integer rows, or [num_segments] bool, true for the rows to read.

        Returns:
            ppg [batch, samples, channels] int16, ppg_scale and ppg_offset [batch, channels] float32,
            and the same for accel; signal = offset + scale * int16. A store without PPG gives accel only.

        Raises:
            IndexError: a row outside the store.
            UserError: indices are no rows; or a shard is missing, unreadable or damaged; the message names it and the segment.
        """
        indices = self._rows(indices)
        batch = self._gather(indices, self.signals)
        new = np.flatnonzero(~self._checked[indices])
        self._check_content(indices, new, lambda place: segment_crc(*(batch[name][place] for name in self.signals)))
        self._checked[indices[new]] = True
        return batch

    def read_signals(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Gathers segments in physical values.

        Args:
            indices: as for `read`.

        Returns:
            ppg [batch, samples, channels] (if the store has it) and accel [batch, samples, 3], float32 in `units`, at `rate_hz`.

        Raises:
            IndexError, UserError: see `read`.
        """
        batch = self.read(indices)
        return {
            name: batch[name].astype(np.float32) * batch[f"{name}_scale"][:, None] + batch[f"{name}_offset"][:, None]
            for name in self.signals
        }

    def read_accel(self, indices: np.ndarray, *, ppg_crc: np.ndarray) -> dict[str, np.ndarray]:
        """Gathers the acceleration of segments without reading the PPG.

        Args:
            indices: as for `read`.
            ppg_crc: [batch] uint32, `signal_crc` of each row's PPG from an earlier read. The checksum of a segment is that of
                both signals.

        Returns:
            accel [batch, samples, 3] int16, accel_scale and accel_offset [batch, 3] float32.

        Raises:
            IndexError, UserError: see `read`.
        """
        indices = self._rows(indices)
        batch = self._gather(indices, ("accel",))
        new = np.flatnonzero(~(self._checked[indices] | self._checked_accel[indices]))
        self._check_content(indices, new, lambda place: signal_crc(batch["accel"][place], int(ppg_crc[place])))
        self._checked_accel[indices[new]] = True
        return batch

    def _rows(self, indices: np.ndarray) -> np.ndarray:
        """Row numbers [batch] int64 of what a caller gave; a bool array must not count as the rows 0 and 1."""
        given = np.asarray(indices)
        if given.ndim == 1 and given.dtype.kind in "iu":
            return given.astype(np.int64, copy=False)
        if given.shape == (self.num_segments,) and given.dtype == bool:
            return np.flatnonzero(given)
        if given.shape == (0,):
            return np.zeros(0, np.int64)
        raise UserError(
            f"{self.path}: rows must be [batch] integers, or [{self.num_segments}] truth values, one for each segment; got "
            f"{f'{list(given.shape)} {given.dtype}' if given.dtype != object else type(indices).__name__}"
        )

    def _gather(self, indices: np.ndarray, signals: Sequence[str]) -> dict[str, np.ndarray]:
        """Rows of signals with their scales and offsets, without checks of their content."""
        if indices.size and not (0 <= indices.min() and indices.max() < self.num_segments):
            raise IndexError(
                f"{self.path}: rows must lie in [0, {self.num_segments}), got {indices.min()} to {indices.max()}"
            )
        if len(self._arrays) == 1:
            return self._arrays[0].gather(indices, signals)
        number = np.searchsorted(self._starts, indices, side="right") - 1
        batch: dict[str, np.ndarray] = {}
        for part in np.unique(number).tolist() or [0]:
            places = np.flatnonzero(number == part)
            for name, values in self._arrays[part].gather(indices[places] - self._starts[part], signals).items():
                if name not in batch:
                    batch[name] = np.empty((len(indices), *values.shape[1:]), values.dtype)
                batch[name][places] = values
        return batch

    def _check_content(self, indices: np.ndarray, new: np.ndarray, crc: Callable[[int], int]) -> None:
        """Compares segments with their checksums.

        Args:
            indices: [batch] rows.
            new: places in `indices` of the rows that were not checked before.
            crc: function that returns the CRC of the segment at a place.
        """
        rows, first = np.unique(indices[new], return_index=True)
        for row, place in zip(rows.tolist(), new[first].tolist(), strict=True):
            if crc(place) != self.segments[CRC][row]:
                part = int(np.searchsorted(self._starts, row, side="right")) - 1
                shards = self._arrays[part].damaged_shards(row - int(self._starts[part]))
                raise self._arrays[part].read_error(f"{shards}: segment {row} is not what was written there")


def segment_crc(*signals: np.ndarray) -> int:
    """CRC-32 of a segment.

    Args:
        signals: PPG (if the store has it), then acceleration, each [samples, channels] int16, contiguous.

    Returns:
        CRC of the stored bytes (little endian) of the signals, one after the other.
    """
    return functools.reduce(lambda before, signal: signal_crc(signal, before), signals, 0)


def signal_crc(signal: np.ndarray, before: int = 0) -> int:
    """CRC-32 of the stored bytes of a signal [samples, channels] int16, contiguous, after bytes with the CRC `before`."""
    return zlib.crc32(signal.astype("<i2", copy=False).data, before)


def _check_arrays(folder: LocalFolder | RemoteFolder, manifest: dict) -> None:
    """Compares the arrays' small files with their checksums, and their metadata with the manifest, before memory is allocated."""
    tables = (SEGMENTS, PARTICIPANTS)
    small = [name for name in manifest["files"] if not is_shard(name) and name not in tables]
    for name in small:
        check_content(folder, manifest, name)
    for signal in held_signals(manifest["channels"]):
        channels = len(manifest["channels"][signal])
        for name in (signal, f"{signal}_scale", f"{signal}_offset"):
            whole = name == signal
            shape = (manifest["num_segments"], *((manifest["samples"],) if whole else ()), channels)
            sizes = [entry["bytes"] for file, entry in manifest["files"].items() if file.startswith(f"{name}/c/")]
            try:
                check_array(
                    read_checked(folder, manifest, f"{name}/zarr.json"),
                    shape=shape,
                    dtype="int16" if whole else "float32",
                    file_bytes=max(sizes),
                )
            except ValueError as error:
                raise UserError(f"{folder.where(name)}: {error}; the store is damaged, prepare it again") from error


def _open_segments(folder: LocalFolder | RemoteFolder, manifest: dict) -> SegmentColumns:
    where, rows = folder.where(SEGMENTS), manifest["num_segments"]
    try:
        file = open_checked(folder, manifest, SEGMENTS)
        segments = SegmentColumns(file, where=where, whole=("participant", CRC), rows=rows)
    except ValueError as error:
        raise _not_a_table(where, error) from error
    if segments.num_rows != rows:
        raise UserError(
            f"{where}: {segments.num_rows} rows, but the manifest counts {rows} segments; the store is damaged, prepare it again"
        )
    return segments


def _read_participants(folder: LocalFolder | RemoteFolder, manifest: dict) -> pa.Table:
    try:
        table = read_table(
            read_checked(folder, manifest, PARTICIPANTS),
            most_rows=len(manifest["prepared"]),
            whole=("participant", "split"),
        )
        return decode_texts(table)
    except ValueError as error:
        raise _not_a_table(folder.where(PARTICIPANTS), error) from error


def _not_a_table(where: str, error: ValueError) -> UserError:
    return UserError(f"{where}: not a readable table of a store ({first_line(error)}); prepare the store again")
