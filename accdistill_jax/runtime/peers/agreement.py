"""Finds the first fact in which the processes of a run differ."""

import json
import os
from collections.abc import Sequence
from typing import Any

_WIDTH = 16  # characters shown of a value


def disagreement(facts: Sequence[dict[str, Any]]) -> str | None:
    """Compares the facts of all processes.

    Args:
        facts: facts of each process by name, in order of rank; JSON values.

    Returns:
        None if all are equal. Otherwise a line about the first fact that differs: the processes in the minority, both values, and
        the names of the other facts that differ.
    """
    names = list(dict.fromkeys(name for held in facts for name in held))
    differing = [name for name in names if len(set(_texts(name, facts))) > 1]
    if not differing:
        return None
    name = differing[0]
    texts = _texts(name, facts)
    usual = max(texts, key=texts.count)  # the first of those as frequent
    odd = [rank for rank, text in enumerate(texts) if text != usual]
    value, reference = _around_difference(texts[odd[0]], usual)
    who = f"process {odd[0]} has" if len(odd) == 1 else f"processes {', '.join(map(str, odd))} have"
    also = f"; they also differ in {', '.join(differing[1:])}" if differing[1:] else ""
    return (
        f"{who} another {name} ({value}) than process {texts.index(usual)} ({reference}){also}; "
        "start all processes with the same command, code and data"
    )


def _texts(name: str, facts: Sequence[dict[str, Any]]) -> list[str]:
    return [json.dumps(held[name], sort_keys=True) if name in held else "missing" for held in facts]


def _around_difference(text: str, other: str) -> tuple[str, str]:
    """Shortens two texts so that their difference stays visible."""
    text, other = text.strip('"'), other.strip('"')
    begin = len(os.path.commonprefix([text, other]))
    begin = 0 if begin < _WIDTH else begin - _WIDTH // 2

    def shortened(full: str) -> str:
        return ".." * (begin > 0) + full[begin : begin + _WIDTH] + ".." * (len(full) > begin + _WIDTH)

    return shortened(text), shortened(other)
