"""Says in one line in what the processes of a run differ."""

import json
import os
from collections.abc import Sequence
from typing import Any

_WIDTH = 16  # characters shown of a value


def disagreement(facts: Sequence[dict[str, Any]]) -> str | None:
    """Compares the facts of all processes.

    Args:
        facts: of each process in order of rank, by name; values as JSON gives them.

    Returns:
        None if all hold the same; otherwise a line about the first fact that differs: on which processes (the fewer),
        both values, and the names of the other facts that differ.
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


def _around_difference(one: str, other: str) -> tuple[str, str]:
    """Both texts shortened so that the difference is seen."""
    one, other = one.strip('"'), other.strip('"')
    begin = len(os.path.commonprefix([one, other]))
    begin = 0 if begin < _WIDTH else begin - _WIDTH // 2

    def shown(text: str) -> str:
        return ".." * (begin > 0) + text[begin : begin + _WIDTH] + ".." * (len(text) > begin + _WIDTH)

    return shown(one), shown(other)
