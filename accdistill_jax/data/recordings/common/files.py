"""Readers whose recordings are single files: ids, participants, and bounded reading."""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from accdistill_jax.data import zips
from accdistill_jax.data.recording import Recording, RecordingSource
from accdistill_jax.data.tree import Tree, ending, recording_ids, regular_file
from accdistill_jax.errors import UserError

Naming = Literal["auto", "name", "prefix", "parent"]
RULES: tuple[Naming, ...] = ("auto", "name", "prefix", "parent")
MOST_BYTES = 4 * 2**30


def participant_of(path: Path, rule: Naming) -> str:
    """The participant that a path names.

    Args:
        path: a file or folder of the recording.
        rule: "name" (without ending; also "auto", for which a preparation may ask), "prefix" (the name up to the first "_"), or
            "parent" (the folder around it).

    Raises:
        UserError: an unknown rule.
    """
    if rule not in RULES:
        raise UserError(f"participant_from must be one of {', '.join(RULES)}, got {rule!r}")
    name = path.stem if path.suffix else path.name
    return {"prefix": name.partition("_")[0] or name, "parent": path.parent.name or name}.get(rule, name)


def ids_below(root: Path, paths: Iterable[Path]) -> list[str]:
    """An id for each path, made from the names between `root` and the file."""

    def parts(path: Path) -> tuple[str, ...]:
        relative = path.relative_to(root) if path != root else Path(path.name)
        return relative.with_suffix("").parts

    return recording_ids(parts(path) for path in paths)


def file_sources(
    tree: Tree, files: Iterable[Path], load: Callable[..., Recording], participant_from: Naming, **options: object
) -> list[RecordingSource]:
    """Claims files and returns a source for each; `load(path, recording_id, participant_id, **options)` reads it."""
    files = list(files)
    tree.claim(*files)
    sources = []
    for path, recording_id in zip(files, ids_below(tree.root, files), strict=True):
        participant = participant_of(path, participant_from)
        read = functools.partial(load, path, recording_id, participant, **options)
        sources.append(RecordingSource(recording_id, participant, read))
    return sources


def files_ending(tree: Tree, *endings: str) -> list[Path]:
    """The files with one of the endings, such as ".csv"."""
    return [path for path in tree.files if ending(path.name) in endings]


def first_lines(path: Path, count: int) -> list[str]:
    """The first `count` lines of a text file, read from its first 64 kB.

    Raises:
        UserError: the file is missing, special or empty; the message names it.
    """
    with regular_file(path).open("rb") as file:
        text = file.read(2**16).decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise UserError(f"{path}: the file is empty; copy it from the device again")
    return text.splitlines()[:count]


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file of at most 4 GB.

    Raises:
        UserError: the file is missing, special, empty or too large; the message names it.
    """
    content = zips.read_file(regular_file(path), most=MOST_BYTES)
    if not content:
        raise UserError(f"{path}: the file is empty; copy it from the device again")
    return content
