"""Checks that no person and no minute is in two splits: tests need people and minutes that no training used.

Within a store the split separates people. Two stores can have the same people, or the same recordings under other names. So
all stores of a run are compared before training.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from accdistill_jax.config.schema import SAME_NAMES
from accdistill_jax.data.store.content import equal_rows, store_hashes
from accdistill_jax.data.store.shorter_ids import shorter_ids
from accdistill_jax.data.store.split import SPLITS
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.text import one_line

SAME_PERSON, DIFFERENT_PEOPLE = SAME_NAMES
_TEST = SPLITS.index("test")
_SHOWN = 6
_KNOWN_START_UNIX_S = 86_400.0 * 366  # recordings without a date count from 0
COMPARED = "names of people, and the content of every segment's PPG and of its acceleration, each by itself"


class Group(NamedTuple):
    """Segments of a store, or people of a store that does not exist yet.

    Attributes:
        name: name of the store, for messages.
        people: distinct names.
        person: [N] int, index in `people` of each segment's person.
        side: [N] int8, index in `SPLITS`.
        hashes: [N, 2] uint64, see content.py; None if unknown.
        start_unix_s: [N] float64; None if unknown.
        segment_s: duration of a segment.
    """

    name: str
    people: Sequence[str]
    person: np.ndarray
    side: np.ndarray
    hashes: np.ndarray | None = None
    start_unix_s: np.ndarray | None = None
    segment_s: float = 60.0

    @classmethod
    def of_store(cls, store: Store, *, unseen: bool, say: Callable[[str], None]) -> "Group":
        """All segments of a store. All segments of an unseen store are test segments."""
        people, person = store.segments.codes("participant")
        splits = dict(zip(*(store.participants[key].to_pylist() for key in ("participant", "split")), strict=True))
        side = np.array([_TEST if unseen else SPLITS.index(splits[name]) for name in people], np.int8)[person]
        start = store.segments.get("start_unix_s")
        return cls(store.path, people, person, side, store_hashes(store, say=say), start, store.manifest["segment_s"])

    @classmethod
    def of_people(cls, name: str, splits: Mapping[str, str]) -> "Group":
        """People of a store that does not exist yet, by their split."""
        side = np.array([SPLITS.index(split) for split in splits.values()], np.int8)
        return cls(name, list(splits), np.arange(len(splits)), side)

    def in_words(self) -> str:
        """The compared amount, in words."""
        if self.hashes is None:
            return f"names of {len(self.people)} people"
        return f"{_count(len(self.person), 'segments', 'segment')} of {_count(self.people, 'people', 'person')}"


def names_among(stores: Sequence[Store], *, same_names: str) -> list[dict[str, str]]:
    """For each store: name of a person -> unique name among all stores.

    The unique name is "K/NAME", where K is the number of the first store with this person. With one store the names are
    unchanged.
    """
    tables = [store.participants["participant"].to_pylist() for store in stores]
    if len(stores) == 1:
        return [{name: name for name in tables[0]}]
    first: dict[str, int] = {}
    for number, names in enumerate(tables):
        for name in names:
            first.setdefault(name, number)
    same = same_names == SAME_PERSON
    return [
        {name: f"{first[name] if same else number}/{name}" for name in names} for number, names in enumerate(tables)
    ]


def check_separation(
    stores: Sequence[Store], unseen: Sequence[Store], *, same_names: str, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Compares all stores of a run, see `check_groups`.

    Args:
        stores: stores for training and evaluation.
        unseen: stores for evaluation only.
        same_names: one of `SAME_NAMES`.
        say: called with a line before a store is read, and with each warning.
    """
    groups = [Group.of_store(store, unseen=False, say=say) for store in stores]
    groups += [Group.of_store(store, unseen=True, say=say) for store in unseen]
    return check_groups(groups, same_names=same_names, say=say)


