"""Shows the progress of jobs: a live line on a terminal, otherwise a line for each job that ended."""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, TextIO

from accdistill_jax.runtime.progress import format_seconds
from accdistill_jax.text import several_lines


class JobsState(NamedTuple):
    """State of a set of jobs.

    Attributes:
        finished: number of jobs with a result, from this start and earlier ones.
        failed: number of jobs that failed or were skipped because of a failure.
        total: number of all jobs.
        running: name of each running job -> seconds since its start.
        left_s: expected seconds until all jobs are done.
        stopping: True after a signal, when no further job starts.
    """

    finished: int
    failed: int
    total: int
    running: Mapping[str, float]
    left_s: float
    stopping: bool = False


class JobsLine:
    """The live line; a context manager.

    Args:
        stream: to write to; None for standard error.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._bar, self._task = None, None

    def __enter__(self) -> "JobsLine":
        if self._stream.isatty():
            self._bar = _make_bar(self._stream)
            self._task = self._bar.add_task("", total=None, count="", note="")
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, state: JobsState) -> None:
        """Shows the state on a terminal; does nothing elsewhere."""
        if self._bar is not None:
            count = f"{state.finished}/{state.total}"
            done = state.finished + state.failed
            self._bar.update(self._task, completed=done, total=state.total, count=count, note=note(state))

    def job_ended(self, state: JobsState, name: str, result: str, *, failed: bool) -> None:
        """Reports the end of a job; on a terminal only failures."""
        ended = state.finished + state.failed
        if self._bar is None:
            left = "" if ended == state.total else f"; {_left(state)}"
            print(f"[{ended}/{state.total}] {name}: {several_lines(result)}{left}", file=self._stream, flush=True)
        elif failed:
            self._bar.console.print(f"{name}: {several_lines(result)}", markup=False, highlight=False)


def note(state: JobsState) -> str:
    """Text after the count: failures, time left, running jobs."""
    parts = [f"{state.failed} failed"] if state.failed else []
    parts.append(_left(state))
    parts += [f"{name} {format_seconds(seconds)}" for name, seconds in state.running.items()]
    return " · ".join(parts)


def _left(state: JobsState) -> str:
    return "stopping" if state.stopping else f"about {format_seconds(state.left_s)} left"


def _make_bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    whole = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    return Progress(
        BarColumn(bar_width=16),
        TextColumn("{task.fields[count]}", markup=False, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", markup=False, table_column=whole),
        console=Console(file=stream),
        expand=True,
        refresh_per_second=4,
    )
