"""Where the metrics of a stage go: the interface of all writers, and the choice of them by config.

The record of a run is its files, JSON lines and TensorBoard events (`metrics.MetricsFiles`): a run that cannot write them stops.
Tracking services (`tracker.Tracker`) get copies: a service that fails costs one warning and never the training.

A new kind of file is a class with the methods of `MetricsWriter`; a new service is an adapter in `services.py`.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from accdistill_jax.training.metrics import MetricsFiles
from accdistill_jax.training.services import SERVICES
from accdistill_jax.training.tracker import Tracker

TENSORBOARD = "tensorboard"


class MetricsWriter(Protocol):
    """Takes the metrics of one stage. It is a context: leaving it completes what was written."""

    def write(
        self, step: int, kind: str, scalars: Mapping[str, Any], *, timing: Mapping[str, Any] | None = None
    ) -> None:
        """Takes one record.

        Args:
            step: finished steps that the values belong to.
            kind: what they were computed on, for example "train" or "validation".
            scalars: values convertible to float, reproducible ones only.
            timing: wall-clock quantities of the same moment.
        """

    def flush(self) -> None:
        """Hands what was written to the operating system."""

    def __enter__(self) -> "MetricsWriter": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Writers:
    """Several writers as one; each gets every record, in the given order. None at all is a writer that does nothing."""

    def __init__(self, writers: Sequence[MetricsWriter]):
        self._writers = writers
        self._stack = contextlib.ExitStack()

    def write(
        self, step: int, kind: str, scalars: Mapping[str, Any], *, timing: Mapping[str, Any] | None = None
    ) -> None:
        """See `MetricsWriter`."""
        for writer in self._writers:
            writer.write(step, kind, scalars, timing=timing)

    def flush(self) -> None:
        """See `MetricsWriter`."""
        for writer in self._writers:
            writer.flush()

    def __enter__(self) -> "Writers":
        with contextlib.ExitStack() as stack:
            for writer in self._writers:
                stack.enter_context(writer)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def open_writers(
    names: Sequence[str], workdir: str | os.PathLike, stage: str, *, resume_step: int, config: Mapping[str, Any]
) -> MetricsWriter:
    """The writers of a stage: the JSON lines always, and those that `config.runtime.metrics` names.

    Args:
        names: of TensorBoard and services.
        workdir: work directory of the run.
        stage: "teacher" or "student".
        resume_step: finished steps of the checkpoint that is continued from, 0 without one.
        config: plain values by dotted key, which services show beside the metrics.

    Raises:
        UserError: as `MetricsFiles` says.
    """
    files = MetricsFiles(workdir, stage, resume_step=resume_step, tensorboard=TENSORBOARD in names)
    trackers = [Tracker(SERVICES[name], workdir, stage, config=config) for name in names if name in SERVICES]
    return Writers([files, *trackers])
