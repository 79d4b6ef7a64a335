"""Seconds spent in each stage of a run."""

import json
import logging
import math
import time
from pathlib import Path

from accdistill_jax.errors import UserError
from accdistill_jax.files import read_regular, write_atomically

_log = logging.getLogger(__name__)


class StageClock:
    """Seconds spent in each stage over all starts of a run, kept in `<workdir>/stages.json`."""

    def __init__(self, workdir: Path, *, enabled: bool = True):
        self._path, self._enabled = workdir / "stages.json", enabled
        self.seconds: dict[str, float] = {}
        if not enabled or not self._path.exists():
            return
        try:
            saved = {name: float(seconds) for name, seconds in json.loads(read_regular(self._path)).items()}
            if not all(math.isfinite(seconds) and seconds >= 0 for seconds in saved.values()):
                raise ValueError("no durations")
            self.seconds = saved
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as problem:  # not worth stopping for
            _log.warning("%s is unreadable (%s): the stages' seconds are counted anew", self._path, problem)

    def stage(self, name: str) -> "_Timed":
        """Context that adds its duration to a stage's seconds."""
        return _Timed(self, name)

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds to a stage's, and saves all of them.

        Raises:
            UserError: the file cannot be written.
        """
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        if self._enabled:
            try:
                write_atomically(self._path, json.dumps(self.seconds))
            except OSError as error:
                raise UserError(f"cannot write {self._path}: {error.strerror or error}") from error


class _Timed:
    def __init__(self, clock: StageClock, name: str):
        self._clock, self._name = clock, name

    def __enter__(self) -> None:
        self._begin = time.monotonic()

    def __exit__(self, kind, value, traceback) -> None:
        try:
            self._clock.add(self._name, time.monotonic() - self._begin)
        except UserError:
            if kind is None:  # otherwise the user must read the error that stopped the stage
                raise
