"""Standard streams that do not stop the work: closed ones, ones that nobody reads any more, full disks, terminals of few letters."""

import contextlib
import errno
import io
import os
import sys
from typing import Literal

_NAMES = {1: "standard output", 2: "standard error"}


class OutputLost(Exception):
    """Standard output is what was asked for, and cannot be written; `nobody_reads` says whether its reader has gone."""

    def __init__(self, problem: OSError):
        super().__init__(f"standard output cannot be written ({problem.strerror}); what was to be printed is lost")
        self.nobody_reads = problem.errno == errno.EPIPE


def secure(*, product: Literal["files", "output"]) -> None:
    """Makes the standard streams safe, for the whole process; to be called before anything opens a file.

    A closed stream becomes the null device: the next file that is opened would take its number otherwise, and messages would be
    written into it. What an encoding lacks is written as an escape sequence. A stream that cannot be written is given up.

    Args:
        product: of the command. "files": the work goes on without the stream, which standard error tells in a line. "output":
            `OutputLost` is raised.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(null, True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, _text(getattr(sys, name), _Guarded(number, raises=product == "output" and number == 1)))
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)


def tell(line: str) -> None:
    """Writes a line to standard error at once, where `print` must not be used: in a handler of a signal, or in another thread."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))


def flush() -> None:
    """Writes what is buffered; raises OutputLost as printing does."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):  # a stream of somebody else's, or closed
                stream.flush()


class _Guarded(io.FileIO):
    """A stream's file that is given up where it cannot be written."""

    def __init__(self, number: int, *, raises: bool):
        super().__init__(number, "w", closefd=False)
        self._raises = raises

    def write(self, data) -> int | None:
        try:
            return super().write(data)
        except OSError as problem:
            self._give_up(problem)
            return len(memoryview(data).cast("B"))

    def _give_up(self, problem: OSError) -> None:
        number = self.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
        if self._raises:
            raise OutputLost(problem) from problem
        if number == 1:
            why = "nobody reads it any more" if problem.errno == errno.EPIPE else problem.strerror
            tell(f"{_NAMES[number]} cannot be written ({why}): the work goes on without it")


def _text(before: io.TextIOWrapper | None, raw: _Guarded) -> io.TextIOWrapper:
    at_once = before is not None and before.write_through
    return io.TextIOWrapper(
        raw if at_once else io.BufferedWriter(raw),
        encoding=before.encoding if before is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=before is not None and before.line_buffering,
        write_through=at_once,
    )
