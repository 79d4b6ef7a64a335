"""Checksums of a finished stage's records: `<workdir>/metrics/<stage>.sha256`, in the format of the command sha256sum.

The file names the stage's metrics, timing and TensorBoard files, and is written when the stage has finished. A line that
changes later is noticed. Lost TensorBoard files, which hold nothing that the metrics do not, are written again.
"""

import hashlib
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

from accdistill_jax.files import open_regular, read_regular, write_atomically
from accdistill_jax.training.event_file import EventFile

_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def sums_path(workdir: str | os.PathLike, stage: str) -> Path:
    """Path of a stage's checksums."""
    return Path(workdir) / "metrics" / f"{stage}.sha256"


def write_sums(workdir: str | os.PathLike, stage: str) -> None:
    """Writes the checksums of a stage's files as they are now.

    Raises:
        OSError: a file cannot be read, or the checksums cannot be written.
    """
    path = sums_path(workdir, stage)
    files = [path.with_name(f"{stage}{ending}") for ending in (".jsonl", ".timing.jsonl")]
    files += sorted(file for file in _board(workdir, stage).glob("*") if file.is_file())
    lines = [f"{_digest(file)}  {os.path.relpath(file, path.parent)}\n" for file in files if file.exists()]
    write_atomically(path, "".join(lines))


def spoilt_files(workdir: str | os.PathLike, stage: str) -> dict[Path, str]:
    """Files of a finished stage that differ from their checksums, each with its fault; none without checksums.

    The file of the checksums is among them if it cannot be read.
    """
    path = sums_path(workdir, stage)
    try:
        lines = read_regular(path).decode().splitlines()
        sums = [entry.groups() for entry in map(_LINE.fullmatch, lines) if entry is not None]
        if len(sums) < len(lines) or not any(name == f"{stage}.jsonl" for _, name in sums):
            raise ValueError("it is not what was written")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        return {path: f"cannot be read ({getattr(error, 'strerror', None) or error})"}
    spoilt = {}
    for digest, name in sums:
        file = Path(os.path.normpath(path.parent / name))
        try:
            if _digest(file) != digest:
                spoilt[file] = "was changed after it was written"
        except FileNotFoundError:
            spoilt[file] = "is missing"
        except OSError as error:
            spoilt[file] = f"cannot be read ({error.strerror or error})"
    return spoilt


def check_records(
    workdir: str | os.PathLike, stage: str, spoilt: Mapping[Path, str], *, read: Callable[[], Mapping[str, list]]
) -> Iterator[str]:
    """Yields one line per fault of a finished stage's records; writes lost TensorBoard files again from the others.

    Args:
        workdir: of the run.
        stage: "teacher" or "student".
        spoilt: result of `spoilt_files`.
        read: returns the records of the stage's "metrics" and "timing" files.

    Raises:
        OSError: TensorBoard's files cannot be written.
    """
    board = _board(workdir, stage)
    lost = [file for file in spoilt if file.parent == board]
    for file, what in spoilt.items():
        if file not in lost:
            yield f"warning: {file} {what}; restore it from a copy, or delete {sums_path(workdir, stage)} to take it as it is"
    if not lost:
        return
    if len(lost) < len(spoilt):
        yield f"warning: {lost[0]} {spoilt[lost[0]]}, and there are no whole records to make it again from"
        return
    for file in lost:
        file.unlink(missing_ok=True)
    _write_board(board, read())
    write_sums(workdir, stage)
    yield f"{stage}: {lost[0]} {spoilt[lost[0]]}: made again from the metrics"


def tags(file: str, kind: str, values: Mapping[str, float]) -> dict[str, float]:
    """Values of one record of a "metrics" or "timing" file by the tag that TensorBoard and services show."""
    return {f"{kind if file == 'metrics' else f'{kind}_timing'}/{name}": value for name, value in values.items()}


def add_values(board: EventFile, file: str, kind: str, values: Mapping[str, float], step: int) -> None:
    """Adds one record of a "metrics" or "timing" file."""
    for tag, value in tags(file, kind, values).items():
        if math.isfinite(value):
            board.add(tag, value, step)


def _write_board(folder: Path, records: Mapping[str, list]) -> None:
    board = EventFile(folder, first_step=0)
    for file, lines in records.items():
        for record in lines:
            values = {name: value for name, value in record.items() if name not in ("step", "kind")}
            add_values(board, file, record["kind"], values, record["step"])
    board.close()


def _board(workdir: str | os.PathLike, stage: str) -> Path:
    return Path(workdir) / "tensorboard" / stage


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()
