"""Limits on the segments of a person and of a store."""

import numpy as np
import pytest

from accdistill_jax.data.store.caps import capped_rows
from accdistill_jax.data.store.split import SplitRule


@pytest.fixture
def store(make_store):
    return make_store("s", {"a": 20, "b": 7, "c": 10, "d": 5}, split=SplitRule(fractions=(1, 0, 0)))


def chosen(store, rows=None, *, participant_cap=0, store_cap=0, seed=3):
    rows = store.indices("train") if rows is None else rows
    return capped_rows(store, rows, participant_cap=participant_cap, store_cap=store_cap, seed=seed)


def people(store, rows):
    names = store.segments["participant"][rows].tolist()
    return {name: names.count(name) for name in names}


def test_cap_of_a_participant(store):
    rows = chosen(store, participant_cap=6)
    assert people(store, rows) == {"a": 6, "b": 6, "c": 6, "d": 5}
    np.testing.assert_array_equal(rows, chosen(store, participant_cap=6))
    assert (np.diff(rows) > 0).all()
    assert len({chosen(store, participant_cap=6, seed=seed).tobytes() for seed in (3, 4, 5)}) == 3


def test_cap_of_a_store(store):
    rows = chosen(store, store_cap=12)
    assert len(rows) == 12 and (np.diff(rows) > 0).all()
    assert len({chosen(store, store_cap=12, seed=seed).tobytes() for seed in (3, 4, 5)}) == 3
    both = chosen(store, participant_cap=4, store_cap=12)
    assert len(both) == 12 and max(people(store, both).values()) <= 4


def test_only_given_rows_are_chosen(store):
    some = np.arange(1, store.num_segments, 2)
    rows = chosen(store, some, participant_cap=3, store_cap=10)
    assert len(rows) == 10 and set(rows) < set(some)
    none = np.zeros(0, np.int64)
    assert chosen(store, none, participant_cap=3, store_cap=10).tolist() == []


def test_without_caps_all_rows_stay(store):
    np.testing.assert_array_equal(chosen(store), store.indices("train"))
    np.testing.assert_array_equal(chosen(store, participant_cap=20, store_cap=42), store.indices("train"))
