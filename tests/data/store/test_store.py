"""The store: what is written is read, and nothing damaged or half-written is taken for whole."""

import errno
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts

from accdistill_jax.data.preprocessing.quantise import quantise
from accdistill_jax.data.store.request import existing_store
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.errors import UserError
from accdistill_jax.storage import folder


def tree(path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(Path(path).rglob("*")) if p.is_file()}


# What is written is read


def expected(make_batch, people, name):
    parts = [quantise(getattr(make_batch(person, count), name), name=name) for person, count in people.items()]
    return [np.concatenate(field) for field in zip(*parts, strict=True)]


@pytest.mark.parametrize("place", ["local", "memory"])
def test_read_gives_what_was_added_in_any_order(make_store, make_batch, small_shards, tmp_path, place, people):
    path = None if place == "local" else f"memory://{tmp_path.name}/store"
    store = make_store("s", people, path=path)
    indices = np.array([23, 0, 7, 8, 8, 15, 22, 3])
    batch = store.read(indices)
    for name in ("ppg", "accel"):
        values, scale, offset = expected(make_batch, people, name)
        np.testing.assert_array_equal(batch[name], values[indices])
        np.testing.assert_array_equal(batch[f"{name}_scale"], scale[indices])
        np.testing.assert_array_equal(batch[f"{name}_offset"], offset[indices])
        assert batch[name].dtype == np.int16 and batch[f"{name}_scale"].dtype == np.float32
    assert store.segments["participant"].tolist() == ["anna"] * 11 + ["cleo"] * 9 + ["dora"] * 4
    np.testing.assert_array_equal(
        store.segments["hr_bpm"], np.concatenate([make_batch(*own).columns["hr_bpm"] for own in people.items()])
    )
    assert Store.open(store.path, verify=True).fingerprint == store.fingerprint


def test_shard_cut_after_it_was_read(whole):
    store = Store.open(whole)
    store.read(np.array([15]))
    os.truncate(Path(whole) / "accel/c/1/0/0", 7 * 640 * 3 * 2 + 5)
    with pytest.raises(UserError, match="accel/c/1/0/0: too short"):
        store.read(np.array([8, 15]))
    assert store.read(np.array([8]))["accel"].shape == (1, 640, 3)


def test_reading_leaves_no_file_open(whole):
    store = Store.open(whole)
    store.read(np.arange(24))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        store.read(np.arange(24))
    assert len(os.listdir("/proc/self/fd")) <= before


