"""Nobody and no minute on two sides: what is tested on must be of people, and of minutes, that nothing was learned from.

Within a store the split keeps people apart. Between stores nobody does: two of them can hold the same people, or the same
recordings under other names. Everything that a run is given is therefore compared before it trains.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from accdistill_jax.config.schema import SAME_NAMES
from accdistill_jax.data.store.content import equal_rows, store_hashes
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
    """Segments of one store, or people of one that is still to be made.

    Attributes:
        name: of the store, for messages.
        people: names, each once.
        person: [N] int, which of them a segment is of.
        side: [N] int8, place in `SPLITS`.
        hashes: [N, 2] uint64, see content.py; None where nothing is known.
        start_unix_s: [N] float64; None where nothing is known.
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
        """All segments of a store; those of an unseen one are all for testing."""
        encoded = pa.array(store.segments["participant"]).dictionary_encode()
        people, person = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
        splits = dict(zip(*(store.participants[key].to_pylist() for key in ("participant", "split")), strict=True))
        side = np.array([_TEST if unseen else SPLITS.index(splits[name]) for name in people], np.int8)[person]
        start = store.segments.get("start_unix_s")
        return cls(store.path, people, person, side, store_hashes(store, say=say), start, store.manifest["segment_s"])

    @classmethod
    def of_people(cls, name: str, splits: Mapping[str, str]) -> "Group":
        """People of a store that is still to be made, by their split."""
        side = np.array([SPLITS.index(split) for split in splits.values()], np.int8)
        return cls(name, list(splits), np.arange(len(splits)), side)

    def in_words(self) -> str:
        """The amount of it that was compared, in words."""
        if self.hashes is None:
            return f"names of {len(self.people)} people"
        return f"{_count(len(self.person), 'segments', 'segment')} of {_count(self.people, 'people', 'person')}"


def names_among(stores: Sequence[Store], *, same_names: str) -> list[dict[str, str]]:
    """Of each store, what its people are called among those of all: "K/NAME" with the number K of the first store that has them.

    A single store's people keep their names.
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
    """Compares all stores of a run; `check_groups` says what and what comes of it.

    Args:
        stores: trained and evaluated on.
        unseen: evaluated on alone.
        same_names: one of `SAME_NAMES`.
        say: told a line before a store is read, and the warnings.
    """
    groups = [Group.of_store(store, unseen=False, say=say) for store in stores]
    groups += [Group.of_store(store, unseen=True, say=say) for store in unseen]
    return check_groups(groups, same_names=same_names, say=say)


def check_groups(
    groups: Sequence[Group], *, same_names: str, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Looks for people and minutes on two sides (training, validation, test).

    A person is a name; names of different stores are one person's unless `same_names` says otherwise. A minute is known by the
    hash of one of its signals. One minute twice on the same side is no leak, but counts twice: that is a warning.

    Returns:
        What was compared and what came of it, as JSON: compared, stores, segments, people, same_names, result, warnings.

    Raises:
        UserError: somebody or something is on two sides; names stores, people and counts, and the ways out.
    """
    rows = _Rows.of(groups, same_names)
    people, (leaks, doubles) = _people_on_two_sides(rows), _equal_content(rows)
    if people or leaks:
        raise UserError(_refusal(people, leaks, several=len(groups) > 1, same_names=same_names))
    warnings = [_double_in_words(*double) for double in doubles]
    warnings += list(_overlapping_names(groups, same_names, doubles))
    for line in warnings:
        say(one_line(f"warning: {line}"))
    return {
        "compared": COMPARED,
        "stores": {group.name: group.in_words() for group in groups},
        "segments": sum(len(group.person) for group in groups if group.hashes is not None),
        "people": len(rows.names),
        "equal names": same_names,
        "result": "nobody and no segment is on two sides (train, validation, test)",
        "warnings": warnings,
    }


