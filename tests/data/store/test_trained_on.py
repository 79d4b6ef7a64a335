"""People whom an encoder has seen, in its training store, in parts of it, and in other merges of these parts."""

import pytest

from accdistill_jax.data.store.merge import merge_stores
from accdistill_jax.data.store.opening import hold_out
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.trained_on import joined, people_seen, said_by, trained_on

SPLIT = SplitRule(assignment={"anna": "train", "ben": "validation", "cleo": "test", "dora": "test"})
TURNED = SplitRule(assignment={"anna": "test", "ben": "train", "cleo": "train", "dora": "train"})


@pytest.fixture(scope="module")
def store(smoke_store):
    return Store.open(smoke_store)


@pytest.fixture
def three(make_store, small_shards) -> tuple[Store, Store, Store]:
    """Stores of anna and ben, ben and cleo, cleo and dora."""
    counts = ({"anna": 6, "ben": 3}, {"ben": 4, "cleo": 5}, {"cleo": 3, "dora": 4})
    return tuple(
        make_store(name, of, seed=seed, split=SPLIT.among(of))
        for seed, (name, of) in enumerate(zip("abc", counts, strict=True))
    )


def people_of(store):
    return sorted(set(store.segments["participant"].tolist()))


def test_people_that_an_encoder_saw_are_those_of_its_training_store(store):
    assert people_seen(store, "other") == set()
    splits = dict(zip(*(store.participants[name].to_pylist() for name in ("participant", "split")), strict=True))
    expected = {who for who, split in splits.items() if split != "test"}
    assert people_seen(store, f"other+{store.fingerprint}") == expected != set()


def test_people_that_an_encoder_saw_are_all_but_those_held_out(store):
    people = people_of(store)
    (held,) = hold_out([store], people[:2])
    assert people_seen(store, held.fingerprint) == set(people[2:])


def test_people_that_an_encoder_saw_in_a_part_of_the_store(store, tmp_path):
    merged = merge_stores([store.path], tmp_path / "merged")
    assert people_seen(merged, store.fingerprint) == people_seen(store, store.fingerprint) != set()
    (held,) = hold_out([store], people_of(store)[:2])
    assert people_seen(merged, held.fingerprint) == set(people_of(store)[2:])


def test_people_of_a_merged_training_store_are_known_in_its_parts(three, tmp_path):
    a, b, c = three
    merged = merge_stores([a.path, b.path], tmp_path / "ab", split=TURNED.among(["anna", "ben", "cleo"]))
    trained = trained_on([merged])
    assert people_seen(merged, trained) == {"ben", "cleo"}
    assert people_seen(a, trained) == {"ben"} and people_seen(b, trained) == {"ben", "cleo"}
    assert people_seen(c, trained) == set()
    assert people_seen(merge_stores([a.path, c.path], tmp_path / "ac"), trained) == {"ben"}
    (held,) = hold_out([merged], ["ben"])
    assert people_seen(a, trained_on([held])) == {"anna"}
    assert people_seen(b, trained_on([held])) == {"cleo"}


def test_people_of_an_earlier_version_are_known_in_the_next_one_and_back(three, tmp_path):
    a, b, c = three
    second = merge_stores([a.path, b.path], tmp_path / "version-2")
    third = merge_stores([second.path, c.path], tmp_path / "version-3")
    assert people_seen(third, trained_on([second])) == people_seen(second, trained_on([second])) == {"anna", "ben"}
    assert people_seen(second, trained_on([third])) == people_seen(a, trained_on([third])) == {"anna", "ben"}
    assert people_seen(c, trained_on([third])) == set()


def test_exports_name_the_stores_that_they_learned_from():
    assert joined("a+b", "", "b+c") == "a+b+c"
    assert said_by({"trained_on": "a+b", "fingerprints": {"data": "a"}}) == "a+b"
    older = {"fingerprints": {"data": "a+b"}, "initial": {"data": "b+c"}}  # no word of parts
    assert said_by(older) == "a+b+c" and said_by({}) == ""