def test_reading_from_many_threads(make_store, small_shards, people):
    store = make_store("s", people)
    everything = store.read(np.arange(24))
    rng = np.random.default_rng(0)
    asked = [rng.integers(0, 24, 16) for _ in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for indices, batch in zip(asked, pool.map(store.read, asked), strict=True):
            for name, values in batch.items():
                np.testing.assert_array_equal(values, everything[name][indices])


def test_reading_outside_and_nothing(make_store):
    store = make_store("s", {"a": 3})
    for wrong in ([3], [-1]):
        with pytest.raises(IndexError, match="rows must lie in"):
            store.read(np.array(wrong))
    assert store.read(np.array([], np.int64))["ppg"].shape == (0, 640, 2)


def test_a_mask_chooses_rows_and_what_is_no_row_is_refused(make_store):
    store = make_store("s", {"a": 3})
    mask = np.array([False, True, True])
    for read in (store.read, store.read_signals):
        np.testing.assert_array_equal(read(mask)["accel"], read(np.array([1, 2]))["accel"])
        assert read([])["accel"].shape[0] == 0
        for wrong in ([1.9], mask[:2], 1, slice(0, 2), [[0, 1]], ["0"]):
            with pytest.raises(UserError, match=r"rows must be \[batch\] integers, or \[3\] truth values"):
                read(np.array(wrong) if isinstance(wrong, list) else wrong)


def test_any_zarr_reader_opens_it(make_store, make_batch, small_shards, people):
    store = make_store("s", people)
    described = json.loads((Path(store.path) / "ppg/zarr.json").read_text())
    assert described["zarr_format"] == 3 and described["attributes"] == {"unit": "a.u."}
    assert described["dimension_names"] == ["segment", "sample", "channel"]
    plain = ts.open({"driver": "zarr3", "kvstore": f"file://{store.path}/ppg/"}, read=True).result()
    assert plain.chunk_layout.read_chunk.shape == (1, 640, 2) and plain.chunk_layout.write_chunk.shape == (8, 640, 2)
    np.testing.assert_array_equal(plain.read().result(), expected(make_batch, people, "ppg")[0])
    assert sorted(p.name for p in (Path(store.path) / "ppg/c").iterdir()) == ["0", "1", "2"]


def test_an_all_zero_segment_is_stored_not_missing(make_batch, settings, tmp_path):
    batch = make_batch("a", 3)
    batch.ppg[1] = 0
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    writer.add("a", batch)
    assert not writer.commit(["a"]).read(np.array([1]))["ppg"].any()


def test_participants_table_and_counts(settings, make_batch, tmp_path):
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x", split=SplitRule(seed=5))
    writer.add(
        "r1",
        make_batch(
            "a",
            2,
            age_years=40.0,
            height_m=2.0,
            weight_kg=80.0,
            sex="female",
            conditions={"beta_blocker": np.bool_(True)},
        ),
    )
    writer.add("r2", make_batch("a", 1, age_years=40.0))
    writer.add("r3", make_batch("b", 0, conditions={"smoker": False}))
    store = writer.commit(["r1", "r2", "r3"])
    a, b = store.participants.to_pylist()
    assert a["participant"] == "a" and a["bmi"] == 20 and a["sex"] == "female" and a["device"] == "bench"
    assert a["condition_beta_blocker"] is True and a["condition_smoker"] is None and b["condition_smoker"] is False
    assert b["age_years"] is None and b["bmi"] is None
    assert {a["participant"]: a["split"], b["participant"]: b["split"]} == SplitRule(seed=5).assign("ab")
    counts = store.manifest["counts"]
    assert counts["total"] == {"examined": 12, "kept": 3, "rejected": {"motion": 6, "quality": 3}}
    assert counts["participants"]["a"] == {"examined": 9, "kept": 3, "rejected": {"motion": 4, "quality": 2}}
    for own in (counts["total"], *counts["participants"].values()):
        assert own["examined"] == own["kept"] + sum(own["rejected"].values())


def test_indices_follow_the_split(make_store, people):
    rule = SplitRule(assignment={"anna": "train", "ben": "test", "cleo": "validation", "dora": "train"})
    store = make_store("s", people, split=rule)
    np.testing.assert_array_equal(store.indices("train"), [*range(11), *range(20, 24)])
    np.testing.assert_array_equal(store.indices("validation"), range(11, 20))
    assert store.indices("test").shape == (0,) and store.indices("train").dtype == np.int64
    with pytest.raises(UserError, match="'training' is not one of"):
        store.indices("training")


def test_contradicting_facts_about_a_participant(make_batch, settings, tmp_path):
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    writer.add("r1", make_batch("a", 1, age_years=40.0))
    writer.add("r2", make_batch("a", 1, age_years=41.0))
    with pytest.raises(UserError, match="participant a: age_years is 40.0 in one recording and 41.0 in another"):
        writer.commit(["r1", "r2"])


def test_units_that_disagree_or_lack(make_batch, settings, tmp_path):
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    writer.add("one", make_batch("a", 2, channels=1))
    writer.add("two", make_batch("b", 2, channels=2))
    with pytest.raises(UserError, match="ppg channels differ: one has ppg0, two has ppg0, ppg1"):
        writer.commit(["one", "two"])
    with pytest.raises(UserError, match="1 of 2 units are not prepared yet, the first is three"):
        writer.commit(["one", "three"])
    with pytest.raises(UserError, match=r"four: ppg is \(2, 320, 2\), expected \(2, 640, 2\)"):
        writer.add("four", make_batch("a", 2, samples=320))
    batch = make_batch("a", 2)
    batch.examined += 1
    with pytest.raises(ValueError, match="6 segments examined"):
        writer.add("five", batch)


def test_nothing_kept_is_an_error_with_the_reasons(make_batch, settings, tmp_path):
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    writer.add("a", make_batch("a", 0))
    with pytest.raises(UserError, match="no segment was kept of 3 examined .rejected: motion 2, quality 1"):
        writer.commit(["a"])
    assert not (tmp_path / "s").exists() and not (tmp_path / "s.partial").exists()


# The same bytes


def test_bytes_do_not_depend_on_order_of_adding_or_interruption(make_batch, settings, tmp_path, small_shards, people):
    trees = []
    for name, adding in (("one", list(people)), ("two", list(reversed(people)))):
        path = tmp_path / name / "store"
        for person in adding:  # a writer per unit: as if interrupted after each
            writer = pickle.loads(pickle.dumps(StoreWriter(path, settings=settings, source="x")))
            assert not writer.has(person)
            writer.add(person, make_batch(person, people[person]))
            assert writer.has(person)
        writer.commit(list(people))
        assert not os.path.exists(f"{path}.partial")
        trees.append(tree(path))
    assert trees[0] == trees[1] and len(trees[0]) == 21


def test_fingerprint_tells_data_apart_but_not_software(make_store, edit_manifest):
    a, b = make_store("a", {"p": 3}), make_store("b", {"p": 3}, seed=1)
    assert a.fingerprint != b.fingerprint
    edit_manifest(a.path, software={"numpy": "0.0"})
    assert Store.open(a.path).fingerprint == a.fingerprint


# Incomplete


def test_staged_units_are_not_a_store(make_batch, settings, tmp_path):
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    writer.add("a", make_batch("a", 2))
    with pytest.raises(UserError, match="interrupted; run the same prepare command again"):
        Store.open(tmp_path / "s")
    with pytest.raises(UserError, match="not a store"):
        Store.open(tmp_path / "elsewhere")


@pytest.mark.parametrize("after", [1, 5, 12, 19])
def test_commit_interrupted_at_any_file_continues(
    make_batch, settings, tmp_path, small_shards, monkeypatch, after, people
):
    def stage(path):
        writer = StoreWriter(path, settings=settings, source="x")
        for person, count in people.items():
            if not writer.has(person):
                writer.add(person, make_batch(person, count))
        return writer

    whole = stage(tmp_path / "whole").commit(list(people))
    writer, write, done = stage(tmp_path / "s"), folder.LocalFolder.write, []

    def failing(self, name, data, **options):
        done.append(name)
        if len(done) > after:
            raise KeyboardInterrupt
        write(self, name, data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(folder.LocalFolder, "write", failing)
        with pytest.raises(KeyboardInterrupt):
            writer.commit(list(people))
    with pytest.raises(UserError, match="interrupted"):
        Store.open(tmp_path / "s")
    assert tree(stage(tmp_path / "s").commit(list(people)).path) == tree(whole.path)


def test_half_written_unit_file_is_not_a_unit(make_batch, settings, tmp_path):
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    writer.add("a", make_batch("a", 2))
    [file] = (tmp_path / "s.partial/units").iterdir()
    leftover = file.with_name(file.name.replace("a-", "b-") + ".writing-1-1")
    leftover.write_bytes(b"half")
    with writer.exclusive():
        assert not leftover.exists()


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_unit_is_redone(make_batch, settings, tmp_path, damage):
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    writer.add("a", make_batch("a", 2))
    [file] = (tmp_path / "s.partial/units").iterdir()
    content = bytearray(file.read_bytes())
    content[2000] ^= 1
    file.write_bytes(content if damage == "flip" else content[:3000])
    with pytest.raises(UserError, match="unit a was damaged and is removed; run the same command again"):
        writer.commit(["a"])
    assert not writer.has("a")


def test_only_one_process_prepares(settings, tmp_path):
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    with writer.exclusive(), pytest.raises(UserError, match="another process is preparing"):
        with StoreWriter(tmp_path / "s", settings=settings, source="x").exclusive():
            pass


def test_other_settings_do_not_mix(make_batch, settings, tmp_path):
    StoreWriter(tmp_path / "s", settings=settings, source="x").add("a", make_batch("a", 2))
    with pytest.raises(UserError, match=r"other settings is kept there \(source: x there, y now\)"):
        StoreWriter(tmp_path / "s", settings=settings, source="y")
    assert not StoreWriter(tmp_path / "s", settings=settings, source="y", overwrite=True).has("a")


def test_complete_store_is_recognised_or_refused(make_store, settings, make_batch):
    store = make_store("s", {"a": 2, "b": 1})
    same = {"settings": settings, "source": "bench", "units": ["a", "b"]}
    assert existing_store(store.path, **same).fingerprint == store.fingerprint
    assert existing_store(store.path + "-other", **same) is None
    with pytest.raises(UserError, match="other recordings .new: c"):
        existing_store(store.path, **same | {"units": ["a", "b", "c"]})
    with pytest.raises(UserError, match="split.seed: 0 there, 4 now"):
        existing_store(store.path, **same, split=SplitRule(seed=4))
    with pytest.raises(UserError, match="a complete store is already there"):
        StoreWriter(store.path, settings=settings, source="bench")
    writer = StoreWriter(store.path, settings=settings, source="bench", overwrite=True)
    writer.add("c", make_batch("c", 4))
    assert Store.open(store.path).num_segments == 3
    assert writer.commit(["c"]).num_segments == 4
    assert not os.path.exists(store.path + ".replaced")


def test_a_folder_with_other_things_is_not_replaced(make_batch, settings, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/thesis.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="the folder is not empty"):
            StoreWriter(tmp_path / "s", settings=settings, source="x", overwrite=overwrite)
    (tmp_path / "s/thesis.txt").rename(tmp_path / "thesis.txt")
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    writer.add("a", make_batch("a", 2))
    (tmp_path / "thesis.txt").rename(tmp_path / "s/thesis.txt")
    with pytest.raises(UserError, match="the folder is not empty"):
        writer.commit(["a"])
    assert (tmp_path / "s/thesis.txt").read_text() == "precious"


# Full disk


@pytest.mark.parametrize("when", ["adding", "committing"])
def test_full_disk(make_batch, settings, tmp_path, monkeypatch, when):
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    writer.add("a", make_batch("a", 2))

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match="the disk is full; about .* MB more are needed"):
            writer.add("b", make_batch("b", 2)) if when == "adding" else writer.commit(["a"])
    assert not writer.has("b")
    assert not [p for p in tmp_path.rglob("*") if "writing" in p.name]
    with pytest.raises(UserError, match="interrupted"):
        Store.open(tmp_path / "s")
    assert writer.commit(["a"]).num_segments == 2


def test_disk_that_is_too_small_is_noticed_before_writing(make_batch, settings, tmp_path, monkeypatch):
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    writer.add("a", make_batch("a", 2))
    monkeypatch.setattr(folder.LocalFolder, "free_bytes", lambda self: 10)
    with pytest.raises(UserError, match="the disk is full"):
        writer.commit(["a"])
    assert not (tmp_path / "s.partial/store").exists()


def test_unwritable_folder(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        StoreWriter(tmp_path / "file" / "s", settings=settings, source="x")
