"""Participants that a config holds out are the test split, and nobody else is."""

import copy

import numpy as np
import pyarrow as pa
import pytest

from accdistill_jax.data.store.content import store_hashes
from accdistill_jax.data.store.opening import hold_out
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError


def splits(store):
    return dict(
        zip(store.participants["participant"].to_pylist(), store.participants["split"].to_pylist(), strict=True)
    )


@pytest.fixture
def store(smoke_store):
    return Store.open(smoke_store)


def test_nobody_held_out_leaves_the_store_as_it_is(store):
    assert hold_out([store], ()) == (store,)


def test_those_held_out_are_tested_on_and_former_test_participants_are_trained_on(store):
    before = splits(store)
    name = min(name for name, split in before.items() if split == "train")
    (held,) = hold_out([store], (name,))
    assert splits(held) == {
        other: "test" if other == name else "train" if split == "test" else split for other, split in before.items()
    }
    assert set(store.segments["participant"][held.indices("test")]) == {name}
    rows = [held.indices(split) for split in ("train", "validation", "test")]
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(store.num_segments))
    assert splits(store) == before
    np.testing.assert_array_equal(held.read(rows[2][:2])["accel"], store.read(rows[2][:2])["accel"])


def test_outer_white_space_of_a_name_held_out_does_not_count(store):
    name = min(splits(store))
    (held,) = hold_out([store], (f" {name}\t",))
    assert held.fingerprint == hold_out([store], (name,))[0].fingerprint
    assert [other for other, split in splits(held).items() if split == "test"] == [name]


def test_outer_white_space_in_a_store_of_before_does_not_count(store):
    names = store.participants["participant"].to_pylist()
    spaced = copy.copy(store)
    spaced.participants = store.participants.set_column(
        store.participants.schema.get_field_index("participant"), "participant", pa.array([f"{n} " for n in names])
    )
    with pytest.raises(UserError, match="no store has a participant 'nobody'"):
        hold_out([store, spaced], (names[0], "nobody"))
    _, held = hold_out([store, spaced], (names[0],))
    assert [name for name, split in splits(held).items() if split == "test"] == [f"{names[0]} "]


def test_other_splits_have_another_fingerprint_and_equal_ones_the_same(store):
    tested = [name for name, split in splits(store).items() if split == "test"]
    a, b = (hold_out([store], (name,))[0].fingerprint for name in sorted(splits(store))[:2])
    assert len({a, b, store.fingerprint}) == 3
    assert hold_out([store], tested)[0] is store
    assert hold_out([store], tuple(sorted(splits(store))[:1]))[0].fingerprint == a


def test_the_hashes_of_segments_do_not_depend_on_who_is_held_out(store):
    kept = store_hashes(store, say=lambda line: None)
    (held,) = hold_out([store], (min(splits(store)),))
    np.testing.assert_array_equal(store_hashes(held, say=pytest.fail), kept)


def test_a_name_that_nobody_has_is_refused_with_the_nearest(store):
    name = sorted(splits(store))[0]
    with pytest.raises(UserError, match=rf"config.data.held_out: no store has a participant '{name}x'; did you mean '"):
        hold_out([store], (name + "x",))


def test_somebody_must_be_left_to_train_on(store):
    with pytest.raises(UserError, match="nobody is left in the training split"):
        hold_out([store], tuple(splits(store)))


@pytest.mark.slow
def test_a_run_tests_on_the_participant_held_out(smoke_config, store, tmp_path):
    from accdistill_jax.run import run

    name = min(name for name, split in splits(store).items() if split == "train")
    run(smoke_config(**{"data.held_out": (name,)}), tmp_path / "run")
    report = (tmp_path / "run/report.md").read_text()
    assert "on 8 segments of 1 unseen participant" in report
    with pytest.raises(UserError, match="held_out"):
        run(smoke_config(), tmp_path / "run")
