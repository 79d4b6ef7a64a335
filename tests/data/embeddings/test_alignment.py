"""Tables against stores: the row of each minute, and a line where they do not fit."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from accdistill_jax.data.embeddings.alignment import align
from accdistill_jax.data.embeddings.table import EmbeddingTable
from accdistill_jax.errors import UserError

START = 1_714_557_600.0


def store(people: dict, *, recordings: dict | None = None, path: str = "stores/a", fingerprint: str = "a" * 64) -> Any:
    """A store of minutes that begin at these seconds after START; person -> seconds."""
    who = np.concatenate([np.full(len(starts), name) for name, starts in people.items()])
    columns = {
        "participant": who,
        "recording": np.concatenate([recordings[name] for name in people]) if recordings else who,
        "start_unix_s": START + np.concatenate([np.asarray(starts, float) for starts in people.values()]),
    }
    return SimpleNamespace(
        segments=columns,
        num_segments=len(who),
        samples=3840,
        rate_hz=64.0,
        path=path,
        fingerprint="of the split",
        manifest={"fingerprint": fingerprint},
    )


def table(people: dict, *, shift: float = 0.0, recordings: dict | None = None) -> EmbeddingTable:
    """A table of rows that begin at these seconds after START."""
    who = np.concatenate([np.full(len(starts), name) for name, starts in people.items()])
    starts = START + shift + np.concatenate([np.asarray(starts, float) for starts in people.values()])
    recording = np.concatenate([recordings[name] for name in people]) if recordings else np.full(len(who), "")
    none = np.full(len(who), "")
    return EmbeddingTable("t.npz", who, recording, starts, none, np.full(len(who), -1), np.ones((len(who), 2)), "f")


def by_segment(segments, fingerprint) -> EmbeddingTable:
    count, none = len(segments), np.full(len(segments), "")
    stores = np.full(count, fingerprint)
    segments = np.asarray(segments, np.int64)
    return EmbeddingTable("t.npz", none, none, np.full(count, np.nan), stores, segments, np.ones((count, 2)), "f")


MINUTES = 60.0 * np.arange(60)


def test_a_minute_takes_the_nearest_row_of_its_person_up_to_half_a_minute_away():
    aligned = align(
        table({"a": [0, 89, 211], "b": [120.0], "c": [60.0]}), [store({"a": [0, 60, 120, 180, 240], "b": [0, 100]})]
    )
    assert aligned.rows[0].tolist() == [0, 1, -1, -1, 2, -1, 3]
    assert aligned.unused == 1  # the person c


def test_half_a_minute_is_near_and_ties_take_the_earlier_row():
    aligned = align(table({"a": [30.0, 90.0]}), [store({"a": [0.0, 60.0, 121.0]})])
    assert aligned.rows[0].tolist() == [0, 0, -1]


def test_several_stores_share_a_table():
    stores = [store({"a": MINUTES[:5]}), store({"b": MINUTES[:3], "a": MINUTES[10:12]}, fingerprint="b" * 64)]
    aligned = align(table({"a": MINUTES[:11], "b": MINUTES[1:2]}), stores)
    assert aligned.rows[0].tolist() == [0, 1, 2, 3, 4] and aligned.rows[1].tolist() == [-1, 11, -1, 10, -1]
    assert aligned.unused == 5


def test_rows_by_segment_belong_to_the_store_of_the_fingerprint():
    stores = [store({"a": MINUTES[:5]}), store({"b": MINUTES[:3]}, fingerprint="b" * 64)]
    aligned = align(by_segment([2, 0], "b" * 8), stores)
    assert aligned.rows[0].tolist() == [-1] * 5 and aligned.rows[1].tolist() == [1, -1, 0]
    with pytest.raises(UserError, match="row 1 names segment 3; stores/a has segments 0 to 2"):
        align(by_segment([3], "b" * 8), stores[1:])
    with pytest.raises(UserError, match="its rows belong to the stores cccccccc, not to stores/a"):
        align(by_segment([3], "c" * 8), stores)


@pytest.mark.parametrize(
    ("shift", "words"), [(-3600.0, "1 h later"), (7200.0, "2 h earlier"), (-19_800.0, "5.5 h later")]
)
def test_times_off_by_hours_are_refused_even_where_most_minutes_still_match(shift, words):
    minutes = 60.0 * np.arange(8 * 60)
    recorded = {"a": minutes, "b": minutes[:200]}
    with pytest.raises(
        UserError, match=f"as given, [0-9]+ minutes have an embedding, but 680 if every start were {words}"
    ):
        align(table(recorded, shift=shift), [store(recorded)])


def test_a_table_with_gaps_is_no_shift():
    rng = np.random.default_rng(0)
    minutes = 60.0 * np.arange(8 * 60)
    half = {"a": np.sort(rng.choice(minutes, 300, replace=False))}
    assert np.count_nonzero(align(table(half), [store({"a": minutes})]).rows[0] >= 0) == 300
    some = {"a": np.sort(rng.choice(minutes, 300, replace=False))}
    assert np.count_nonzero(align(table(half), [store(some)]).rows[0] >= 0) > 100


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (table({"x": MINUTES, "y": MINUTES}), r"none of its 2 people \(x, y\) is in stores/a \(a, b\)"),
        (
            table({"a": MINUTES[:3]}, shift=86_400.0 * 40),
            "no row begins within 30 s of a minute of the same person .the table: 2024-06-10T10:00:00Z to .*UTC",
        ),
    ],
)
def test_no_overlap_is_a_line(made, line):
    with pytest.raises(UserError, match=line):
        align(made, [store({"a": MINUTES, "b": MINUTES})])


def test_minutes_of_equal_times_need_the_recording():
    twice = store({"a": [0.0, 0.0]}, recordings={"a": ["night", "day"]})
    with pytest.raises(UserError, match="minutes of 'a' with equal times in the recordings day, night; add a column"):
        align(table({"a": [0.0]}), [twice])
    aligned = align(table({"a": [0.0, 0.0]}, recordings={"a": ["day", "night"]}), [twice])
    assert aligned.rows[0].tolist() == [1, 0]


def test_a_name_of_two_people_is_ambiguous():
    stores = [store({"a": MINUTES}), store({"a": MINUTES}, fingerprint="b" * 64)]
    align(table({"a": MINUTES}), stores)
    with pytest.raises(UserError, match="'a' is another person in each of several stores .*give segment and store"):
        align(table({"a": MINUTES}), stores, same_people=False)
