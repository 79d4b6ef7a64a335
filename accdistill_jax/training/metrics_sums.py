"""Checksums of what a finished stage has recorded: `<workdir>/metrics/<stage>.sha256`, in the form of the command sha256sum.

It names the stage's metrics, timing and TensorBoard files, and is written when the stage has ended well. So a line that was
changed later is noticed, and TensorBoard's files, which say nothing that the metrics do not, are made again where they are lost.
"""

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from accdistill_jax.files import open_regular, read_regular, write_atomically
from accdistill_jax.training.event_file import EventFile

_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def sums_path(workdir: str | os.PathLike, stage: str) -> Path:
    """Where the checksums of a stage stand."""
    return Path(workdir) / "metrics" / f"{stage}.sha256"


def write_sums(workdir: str | os.PathLike, stage: str) -> None:
    """Writes the checksums of a stage's files as they are now.

    Raises:
        OSError: they cannot be read, or the folder not written.
    """
    path = sums_path(workdir, stage)
    found = [path.with_name(f"{stage}{ending}") for ending in (".jsonl", ".timing.jsonl")]
    found += sorted(own for own in _board(workdir, stage).glob("*") if own.is_file())
    lines = [f"{_digest(own)}  {os.path.relpath(own, path.parent)}\n" for own in found if own.exists()]
    write_atomically(path, "".join(lines))


def spoilt_files(workdir: str | os.PathLike, stage: str) -> dict[Path, str]:
    """The files of a finished stage that are not what was written, and what is wrong with each; none where no checksums are.

    The checksums' own file is among them where it cannot be read.
    """
    path = sums_path(workdir, stage)
    try:
        lines = read_regular(path).decode().splitlines()
        sums = [_LINE.fullmatch(line) for line in lines]
        if not all(sums) or not any(own[2] == f"{stage}.jsonl" for own in sums):
            raise ValueError("it is not what was written")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        return {path: f"cannot be read ({getattr(error, 'strerror', None) or error})"}
    spoilt = {}
    for digest, name in (own.groups() for own in sums):
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
    """Says in a line each what is wrong with a finished stage's records, and makes TensorBoard's files again from the others.

    Args:
        workdir: of the run.
        stage: "teacher" or "student".
        spoilt: as from `spoilt_files`.
        read: gives the records of the stage's "metrics" and "timing" files.

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


def add_values(board: EventFile, file: str, kind: str, values: Mapping[str, float], step: int) -> None:
    """Adds one record of a "metrics" or "timing" file."""
    for name, value in values.items():
        if math.isfinite(value):
            board.add(f"{kind if file == 'metrics' else f'{kind}_timing'}/{name}", value, step)


def _write_board(folder: Path, records: Mapping[str, list]) -> None:
    board = EventFile(folder, first_step=0)
    for file, own in records.items():
        for record in own:
            values = {name: value for name, value in record.items() if name not in ("step", "kind")}
            add_values(board, file, record["kind"], values, record["step"])
    board.close()


def _board(workdir: str | os.PathLike, stage: str) -> Path:
    return Path(workdir) / "tensorboard" / stage


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
