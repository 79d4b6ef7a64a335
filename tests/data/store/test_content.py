"""Hashes of segments: what is equal is known again, what says nothing is not, and damage is never believed."""

import os
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.data.store import content
from accdistill_jax.data.store.content import content_hashes, equal_rows, signal_hash, store_hashes
from accdistill_jax.data.store.manifest import CONTENT
from accdistill_jax.data.store.store import Store


@pytest.fixture
def minutes():
    rng = np.random.default_rng(0)
    return rng.integers(-32767, 32768, (5, 640, 2), np.int16), rng.integers(-32767, 32768, (5, 640, 3), np.int16)


def test_each_signal_has_a_hash_of_its_own(minutes):
    ppg, accel = minutes
    hashes = content_hashes(ppg, accel)
    assert hashes.shape == (5, 2) and hashes.dtype == np.uint64 and len(np.unique(hashes)) == 10
    np.testing.assert_array_equal(content_hashes(ppg, accel[::-1]), np.stack([hashes[:, 0], hashes[::-1, 1]], axis=1))
    changed = ppg.copy()
    changed[2, 100, 1] ^= 1
    assert (content_hashes(changed, accel) != hashes).tolist() == [[row == 2, False] for row in range(5)]
    assert content_hashes(ppg[:0], accel[:0]).shape == (0, 2)


def test_what_says_too_little_has_no_hash():
    """Constant, all zero, a step, a ramp, a few counts of a coarse sensor at rest: minutes of anybody can be equal in them."""
    time = np.arange(3840)
    quiet = {
        "zero": np.zeros(3840),
        "constant": np.full(3840, 7),
        "step": np.where(time < 900, -32767, 32767),
        "ramp": np.round(np.linspace(-32767, 32767, 3840)),
        "few counts": np.where(np.isin(time // 2, (400, 900, 1500)), 32767, -32767),
    }
    for name, values in quiet.items():
        assert signal_hash(np.repeat(values[:, None], 3, axis=1).astype(np.int16)) == 0, name
        assert signal_hash(values[:, None].astype(np.float32) if name != "ramp" else values[:1, None]) == 0, name
    slow = np.round(32767 * np.sin(2 * np.pi * time / 3840 * 12))[:, None].astype(np.int16)  # breathing at rest
    assert signal_hash(slow) > 0
    assert signal_hash(np.random.default_rng(0).normal(0, 1, (3840, 3)).astype(np.float32)) > 0


def test_a_few_signs_of_life_at_the_end_are_found(monkeypatch):
    monkeypatch.setattr(content, "SAMPLES_PER_CHECK", 100)
    values = np.zeros((3840, 1), np.int16)
    values[-2 * content.LEAST_TURNS :: 2] = 99
    assert signal_hash(values) > 0
    values[: -content.LEAST_TURNS // 2] = 0
    assert signal_hash(values) == 0


def test_many_rows_are_compared_in_portions(monkeypatch):
    hashes = np.random.default_rng(0).integers(0, 2**64, 500, np.uint64)
    hashes = np.concatenate([hashes, hashes[::3], np.zeros(7, np.uint64)])
    at_once = equal_rows(hashes)
    monkeypatch.setattr(content, "SORTED_AT_ONCE", 100)
    np.testing.assert_array_equal(equal_rows(hashes), at_once)
    assert len(at_once) == 167 and equal_rows(hashes[:500]).shape == (0, 2)


def test_equal_rows_are_beside_the_first_of_them():
    hashes = np.array([5, 0, 7, 5, 0, 5, 8, 7], np.uint64)
    assert sorted(map(tuple, equal_rows(hashes).tolist())) == [(0, 3), (0, 5), (2, 7)]
    assert equal_rows(hashes[:0]).shape == (0, 2) and equal_rows(np.arange(1, 9, dtype=np.uint64)).shape == (0, 2)


def test_a_store_keeps_its_hashes_and_one_without_gets_them(make_store, people):
    store, said = make_store("s", people), []
    arrays = store.read(np.arange(store.num_segments))
    wanted = content_hashes(arrays["ppg"], arrays["accel"])
    np.testing.assert_array_equal(store_hashes(store, say=said.append), wanted)
    assert not said
    path = os.path.join(store.path, CONTENT)
    kept = Path(path).read_bytes()
    os.unlink(path)  # as an older version leaves it
    np.testing.assert_array_equal(store_hashes(Store.open(store.path, verify=True), say=said.append), wanted)
    assert len(said) == 1 and "24 segments" in said[0] and Path(path).read_bytes() == kept
    store_hashes(store, say=said.append)
    assert len(said) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "of another store", "endless"])
def test_damaged_hashes_are_computed_again(make_store, people, damage):
    store, said = make_store("s", people), []
    path = os.path.join(store.path, CONTENT)
    kept = Path(path).read_bytes()
    if damage == "of another store":
        changed = Path(os.path.join(make_store("other", people, seed=1).path, CONTENT)).read_bytes()
    else:
        changed = {
            "flip": kept[:-5] + bytes([kept[-5] ^ 4]) + kept[-4:],
            "cut": kept[:-16],
            "longer": kept + kept[-16:],
        }.get(damage)
    os.unlink(path)
    if changed is None:
        os.symlink("/dev/zero", path)
    else:
        Path(path).write_bytes(changed)
    arrays = store.read(np.arange(store.num_segments))
    np.testing.assert_array_equal(store_hashes(store, say=said.append), content_hashes(arrays["ppg"], arrays["accel"]))
    assert len(said) == 1 and Path(path).read_bytes() == kept


def test_hashes_that_cannot_be_kept_are_used_all_the_same(make_store, people):
    store, said = make_store("s", people), []
    path = os.path.join(store.path, CONTENT)
    wanted = store_hashes(store, say=said.append)
    os.unlink(path)
    os.mkdir(path)
    np.testing.assert_array_equal(store_hashes(store, say=said.append), wanted)
    assert "cannot be kept" in said[-1] and path in said[-1]
