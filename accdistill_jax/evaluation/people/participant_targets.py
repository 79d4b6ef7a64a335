"""Targets of a store's participants, and checks that enough participants have a value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

MIN_EACH = 5  # people who say yes, and who say no, among train and among test participants
MIN_TRAIN, MIN_TEST = 10, 5  # people with a known number
MIN_VALIDATION = 10  # people with a known number or answer, MIN_EACH of each; else cross-validation over train
FEW_EACH, FEW_PEOPLE = 10, 10
YES_NO, NUMBER = "yes_no", "number"
_CONDITION = "condition_"


@dataclasses.dataclass(frozen=True)
class Target:
    """A target: a question about each person.

    Attributes:
        name: "age_years", "age_over_50", "sex", "bmi", "bmi_over_30", or a condition's name.
        label: what a reader sees.
        kind: "number" or "yes_no".
        value: participant -> number, or 1 for yes and 0 for no; those of whom it is unknown are left out.
    """

    name: str
    label: str
    kind: Literal["yes_no", "number"]
    value: Mapping[str, float]

    def of(self, people: Sequence[str]) -> np.ndarray:
        """Its values for these people, [P] float64, NaN where unknown."""
        return np.array([self.value.get(name, np.nan) for name in people], np.float64)


def participant_targets(participants: pa.Table) -> list[Target]:
    """Targets in a store's participant table.

    Args:
        participants: `Store.participants`: participant, age_years, sex, height_m, weight_kg, maybe bmi, and condition_<name>
            columns; null or NaN where unknown, and a column may be missing.

    Returns:
        Age, age over 50, sex, BMI, BMI over 30, and every condition in the table's order; known or not.
    """
    names = participants["participant"].to_pylist()

    def column(name: str) -> list:
        return participants[name].to_pylist() if name in participants.column_names else [None] * len(names)

    def known(values: Sequence, change=float) -> dict[str, float]:
        return {n: float(change(v)) for n, v in zip(names, values, strict=True) if v is not None and v == v}

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


def about(target: Target, values: Mapping[str, np.ndarray], ceiling: float | None) -> dict:
    """Counts of a target, the reason why it cannot be scored, and notes: fields of `ParticipantTarget`.

    Args:
        target: it.
        values: split -> [P] float, NaN where unknown, for "train" and "test".
        ceiling: highest AUC that can be reached, where it is known.
    """
    known = {split: v[np.isfinite(v)] for split, v in values.items()}
    found = {
        "target": target.name,
        "label": target.label,
        "kind": target.kind,
        "ceiling": ceiling,
        "reason": "",
        "train_participants": len(known["train"]),
        "test_participants": len(known["test"]),
        "train_yes": None,
        "test_yes": None,
        "notes": [],
    }
    needs = {"train": MIN_TRAIN, "test": MIN_TEST}
    if not any(len(known[split]) for split in needs):
        return found | {"reason": "unknown of every train and test participant"}
    for split, least in needs.items():
        if target.kind == NUMBER:
            if len(known[split]) < least:
                found["reason"] = f"known of {len(known[split])} {split} participants, needs {least}"
                return found
            continue
        yes = int(known[split].sum())
        no = len(known[split]) - yes
        found[f"{split}_yes"] = yes
        if min(yes, no) < MIN_EACH and not found["reason"]:
            found["reason"] = f"{yes} yes and {no} no among {split} participants, needs {MIN_EACH} of each"
        elif min(yes, no) < FEW_EACH and split == "test":
            found["notes"].append(
                f"only {min(yes, no)} test participants say {'yes' if yes < no else 'no'}: the intervals are rough"
            )
    if found["reason"]:
        found["notes"].clear()
    if target.kind == NUMBER and len(known["test"]) < FEW_PEOPLE:
        found["notes"].append(f"only {len(known['test'])} test participants: the intervals are rough")
    return found


def enough_to_choose(target: Target, values: np.ndarray) -> bool:
    """True if the strength can be chosen on validation participants with these values, [P] float, NaN where unknown."""
    known = values[np.isfinite(values)]
    if target.kind == YES_NO and min(known.sum(), (1 - known).sum()) < MIN_EACH:
        return False
    return len(known) >= MIN_VALIDATION
