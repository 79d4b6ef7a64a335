"""A store of parts: what it holds, where its segments come from, and which stores are not merged."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.data.pipeline import Pipeline, Sampling
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.store.content import CONTENT, store_hashes
from accdistill_jax.data.store.exclusive import exclusive_store
from accdistill_jax.data.store.manifest import read_manifest, verify_checksums
from accdistill_jax.data.store.merge import merge_stores
from accdistill_jax.data.store.separation import check_separation
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.errors import UserError

SPLIT = SplitRule(assignment={"anna": "train", "ben": "validation", "cleo": "test"})
FIRST, SECOND = {"anna": 11, "ben": 3}, {"ben": 4, "cleo": 9}


@pytest.fixture
def two(make_store, small_shards) -> tuple[Store, Store]:
    return make_store("a", FIRST, split=SPLIT.among(FIRST)), make_store("b", SECOND, split=SPLIT.among(SECOND))


@pytest.fixture
def three(two, make_store) -> tuple[Store, Store, Store]:
    return (*two, make_store("c", {"dora": 5}, seed=7, split=SplitRule(assignment={"dora": "train"})))


def test_segments_follow_each_other_and_nothing_is_copied(two, tmp_path):
    before = [sorted(Path(store.path).rglob("*")) for store in two]
    merged = merge_stores([store.path for store in two], tmp_path / "new" / "ab")
    assert merged.num_segments == 27 and merged.parts == tuple(store.path for store in two)
    rows = np.random.default_rng(0).permutation(27)
    batch = merged.read(rows)
    whole = {name: np.concatenate([s.read(np.arange(s.num_segments))[name] for s in two]) for name in batch}
    for name, values in whole.items():
        np.testing.assert_array_equal(batch[name], values[rows])
    for name in two[0].segments:
        np.testing.assert_array_equal(merged.segments[name], np.concatenate([s.segments[name] for s in two]))
    np.testing.assert_array_equal(
        store_hashes(merged, say=pytest.fail), np.concatenate([store_hashes(store, say=pytest.fail) for store in two])
    )
    assert {split: len(merged.indices(split)) for split in ("train", "validation", "test")} == {
        "train": 11,
        "validation": 7,
        "test": 9,
    }
    assert merged.manifest["counts"]["participants"]["ben"] == {
        "examined": 13,
        "kept": 7,
        "rejected": {"motion": 4, "quality": 2},
    }
    files = sorted(path.name for path in Path(merged.path).iterdir())
    assert files == ["content.hashes", "manifest.json", "participants.parquet", "segments.parquet"]
    assert [sorted(Path(store.path).rglob("*")) for store in two] == before
    own = sum((Path(merged.path) / name).stat().st_size for name in merged.manifest["files"])
    assert merged.size_bytes == verify_checksums(merged.path) == own + sum(store.size_bytes for store in two)
    check_separation([merged], [], same_names="same person")


def test_training_reads_the_merged_store_in_an_order_of_the_seed_alone(two, tmp_path):
    merged = merge_stores([store.path for store in two], tmp_path / "ab")
    pipeline = Pipeline([merged], Sampling("train", seed=3), batch_size=4)
    batch = pipeline.batch(5)
    store, rows = pipeline.global_indices(5)
    np.testing.assert_array_equal(batch["accel"], merged.read(rows)["accel"])
    assert not store.any() and rows.dtype == np.int64


def test_a_merge_of_merges_has_the_first_stores_as_parts(three, tmp_path):
    a, b, c = three
    first = merge_stores([a.path, b.path], tmp_path / "ab")
    all_three = merge_stores([first.path, c.path], tmp_path / "abc")
    assert all_three.parts == (a.path, b.path, c.path) and all_three.num_segments == 32
    at_once = merge_stores([a.path, b.path, c.path], tmp_path / "at-once")
    assert at_once.fingerprint == all_three.fingerprint
    with pytest.raises(UserError, match="a store was given twice, by itself or as a part"):
        merge_stores([first.path, b.path], tmp_path / "abb")


def test_the_same_merge_again_is_left_as_it_is_and_another_is_refused(three, tmp_path):
    a, b, c = (store.path for store in three)
    out, lines = tmp_path / "ab", []
    merge_stores([a, b], out)
    stamp = os.stat(out / "manifest.json").st_mtime_ns
    merge_stores([a, b], out, say=lines.append)
    assert os.stat(out / "manifest.json").st_mtime_ns == stamp and "already complete" in lines[0]
    with pytest.raises(UserError, match="another store is already there"):
        merge_stores([a, c], out)
    assert merge_stores([a, c], out, overwrite=True).num_segments == 19
    with pytest.raises(UserError, match="cannot take the place of a part"):
        merge_stores([a, c], a, overwrite=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/diary.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty, and what is in it is no store"):
        merge_stores([a, b], tmp_path / "notes")


def test_a_part_is_never_replaced_also_not_below_another_store_or_through_a_link(three, tmp_path):
    a, b, c = three
    first = merge_stores([a.path, b.path], tmp_path / "ab")
    (tmp_path / "link").symlink_to(a.path)
    for stores, out in (([first.path, c.path], a.path), ([a.path, c.path], tmp_path / "link")):
        with pytest.raises(UserError, match="cannot take the place of a part"):
            merge_stores(stores, out, overwrite=True)
    assert Store.open(a.path, verify=True).fingerprint == a.fingerprint


@pytest.mark.parametrize("below", ["", "new"])
def test_a_file_in_the_place_of_the_new_store_gives_a_line(two, tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=f"{tmp_path}/file/.*cannot be written"):
        merge_stores([store.path for store in two], tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_store_has_the_same_parts_through_a_link(two, tmp_path):
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep/er")
    merged = merge_stores([store.path for store in two], tmp_path / "link/ab")
    for path in (tmp_path / "link/ab", tmp_path / "deep/er/ab"):
        assert Store.open(path, verify=True).parts == merged.parts == tuple(store.path for store in two)


def test_parts_and_store_may_move_together(two, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    merged = merge_stores([store.path for store in two], tmp_path / "ab")
    for name in ("a", "b", "ab"):
        shutil.move(tmp_path / name, home / name)
    moved = Store.open(home / "ab", verify=True)
    assert moved.fingerprint == merged.fingerprint and moved.parts == (str(home / "a"), str(home / "b"))


def test_a_part_that_is_missing_replaced_or_damaged_is_named(two, make_store, tmp_path):
    merged = merge_stores([store.path for store in two], tmp_path / "ab")
    shard = tmp_path / "b/accel/c/1/0/0"
    content = bytearray(shard.read_bytes())
    content[5] ^= 4
    shard.write_bytes(content)
    with pytest.raises(UserError, match=f"{shard}: segment 22 is not what was written.*verify {tmp_path}/b$"):
        merged.read(np.arange(27))
    with pytest.raises(UserError, match=f"{tmp_path}/ab: damaged: {shard} does not match its checksum"):
        verify_checksums(merged.path)
    shutil.move(tmp_path / "b", tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{tmp_path}/ab: its part {tmp_path}/b is missing; put that store back"):
        Store.open(merged.path)
    make_store("b", SECOND, seed=3, split=SPLIT.among(SECOND))
    with pytest.raises(UserError, match=f"{tmp_path}/ab: its part {tmp_path}/b is another store by now"):
        Store.open(merged.path)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda m: m["parts"][0].update(path="s3://elsewhere/a"), "parts"),
        (lambda m: m["parts"][0].update(path="/etc"), "parts"),
        (lambda m: m["parts"][0].update(segments=12), "parts"),
        (lambda m: m.pop("parts"), "parts"),
        (lambda m: m.update(files={}), "files"),
    ],
)
def test_malformed_parts(two, tmp_path, edit_manifest, change, key):
    merged = merge_stores([store.path for store in two], tmp_path / "ab")
    manifest = read_manifest(merged.path)
    change(manifest)
    (tmp_path / "ab/manifest.json").write_text(json.dumps(manifest))
    edit_manifest(merged.path)
    with pytest.raises(UserError, match=f"key '{key}' is missing or malformed"):
        Store.open(merged.path)


def test_a_part_of_another_layout(two, make_store, tmp_path, edit_manifest):
    merged = merge_stores([store.path for store in two], tmp_path / "ab")
    edit_manifest(merged.path, rate_hz=50.0)
    with pytest.raises(UserError, match=f"{tmp_path}/a: this part of a store has rate_hz 64.0, the store 50.0"):
        Store.open(merged.path)


def test_a_rule_splits_all_people_anew(make_store, tmp_path):
    stores = [make_store(name, {f"{name}{number}": 1 for number in range(8)}) for name in "ab"]
    rule = SplitRule(seed=5, fractions=(0.4, 0.3, 0.3))
    merged = merge_stores([store.path for store in stores], tmp_path / "merged", split=rule)
    names = merged.participants["participant"].to_pylist()
    assert dict(zip(names, merged.participants["split"].to_pylist(), strict=True)) == rule.assign(names)
    assert rule.assign(names) != SplitRule().assign(names)


def test_a_person_in_two_splits_is_refused_unless_a_file_splits_anew(make_store, tmp_path):
    a = make_store("a", {"ben": 3, "anna": 2}, split=SplitRule(assignment={"ben": "train", "anna": "train"})).path
    b = make_store("b", {"ben": 4}, split=SplitRule(assignment={"ben": "test"})).path
    with pytest.raises(UserError, match=f"participant ben is in train of {a} and in test of {b}; .*--split-file"):
        merge_stores([a, b], tmp_path / "ab")
    with pytest.raises(UserError, match="no split for participant anna"):
        merge_stores([a, b], tmp_path / "ab", split=SplitRule(assignment={"ben": "test"}))
    anew = SplitRule(assignment={"ben": "test", "anna": "train"})
    merged = merge_stores([a, b], tmp_path / "ab", split=anew)
    assert len(merged.indices("test")) == 7 and merged.manifest["split"] == anew.to_json()


def test_ids_of_one_person_with_and_without_study_and_site_are_refused(make_store, tmp_path):
    full, short = make_store("full", {"1-2-anna": 6, "1-2-ben": 6}), make_store("short", {"cleo": 6, "ben": 6}, seed=1)
    for paths in ((full.path, short.path), (short.path, full.path)):
        with pytest.raises(UserError, match="'1-2-ben' of .*full may be 'ben' of .*short, whose ids lack study"):
            merge_stores(paths, tmp_path / "both", split=SplitRule())


def test_stores_that_do_not_fit_are_refused_in_a_line(make_store, make_batch, settings, tmp_path):
    a = make_store("a", {"anna": 3}).path
    one_channel = make_store("narrow", {"ben": 3}, channels=1).path
    still = make_store(
        "still", {"ben": 3}, settings=PreprocessSettings(segment_s=10.0, hop_s=10.0, max_motion_g=0.01)
    ).path
    again = make_store("again", {"anna": 5}).path
    writer = StoreWriter(tmp_path / "renamed", settings=settings, source="bench")
    copy = make_batch("anna", 3)
    copy.columns["participant"] = np.full(3, "zoe")
    copy.participant = make_batch("zoe", 1).participant
    writer.add("zoe", copy)
    renamed = writer.commit(["zoe"]).path
    older = StoreWriter(tmp_path / "older", settings=settings, source="bench")
    older.add("anna", make_batch("anna", 4, seed=1, age_years=30.0))
    newer = StoreWriter(tmp_path / "newer", settings=settings, source="bench")
    newer.add("anna", make_batch("anna", 4, seed=2, age_years=31.0))
    aged = [older.commit(["anna"]).path, newer.commit(["anna"]).path]
    for others, message in (
        ([a, one_channel], "were prepared differently .channels.ppg"),
        ([a, still], "were prepared differently .preprocess.max_motion_g: 0.1 there, 0.01 now"),
        ([a, renamed], f"anna-a of {a} .participant anna. and anna-a of {renamed} .participant zoe. share 3 segments"),
        (aged, "participant anna: age_years is 30.0 in one recording and 31.0 in another"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            merge_stores(others, tmp_path / "out")
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    assert merge_stores([a, again], tmp_path / "out").num_segments == 8  # other minutes of the same person


def test_a_column_that_a_part_lacks_is_unknown_there(make_batch, settings, tmp_path):
    stores = []
    for name, labels in (
        ("a", {}),
        ("b", {"label_stage": np.array(["rem", ""]), "label_stress": np.array([1.0, np.nan])}),
    ):
        writer = StoreWriter(tmp_path / name, settings=settings, source=f"reader {name}")
        batch = make_batch(name, 2)
        batch.columns |= labels
        writer.add(name, batch)
        stores.append(writer.commit([name]).path)
    merged = merge_stores(stores, tmp_path / "ab")
    assert merged.segments["label_stage"].tolist() == ["", "", "rem", ""]
    np.testing.assert_array_equal(merged.segments["label_stress"], [np.nan, np.nan, 1.0, np.nan])
    assert merged.manifest["source"] == "several" and merged.manifest["source_settings"] == {}
    writer = StoreWriter(tmp_path / "c", settings=settings, source="reader c")
    batch = make_batch("c", 2)
    batch.columns["label_stage"] = np.array([1.0, 2.0])
    writer.add("c", batch)
    with pytest.raises(UserError, match=f"stage is a text in {stores[1]} and a number in {tmp_path}/c"):
        merge_stores([stores[1], writer.commit(["c"]).path], tmp_path / "bc")


def test_in_a_bucket(make_store, small_shards, tmp_path):
    bucket = f"memory://{tmp_path.name}"
    a = make_store("a", FIRST, split=SPLIT.among(FIRST), path=f"{bucket}/stores/a")
    b = make_store("b", SECOND, split=SPLIT.among(SECOND), path=f"{bucket}/b")
    merged = merge_stores([a.path, b.path], f"{bucket}/stores/new/ab")
    assert [part["path"] for part in merged.manifest["parts"]] == ["../../a", "../../../b"]
    np.testing.assert_array_equal(merged.read(np.array([15]))["accel"], b.read(np.array([1]))["accel"])
    assert verify_checksums(merged.path) == merged.size_bytes
    with pytest.raises(UserError, match="must all be local folders, or all in one bucket"):
        merge_stores([a.path, b.path], tmp_path / "ab")


def test_hashes_that_are_gone_are_read_again(two, tmp_path):
    merged = merge_stores([store.path for store in two], tmp_path / "ab")
    kept = store_hashes(merged, say=pytest.fail)
    (Path(merged.path) / CONTENT).unlink()
    np.testing.assert_array_equal(store_hashes(merged, say=lambda line: None), kept)


def test_a_second_process_cannot_make_the_store_that_is_being_merged(two, tmp_path):
    out, said = tmp_path / "ab", []
    (Path(two[0].path) / CONTENT).unlink()  # so that the merge reads this store, and says so

    def meanwhile(line):
        said.append(line)
        with pytest.raises(UserError, match=f"^{out}: another process is preparing this store"):
            StoreWriter(out, settings=PreprocessSettings(), source="generic")

    merged = merge_stores([store.path for store in two], out, say=meanwhile)
    assert len(said) == 1 and not Path(f"{out}.partial").exists()
    with exclusive_store(out), pytest.raises(UserError, match=f"^{out}: another process is preparing this store"):
        merge_stores([store.path for store in two], out, overwrite=True)
    assert Store.open(out, verify=True).fingerprint == merged.fingerprint
