"""Aligns a table of embeddings with the minutes of stores.

A minute takes the row of the same person that begins nearest to it, if the two begin at most half a minute apart, so that a
row of the minute's length overlaps at least half of it. A row that names a segment belongs to that segment.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.data.embeddings.table import EmbeddingTable, time_in_words
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError

_SHIFTS_S = tuple(1800.0 * half_hours for half_hours in range(-28, 29) if half_hours)
_ENOUGH_FOR_A_SHIFT = 20  # minutes; with fewer, another hour may fit by chance
_FITS, _CLEARLY_LESS = 0.98, 0.9
_NAMED = 5


class Alignment(NamedTuple):
    """The rows of a table that belong to the minutes of stores.

    Attributes:
        rows: for each store [segments] int64: row of the table; -1 for a minute without an embedding.
        unused: rows of the table that belong to no minute.
    """

    rows: tuple[np.ndarray, ...]
    unused: int


def align(table: EmbeddingTable, stores: Sequence[Store], *, same_people: bool = True) -> Alignment:
    """Finds the row of each minute.

    Args:
        table: the table.
        stores: the stores.
        same_people: True if a name that several stores have is the same person.

    Raises:
        UserError: no row fits any minute, the times are off by whole or half hours, or a name or time is ambiguous.
    """
    if table.by_time:
        _refuse_ambiguous_names(table, stores, same_people=same_people)
        rows = tuple(_by_time(table, store) for store in stores)
        _refuse_other_hour(table, stores, rows)
    else:
        rows = tuple(_by_segment(table, store) for store in stores)
    used = np.zeros(len(table.embedding), bool)
    for of_store in rows:
        used[of_store[of_store >= 0]] = True
    if not used.any():
        raise UserError(_no_overlap(table, stores))
    return Alignment(rows, int(np.count_nonzero(~used)))


def _by_segment(table: EmbeddingTable, store: Store) -> np.ndarray:
    names = np.unique(table.store)
    mine = [name for name in names.tolist() if _fingerprint(store).startswith(name)]
    rows = np.flatnonzero(np.isin(table.store, mine))
    segments = table.segment[rows]
    outside = rows[(segments < 0) | (segments >= store.num_segments)]
    if len(outside):
        raise UserError(
            f"{table.path}: row {outside[0] + 1} names segment {table.segment[outside[0]]}; {store.path} has segments 0 to "
            f"{store.num_segments - 1}"
        )
    result = np.full(store.num_segments, -1, np.int64)
    result[segments] = rows
    return result


def _fingerprint(store: Store) -> str:
    """Content hash of a store as it lies on disk; `data.held_out` changes that of the open store."""
    return store.manifest["fingerprint"]


def _by_time(table: EmbeddingTable, store: Store, *, shift_s: float = 0.0) -> np.ndarray:
    """Row of each minute [segments], with all times of the table moved by `shift_s`; -1 for none."""
    result = np.full(store.num_segments, -1, np.int64)
    at = np.asarray(store.segments["start_unix_s"], np.float64)
    reach = 0.5 * store.samples / store.rate_hz
    for rows, segments in _pairs(table, store):
        begins = table.start_unix_s[rows] + shift_s
        order = np.argsort(begins, kind="stable")
        rows, begins = rows[order], begins[order]
        after = np.searchsorted(begins, at[segments])
        before = np.maximum(after - 1, 0)
        after = np.minimum(after, len(rows) - 1)
        distance = [np.abs(begins[place] - at[segments]) for place in (before, after)]
        nearest = np.where(distance[0] <= distance[1], before, after)
        near = np.minimum(*distance) <= reach
        result[segments[near]] = rows[nearest[near]]
    return result


def _pairs(table: EmbeddingTable, store: Store) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of the table and segments of the store that may belong together: of a person, or of a person's recording."""
    who = np.asarray(store.segments["participant"]).astype(str)
    people = np.intersect1d(np.unique(who), np.unique(table.participant))
    of_table = _groups(table.participant, people)
    of_store = _groups(who, people)
    at = np.asarray(store.segments["start_unix_s"], np.float64)
    pairs = []
    for person, rows, segments in zip(people.tolist(), of_table, of_store, strict=True):
        if len(np.unique(at[segments])) == len(segments):
            pairs.append((rows, segments))
            continue
        recordings = np.asarray(store.segments["recording"]).astype(str)[segments]
        if not table.recording[rows].all():
            raise UserError(
                f"{table.path}: {store.path} has minutes of {person!r} with equal times in the recordings "
                f"{', '.join(np.unique(recordings)[:_NAMED])}; add a column recording to the table"
            )
        for name in np.intersect1d(recordings, table.recording[rows]):
            pairs.append((rows[table.recording[rows] == name], segments[recordings == name]))
    return pairs


