"""The encoders that come with the package: names, facts and folders."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Literal

import accdistill_jax
from accdistill_jax.config.nearest import nearest
from accdistill_jax.errors import UserError

FOLDER = Path(accdistill_jax.__file__).parent / "shipped"
_EXPORT, _REPORT = "export.json", "report.json"


@dataclasses.dataclass(frozen=True)
class ShippedEncoder:
    """An encoder that comes with the package; `load` takes its name.

    Attributes:
        name: for `load` and for commands.
        part: "student" (reads acceleration) or "teacher" (reads PPG).
        parameters: number of the encoder's parameters.
        size_bytes: size of its files.
        people: people that it was trained on.
        heart_rate_mae: mean absolute error of heart rate on unseen synthetic people, in bpm, with the ends of the 95 % interval
            over people.
        config: config of its run, for `accdistill train --config`.
        card: path of its model card, with results and limits.
    """

    name: str
    part: Literal["student", "teacher"]
    parameters: int
    size_bytes: int
    people: int
    heart_rate_mae: tuple[float, float, float]
    config: str
    card: str


def shipped_encoders() -> tuple[ShippedEncoder, ...]:
    """The encoders that come with the package. All were trained on synthetic people; their cards state their limits.

    Raises:
        UserError: a file of the installation is damaged.

    Examples:
        >>> import accdistill_jax as ad
        >>> [encoder.name for encoder in ad.shipped_encoders()]
        ['synthetic-small', 'synthetic-teacher', 'synthetic-wrist']
    """
    return tuple(_described(name) for name in _names())


def shipped_folder(name: str) -> str | None:
    """Export folder of a shipped encoder; None if no encoder has this name, or if a file or folder here has it.

    Raises:
        UserError: there is no such file or folder either, but a shipped encoder has a similar name.
    """
    if "/" in name or os.path.lexists(name):
        return None
    names = _names()
    if name in names:
        return str(FOLDER / name)
    if near := nearest(name, names):
        raise UserError(f"no folder and no shipped encoder {name}; did you mean {near}?")
    return None


def check_shipped_part(name: str, part: str) -> None:
    """Raises UserError if a shipped encoder is not the part that a user asks for; names those that are."""
    encoders = shipped_encoders()
    of_name = next(encoder.part for encoder in encoders if encoder.name == name)
    if part != of_name:
        others = ", ".join(encoder.name for encoder in encoders if encoder.part == part)
        raise UserError(f"{name} is a {of_name}, not a {part}: leave out the part, or take {others}")


def is_shipped(export: str) -> bool:
    """True for the export folder of a shipped encoder, which is part of the installation."""
    return Path(export).parent == FOLDER


def _names() -> list[str]:
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{_EXPORT}"))


def _described(name: str) -> ShippedEncoder:
    folder = FOLDER / name
    try:
        record = json.loads((folder / _EXPORT).read_text(encoding="utf-8"))
        report = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
        part, evaluation = record["meta"]["kind"], report["evaluation"]
        mae = evaluation["targets"]["hr_bpm"]["probes"][part]["mae"]
        return ShippedEncoder(
            name,
            part,
            parameters=report["parameters"],
            size_bytes=sum(path.stat().st_size for path in folder.iterdir()),
            people=evaluation["splits"]["train"]["participants"],
            heart_rate_mae=(mae["value"], mae["low"], mae["high"]),
            config=record["meta"]["shipped"]["config"],
            card=str(folder / "MODEL_CARD.md"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the shipped encoder {folder} is damaged ({error}); install accdistill_jax again") from error
