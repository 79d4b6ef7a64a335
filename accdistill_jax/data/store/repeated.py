"""Recordings that were given twice: below two roots, under two names, as copies, or one cut out of another."""

from collections.abc import Sequence

import numpy as np

from accdistill_jax.data.store.content import equal_rows
from accdistill_jax.data.store.manifest import SIGNALS
from accdistill_jax.data.store.units import Unit
from accdistill_jax.errors import UserError

_SHOWN = 10
_PPG, _ACCEL = range(len(SIGNALS))
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: no two hashes become one


def refuse_repeated(units: Sequence[Unit]) -> None:
    """Compares what units hold, whatever they are called: a minute of two names can lie in two splits, or counts twice.

    Two recordings of one participant may share one of the signals (two PPG sensors beside one accelerometer), and made-up ones
    of several participants the PPG. No two people move alike.

    Args:
        units: of a store to be.

    Raises:
        UserError: units of two participants hold the same acceleration, or units of one participant the same of both signals, as
            recorded or in a segment; names recordings and participants.
    """
    repeats = _repeats(units)
    if not repeats:
        return
    told = [_in_words(units, *pair, segments) for pair, segments in sorted(repeats.items())[:_SHOWN]]
    if len(repeats) > _SHOWN:
        told.append(f"and {len(repeats) - _SHOWN} more pairs")
    advice = "give each recording once, under one name: remove the other copy; what is prepared so far is kept"
    if len(told) == 1:
        raise UserError(f"a recording was given twice: {told[0]}; {advice}")
    raise UserError("\n  ".join(["recordings were given twice:", *told]) + f"\n{advice}")


def _in_words(units: Sequence[Unit], first: int, second: int, segments: int) -> str:
    (a, anna), (b, ben) = ((unit.about["unit"], _participant(unit)) for unit in (units[first], units[second]))
    who = (
        f"{a} and {b}, both of participant {anna},"
        if anna == ben
        else f"{a} (participant {anna}) and {b} (participant {ben})"
    )
    what = {0: "hold the same signal", 1: "share a segment"}.get(segments, f"share {segments} segments")
    return f"{who} {what}"


def _participant(unit: Unit) -> str:
    return unit.about["participant"]["participant_id"]


def _repeats(units: Sequence[Unit]) -> dict[tuple[int, int], int]:
    """Pairs of units that are not to be in one store, and the segments that they share (0: they are equal as recorded)."""
    names = sorted({_participant(unit) for unit in units})
    person = np.searchsorted(names, [_participant(unit) for unit in units])
    recorded = np.array([[unit.about.get("signals", {}).get(name, 0) for name in SIGNALS] for unit in units], np.uint64)
    counts = {pair: 0 for pair, _ in _shared(recorded, np.arange(len(units)), person)}
    owner = np.repeat(np.arange(len(units)), [len(unit.content) for unit in units])
    return counts | dict(_shared(np.concatenate([unit.content for unit in units]), owner, person))


def _shared(content: np.ndarray, owner: np.ndarray, person: np.ndarray) -> list[tuple[tuple[int, int], int]]:
    """Pairs of units that share rows of content, and how many.

    Args:
        content: [n, 2] uint64, hashes of the signals, 0 where one says too little.
        owner: [n] the unit of each row.
        person: [units] the participant of each.
    """
    ppg, accel = content[:, _PPG], content[:, _ACCEL]
    both = np.where((ppg > 0) & (accel > 0), ppg * _MIX ^ accel, 0)
    moved, same = (owner[equal_rows(keys)] for keys in (accel, both))
    moved = moved[person[moved[:, 0]] != person[moved[:, 1]]]
    same = same[same[:, 0] != same[:, 1]]
    found = []
    for pairs in (moved, same):
        unique, counts = np.unique(np.sort(pairs, axis=1), axis=0, return_counts=True)
        found += [((int(a), int(b)), int(count)) for (a, b), count in zip(unique, counts, strict=True)]
    return found
