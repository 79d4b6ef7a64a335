"""The split into train, validation and test: by participant, never by segment."""

import csv
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accdistill_jax.errors import UserError
from accdistill_jax.files import read_regular
from accdistill_jax.text import readable

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitRule:
    """Assigns participants to splits.

    By default `hash(seed, participant)` is mapped to [0, 1) and compared with the running sum of `fractions`. So a participant
    keeps its split if other people are added. The shares equal the fractions on average only: with few participants a split
    can be empty.

    Attributes:
        seed: seed of the hash.
        fractions: shares of train, validation and test; their sum is 1.
        assignment: participant -> split, from a file; it overrides the hash.
    """

    seed: int = 0
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    assignment: Mapping[str, str] | None = None

    def __post_init__(self):
        if len(self.fractions) != 3 or not (min(self.fractions) >= 0 and abs(sum(self.fractions) - 1) <= 1e-9):
            raise UserError(f"split fractions {self.fractions}: three shares >= 0 that add up to 1 are needed")

    @classmethod
    def from_file(cls, path: str | os.PathLike, *, seed: int = 0) -> "SplitRule":
        """Reads a participant -> split mapping from CSV (columns participant, split) or a JSON object.

        Raises:
            UserError: an unreadable file, a missing column, an unknown split, or a participant with two entries.
        """
        path = Path(path)
        try:
            text = read_regular(path).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: the split file cannot be read ({error})") from error
        pairs = _json_pairs(path, text) if path.suffix.lower() == ".json" else _csv_pairs(path, text)
        assignment: dict[str, str] = {}
        for place, participant, split in pairs:
            participant = readable(participant).strip()  # as the ids of recordings
            if split not in SPLITS:
                raise UserError(f"{path}: {place}: split {split!r} is not one of {', '.join(SPLITS)}")
            if participant in assignment:
                raise UserError(f"{path}: {place}: participant {participant!r} is named twice")
            assignment[participant] = split
        if not assignment:
            raise UserError(f"{path}: the split file names no participant")
        return cls(seed=seed, assignment=assignment)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SplitRule":
        """The rule from the values of `to_json`."""
        return cls(seed=values["seed"], fractions=tuple(values["fractions"]), assignment=values["assignment"])

    def among(self, participants: Iterable[str]) -> "SplitRule":
        """The rule for some participants only: an assignment from a file is cut down to them."""
        if self.assignment is None:
            return self
        known = {name: self.assignment[name] for name in participants if name in self.assignment}
        return dataclasses.replace(self, assignment=known)

    def assign(self, participants: Iterable[str]) -> dict[str, str]:
        """Split of each participant.

        Raises:
            UserError: the participants in the split file differ from these.
        """
        participants = sorted(set(participants))
        if self.assignment is not None:
            missing = [name for name in participants if name not in self.assignment]
            unknown = sorted(set(self.assignment) - set(participants))
            if missing:
                raise UserError(f"split file: no split for participant {_list(missing)}; add them")
            if unknown:
                raise UserError(
                    f"split file: unknown participant {_list(unknown)}; the recordings have {_list(participants)}"
                )
            return {name: self.assignment[name] for name in participants}
        return {name: self._by_hash(name) for name in participants}

    def _by_hash(self, participant: str) -> str:
        digest = hashlib.sha256(f"{self.seed}/{participant}".encode()).digest()
        position = int.from_bytes(digest[:8], "big") / 2**64
        train, validation, _ = self.fractions
        if position < train:
            return "train"
        return "validation" if position < train + validation else "test"

    def to_json(self) -> dict:
        """Description for the manifest."""
        assignment = None if self.assignment is None else dict(sorted(self.assignment.items()))
        return {
            "rule": "sha256(seed/participant)" if assignment is None else "file",
            "seed": self.seed,
            "fractions": list(self.fractions),
            "assignment": assignment,
        }


def _csv_pairs(path: Path, text: str):
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    for column in ("participant", "split"):
        if column not in (reader.fieldnames or ()):
            raise UserError(f"{path}: column {column!r} is missing; the header must be participant,split")
    for row in reader:
        place = f"line {reader.line_num}"
        if not row["participant"] or not row["split"]:
            raise UserError(f"{path}: {place}: participant and split are both needed")
        yield place, row["participant"].strip(), row["split"].strip()


def _json_pairs(path: Path, text: str):
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON (line {error.lineno}: {error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise UserError(f"{path}: a JSON object participant -> split is needed")
    for participant, split in pairs:
        yield f"participant {participant!r}", participant, split


def _list(names: list[str], *, most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
