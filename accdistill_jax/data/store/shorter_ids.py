"""Ids that may be of one person: an earlier version left study and site out of the ids of EmbracePlus ("1-2-anna" was "anna")."""

import re
from collections.abc import Iterable, Iterator, Sequence

from accdistill_jax.errors import UserError

_FULL = re.compile(r"\d+-\d+-(.+)")


def shorter_ids(ids: Iterable[str], others: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of an id with study and site of one side, and an id without them of the other side, that may be of one person.

    Sides that both have the full id are not meant: the shorter id is then somebody else's, or the pair is within a side.
    """
    first, second = set(ids), set(others)
    for full in sorted(first ^ second):
        match = _FULL.fullmatch(full)
        if match and match[1] in (second if full in first else first):
            yield full, match[1]


def refuse_shorter_ids(stores: Sequence[tuple[str, Iterable[str]]]) -> None:
    """Raises UserError if two of these stores may have a person under ids with and without study and site.

    Args:
        stores: (name for messages, participant ids).
    """
    for number, (name, ids) in enumerate(stores):
        for other, others in stores[number + 1 :]:
            for full, short in shorter_ids(ids, others):
                where = (name, other) if full in set(ids) else (other, name)
                raise UserError(
                    f"the participant {full!r} of {where[0]} may be {short!r} of {where[1]}, whose ids lack study and site "
                    "(an earlier version left them out); prepare that store anew from all recordings"
                )
