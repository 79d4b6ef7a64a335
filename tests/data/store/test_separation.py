"""People and segments in two splits are detected, by name and by content; honest stores pass."""

import time

import numpy as np
import pytest

from accdistill_jax.data.store.separation import Group, check_groups, check_separation, names_among
from accdistill_jax.data.store.split import SPLITS, SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.errors import UserError

SIDES = {"anna": "train", "ben": "validation", "cleo": "test", "dora": "train"}


@pytest.fixture
def store_of(make_batch, settings, tmp_path):
    """store_of(name, {participant: (side, content)}) -> Store of three segments each; equal contents are equal segments.

    A content is a text, or two: of the PPG and of the acceleration.
    """

    def make(name: str, people: dict[str, tuple], start_unix_s: float = 1e9) -> Store:
        rule = SplitRule(assignment={person: side for person, (side, _) in people.items()})
        writer = StoreWriter(tmp_path / name, settings=settings, source="bench", split=rule)
        for person, (_, content) in people.items():
            ppg, accel = (content, content) if isinstance(content, str) else content
            batch = make_batch(person, 3)
            batch.ppg, batch.accel = make_batch(ppg, 3, seed=1).ppg, make_batch(accel, 3, seed=2).accel
            batch.columns["start_unix_s"] = start_unix_s + 10.0 * np.arange(3)
            writer.add(person, batch)
        return writer.commit(list(people))

    return make


def other(side: str) -> str:
    return "test" if side == "train" else "train"


@pytest.fixture
def first(store_of) -> Store:
    return store_of("first", {person: (side, person) for person, side in SIDES.items()})


def refused(stores, unseen=(), *, same_names="same person") -> str:
    with pytest.raises(UserError) as caught:
        check_separation(stores, unseen, same_names=same_names)
    return str(caught.value)


def test_honest_stores_pass_and_are_counted(first, store_of):
    second = store_of("second", {"eve": ("train", "eve"), "finn": ("test", "finn")})
    unseen = store_of("unseen", {"gina": ("train", "gina")})
    for stores, others in (
        ((first,), ()),
        ((first, second), ()),
        ((first, second), (unseen,)),
        ((first,), (unseen, second)),
    ):
        said = []
        found = check_separation(stores, others, same_names="same person", say=said.append)
        assert not said and found["warnings"] == [] and "no person and no segment" in found["result"]
    assert found["segments"] == 21 and found["people"] == 7 and found["equal names"] == "same person"
    assert (
        found["stores"][first.path] == "12 segments of 4 people"
        and found["stores"][unseen.path] == "3 segments of 1 person"
    )


@pytest.mark.parametrize("as_unseen", [False, True])
def test_a_person_in_two_splits_is_refused_with_names_counts_and_remedies(first, store_of, as_unseen):
    second = store_of("second", {"anna": ("test", "new"), "cleo": ("test", "newer"), "zoe": ("train", "zoe")})
    text = refused((first,), (second,)) if as_unseen else refused((first, second))
    assert f"the same people in train of {first.path} and test of {second.path}: anna (1 person, 6 segments)" in text
    assert "cleo" not in text and "segments (equal" not in text
    for way in (
        "drop the duplicates",
        "put each person into the same split everywhere",
        '--config.data.same_names="different people"',
    ):
        assert way in text


def test_equal_names_are_different_people_where_the_user_says_so(first, store_of):
    second = store_of(
        "second", {person: (other(side), f"new {person}") for person, side in SIDES.items()}, start_unix_s=2e9
    )
    assert refused((first, second)).count("person") > 2
    found = check_separation((first, second), (), same_names="different people")
    assert found["people"] == 8 and found["equal names"] == "different people" and not found["warnings"]


def test_equal_names_recorded_at_once_are_warned_of(first, store_of):
    """They are hardly different people; undated recordings, which count from 0, say nothing."""
    people = {"anna": ("test", "new anna"), "zoe": ("train", "zoe")}
    for start, warned in ((1e9 + 7, True), (1e9 + 29.9, True), (1e9 + 30, False), (1e9 - 30, False), (1e9 - 29, True)):
        second = store_of(f"second {start}", people, start_unix_s=start)
        found = check_separation((first, second), (), same_names="different people")
        assert bool(found["warnings"]) == warned, start
        if warned:
            assert "anna (1 name) in" in found["warnings"][0] and "are they different people?" in found["warnings"][0]
    undated = [
        store_of(f"undated {k}", {"anna": (side, f"a {k}")}, start_unix_s=0.0)
        for k, side in enumerate(("train", "test"))
    ]
    assert not check_separation(undated, (), same_names="different people")["warnings"]


def test_ids_with_and_without_study_and_site_are_warned_of(first, store_of):
    second = store_of("second", {"1-2-anna": ("test", "a"), "1-3-zoe": ("test", "b"), "1-2-ben": ("train", "c")})
    for stores in ((first, second), (second, first)):
        (line,) = check_separation(stores, (), same_names="same person")["warnings"]
        assert "1-2-anna and anna, 1-2-ben and ben in " in line and "may be one person each" in line
    third = store_of("third", {"1-2-anna": ("test", "d"), "1-2-eve": ("train", "e")}, start_unix_s=2e9)
    assert not check_separation((second, third), (), same_names="same person")["warnings"]


