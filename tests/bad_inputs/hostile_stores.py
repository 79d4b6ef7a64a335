"""Stores made by hand to do harm: fingerprints, sizes and checksums fit, but their statements are false."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from accdistill_jax.data.store.manifest import checksum, manifest_fingerprint


class Hostile(NamedTuple):
    """A name, and the function that makes a whole store hostile."""

    name: str
    spoil: Callable[[Path], None]


def sign(store: Path, change: Callable[[dict], None] = lambda manifest: None) -> None:
    """Changes the manifest; sizes, checksums and fingerprint fit the files afterwards."""
    manifest = json.loads((store / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        path = store / name
        if path.is_file() and path.stat().st_size < 2**26:
            entry |= {"bytes": path.stat().st_size, "sha256": checksum(path.read_bytes())}
    change(manifest)
    (store / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": manifest_fingerprint(manifest)}))


def hostile_stores() -> Iterator[Hostile]:
    """All kinds of hostile stores."""
    yield from _manifests()
    yield from _arrays()
    yield from _files()
    yield from _tables()


def _manifests() -> Iterator[Hostile]:
    def set_key(key: str, value) -> Callable[[Path], None]:
        return lambda store: sign(store, lambda manifest: manifest.update({key: value}))

    values = {
        "num_segments": (10**15, 10**400, -1, 0, 1.5, True, float("nan"), None, "8"),
        "samples": (10**15, 2**62, -1, float("inf"), []),
        "rate_hz": (float("nan"), float("inf"), -64.0, 1e300, 10**400, "64"),
        "segment_s": (float("nan"), 1e300, 0),
        "channels": (
            {"ppg": ["x"] * 10**5, "accel": ["x", "y", "z"]},
            {"ppg": [], "accel": ["x"]},
            {"ppg": "abc", "accel": "xyz"},
        ),
        "counts": (
            {"total": {"examined": float("nan"), "kept": 1, "rejected": {}}, "participants": {}},
            {"total": {"examined": 1, "kept": 1, "rejected": {"motion": -1}}, "participants": {}},
            {"total": {"examined": 1, "kept": 1, "rejected": {}}, "participants": {"anna": 5}},
            {"total": {"examined": 10**400, "kept": 1, "rejected": {}}, "participants": {}},
            {},
        ),
        "prepared": ([], [5], [{"unit": ["x"]}], [{"unit": "x", "segments": float("nan")}]),
        "skipped": ({"a": ["x"]},),
        "units": ({"ppg": 5, "accel": "g"}, {}),
        "split": (5,),
    }
    for key, own in values.items():
        for number, value in enumerate(own):
            yield Hostile(f"manifest: {key} {number}", set_key(key, value))
    entry = {"bytes": 0, "sha256": checksum(b"")}
    for name in (
        "../outside",
        "/etc/passwd",
        "ppg/../../outside",
        "ppg/c/0\0/0/0",
        "~/x",
        "ppg\\c",
        "",
        ".",
        "ppg/c/" + "9" * 400 + "/0/0",
        "x" * 5000,
    ):
        yield Hostile(
            f"manifest: a file {name[:30]!r}",
            lambda store, name=name: sign(store, lambda manifest: manifest["files"].update({name: entry})),
        )
    for value in (-1, 10**400, float("nan"), "5", None):
        yield Hostile(
            f"manifest: {str(value)[:9]} bytes",
            lambda store, value=value: sign(
                store, lambda manifest: manifest["files"]["ppg/zarr.json"].update(bytes=value)
            ),
        )
    texts = {
        "nested lists": "[" * 10**6,
        "nested objects": '{"a":' * 10**5,
        "a huge number": '{"format_version": ' + "9" * 10**6 + "}",
        "NUL": "\0" * 1000,
        "NaN": "NaN",
        "a byte order mark": "\ufeff{}",
        "not UTF-8": "\udcff",
    }
    for name, text in texts.items():
        yield Hostile(
            f"manifest: {name}",
            lambda store, text=text: (
                (store / "manifest.json").write_bytes(text.encode(errors="surrogateescape")) and None
            ),
        )


def _arrays() -> Iterator[Hostile]:
    def change(array: str, **changes) -> Callable[[Path], None]:
        def spoil(store: Path) -> None:
            path = store / array / "zarr.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))
            sign(store)

        return spoil

    def grid(*shape) -> dict:
        return {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shape)}}}

    sharding = [
        {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [1, 640, 2],
                "codecs": [{"name": "bytes"}, {"name": "zstd"}],
                "index_codecs": [{"name": "bytes"}, {"name": "crc32c"}],
            },
        }
    ]
    for number, rows in enumerate((10**12, 2**62, 2**31, 0, -1, 10**30, 1.5, None, "x")):
        yield Hostile(f"ppg: shards of {rows} segments", change("ppg", **grid(rows, 640, 2)))
        yield Hostile(f"accel_scale: chunks {number}", change("accel_scale", **grid(rows, 3)))
    yield Hostile("ppg: chunks of other shape", change("ppg", **grid(1024, 1, 1)))
    yield Hostile("ppg: chunks of one axis", change("ppg", **grid(1024)))
    yield Hostile("ppg: no chunks", change("ppg", chunk_grid=None))
    yield Hostile("ppg: compressed", change("ppg", codecs=sharding))
    yield Hostile("ppg: codecs deep", change("ppg", codecs=sharding * 1000))
    yield Hostile(
        "ppg_offset: compressed",
        change("ppg_offset", codecs=[{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 9}}]),
    )
    yield Hostile("ppg: another type", change("ppg", data_type="float64"))
    yield Hostile("ppg: a huge shape", change("ppg", shape=[10**15, 640, 2]))
    yield Hostile("ppg: nested", lambda store: (store / "ppg/zarr.json").write_text("[" * 10**5) and sign(store))
    yield Hostile("ppg: a sparse shard", _sparse)


def _sparse(store: Path) -> None:
    """A shard that states a thousand gigabytes, and a manifest with as many segments."""
    shard = next((store / "ppg/c").rglob("0"))
    shard = shard if shard.is_file() else store / "ppg/c/0/0/0"
    os.truncate(shard, 2**40)

    def claim(manifest: dict) -> None:
        manifest["files"]["ppg/c/0/0/0"]["bytes"] = 2**40
        manifest["num_segments"] = 2**28

    sign(store, claim)


def _files() -> Iterator[Hostile]:
    def replace(name: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
        def spoil(store: Path) -> None:
            (store / name).unlink()
            make(store / name)

        return spoil

    def claim_empty(name: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
        def spoil(store: Path) -> None:
            replace(name, make)(store)
            sign(store, lambda manifest: manifest["files"][name].update(bytes=0))

        return spoil

    kinds = {
        "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "a FIFO": os.mkfifo,
        "a folder": Path.mkdir,
        "a link to itself": lambda path: path.symlink_to(path),
        "a broken link": lambda path: path.symlink_to("nowhere"),
    }
    for what, make in kinds.items():
        yield Hostile(f"manifest.json: {what}", replace("manifest.json", make))
        for name in ("segments.parquet", "ppg/zarr.json", "ppg/c/0/0/0", "accel_scale/c/0/0", "zarr.json"):
            yield Hostile(f"{name}: {what}", replace(name, make))
            yield Hostile(f"{name}: {what}, empty by the manifest", claim_empty(name, make))


def _tables() -> Iterator[Hostile]:
    def write(name: str, change: Callable[[pa.Table], pa.Table], **options) -> Callable[[Path], None]:
        def spoil(store: Path) -> None:
            table = change(pq.read_table(store / name))
            pq.write_table(table, store / name, **options)
            sign(store)

        return spoil

    def many(table: pa.Table) -> pa.Table:
        """Fifty million rows in a few bytes."""
        return pa.table(
            {name: _constant(table[name][0].as_py(), 50_000_000 if name == "crc32" else 0) for name in ("crc32",)}
        )

    def long_text(table: pa.Table) -> pa.Table:
        texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(table), np.int32)), pa.array(["x" * 10**6]))
        return table.set_column(table.column_names.index("participant"), "participant", texts)

    def with_column(name: str, values: Callable[[int], pa.Array]) -> Callable[[pa.Table], pa.Table]:
        return lambda table: (table.drop_columns([name]) if name in table.column_names else table).append_column(
            name, values(len(table))
        )

    yield Hostile("segments: many rows", write("segments.parquet", many, compression="zstd"))
    yield Hostile(
        "participants: many rows", write("participants.parquet", lambda table: pa.concat_tables([table] * 10_000))
    )
    yield Hostile("segments: a long text", write("segments.parquet", long_text))
    yield Hostile("segments: lists", write("segments.parquet", with_column("hr_bpm", lambda n: pa.array([[1.0]] * n))))
    yield Hostile(
        "segments: checksums as text", write("segments.parquet", with_column("crc32", lambda n: pa.array(["x"] * n)))
    )
    yield Hostile(
        "segments: no checksums",
        write("segments.parquet", with_column("crc32", lambda n: pa.array([None] * n, pa.uint32()))),
    )
    yield Hostile(
        "segments: nobody",
        write("segments.parquet", with_column("participant", lambda n: pa.array([None] * n, pa.string()))),
    )
    yield Hostile(
        "participants: another split",
        write("participants.parquet", with_column("split", lambda n: pa.array(["holdout"] * n))),
    )
    yield Hostile(
        "participants: one twice",
        write("participants.parquet", lambda table: pa.concat_tables([table.slice(1), table.slice(1, 1)])),
    )
    yield Hostile("participants: none", write("participants.parquet", lambda table: table.slice(0, 0)))


def _constant(value, rows: int) -> pa.Array:
    return pa.array(np.full(rows, value, np.uint32))
