"""Damaged stores: refused when opened, or when the damaged segment is read, with the file's name."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from accdistill_jax.data.store import store as store_module
from accdistill_jax.data.store import tables
from accdistill_jax.data.store.manifest import checksum, verify_checksums
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.storage import folder


@pytest.mark.parametrize(
    ("version", "advice"), [(3, "update accdistill_jax"), (1, "prepare it again with --overwrite")]
)
def test_other_format_versions(whole, edit_manifest, version, advice):
    edit_manifest(whole, format_version=version)
    with pytest.raises(UserError, match=f"format version {version}, this program reads version 2; {advice}"):
        Store.open(whole)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_segments", "24"),
        ("num_segments", 0),
        ("samples", 640.0),
        ("rate_hz", None),
        ("rate_hz", float("inf")),
        ("channels", {"ppg": "green"}),
        ("files", {"ppg/zarr.json": 3}),
        ("counts", []),
        ("prepared", ["anna"]),
    ],
)
def test_manifest_of_other_types_is_refused_by_key(whole, edit_manifest, key, value):
    edit_manifest(whole, **{key: value})
    with pytest.raises(UserError, match=f"manifest.json: key '{key}' is missing or malformed"):
        Store.open(whole)


def test_deeply_nested_manifest(whole):
    (Path(whole) / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="manifest.json: not a readable store manifest"):
        Store.open(whole)


def test_unreadable_or_foreign_manifest(whole):
    file = Path(whole) / "manifest.json"
    text = file.read_text()
    for content, message in (
        ("{", "not a readable store manifest"),
        ("{}", "not a readable store manifest"),
        (text.replace("segment store", "sofa"), "not the manifest of"),
        (text.replace('"motion": 8', '"motion": 7'), "changed after it was written"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message) as caught:
            Store.open(whole)
        assert "manifest.json" in str(caught.value)


@pytest.mark.parametrize("name", ["ppg/c/1/0/0", "accel/c/0/0/0", "segments.parquet", "ppg_scale/c/0/0"])
def test_missing_or_truncated_file_is_named(whole, name):
    file = Path(whole) / name
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    for check in (Store.open, verify_checksums):
        with pytest.raises(UserError, match=f"{name}.*{len(content) - 100} bytes instead of {len(content)}"):
            check(whole)
    file.unlink()
    for check in (Store.open, verify_checksums):
        with pytest.raises(UserError, match=f"{name}.* missing"):
            check(whole)


def test_missing_object_is_named(make_store, tmp_path, small_shards, people):
    path = f"memory://{tmp_path.name}/missing"
    make_store("s", people, path=path)
    folder.open_folder(path).remove("accel/c/2/0/0")
    with pytest.raises(UserError, match="accel/c/2/0/0: this file of the store is missing"):
        Store.open(path)


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [
        "zarr.json",
        "ppg/zarr.json",
        "accel_offset/zarr.json",
        "segments.parquet",
        "participants.parquet",
        "ppg_scale/c/0/0",
        "accel_offset/c/0/0",
    ],
)
@pytest.mark.parametrize("at", [0.0, 0.3, 0.999])
def test_flipped_byte_of_a_small_file_is_named_when_opened(whole, name, at):
    file = Path(whole) / name
    flip(file, int(at * file.stat().st_size))
    with pytest.raises(UserError, match=f"{name}: the file does not match its checksum"):
        Store.open(whole)


def test_verify_names_the_flipped_shard(whole):
    flip(Path(whole) / "accel/c/1/0/0", 100)
    Store.open(whole)
    with pytest.raises(UserError, match="damaged: accel/c/1/0/0 does not match its checksum; restore") as caught:
        Store.open(whole, verify=True)
    assert "ppg/c" not in str(caught.value)


@pytest.mark.parametrize(("signal", "channels"), [("ppg", 2), ("accel", 3)])
def test_flipped_byte_of_a_segment_is_named_when_it_is_read(whole, signal, channels):
    row = 640 * channels * 2
    flip(Path(whole) / signal / "c/1/0/0", 3 * row - 1)  # the last byte of segment 8 + 2
    store = Store.open(whole)
    assert store.read(np.array([9, 11, 0]))[signal].shape == (3, 640, channels)
    for rows in ([10], [9, 11, 10, 10, 2]):
        with pytest.raises(
            UserError,
            match=f"{whole}/{signal}/c/1/0/0: segment 10 is not what was written there.*"
            f"python -m accdistill_jax.data.prepare verify {whole}",
        ) as caught:
            store.read(np.array(rows))
        assert str(caught.value).count("/c/") == 1, "the other signal's shard is whole"


def test_shards_of_two_stores_exchanged(make_store, small_shards, people):
    """Equal sizes, indices and shapes."""
    one, other = make_store("one", people), make_store("other", people, seed=1)
    shutil.copy(Path(other.path) / "ppg/c/0/0/0", Path(one.path) / "ppg/c/0/0/0")
    store = Store.open(one.path)
    store.read(np.arange(8, 24))
    with pytest.raises(UserError, match="one/ppg/c/0/0/0: segment 0 is not what was written there"):
        store.read(np.arange(24))


def test_flipped_byte_of_a_segment_in_an_object_store(make_store, tmp_path, small_shards, people):
    store = make_store("s", people, path=f"memory://{tmp_path.name}/flipped")
    objects = folder.open_folder(store.path)
    content = bytearray(objects.read("ppg/c/2/0/0"))
    content[5] ^= 1
    objects.write("ppg/c/2/0/0", content)
    store = Store.open(store.path)
    store.read(np.arange(16))
    with pytest.raises(UserError, match="ppg/c/2/0/0: segment 16 is not what was written there"):
        store.read(np.array([16]))


@pytest.mark.parametrize("at", [-1, -4, -5, -16, -4 - 16 * 8])
def test_flipped_byte_of_an_index_is_named(whole, at):
    """Also the parts that say nothing about a segment: the CRC and the places that the last shard leaves empty."""
    flip(Path(whole) / "ppg/c/2/0/0", at)
    with pytest.raises(UserError, match="ppg/c/2/0/0: its index is damaged"):
        Store.open(whole).read(np.array([20]))


def test_content_is_checked_once(whole, monkeypatch):
    store = Store.open(whole)
    checked = []
    crc = store_module.segment_crc
    monkeypatch.setattr(store_module, "segment_crc", lambda *rows: checked.append(1) or crc(*rows))
    for rows, total in (([3, 3, 5], 2), ([5, 3], 2), (range(24), 24), (range(24), 24)):
        store.read(np.array(rows))
        assert len(checked) == total


def test_a_damaged_segment_is_never_handed_out_by_any_thread(whole):
    flip(Path(whole) / "ppg/c/1/0/0", 0)
    store = Store.open(whole)
    rng = np.random.default_rng(0)
    asked = [np.append(rng.integers(0, 24, 8), 8) for _ in range(64)]

    def read(rows: np.ndarray) -> str:
        with pytest.raises(UserError) as caught:
            store.read(rows)
        return str(caught.value)

    with ThreadPoolExecutor(8) as pool:
        assert {"segment 8 is" in text for text in pool.map(read, asked)} == {True}


@pytest.mark.parametrize("damage", ["remove", "cut", "zero the index"])
def test_shard_lost_or_unreadable_while_open(whole, damage):
    store = Store.open(whole)
    file = Path(whole) / "ppg/c/1/0/0"
    content = bytearray(file.read_bytes())
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[:3000])
    if damage == "zero the index":
        content[-4 - 16 * 8 : -4] = bytes(16 * 8)
        file.write_bytes(content)
    with pytest.raises(UserError, match="ppg/c/1/0/0.*check with: .*verify"):
        store.read(np.array([9]))
    assert store.read(np.array([0, 23]))["ppg"].shape == (2, 640, 2)


def test_table_rows_must_agree(whole, edit_manifest):
    file = Path(whole) / "segments.parquet"
    file.write_bytes(tables.to_parquet(pq.read_table(file).slice(1)))
    manifest = json.loads((Path(whole) / "manifest.json").read_text())
    manifest["files"]["segments.parquet"] = {"bytes": file.stat().st_size, "sha256": checksum(file.read_bytes())}
    edit_manifest(whole, files=manifest["files"])
    with pytest.raises(UserError, match="segments.parquet: 23 rows, but the manifest counts 24"):
        Store.open(whole)


def test_channels_must_agree(whole, edit_manifest):
    edit_manifest(whole, channels={"ppg": ["green"], "accel": ["x", "y", "z"]})
    with pytest.raises(
        UserError, match=r"ppg: the array is int16 \(24, 640, 2\), but the manifest says \(24, 640, 1\)"
    ):
        Store.open(whole)


def test_unknown_scheme_and_moved_store(whole, tmp_path):
    with pytest.raises(UserError, match="ftp://x: unknown URL scheme"):
        Store.open("ftp://x")
    shutil.move(whole, tmp_path / "moved")
    assert Store.open(f"file://{tmp_path}/moved").num_segments == 24


@pytest.mark.parametrize(
    ("table", "column"), [("segments", "crc32"), ("segments", "participant"), ("participants", "split")]
)
def test_table_without_a_column(whole, edit_manifest, table, column):
    file = Path(whole) / f"{table}.parquet"
    file.write_bytes(tables.to_parquet(pq.read_table(file).drop_columns([column])))
    manifest = json.loads((Path(whole) / "manifest.json").read_text())
    manifest["files"][file.name] = {"bytes": file.stat().st_size, "sha256": checksum(file.read_bytes())}
    edit_manifest(whole, files=manifest["files"])
    with pytest.raises(UserError, match=f"{table}.parquet: not a readable table of a store.*{column}"):
        Store.open(whole)
