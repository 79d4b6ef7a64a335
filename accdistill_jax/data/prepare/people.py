"""Asks who the people of recordings are, where names of files and folders tell times and not people."""

import re
import typing
from collections.abc import Callable, Collection

from accdistill_jax.data import recordings
from accdistill_jax.data.store.remarks import holds_date
from accdistill_jax.errors import UserError
from accdistill_jax.text import readable

OPTION = "participant_from"
FLAG = "--participant-from"
UNSTATED = "auto"
"""The value of `OPTION` by which a reader takes the name, and a preparation asks if names hold dates."""
_MOST_NAMED = 3
_NO_NAME = re.compile(r"[\d\W_]+")
_MEANINGS = {
    "parent": "the folder around",
    "folder": "the folder around",
    "prefix": 'the beginning of the name, up to a "_"',
    "name": "each of them is another person",
    "file": "each of them is another person",
}


def ask_for_people(
    found: recordings.Found, *, known: Collection[str] = (), report: Callable[[str], None] = lambda line: None
) -> None:
    """Asks for the rule of participants where the recordings' names hold dates, and reports a rule that leaves one person.

    Recordings whose ids of participants are dates would be a person each. If they are of one person, that person is in several splits.

    Args:
        found: the recordings.
        known: participants of a store to which the recordings are added.
        report: receives a line if the rule makes one person of all recordings.

    Raises:
        UserError: several ids hold dates, and the user has not chosen the rule; or the prefixes are dates and nothing else.
    """
    rule = found.options.get(OPTION, _usual_rule(found.reader))
    people = {source.participant_id for source in found}
    dated = {name for name in people if holds_date(name)}
    alike = dated | {name for name in known if holds_date(name)}
    if rule == UNSTATED and dated and len(alike) > 1:
        shown = [source.recording_id for source in found if source.participant_id in dated]
        anew = "prepare the store anew with" if known else "choose"
        raise UserError(
            f"{len(alike)} participants would be named by dates, as recordings are and people are not: {_list(sorted(alike))} (recordings "
            f"{_list(shown)}). A person of several recordings would be in several splits; {anew} {FLAG} {_choices(found.reader)}"
        )
    if rule == "prefix" and len(found) > 1 and dated and all(map(_NO_NAME.fullmatch, people)):
        raise UserError(
            f'{FLAG} prefix: the names up to the "_" are dates and not people ({_list(sorted(people))}), in {len(found)} recordings; choose '
            f"{_choices(found.reader, without='prefix')}"
        )
    if rule not in (None, UNSTATED) and len(found) > 1 and len(people) == 1:
        report(
            f"warning: {FLAG} {rule} makes all {len(found)} recordings ({_list([source.recording_id for source in found])}) one person, "
            f"{readable(min(people))!r}; if they are of several people, choose {_choices(found.reader, without=str(rule))}"
        )


def stated_rule(reader: str, rule: str) -> str:
    """The rule for participants that a user chose for a reader.

    Raises:
        UserError: the reader has no such rule, or no choice of rules.
    """
    rules = _rules(reader)
    if rule not in rules:
        has = f"has {', '.join(rules)}" if rules else "takes the participants from the recordings and has no such flag"
        raise UserError(f"{FLAG} {rule}: the reader {reader!r} {has}")
    return rule


def _usual_rule(reader: str) -> object:
    options = recordings.reader(reader).options if reader in recordings.names() else {}
    return options[OPTION].default if OPTION in options else None


def _rules(reader: str) -> tuple[str, ...]:
    find = recordings.reader(reader).find
    return tuple(typing.get_args(typing.get_type_hints(find).get(OPTION)))


def _choices(reader: str, *, without: str = "") -> str:
    rules = [rule for rule in _rules(reader) if rule not in (UNSTATED, without)]
    return ", or ".join(f"{rule} ({_MEANINGS[rule]})" if rule in _MEANINGS else rule for rule in rules)


def _list(names: list[str]) -> str:
    return ", ".join(map(readable, names[:_MOST_NAMED])) + (" ..." if len(names) > _MOST_NAMED else "")
