"""Finds recordings that were given twice: below two roots, under two names, as copies, or as a part of another one."""

from collections.abc import Sequence

import numpy as np

from accdistill_jax.data.store.content import equal_rows
from accdistill_jax.data.store.manifest import SIGNALS
from accdistill_jax.data.store.units import Unit
from accdistill_jax.errors import UserError

_SHOWN = 10
_PPG, _ACCEL = range(len(SIGNALS))
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, so that different hashes stay different


def refuse_repeated(units: Sequence[Unit]) -> None:
    """Compares the content of units under any names: a repeated minute could be in two splits, or count twice.

    Two recordings of one participant may share one signal (two PPG sensors with one accelerometer). Artificial recordings of
    several participants may share the PPG. No two people have the same movements. Recordings without PPG may share nothing.

    Args:
        units: units of the new store.

    Raises:
        UserError: units of two participants have the same acceleration, or units of one participant have both signals in
            common, as recorded or in a segment. The message names recordings and participants.
    """
    repeats = _repeats(units)
    if not repeats:
        return
    pairs = [_in_words(units, *pair, segments) for pair, segments in sorted(repeats.items())[:_SHOWN]]
    if len(repeats) > _SHOWN:
        pairs.append(f"and {len(repeats) - _SHOWN} more pairs")
    advice = "give each recording once, under one name: remove the other copy; what is prepared so far is kept"
    if len(pairs) == 1:
        raise UserError(f"a recording was given twice: {pairs[0]}; {advice}")
    raise UserError("\n  ".join(["recordings were given twice:", *pairs]) + f"\n{advice}")


def _in_words(units: Sequence[Unit], first: int, second: int, segments: int) -> str:
    a, b = (unit.about["unit"] for unit in (units[first], units[second]))
    person_a, person_b = (_participant(unit) for unit in (units[first], units[second]))
    recordings = (
        f"{a} and {b}, both of participant {person_a},"
        if person_a == person_b
        else f"{a} (participant {person_a}) and {b} (participant {person_b})"
    )
    shared = {0: "hold the same signal", 1: "share a segment"}.get(segments, f"share {segments} segments")
    return f"{recordings} {shared}"


def _participant(unit: Unit) -> str:
    return unit.about["participant"]["participant_id"]


def _repeats(units: Sequence[Unit]) -> dict[tuple[int, int], int]:
    """Pairs of units that must not be in one store -> number of shared segments (0: only the whole recordings are equal)."""
    names = sorted({_participant(unit) for unit in units})
    person = np.searchsorted(names, [_participant(unit) for unit in units])
    alone = np.array([not unit.about["channels"]["ppg"] for unit in units], bool)
    recorded = np.array([[unit.about.get("signals", {}).get(name, 0) for name in SIGNALS] for unit in units], np.uint64)
    counts = {pair: 0 for pair, _ in _shared(recorded, np.arange(len(units)), person, alone)}
    owner = np.repeat(np.arange(len(units)), [len(unit.content) for unit in units])
    return counts | dict(_shared(np.concatenate([unit.content for unit in units]), owner, person, alone))


def _shared(
    content: np.ndarray, owner: np.ndarray, person: np.ndarray, alone: np.ndarray
) -> list[tuple[tuple[int, int], int]]:
    """Pairs of units that share rows of content, and numbers of these rows.

    Args:
        content: [n, 2] uint64, hashes of the signals, 0 for a signal with too little information.
        owner: [n] unit of each row.
        person: [units] participant of each unit.
        alone: [units] bool, units without PPG: equal acceleration is enough.
    """
    ppg, accel = content[:, _PPG], content[:, _ACCEL]
    both = np.where((accel > 0) & ((ppg > 0) | alone[owner]), ppg * _MIX ^ accel, 0)
    moved, same = (owner[equal_rows(keys)] for keys in (accel, both))
    moved = moved[person[moved[:, 0]] != person[moved[:, 1]]]
    same = same[same[:, 0] != same[:, 1]]
    shared = []
    for pairs in (moved, same):
        unique, counts = np.unique(np.sort(pairs, axis=1), axis=0, return_counts=True)
        shared += [((int(a), int(b)), int(count)) for (a, b), count in zip(unique, counts, strict=True)]
    return shared