def check_groups(
    groups: Sequence[Group], *, same_names: str, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Searches for people and minutes in two splits (training, validation, test).

    A name identifies a person; `same_names` decides if equal names in different stores are the same person. The hash of either
    signal identifies a minute. A repeated minute in the same split is not a leak, but it counts twice: this gives a warning.

    Returns:
        Result as JSON values: compared, stores, segments, people, equal names, result, warnings.

    Raises:
        UserError: a person or a minute is in two splits. The message names stores, people, counts and remedies.
    """
    rows = _Rows.of(groups, same_names)
    people, (leaks, doubles) = _people_in_two_splits(rows), _equal_content(rows)
    if people or leaks:
        raise UserError(_refusal(people, leaks, several=len(groups) > 1, same_names=same_names))
    warnings = [_double_in_words(*double) for double in doubles]
    warnings += list(_overlapping_names(groups, same_names, doubles))
    warnings += list(_people_under_two_ids(groups))
    for line in warnings:
        say(one_line(f"warning: {line}"))
    return {
        "compared": COMPARED,
        "stores": {group.name: group.in_words() for group in groups},
        "segments": sum(len(group.person) for group in groups if group.hashes is not None),
        "people": len(rows.names),
        "equal names": same_names,
        "result": "no person and no segment is in two splits (train, validation, test)",
        "warnings": warnings,
    }


class _Rows(NamedTuple):
    """Segments of all groups, concatenated; for a group without hashes (not `known`) its people.

    Attributes:
        labels: name of each group.
        known: True for a group with hashes.
        names: distinct names of people.
        group: [N] index in `labels`.
        person: [N] index in `names`.
        side: [N] index in `SPLITS`.
        hashes: [N, 2] uint64, 0 where unknown.
    """

    labels: list[str]
    known: list[bool]
    names: list[str]
    group: np.ndarray
    person: np.ndarray
    side: np.ndarray
    hashes: np.ndarray

    @classmethod
    def of(cls, groups: Sequence[Group], same_names: str) -> "_Rows":
        known: dict[tuple[int, str], int] = {}
        parts = []
        for number, group in enumerate(groups):
            keys = [(0 if same_names == SAME_PERSON else number, name) for name in group.people]
            codes = np.array([known.setdefault(key, len(known)) for key in keys], np.int32)
            parts.append(codes[group.person])
        names = [name for _, name in known]
        sizes = [len(group.person) for group in groups]
        hashes = [
            np.zeros((size, 2), np.uint64) if group.hashes is None else group.hashes
            for group, size in zip(groups, sizes, strict=True)
        ]
        return cls(
            [group.name for group in groups],
            [group.hashes is not None for group in groups],
            names,
            np.repeat(np.arange(len(groups), dtype=np.int32), sizes),
            np.concatenate(parts),
            np.concatenate([group.side for group in groups]),
            hashes[0] if len(hashes) == 1 else np.concatenate(hashes),
        )


class _Overlap(NamedTuple):
    """People and segments that two splits, or one split of two stores, have in common.

    Attributes:
        first, second: (store, split).
        people: their names, "a = b" if the names differ.
        segments: number of common segments.
    """

    first: tuple[str, str]
    second: tuple[str, str]
    people: list[str]
    segments: int


def _people_in_two_splits(rows: _Rows) -> list[_Overlap]:
    shape = (len(rows.names), len(SPLITS), len(rows.labels))
    counts = np.bincount(np.ravel_multi_index((rows.person, rows.side, rows.group), shape))
    keys = np.flatnonzero(counts)
    counts = counts[keys]
    places = np.stack(np.unravel_index(keys, shape), axis=1)
    split = np.flatnonzero(np.bincount(np.unique(places[:, :2], axis=0)[:, 0]) > 1)
    overlaps: dict[tuple, list] = {}
    for person in split.tolist():
        low, high = np.searchsorted(places[:, 0], [person, person + 1])
        first, *others = range(low, high)  # by side
        for other in others:
            if places[other, 1] != places[first, 1]:
                key = (*places[first, 1:].tolist(), *places[other, 1:].tolist())
                entry = overlaps.setdefault(key, [[], 0])
                entry[0].append(rows.names[person])
                entry[1] += sum(int(counts[place]) for place in (first, other) if rows.known[places[place, 2]])
    return [_overlap(rows, key, people, segments) for key, (people, segments) in sorted(overlaps.items())]


def _equal_content(rows: _Rows) -> tuple[list[_Overlap], list[_Overlap]]:
    """Equal segments in two splits, and equal segments in the same split."""
    by_side = np.argsort(rows.side, kind="stable")  # the first row of equal rows has the lowest split
    pairs = np.concatenate([by_side[equal_rows(rows.hashes[by_side, signal])] for signal in range(2)])
    pairs = np.unique(pairs, axis=0)
    overlaps: tuple[dict, dict] = {}, {}
    first, second = pairs.T
    described = np.stack(
        [
            rows.side[first],
            rows.group[first],
            rows.side[second],
            rows.group[second],
            rows.person[first],
            rows.person[second],
        ],
        axis=1,
    )
    kinds, place = np.unique(described, axis=0, return_inverse=True)
    segments = np.bincount(np.unique(np.stack([place, second], axis=1), axis=0)[:, 0], minlength=len(kinds))
    for (*key, first_person, second_person), count in zip(kinds.tolist(), segments.tolist(), strict=True):
        entry = overlaps[int(key[0] == key[2])].setdefault(tuple(key), [[], 0])
        a, b = rows.names[first_person], rows.names[second_person]
        entry[0].append(a if a == b else f"{a} = {b}")
        entry[1] += count
    leaks, doubles = ([_overlap(rows, key, *entry) for key, entry in sorted(kind.items())] for kind in overlaps)
    return leaks, doubles


def _overlap(rows: _Rows, key: Sequence[int], people: list[str], segments: int) -> _Overlap:
    side, group, other_side, other_group = key
    return _Overlap(
        (rows.labels[group], SPLITS[side]), (rows.labels[other_group], SPLITS[other_side]), people, segments
    )


def _refusal(people: Sequence[_Overlap], leaks: Sequence[_Overlap], *, several: bool, same_names: str) -> str:
    lines = ["people or segments are in two splits, so the test would measure what was trained on:"]
    for noun, overlaps in (("the same people", people), ("the same segments (equal PPG or acceleration)", leaks)):
        for overlap in overlaps[:_SHOWN]:
            segments = f", {_count(overlap.segments, 'segments', 'segment')}" if overlap.segments else ""
            count = _count(overlap.people, "people", "person")
            lines.append(f"  {noun} in {_splits(overlap)}: {_names(overlap.people)} ({count}{segments})")
        if len(overlaps) > _SHOWN:
            lines.append(f"  {noun} in {len(overlaps) - _SHOWN} more pairs of splits")
    ways = "drop the duplicates from one of them, or put each person into the same split everywhere (prepare with one --split-file)"
    if people and several and same_names == SAME_PERSON:
        ways += f'; where equal names in different stores are not the same person: --config.data.same_names="{DIFFERENT_PEOPLE}"'
    return "\n".join([*lines, ways])


def _splits(overlap: _Overlap) -> str:
    (store, split), (other, other_split) = overlap.first, overlap.second
    return (
        f"{split} and {other_split} of {store}"
        if store == other
        else f"{split} of {store} and {other_split} of {other}"
    )


def _names(people: Sequence[str]) -> str:
    return ", ".join(people[:_SHOWN]) + (f" and {len(people) - _SHOWN} more" if len(people) > _SHOWN else "")


def _count(of: Sequence | int, many: str, single: str) -> str:
    number = of if isinstance(of, int) else len(of)
    return f"{number} {single if number == 1 else many}"


def _double_in_words(first: tuple[str, str], second: tuple[str, str], people: list[str], segments: int) -> str:
    where = f"{first[0]} twice" if first[0] == second[0] else f"both {first[0]} and {second[0]}"
    return (
        f"{_count(segments, 'segments are', 'segment is')} in {where}, in {first[1]} each time, and counted twice "
        f"(equal PPG or acceleration; {_names(people)}): drop one of the copies"
    )


def _overlapping_names(groups: Sequence[Group], same_names: str, doubles: Sequence[_Overlap]) -> Iterator[str]:
    """Warnings about equal names in two stores with recordings at the same time.

    Equal minutes have different hashes if they start at different samples.
    """
    reported = {(double.first[0], double.second[0]) for double in doubles}
    for first, second in itertools.combinations([group for group in groups if group.start_unix_s is not None], 2):
        if first.name == second.name or (first.name, second.name) in reported:
            continue
        shared = sorted(set(first.people) & set(second.people))
        starts = zip(shared, _starts(first, shared), _starts(second, shared), strict=True)
        people = [name for name, a, b in starts if _share_time(a, b, a_lasts=first.segment_s, b_lasts=second.segment_s)]
        if people:
            why = "are they different people?" if same_names == DIFFERENT_PEOPLE else "minutes may count twice"
            yield (
                f"{_names(people)} ({_count(people, 'names', 'name')}) in {first.name} and {second.name}: recorded at the same "
                f"time in both; {why}"
            )


def _people_under_two_ids(groups: Sequence[Group]) -> Iterator[str]:
    """Warnings about people of two stores whose ids differ by study and site alone."""
    for first, second in itertools.combinations(groups, 2):
        pairs = [f"{full} and {short}" for full, short in shorter_ids(first.people, second.people)]
        if pairs:
            yield (
                f"{_names(pairs)} in {first.name} and {second.name} may be one person each, perhaps in two splits: an earlier version left "
                "study and site out of the ids; prepare the store with the shorter ids anew"
            )


def _starts(group: Group, names: Sequence[str]) -> list[np.ndarray]:
    """For each name the known starts of its segments, sorted; none if the group has no start times."""
    times = np.zeros(len(group.person)) if group.start_unix_s is None else group.start_unix_s
    order = np.lexsort((times, group.person))
    start, person = times[order], group.person[order]
    place = {name: number for number, name in enumerate(group.people)}
    codes = np.array([place[name] for name in names], np.int64)
    bounds = zip(np.searchsorted(person, codes), np.searchsorted(person, codes, side="right"), strict=True)
    return [part[part > _KNOWN_START_UNIX_S] for part in (start[low:high] for low, high in bounds)]


def _share_time(a: np.ndarray, b: np.ndarray, *, a_lasts: float, b_lasts: float) -> bool:
    """True if a segment that starts at a time in `a` and a segment that starts at a time in `b` overlap; both are sorted."""
    after = np.searchsorted(a, b - a_lasts, side="right")
    return bool((np.searchsorted(a, b + b_lasts, side="left") > after).any())
