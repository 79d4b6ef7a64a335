"""Hashes of the content of segments, which identify the same minute under any name.

Each signal has a hash, so a minute is recognised even if the other signal is from another sensor. The hashes are in a file
beside the arrays of a store, which is not part of its fingerprint. A store without the file (from an older version, or a copy
of the files in the manifest) is read once, and gets the file.

    content.hashes     SHA-256 of the store's fingerprint and of the rest of the file; then [segments, 2] uint64, little
                       endian: PPG, acceleration
"""

import hashlib
from collections.abc import Callable

import numpy as np

from accdistill_jax.data.store.manifest import CONTENT
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.storage.folder import LocalFolder, RemoteFolder, open_folder

LEAST_TURNS = 64
_TURN = 2  # steps of int16; rounding bends a straight line by at most this much
_BLOCK = 256  # segments per read
SAMPLES_PER_CHECK = 1024  # samples per check of turns
_DIGEST_BYTES = 32
_BLOCK_BYTES = 1 << 20
SORTED_AT_ONCE = 1 << 21  # rows
_FIRST_BITS = 5


def signal_hash(signal: np.ndarray) -> int:
    """Hash of one signal of a segment or of a recording.

    Args:
        signal: [samples, channels] int16 or float32.

    Returns:
        1 to 2**64 - 1; or 0 for a signal with too little information (constant, or straight lines with fewer than
        `LEAST_TURNS` turns), which different recordings can share.
    """
    if not _has_information(signal):
        return 0
    content = np.ascontiguousarray(signal, signal.dtype.newbyteorder("<"))
    return int.from_bytes(hashlib.blake2b(content.data, digest_size=8).digest(), "little") or 1


def content_hashes(ppg: np.ndarray | None, accel: np.ndarray) -> np.ndarray:
    """Hashes of stored segments.

    Args:
        ppg: [segments, samples, channels] int16; None without PPG.
        accel: [segments, samples, 3] int16.

    Returns:
        [segments, 2] uint64: `signal_hash` of the PPG (0 without) and of the acceleration.
    """
    hashes = np.zeros((len(accel), 2), np.uint64)
    if ppg is not None:
        hashes[:, 0] = [signal_hash(signal) for signal in ppg]
    hashes[:, 1] = [signal_hash(signal) for signal in accel]
    return hashes


def encode_hashes(hashes: np.ndarray, *, fingerprint: str) -> bytes:
    """Content of the hash file of a store, from hashes [segments, 2]."""
    content = hashes.astype("<u8").tobytes()
    return _digest(fingerprint, content) + content


def store_hashes(store: Store, *, say: Callable[[str], None]) -> np.ndarray:
    """`content_hashes` of all segments of a store.

    A store without its hash file is read once, and gets the file if the folder is writable.

    Args:
        store: the store.
        say: called with a line before a store is read.

    Returns:
        [segments, 2] uint64.

    Raises:
        UserError: a shard cannot be read.
    """
    folder = open_folder(store.path)
    kept = _kept_hashes(folder, store)
    if kept is not None:
        return kept
    say(f"data: reading {store.path} once, to know its {store.num_segments} segments again elsewhere")
    hashes = np.empty((store.num_segments, 2), np.uint64)
    for start in range(0, store.num_segments, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, store.num_segments))
        batch = store.read(rows)
        hashes[rows] = content_hashes(batch.get("ppg"), batch["accel"])
    try:
        folder.write(CONTENT, encode_hashes(hashes, fingerprint=store.manifest["fingerprint"]))
    except UserError as error:
        say(f"data: read again at every start, since it cannot be kept: {error}")
    return hashes


def equal_rows(hashes: np.ndarray) -> np.ndarray:
    """Pairs of rows with equal hashes.

    Args:
        hashes: [rows] uint64; 0 equals no other hash.

    Returns:
        [n, 2] int64: for each later row with a hash, the first row with this hash and the later row.
    """
    if len(hashes) <= SORTED_AT_ONCE:
        return _equal_among(np.flatnonzero(hashes), hashes)
    # Equal hashes have equal first bits: a sort of the rows with the same first bits needs little memory.
    first_bits = (hashes >> np.uint64(64 - _FIRST_BITS)).astype(np.uint8)
    known = hashes > 0
    pairs = [_equal_among(np.flatnonzero((first_bits == bits) & known), hashes) for bits in range(1 << _FIRST_BITS)]
    return np.concatenate(pairs)


def _equal_among(rows: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    order = rows[np.argsort(hashes[rows], kind="stable")]
    ordered = hashes[order]
    new = np.ones(len(order), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    first = order[np.flatnonzero(new)][np.cumsum(new) - 1]
    return np.stack([first, order], axis=1)[~new]


def _kept_hashes(folder: LocalFolder | RemoteFolder, store: Store) -> np.ndarray | None:
    """Hashes from the hash file of a store; None if it is missing or incomplete."""
    size = _DIGEST_BYTES + 16 * store.num_segments
    try:
        if folder.is_local and folder.sizes([CONTENT]).get(CONTENT) != size:  # a file of another size is not read
            return None
        file = folder.open(CONTENT)
        if file is None:
            return None
        with file:
            expected = file.read(_DIGEST_BYTES)
            digest, read = hashlib.sha256(store.manifest["fingerprint"].encode()), _DIGEST_BYTES
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
                read += len(block)
            if read != size or digest.digest() != expected:
                return None
            if folder.is_local:  # mapped: the file may be larger than the memory
                return np.memmap(file, "<u8", mode="r", offset=_DIGEST_BYTES, shape=(store.num_segments, 2))
            file.seek(_DIGEST_BYTES)
            return np.frombuffer(file.read(), "<u8").reshape(-1, 2).astype(np.uint64, copy=False)
    except (UserError, OSError):
        return None


def _has_information(signal: np.ndarray) -> bool:
    """True if a signal turns at least `LEAST_TURNS` times."""
    wide, least, turns = (np.int32, _TURN, 0) if signal.dtype.kind == "i" else (np.float64, 0, 0)
    for start in range(0, len(signal), SAMPLES_PER_CHECK):
        bends = np.diff(signal[start : start + SAMPLES_PER_CHECK + 2].astype(wide), 2, axis=0)
        turns += np.count_nonzero(np.abs(bends) > least)
        if turns >= LEAST_TURNS:
            return True
    return False


def _digest(fingerprint: str, content: bytes) -> bytes:
    return hashlib.sha256(fingerprint.encode() + content).digest()