def _groups(values: np.ndarray, names: np.ndarray) -> list[np.ndarray]:
    """Places of each of the sorted names in `values`."""
    order = np.argsort(values, kind="stable")
    in_order = values[order]
    first, last = (np.searchsorted(in_order, names, side=side) for side in ("left", "right"))
    return [order[begin:end] for begin, end in zip(first, last, strict=True)]


def _refuse_ambiguous_names(table: EmbeddingTable, stores: Sequence[Store], *, same_people: bool) -> None:
    if same_people:
        return
    people = [set(np.unique(store.segments["participant"]).tolist()) for store in stores]
    named = set(np.unique(table.participant).tolist())
    for number, names in enumerate(people):
        for other in people[number + 1 :]:
            if twice := sorted(names & other & named):
                raise UserError(
                    f"{table.path}: {twice[0]!r} is another person in each of several stores (config.data.same_names); give segment "
                    "and store instead of participant and start"
                )


def _refuse_other_hour(table: EmbeddingTable, stores: Sequence[Store], rows: Sequence[np.ndarray]) -> None:
    """Refuses times that fit clearly better, and nearly all, after a move by whole or half hours."""
    pairs = [(store, _pairs(table, store)) for store in stores]
    possible = sum(min(len(of_table), len(of_store)) for _, found in pairs for of_table, of_store in found)
    as_given = sum(int(np.count_nonzero(of_store >= 0)) for of_store in rows)
    if possible < _ENOUGH_FOR_A_SHIFT or as_given >= _FITS * possible:
        return
    moved = {
        shift: sum(int(np.count_nonzero(_by_time(table, store, shift_s=shift) >= 0)) for store, _ in pairs)
        for shift in _SHIFTS_S
    }
    best = max(moved, key=lambda shift: (moved[shift], -abs(shift)))
    if moved[best] >= _FITS * possible and as_given < _CLEARLY_LESS * moved[best]:
        words = f"{abs(best) / 3600:g} h {'later' if best > 0 else 'earlier'}"
        raise UserError(
            f"{table.path}: as given, {as_given} minutes have an embedding, but {moved[best]} if every start were {words}: is it local "
            "time? give start in UTC or with its time zone"
        )


def _no_overlap(table: EmbeddingTable, stores: Sequence[Store]) -> str:
    where = ", ".join(store.path for store in stores)
    if not table.by_time:
        given = ", ".join(np.unique(table.store)[:_NAMED].tolist())
        here = ", ".join(_fingerprint(store)[:12] for store in stores)
        return f"{table.path}: its rows belong to the stores {given}, not to {where} ({here}); embed the segments of these stores"
    people = sorted({name for store in stores for name in np.unique(store.segments["participant"]).tolist()})
    strangers = np.unique(table.participant)
    if not set(strangers.tolist()) & set(people):
        return (
            f"{table.path}: none of its {len(strangers)} people ({_some(strangers.tolist())}) is in {where} ({_some(people)}); write "
            "the names as in the store"
        )
    begins = np.concatenate([np.asarray(store.segments["start_unix_s"], np.float64) for store in stores])
    reach = 0.5 * stores[0].samples / stores[0].rate_hz
    return (
        f"{table.path}: no row begins within {reach:g} s of a minute of the same person (the table: {_span(table.start_unix_s)}; "
        f"{where}: {_span(begins)}); give start in UTC or with its time zone"
    )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _span(unix_s: np.ndarray) -> str:
    known = unix_s[np.isfinite(unix_s)]
    if not len(known):
        return "no times"
    return f"{time_in_words(math.floor(known.min()))} to {time_in_words(math.floor(known.max()))}"
