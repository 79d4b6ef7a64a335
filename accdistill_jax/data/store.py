"""The segment store: what training reads.

A folder or object-store URL with

    ppg/, accel/                 Zarr v3 [segments, samples, channels] int16, sharded, an inner chunk per segment
    ppg_scale/, ppg_offset/      Zarr v3 [segments, channels] float32: signal = offset + scale * int16, in the
    accel_scale/, accel_offset/  manifest's units (accel in g)
    segments.parquet             one row per segment: participant, recording, start, labels, quality
    participants.parquet         one row per participant: split, attributes, conditions
    manifest.json                format version, rates, units, channels, settings, counts, split, checksums;
                                 written last: a folder without it is not a store
"""

import hashlib
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorstore as ts

from accdistill_jax.data.folder import context, open_folder
from accdistill_jax.data.local_shards import LocalShards, ShardError
from accdistill_jax.data.split import SPLITS
from accdistill_jax.errors import UserError

FORMAT = "accdistill_jax segment store"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SEGMENTS = "segments.parquet"
PARTICIPANTS = "participants.parquet"
SIGNALS = ("ppg", "accel")
_READ_CACHE_BYTES = 256 * 2**20


class Store:
    """A complete store, open for reading. Thread safe.

    Attributes:
        path: folder or URL.
        manifest: content of manifest.json.
        num_segments: rows of every array and of the segment table.
        rate_hz: sampling rate of both signals.
        samples: samples per segment.
        channels: {"ppg": names, "accel": names}.
        fingerprint: hex hash of everything that defines the data.
        segments: columns of the segment table, each [num_segments].
        participants: table with one row per participant.
    """

    def __init__(self, path: str, manifest: dict, *, segments: dict[str, np.ndarray], participants: pa.Table):
        self._folder = open_folder(path)
        self.path = self._folder.path
        self.manifest = manifest
        self.num_segments: int = manifest["num_segments"]
        self.rate_hz: float = manifest["rate_hz"]
        self.samples: int = manifest["samples"]
        self.channels = {name: tuple(manifest["channels"][name]) for name in SIGNALS}
        self.fingerprint: str = manifest["fingerprint"]
        self.segments = segments
        self.participants = participants
        self._arrays = {name: self._open_array(name) for name in SIGNALS}
        self._small = {name: self._open_array(name).read().result()
                       for signal in SIGNALS for name in (f"{signal}_scale", f"{signal}_offset")}
        self._local = {name: self._open_local(name) for name in SIGNALS} if self._folder.is_local else None

    @classmethod
    def open(cls, path: str | os.PathLike, *, verify: bool = False) -> "Store":
        """Opens a store after cheap checks: versions, presence and sizes of all files, agreement of tables and arrays.

        Args:
            path: local folder or URL.
            verify: also read everything and compare checksums.

        Raises:
            UserError: no store there, a half-written or damaged one, or one of a newer format version.
        """
        folder = open_folder(path)
        manifest = read_manifest(path)
        if manifest is None:
            if folder_is_partial(path):
                raise UserError(f"{folder.path}: the preparation of this store was interrupted; "
                                "run the same prepare command again to complete it")
            raise UserError(f"{folder.path}: not a store (no {MANIFEST} there); make one with "
                            "python -m accdistill_jax.data.prepare")
        _check_files(folder, manifest)
        if verify:
            verify_checksums(folder.path)
        segments = _read_table(folder, SEGMENTS)
        if segments.num_rows != manifest["num_segments"]:
            raise UserError(f"{folder.where(SEGMENTS)}: {segments.num_rows} rows, but the manifest counts "
                            f"{manifest['num_segments']} segments; the store is damaged, prepare it again")
        participants = _read_table(folder, PARTICIPANTS)
        columns = {name: _column(segments, name) for name in segments.column_names}
        unknown = set(columns["participant"]) - set(participants["participant"].to_pylist())
        if unknown:
            raise UserError(f"{folder.where(PARTICIPANTS)}: no row for participant {sorted(unknown)[0]}; "
                            "the store is damaged, prepare it again")
        return cls(folder.path, manifest, segments=columns, participants=participants)

    def indices(self, split: str) -> np.ndarray:
        """Sorted rows of a split's segments, int64; split is "train", "validation" or "test".

        Raises:
            UserError: unknown split.
        """
        if split not in SPLITS:
            raise UserError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        names = self.participants["participant"].to_pylist()
        chosen = {name for name, own in zip(names, self.participants["split"].to_pylist(), strict=True)
                  if own == split}
        unique, inverse = np.unique(self.segments["participant"], return_inverse=True)
        return np.flatnonzero(np.array([name in chosen for name in unique], bool)[inverse])

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Gathers segments in the order asked for; repeats are allowed.

        Args:
            indices: [batch] integer rows.

        Returns:
            ppg [batch, samples, channels] int16, ppg_scale and ppg_offset [batch, channels] float32,
            and the same for accel; signal = offset + scale * int16.

        Raises:
            IndexError: a row outside the store.
            UserError: a shard is missing or unreadable, naming it.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and not (0 <= indices.min() and indices.max() < self.num_segments):
            raise IndexError(f"{self.path}: rows must lie in [0, {self.num_segments}), "
                             f"got {indices.min()} to {indices.max()}")
        batch = {name: array[indices] for name, array in self._small.items()}
        if self._local is not None:
            for name, shards in self._local.items():
                try:
                    batch[name] = shards.read(indices)
                except ShardError as error:
                    raise self._read_error(str(error)) from error
            return batch
        pending = {name: array[indices].read() for name, array in self._arrays.items()}
        for name, future in pending.items():
            try:
                batch[name] = future.result()
            except Exception as error:
                raise self._read_error(f"{self._folder.where(name)}: {_first_line(error)}") from error
        return batch

    def _open_array(self, name: str) -> ts.TensorStore:
        signal, _, small = name.partition("_")
        shape = (self.num_segments, *(() if small else (self.samples,)), len(self.channels[signal]))
        where = self._folder / name
        try:
            array = ts.open(
                {"driver": "zarr3", "kvstore": where.kvstore(), "fill_missing_data_reads": False,
                 "recheck_cached_data": False},
                context=context(0 if where.is_local else _READ_CACHE_BYTES), read=True,
            ).result()
        except Exception as error:
            raise self._read_error(f"{where.path}: {_first_line(error)}") from error
        if tuple(array.shape) != shape or array.dtype.name != ("float32" if small else "int16"):
            raise UserError(f"{where.path}: the array is {array.dtype.name} {tuple(array.shape)}, but the manifest says "
                            f"{shape}; the store is damaged, prepare it again")
        return array

    def _open_local(self, name: str) -> LocalShards:
        array = self._arrays[name]
        return LocalShards(self._folder.where(name), tuple(array.shape),
                           rows_per_shard=array.chunk_layout.write_chunk.shape[0])

    def _read_error(self, what: str) -> UserError:
        return UserError(f"{what}: cannot be read; check with: python -m accdistill_jax.data.prepare verify {self.path}")


