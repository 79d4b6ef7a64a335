"""Finds recordings that were given twice: below two roots, under two names, as copies, or as a part of another one."""

from collections.abc import Sequence
from typing import NamedTuple

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
    recordings = Recordings(
        [unit.about["unit"] for unit in units],
        [unit.about["participant"]["participant_id"] for unit in units],
        np.array([not unit.about["channels"]["ppg"] for unit in units], bool),
    )
    recorded = np.array([[unit.about.get("signals", {}).get(name, 0) for name in SIGNALS] for unit in units], np.uint64)
    owner = np.repeat(np.arange(len(units)), [len(unit.content) for unit in units])
    refuse_shared_content(
        recordings,
        np.concatenate([unit.content for unit in units]),
        owner=owner,
        recorded=recorded,
        advice="give each recording once, under one name: remove the other copy; what is prepared so far is kept",
    )


class Recordings(NamedTuple):
    """Recordings whose content is compared.

    Attributes:
        names: name of each recording, for messages.
        participants: participant of each recording.
        alone: [recordings] bool, True without PPG: equal acceleration is enough.
    """

    names: Sequence[str]
    participants: Sequence[str]
    alone: np.ndarray


def refuse_shared_content(
    recordings: Recordings,
    content: np.ndarray,
    *,
    owner: np.ndarray,
    advice: str,
    recorded: np.ndarray | None = None,
) -> None:
    """Compares segments of recordings; see `refuse_repeated`.

    Args:
        recordings: the recordings.
        content: [segments, 2] uint64, hashes of the segments' signals, 0 for a signal with too little information.
        owner: [segments] int, number of each segment's recording.
        advice: end of the message.
        recorded: [recordings, 2] uint64, hashes of the whole signals; None if they are unknown.

    Raises:
        UserError: see `refuse_repeated`.
    """
    _, person = np.unique(np.array(recordings.participants, object).astype(str), return_inverse=True)
    repeats: dict[tuple[int, int], int] = {}
    if recorded is not None:
        repeats = {pair: 0 for pair, _ in _shared(recorded, np.arange(len(recorded)), person, recordings.alone)}
    repeats |= dict(_shared(content, owner, person, recordings.alone))
    if not repeats:
        return
    pairs = [_in_words(recordings, *pair, segments) for pair, segments in sorted(repeats.items())[:_SHOWN]]
    if len(repeats) > _SHOWN:
        pairs.append(f"and {len(repeats) - _SHOWN} more pairs")
    if len(pairs) == 1:
        raise UserError(f"a recording was given twice: {pairs[0]}; {advice}")
    raise UserError("\n  ".join(["recordings were given twice:", *pairs]) + f"\n{advice}")


def _in_words(recordings: Recordings, first: int, second: int, segments: int) -> str:
    a, b = recordings.names[first], recordings.names[second]
    person_a, person_b = recordings.participants[first], recordings.participants[second]
    pair = (
        f"{a} and {b}, both of participant {person_a},"
        if person_a == person_b
        else f"{a} (participant {person_a}) and {b} (participant {person_b})"
    )
    shared = {0: "hold the same signal", 1: "share a segment"}.get(segments, f"share {segments} segments")
    return f"{pair} {shared}"


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
