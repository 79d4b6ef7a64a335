"""Makes the standard streams safe: closed streams, readers that are gone, full disks and limited encodings stop no work."""

import contextlib
import errno
import io
import os
import sys
from typing import Literal

_NAMES = {1: "standard output", 2: "standard error"}


class OutputLost(Exception):
    """Standard output is the product of the command and cannot be written; `nobody_reads` is True if its reader has gone."""

    def __init__(self, problem: OSError):
        super().__init__(f"standard output cannot be written ({problem.strerror}); what was to be printed is lost")
        self.nobody_reads = problem.errno == errno.EPIPE


def secure(*, product: Literal["files", "output"]) -> None:
    """Makes the standard streams safe for the whole process; call it before anything opens a file.

    A closed stream becomes the null device; otherwise the next opened file would take its number and receive messages. Characters
    that the encoding lacks are written as escape sequences. A stream that cannot be written is given up.

    Args:
        product: product of the command. "files": the work goes on without the stream, and standard error says so in one line.
            "output": a stream that cannot be written raises `OutputLost`.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is `number`
            os.set_inheritable(null, True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, _text(getattr(sys, name), _Guarded(number, raises=product == "output" and number == 1)))
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)


def tell(line: str) -> None:
    """Writes a line to standard error at once; for signal handlers and other threads, where `print` is not safe."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))


def flush() -> None:
    """Flushes standard output and standard error; raises OutputLost as printing does."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):  # a replaced or closed stream
                stream.flush()


class _Guarded(io.FileIO):
    """File of a standard stream; switches to the null device when it cannot be written."""

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