def read_manifest(path: str | os.PathLike) -> dict | None:
    """manifest.json of a store, None where there is none.

    Raises:
        UserError: it is damaged, of something else, or of a newer format version.
    """
    folder = open_folder(path)
    content = folder.read(MANIFEST)
    if content is None:
        return None
    where = folder.where(MANIFEST)
    try:
        manifest = json.loads(content)
        version = manifest["format_version"]
        named = manifest["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: not a readable store manifest ({error}); prepare the store again") from error
    if not named or not isinstance(version, int):
        raise UserError(f"{where}: not the manifest of a {FORMAT}")
    if version > FORMAT_VERSION:
        raise UserError(f"{where}: the store has format version {version}, this program reads up to "
                        f"{FORMAT_VERSION}; update accdistill_jax")
    if manifest.get("fingerprint") != fingerprint(manifest):
        raise UserError(f"{where}: the manifest was changed after it was written "
                        "(its fingerprint does not match); prepare the store again")
    return manifest


def fingerprint(manifest: dict) -> str:
    """Hex hash of the manifest without the software versions: the same data and settings give the same one."""
    content = {key: value for key, value in manifest.items() if key not in ("fingerprint", "software")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def checksum(data: bytes) -> str:
    """The manifest's checksum of one file."""
    return hashlib.sha256(data).hexdigest()


def partial_path(path: str | os.PathLike) -> str:
    """Where the unfinished parts of a store are kept: beside it."""
    return open_folder(path).path + ".partial"


def folder_is_partial(path: str | os.PathLike) -> bool:
    """Whether an unfinished preparation of this store exists."""
    return bool(open_folder(partial_path(path)).names())


def verify_checksums(path: str | os.PathLike, *, progress=None) -> int:
    """Reads every file of a store and compares it with the manifest.

    Args:
        path: folder or URL.
        progress: called with the number of bytes checked so far.

    Returns:
        Number of bytes checked.

    Raises:
        UserError: naming every missing or damaged file.
    """
    folder = open_folder(path)
    manifest = read_manifest(path)
    if manifest is None:
        raise UserError(f"{folder.path}: not a store (no {MANIFEST} there)")
    damaged, checked = [], 0
    for name, entry in manifest["files"].items():
        content = folder.read(name)
        if content is None:
            damaged.append(f"{name} is missing")
        elif len(content) != entry["bytes"]:
            damaged.append(f"{name} has {len(content)} bytes instead of {entry['bytes']}")
        elif checksum(content) != entry["sha256"]:
            damaged.append(f"{name} does not match its checksum")
        checked += entry["bytes"]
        if progress is not None:
            progress(checked)
    if damaged:
        raise UserError(f"{folder.path}: damaged: {'; '.join(damaged)}; restore these files or prepare the store again")
    return checked


def _check_files(folder, manifest: dict) -> None:
    try:
        expected = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder.where(MANIFEST)}: key {error} is missing or malformed") from error
    found = folder.sizes(list(expected))
    for name, size in expected.items():
        if name not in found:
            raise UserError(f"{folder.where(name)}: this file of the store is missing; restore it or prepare again")
        if found[name] is not None and found[name] != size:
            raise UserError(f"{folder.where(name)}: {found[name]} bytes instead of {size}, the file is damaged; "
                            "restore it or prepare again")


def _read_table(folder, name: str) -> pa.Table:
    content = folder.read(name)
    try:
        return pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError, TypeError) as error:
        raise UserError(f"{folder.where(name)}: not a readable Parquet table ({error})") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _column(table: pa.Table, name: str) -> np.ndarray:
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.to_numpy()
