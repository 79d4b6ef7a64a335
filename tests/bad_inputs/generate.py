"""The cases of a seed."""

import itertools
import random

from tests.bad_inputs import checkpoint_cases, config_cases, recording_cases, store_cases
from tests.bad_inputs.bases import Bases
from tests.bad_inputs.case import Case

# Number of cases of each category among 330.
CATEGORIES = {
    "config": (100, config_cases.cases),
    "store": (90, store_cases.cases),
    "checkpoint": (60, checkpoint_cases.cases),
    "recording": (80, recording_cases.cases),
}


def generate(count: int, *, seed: int, bases: Bases, category: str | None = None) -> dict[str, list[Case]]:
    """Cases by category, `count` in all; a larger count begins with the cases of a smaller count."""
    chosen = {name: own for name, own in CATEGORIES.items() if category in (None, name)}
    total = sum(share for share, _ in chosen.values())
    return {
        name: list(itertools.islice(cases(random.Random(f"{seed} {name}"), bases), -(-count * share // total)))
        for name, (share, cases) in chosen.items()
    }