class _Rows(NamedTuple):
    """The segments of all groups, one behind the other; of a group without hashes (not `known`), its people.

    `group` is the place of each one's store in `labels`, `person` that of its person in `names`.
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
        known: dict[object, int] = {}
        parts = []
        for number, group in enumerate(groups):
            keys = [name if same_names == SAME_PERSON else (number, name) for name in group.people]
            codes = np.array([known.setdefault(key, len(known)) for key in keys], np.int32)
            parts.append(codes[group.person])
        names = [key if same_names == SAME_PERSON else key[1] for key in known]
        sizes = [len(group.person) for group in groups]
        unknown = [np.zeros((size, 2), np.uint64) for size in sizes]
        return cls(
            [group.name for group in groups],
            [group.hashes is not None for group in groups],
            names,
            np.repeat(np.arange(len(groups), dtype=np.int32), sizes),
            np.concatenate(parts),
            np.concatenate([group.side for group in groups]),
            np.concatenate(
                [zero if group.hashes is None else group.hashes for group, zero in zip(groups, unknown, strict=True)]
            ),
        )


class _Found(NamedTuple):
    """People and segments that two sides, or one side of two stores, have in common.

    Attributes:
        first, second: (store, split) each.
        people: their names, "a = b" where they differ.
        segments: how many.
    """

    first: tuple[str, str]
    second: tuple[str, str]
    people: list[str]
    segments: int


def _people_on_two_sides(rows: _Rows) -> list[_Found]:
    shape = (len(rows.names), len(SPLITS), len(rows.labels))
    keys, counts = np.unique(np.ravel_multi_index((rows.person, rows.side, rows.group), shape), return_counts=True)
    places = np.stack(np.unravel_index(keys, shape), axis=1)
    split = np.flatnonzero(np.bincount(np.unique(places[:, :2], axis=0)[:, 0]) > 1)
    found: dict[tuple, list] = {}
    for person in split.tolist():
        low, high = np.searchsorted(places[:, 0], [person, person + 1])
        first, *others = range(low, high)  # by side
        for other in others:
            if places[other, 1] != places[first, 1]:
                key = (*places[first, 1:].tolist(), *places[other, 1:].tolist())
                entry = found.setdefault(key, [[], 0])
                entry[0].append(rows.names[person])
                entry[1] += sum(int(counts[place]) for place in (first, other) if rows.known[places[place, 2]])
    return [_found(rows, key, people, segments) for key, (people, segments) in sorted(found.items())]


def _equal_content(rows: _Rows) -> tuple[list[_Found], list[_Found]]:
    """Equal segments on two sides, and on one."""
    by_side = np.argsort(rows.side, kind="stable")  # so that the first of a content has the lowest side
    pairs = np.concatenate([by_side[equal_rows(rows.hashes[by_side, signal])] for signal in range(2)])
    pairs = np.unique(pairs, axis=0)
    found: tuple[dict, dict] = {}, {}
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
    for (*key, one, other), count in zip(kinds.tolist(), segments.tolist(), strict=True):
        entry = found[int(key[0] == key[2])].setdefault(tuple(key), [[], 0])
        a, b = rows.names[one], rows.names[other]
        entry[0].append(a if a == b else f"{a} = {b}")
        entry[1] += count
    leaks, doubles = ([_found(rows, key, *entry) for key, entry in sorted(kind.items())] for kind in found)
    return leaks, doubles


def _found(rows: _Rows, key: Sequence[int], people: list[str], segments: int) -> _Found:
    side, group, other_side, other_group = key
    return _Found((rows.labels[group], SPLITS[side]), (rows.labels[other_group], SPLITS[other_side]), people, segments)


def _refusal(people: Sequence[_Found], leaks: Sequence[_Found], *, several: bool, same_names: str) -> str:
    lines = ["people or segments are on two sides, so that what is tested on was learned from:"]
    for what, found in (("the same people", people), ("the same segments (equal PPG or acceleration)", leaks)):
        for one in found[:_SHOWN]:
            segments = f", {_count(one.segments, 'segments', 'segment')}" if one.segments else ""
            lines.append(
                f"  {what} in {_sides(one)}: {_names(one.people)} ({_count(one.people, 'people', 'person')}{segments})"
            )
        if len(found) > _SHOWN:
            lines.append(f"  {what} in {len(found) - _SHOWN} more pairs of sides")
    ways = "either drop the duplicates from one of them, or keep a person's side the same everywhere (prepare with one --split-file)"
    if people and several and same_names == SAME_PERSON:
        ways += f'; where equal names in different stores are not the same person: --config.data.same_names="{DIFFERENT_PEOPLE}"'
    return "\n".join([*lines, ways])


def _sides(one: _Found) -> str:
    (store, split), (other, other_split) = one.first, one.second
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


def _overlapping_names(groups: Sequence[Group], same_names: str, doubles: Sequence[_Found]) -> Iterator[str]:
    """Warnings of equal names in two stores that were recorded at the same time: cut elsewhere, equal minutes have other hashes."""
    told = {(double.first[0], double.second[0]) for double in doubles}
    for first, second in itertools.combinations([group for group in groups if group.start_unix_s is not None], 2):
        if first.name == second.name or (first.name, second.name) in told:
            continue
        shared = sorted(set(first.people) & set(second.people))
        starts = zip(shared, _starts(first, shared), _starts(second, shared), strict=True)
        people = [name for name, a, b in starts if _overlap(a, b, a_lasts=first.segment_s, b_lasts=second.segment_s)]
        if people:
            why = "are they different people?" if same_names == DIFFERENT_PEOPLE else "minutes may count twice"
            yield (
                f"{_names(people)} ({_count(people, 'names', 'name')}) in {first.name} and {second.name}: recorded at the same "
                f"time in both; {why}"
            )


def _starts(group: Group, names: Sequence[str]) -> list[np.ndarray]:
    """Of each name, when its segments start, sorted, as far as that is known."""
    order = np.lexsort((group.start_unix_s, group.person))
    start, person = group.start_unix_s[order], group.person[order]
    place = {name: number for number, name in enumerate(group.people)}
    codes = np.array([place[name] for name in names], np.int64)
    bounds = zip(np.searchsorted(person, codes), np.searchsorted(person, codes, side="right"), strict=True)
    return [own[own > _KNOWN_START_UNIX_S] for own in (start[low:high] for low, high in bounds)]


def _overlap(a: np.ndarray, b: np.ndarray, *, a_lasts: float, b_lasts: float) -> bool:
    """True if one of the segments that start at `a` and one of those that start at `b` have time in common; both are sorted."""
    after = np.searchsorted(a, b - a_lasts, side="right")
    return bool((np.searchsorted(a, b + b_lasts, side="left") > after).any())