@pytest.mark.parametrize("shared", ["both", "PPG", "acceleration"])
@pytest.mark.parametrize("same_names", ["same person", "different people"])
@pytest.mark.parametrize("as_unseen", [False, True])
def test_a_segment_on_two_sides_is_refused_under_any_name(first, store_of, shared, same_names, as_unseen):
    content = {"both": "anna", "PPG": ("anna", "new"), "acceleration": ("new", "anna")}[shared]
    second = store_of("second", {"zoe": ("train" if as_unseen else "test", content), "yuri": ("test", "yuri")})
    stores, unseen = ((first,), (second,)) if as_unseen else ((first, second), ())
    text = refused(stores, unseen, same_names=same_names)
    assert f"in train of {first.path} and test of {second.path}: anna = zoe (1 person, 3 segments)" in text
    assert "yuri" not in text and "same_names" not in text and "drop the duplicates" in text


def test_within_one_store_too(store_of):
    store = store_of(
        "s", {"anna": ("train", ("x", "anna")), "zoe": ("test", ("x", "zoe")), "ben": ("validation", "ben")}
    )
    text = refused((store,))
    assert (
        f"the same segments (equal PPG or acceleration) in train and test of {store.path}: anna = zoe (1 person, 3 segments)"
        in text
    )


def test_a_segment_twice_on_one_side_is_a_warning(first, store_of):
    second = store_of("second", {"zoe": ("train", "anna"), "cleo": ("test", "cleo"), "yuri": ("train", "yuri")})
    said = []
    found = check_separation((first, second), (), same_names="same person", say=said.append)
    assert [f"warning: {line}" for line in found["warnings"]] == said and len(said) == 2
    assert f"3 segments are in both {first.path} and {second.path}, in train each time, and counted twice" in said[0]
    assert "anna = zoe" in said[0] and "in test each time" in said[1] and "cleo" in said[1]
    assert found["people"] == 6


def test_minutes_cut_elsewhere_are_warned_of_on_the_same_side(first, store_of):
    second = store_of("second", {"anna": ("train", "cut elsewhere")}, start_unix_s=1e9 + 5)
    (line,) = check_separation((first, second), (), same_names="same person")["warnings"]
    assert "anna" in line and "recorded at the same time in both; minutes may count twice" in line


def test_flat_content_is_nobodys(make_batch, settings, tmp_path):
    """Two stores of constant acceleration and of all-zero PPG have nothing in common."""
    stores = []
    for number, side in enumerate(("train", "test")):
        batch = make_batch(f"p{number}", 3)
        batch.accel[:] = [0, 0, 1]
        batch.ppg[:] = 0
        rule = SplitRule(assignment={f"p{number}": side})
        writer = StoreWriter(tmp_path / f"s{number}", settings=settings, source="bench", split=rule)
        writer.add("unit", batch)
        stores.append(writer.commit(["unit"]))
    assert not check_separation(stores, (), same_names="same person")["warnings"]


def test_people_of_several_stores_are_named_once_each(first, store_of):
    second = store_of("second", {"anna": ("train", "new"), "zoe": ("train", "zoe")})
    assert names_among((first,), same_names="same person") == [{name: name for name in SIDES}]
    own = {name: f"0/{name}" for name in SIDES}
    assert names_among((first, second), same_names="same person") == [own, {"anna": "0/anna", "zoe": "1/zoe"}]
    assert names_among((first, second), same_names="different people") == [own, {"anna": "1/anna", "zoe": "1/zoe"}]


def test_people_to_be_generated_are_compared_by_name(first):
    planned = Group.of_people("the synthetic data", {"synthetic-0-000001": "train", "anna": "train"})
    unseen = Group.of_store(first, unseen=True, say=print)
    with pytest.raises(
        UserError, match=r"train of the synthetic data and test of .*first: anna \(1 person, 3 segments\)"
    ):
        check_groups([planned, unseen], same_names="same person")
    found = check_groups([planned, unseen], same_names="different people")
    assert found["stores"]["the synthetic data"] == "names of 2 people" and found["segments"] == 12


def test_long_lists_are_cut_short():
    names = [f"p{number:03d}" for number in range(500)]
    groups = [Group.of_people(f"store {number}", {name: SPLITS[number % 3] for name in names}) for number in range(12)]
    with pytest.raises(UserError) as caught:
        check_groups(groups, same_names="same person")
    text = str(caught.value)
    assert len(text) < 2000 and "and 494 more (500 people)" in text and "more pairs of splits" in text


def test_a_million_segments_take_seconds_and_little_memory():
    rng = np.random.default_rng(0)
    groups = []
    for number, size in enumerate((900_000, 100_000)):
        people = [f"{number}-{k:05d}" for k in range(size // 50)]
        person = np.repeat(np.arange(len(people), dtype=np.int32), 50)
        side = rng.choice(3, len(people), p=(0.8, 0.1, 0.1)).astype(np.int8)[person]
        hashes = rng.integers(1, 2**64, (size, 2), np.uint64)
        groups.append(Group(f"store {number}", people, person, side, hashes, 1e9 + 60.0 * np.arange(size)))
    began = time.monotonic()
    assert check_groups(groups, same_names="same person")["segments"] == 1_000_000
    assert time.monotonic() - began < 60
    groups[1].hashes[7] = groups[0].hashes[100]
    groups[1].side[7], groups[0].side[100] = 2, 0
    with pytest.raises(UserError, match=r"1 person, 1 segment\)"):
        check_groups(groups, same_names="same person")
