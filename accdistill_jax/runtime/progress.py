"""Progress on a terminal: a bar for preparations, a line for a run."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_LINES_EVERY_S = 10.0  # off a terminal


def progress_bar(show: bool) -> Progress:
    """A progress bar with the time left, on stderr; shows nothing if stderr is not a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not (show and console.is_terminal),
    )


class ProgressLine:
    """One live line with stage, step, loss, segments/s and time left; off a terminal, plain lines at intervals."""

    def __init__(
        self,
        stage: str,
        total_steps: int,
        *,
        start_step: int = 0,
        enabled: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Shows the line.

        Args:
            stage: name at the line's start.
            total_steps: steps of the whole stage.
            start_step: steps that an earlier start finished.
            enabled: False shows nothing (processes other than 0).
            stream: destination; standard error by default.
            clock: seconds, monotonic.
        """
        self._stage, self._total, self._start = stage, total_steps, start_step
        self._stream, self._clock, self._enabled = stream or sys.stderr, clock, enabled
        self._begin = self._rated_from = clock()
        self._rated_step = start_step
        self._last_plain = -math.inf
        self._bar = None
        if enabled and self._stream.isatty():
            self._bar, self._task = self._make_bar()

    def update(self, step: int, *, loss: float | None = None, segments_per_s: float | None = None) -> None:
        """Shows the state after `step` steps; cheap enough for every logged step."""
        if not self._enabled:
            return
        now = self._clock()
        if step > self._start and self._rated_step == self._start:
            self._rated_from, self._rated_step = now, step  # the estimate excludes compilation
        note = self._note(loss, segments_per_s)
        left = self._left(step, now)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=note, left=left)
        elif now - self._last_plain >= PLAIN_LINES_EVERY_S or step >= self._total:
            self._last_plain = now
            print(f"{self._stage}  step {step}/{self._total}{note}  {left}", file=self._stream, flush=True)

    def close(self) -> None:
        """Stops updating; the line stays."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _left(self, step: int, now: float) -> str:
        if step >= self._total:
            return f"done in {format_seconds(now - self._begin)}"
        done = step - self._rated_step
        if done <= 0:
            return "time left unknown"
        return f"{format_seconds((self._total - step) * (now - self._rated_from) / done)} left"

    @staticmethod
    def _note(loss: float | None, segments_per_s: float | None) -> str:
        note = "" if loss is None else f"  loss {float(loss):.4g}"
        if segments_per_s is not None and math.isfinite(segments_per_s):
            note += f"  {segments_per_s:.0f} segments/s"
        return note

    def _make_bar(self) -> tuple[Any, Any]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}  {task.fields[left]}"),
            console=Console(file=self._stream),
        )
        task = bar.add_task(self._stage, total=self._total, completed=self._start, note="", left="")
        bar.start()
        return bar, task


def format_seconds(seconds: float) -> str:
    """Formats a duration: "42 s", "3 min 05 s", "2 h 10 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
