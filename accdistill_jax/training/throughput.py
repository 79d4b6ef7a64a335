"""Speed of a training."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple


class Rates(NamedTuple):
    """Speed over a stretch of steps.

    Attributes:
        seconds: its length.
        segments_per_s: segments trained on per second; NaN if no step ended in the stretch.
        input_wait_fraction: fraction of the time in which the loop waited for a batch, 0 to 1; NaN likewise.
    """

    seconds: float
    segments_per_s: float
    input_wait_fraction: float


class Throughput:
    """Segments per second and fraction of time spent waiting for input, without the first step, which compiles."""

    def __init__(self, segments_per_step: int, *, clock: Callable[[], float] = time.monotonic):
        """Starts before the first step.

        Args:
            segments_per_step: global batch size.
            clock: seconds, monotonic.
        """
        self._segments = segments_per_step
        self._clock = clock
        self._started = False
        self._total = _Span(clock())
        self._window = _Span(clock())

    def input_waited(self, seconds: float) -> None:
        """Call it with the time that reading a batch took."""
        self._total.waited += seconds
        self._window.waited += seconds

    def step_done(self) -> None:
        """Call it once per step, when its metrics are on the host."""
        if self._started:
            self._total.steps += 1
            self._window.steps += 1
        else:
            self._started = True
            self._total = _Span(self._clock())
            self._window = _Span(self._clock())

    @property
    def segments_per_s(self) -> float:
        """Rate since the end of the first step; NaN until the second has ended."""
        return self.total().segments_per_s

    def total(self) -> Rates:
        """Rates since the end of the first step."""
        return self._rates(self._total)

    def snapshot(self) -> dict[str, float]:
        """Rates since the last snapshot, by field name, for `MetricsWriter.write(timing=...)`."""
        rates = self._rates(self._window)
        self._window = _Span(self._clock())
        return rates._asdict()

    def _rates(self, span: "_Span") -> Rates:
        seconds = self._clock() - span.begin
        if not span.steps or seconds <= 0:
            return Rates(seconds, math.nan, math.nan)
        return Rates(seconds, span.steps * self._segments / seconds, min(1.0, span.waited / seconds))


class _Span:
    """A stretch of time, its steps and its waiting time."""

    def __init__(self, begin: float):
        self.begin, self.steps, self.waited = begin, 0, 0.0
