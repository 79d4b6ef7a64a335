"""The files that record a training's metrics: JSON lines and TensorBoard events.

`<workdir>/metrics/<stage>.jsonl` holds records `{"step": 100, "kind": "train", "loss": 0.61, ...}`. They depend on config and
data alone, so the file of an interrupted and continued run equals that of an uninterrupted run byte for byte. Wall-clock
quantities (seconds, segments_per_s, input_wait_fraction) are in `<stage>.timing.jsonl` beside it. When the stage has finished,
`<stage>.sha256` holds the checksums of its files.
"""

import contextlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from accdistill_jax.errors import UserError
from accdistill_jax.files import read_regular
from accdistill_jax.training.event_file import EventFile
from accdistill_jax.training.metrics_sums import add_values, sums_path, write_sums

_log = logging.getLogger(__name__)


class MetricsFiles:
    """A `writer.MetricsWriter` of files; one per stage, on process 0."""

    def __init__(self, workdir: str | os.PathLike, stage: str, *, resume_step: int = 0, tensorboard: bool = True):
        """Reads the stage's files. The first record cuts away what the continued run writes again.

        A run that stops before its first record therefore leaves the files as they are.

        Args:
            workdir: work directory of the run; files go to its `metrics/` and `tensorboard/`.
            stage: name of the stage.
            resume_step: finished steps of the checkpoint that is continued from. Records of later steps are removed, and an
                incomplete last line. 0: the stage starts anew and all records are removed. Records of a step must therefore
                be written before the checkpoint of that step.
            tensorboard: True writes TensorBoard events too.

        Raises:
            UserError: the files cannot be written, or a line other than the last is unreadable; names the folder, or file
                and line. An unreadable last line is left out with a warning.
        """
        self._files: dict[str, TextIO] = {}
        self._board: EventFile | None = None
        self._kept: dict[str, tuple[Path, str]] = {}
        self._folder, self._workdir, self._stage = Path(workdir) / "metrics", workdir, stage
        self._board_folder = Path(workdir) / "tensorboard" / stage if tensorboard else None
        self._first_step = resume_step + 1
        with self._reporting():
            self._folder.mkdir(parents=True, exist_ok=True)
            for kind, path in (
                ("metrics", self._folder / f"{stage}.jsonl"),
                ("timing", self._folder / f"{stage}.timing.jsonl"),
            ):
                path.open("a").close()
                self._kept[kind] = path, _kept_text(path, resume_step)

    def write(
        self, step: int, kind: str, scalars: Mapping[str, Any], *, timing: Mapping[str, Any] | None = None
    ) -> None:
        """Appends one record; see `writer.MetricsWriter`.

        Raises:
            UserError: the disk is full or the folder is missing; names the folder.
        """
        self._begin()
        for file, values in (("metrics", scalars), ("timing", timing)):
            if not values:
                continue
            values = {name: float(value) for name, value in values.items()}
            with self._reporting():
                self._files[file].write(_to_line(step, kind, values))
                self._files[file].flush()
                if self._board is not None:
                    add_values(self._board, file, kind, values, step)

    def _begin(self) -> None:
        """Cuts and opens the files, once."""
        if not self._kept:
            return
        with self._reporting():
            sums_path(self._workdir, self._stage).unlink(missing_ok=True)
            for kind, (path, text) in self._kept.items():
                _cut(path, text)
                self._files[kind] = path.open("a", encoding="utf-8")
            if self._board_folder is not None:
                self._board = EventFile(self._board_folder, first_step=self._first_step)
        self._kept = {}

    def flush(self) -> None:
        """Hands everything to the operating system; the JSON lines already are after each `write`."""
        if self._board is not None:
            with self._reporting():
                self._board.flush()

    def close(self) -> None:
        """Closes the files."""
        for file in (*self._files.values(), *([self._board] if self._board is not None else [])):
            with contextlib.suppress(OSError):  # the write that failed was reported; closing tries it again
                file.close()
        self._files, self._board = {}, None

    def __enter__(self) -> "MetricsFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._begin()
        finally:
            self.close()
        if kind is None:
            with self._reporting():
                write_sums(self._workdir, self._stage)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            raise UserError(f"cannot write metrics in {self._folder}: {problem.strerror or problem}") from problem


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads a metrics or timing file.

    Args:
        path: a `.jsonl` file of `MetricsFiles`; a missing file reads as empty.

    Returns:
        The records in order: "step" is an int, "kind" a text, all else are floats (some may not be finite). An unreadable
        last line, as a kill leaves it, is left out with a warning.

    Raises:
        UserError: a line other than the last is unreadable; names file and line.
    """
    return [record for _, record in _records(Path(path))]


def _to_line(step: int, kind: str, values: Mapping[str, float]) -> str:
    # JSON has no NaN or infinity: they are written as text, which float() reads.
    plain = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
    return json.dumps({"step": int(step), "kind": kind} | plain) + "\n"


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = read_regular(path).decode(errors="replace") if path.exists() else ""
    except OSError as problem:
        raise UserError(f"{path} cannot be read ({problem.strerror or problem}); restore or delete it") from problem
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            if not line.endswith("\n"):
                raise ValueError("no line end")
            record = json.loads(line)
            head = {"step": int(record.pop("step")), "kind": str(record.pop("kind"))}
            parsed = head | {name: float(value) for name, value in record.items()}
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError) as problem:
            if number < len(lines):
                raise UserError(
                    f"{path} line {number} is unreadable ({problem}); delete the line or the file"
                ) from problem
            _log.warning("%s: line %d, the last, is unreadable (%s) and left out", path, number, problem)
            return
        yield line, parsed


def _kept_text(path: Path, resume_step: int) -> str:
    """The lines up to `resume_step`; a continued run writes the later ones again."""
    return "".join(line for line, record in _records(path) if record["step"] <= resume_step) if resume_step else ""


def _cut(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
