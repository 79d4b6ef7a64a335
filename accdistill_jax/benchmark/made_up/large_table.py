"""A made-up store with a table of many millions of rows. Its segments are one sample of zeros, in a single shard under many names.

So the table, hashes, scales and manifest have the sizes of a real store, and the signals take no room on the disk.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.store.manifest import (
    CONTENT,
    FORMAT,
    MANIFEST,
    PARTICIPANTS,
    SEGMENTS,
    checksum,
    manifest_fingerprint,
)
from accdistill_jax.data.store.request import json_bytes, make_request
from accdistill_jax.data.store.shards import ArrayLayout, encode_index, encode_metadata
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import segment_crc
from accdistill_jax.data.store.tables import UNITS

MINUTES_PER_RECORDING, RECORDINGS_PER_PERSON = 100, 3
_BLOCK = 1 << 20  # rows of a row group, as in the tables of the writer
_NUMBERS = ("hr_bpm", "resp_bpm", "sdnn_ms", "rmssd_ms", "beat_coverage", "motion_g", "ppg_quality", "ppg_clipped")
_CHANNELS = {"ppg": ["green"], "accel": ["x", "y", "z"]}


def write_large_store(folder: Path, *, rows: int) -> None:
    """Writes the store into a new folder.

    Args:
        folder: folder to make.
        rows: segments; about 300 of each participant, in three recordings.
    """
    folder.mkdir(parents=True)
    recordings = -(-rows // MINUTES_PER_RECORDING)
    people = [f"p{number:07d}" for number in range(-(-recordings // RECORDINGS_PER_PERSON))]
    _write_segments(folder / SEGMENTS, rows, people)
    splits = SplitRule().assign(people)
    participants = pa.table({"participant": people, "split": [splits[name] for name in people]})
    pq.write_table(participants, folder / PARTICIPANTS, compression="zstd")
    (folder / "zarr.json").write_bytes(json_bytes({"zarr_format": 3, "node_type": "group", "attributes": {}}))
    names = ("zarr.json", SEGMENTS, PARTICIPANTS)
    files = {name: _entry((folder / name).read_bytes()) for name in names}
    for signal, channels in _CHANNELS.items():
        count, unit = len(channels), UNITS[signal]
        files |= _write_array(folder, signal, ArrayLayout.signal((rows, 1, count), unit=unit))
        for part in ("scale", "offset"):
            files |= _write_array(folder, f"{signal}_{part}", ArrayLayout.small((rows, count), unit=unit))
    settings = PreprocessSettings(segment_s=1 / 64, hop_s=1 / 64)
    kept = {"examined": rows, "kept": rows, "rejected": {}}
    manifest = {
        "format": FORMAT,
        "num_segments": rows,
        "samples": 1,
        "rate_hz": settings.rate_hz,
        "segment_s": settings.segment_s,
        "channels": _CHANNELS,
        "units": UNITS,
        **make_request(settings, source="benchmark"),
        "split": SplitRule().to_json(),
        "counts": {
            "total": kept,
            "participants": {name: {"examined": 1, "kept": 1, "rejected": {}} for name in people},
        },
        "prepared": [
            {
                "unit": f"r{number:07d}",
                "segments": MINUTES_PER_RECORDING,
                "examined": MINUTES_PER_RECORDING,
                "rejected": {},
            }
            for number in range(recordings)
        ],
        "skipped": {},
        "files": files,
    }
    manifest["fingerprint"] = manifest_fingerprint(manifest)
    digest = hashlib.sha256(manifest["fingerprint"].encode())
    for block in _hash_blocks(rows):
        digest.update(block)
    with (folder / CONTENT).open("wb") as file:
        file.write(digest.digest())
        file.writelines(_hash_blocks(rows))
    (folder / MANIFEST).write_bytes(json_bytes(manifest))


def _hash_blocks(rows: int) -> Iterator[bytes]:
    rng = np.random.default_rng(1)
    for start in range(0, rows, _BLOCK):
        yield rng.integers(1, 2**63, (min(_BLOCK, rows - start), 2), np.int64).astype("<u8").tobytes()


def _write_segments(path: Path, rows: int, people: list[str]) -> None:
    rng = np.random.default_rng(0)
    crc = segment_crc(*(np.zeros((1, len(channels)), np.int16) for channels in _CHANNELS.values()))
    numbers = {name: pa.array(rng.random(min(_BLOCK, rows), np.float32)) for name in _NUMBERS}  # the same in each block
    writer = None
    for start in range(0, rows, _BLOCK):
        row = np.arange(start, min(start + _BLOCK, rows))
        recording = row // MINUTES_PER_RECORDING
        columns = {
            "participant": _texts(recording // RECORDINGS_PER_PERSON, "p"),
            "recording": _texts(recording, "r"),
            "device": _texts(0 * row, "watch "),
            "start_unix_s": pa.array(1.6e9 + 60.0 * row),
            "hr_source": _texts(0 * row, "beats "),
        }
        columns |= {name: values[: len(row)] for name, values in numbers.items()}
        table = pa.table(columns | {"crc32": pa.array(np.full(len(row), crc, np.uint32))})
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _texts(numbers: np.ndarray, prefix: str) -> pa.DictionaryArray:
    """Texts with the numbers, which are sorted and leave none out."""
    texts = [f"{prefix}{number:07d}" for number in range(numbers[0], numbers[-1] + 1)]
    return pa.DictionaryArray.from_arrays(pa.array((numbers - numbers[0]).astype(np.int32)), pa.array(texts))


def _write_array(folder: Path, name: str, layout: ArrayLayout) -> dict[str, dict]:
    """Writes an array of zeros: two files at most, with links to the first under the names of all others."""
    metadata = encode_metadata(layout)
    (folder / name).mkdir()
    (folder / name / "zarr.json").write_bytes(metadata)
    files = {f"{name}/zarr.json": _entry(metadata)}
    first: dict[int, tuple[Path, dict]] = {}
    for number, start in enumerate(range(0, layout.shape[0], layout.rows_per_file)):
        used = min(layout.rows_per_file, layout.shape[0] - start) if layout.sharded else layout.rows_per_file
        path = folder / name / layout.key(number)
        path.parent.mkdir(parents=True)
        if used in first:
            os.symlink(first[used][0], path)
        else:
            content = bytes(used * layout.row_bytes)
            if layout.sharded:
                content += encode_index(used, rows_per_file=layout.rows_per_file, row_bytes=layout.row_bytes)
            path.write_bytes(content)
            first[used] = (path.resolve(), _entry(content))
        files[f"{name}/{layout.key(number)}"] = first[used][1]
    return files


def _entry(content: bytes) -> dict:
    return {"bytes": len(content), "sha256": checksum(content)}
