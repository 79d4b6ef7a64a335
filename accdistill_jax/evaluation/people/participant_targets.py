"""Targets of a store's participants: properties of a person that probes of mean embeddings predict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

MIN_EACH = 5  # people who say yes, and people who say no, among train and among test participants
MIN_TRAIN, MIN_TEST = 10, 5  # people with a known number
MIN_VALIDATION = 10  # people with a known value, and MIN_EACH of each answer; with fewer, cross-validation over train
FEW_EACH, FEW_PEOPLE = 10, 10
YES_NO, NUMBER = "yes_no", "number"
_CONDITION = "condition_"


@dataclasses.dataclass(frozen=True)
class Target:
    """A property of each person.

    Attributes:
        name: "age_years", "age_over_50", "sex", "bmi", "bmi_over_30", or the name of a condition.
        label: name in reports.
        kind: "number" or "yes_no".
        value: participant -> number, or 1 for yes and 0 for no. People with an unknown value are missing.
    """

    name: str
    label: str
    kind: Literal["yes_no", "number"]
    value: Mapping[str, float]

    def of(self, people: Sequence[str]) -> np.ndarray:
        """Values of these people: [P] float64, NaN where unknown."""
        return np.array([self.value.get(name, np.nan) for name in people], np.float64)


def participant_targets(participants: pa.Table) -> list[Target]:
    """Targets in a store's participant table.

    Args:
        participants: `Store.participants`, with the columns participant, age_years, sex, height_m, weight_kg, bmi and
            condition_<name>. Null or NaN is unknown, and any column but participant may be missing.

    Returns:
        Age, age over 50, sex, BMI, BMI over 30, and every condition in the table's order, whether known or not.
    """
    names = participants["participant"].to_pylist()

    def column(name: str) -> list:
        return participants[name].to_pylist() if name in participants.column_names else [None] * len(names)

    def known(values: Sequence, convert: Callable[[Any], float] = float) -> dict[str, float]:
        return {n: float(convert(v)) for n, v in zip(names, values, strict=True) if v is not None and v == v}

    sizes = zip(column("weight_kg"), column("height_m"), strict=True)
    bmi = [
        b if b is not None else (w / h**2 if w is not None and h is not None else None)
        for b, (w, h) in zip(column("bmi"), sizes, strict=True)
    ]
    targets = [
        Target("age_years", "age (years)", NUMBER, known(column("age_years"))),
        Target("age_over_50", "age > 50", YES_NO, known(column("age_years"), lambda v: v > 50)),
        Target("sex", "sex (male)", YES_NO, known(column("sex"), lambda v: v == "male")),
        Target("bmi", "BMI (kg/m²)", NUMBER, known(bmi)),
        Target("bmi_over_30", "BMI > 30", YES_NO, known(bmi, lambda v: v > 30)),
    ]
    for name in participants.column_names:
        if name.startswith(_CONDITION):
            short = name.removeprefix(_CONDITION)
            targets.append(Target(short, short.replace("_", " "), YES_NO, known(column(name))))
    return targets


def enough_to_choose(target: Target, values: np.ndarray) -> bool:
    """True if validation participants with these values ([P] float, NaN where unknown) can choose the strength."""
    known = values[np.isfinite(values)]
    if target.kind == YES_NO and min(known.sum(), (1 - known).sum()) < MIN_EACH:
        return False
    return len(known) >= MIN_VALIDATION
