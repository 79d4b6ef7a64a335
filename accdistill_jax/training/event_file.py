"""TensorBoard event files."""

import contextlib
import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class EventFile:
    """A TensorBoard event file, written in the calling thread.

    The library's own writer thread dies silently of a full disk, and the training would then wait for it for ever.
    """

    def __init__(self, folder: Path, *, first_step: int):
        with _hidden(
            "torch"
        ):  # tensorboardX imports it where it is installed, which takes seconds, and does not need it here
            from tensorboardX.event_file_writer import EventsWriter

            # made when they are imported, so that a type checker does not know them
            events = importlib.import_module("tensorboardX.proto.event_pb2")
            self._event = events.Event
            self._summary = importlib.import_module("tensorboardX.proto.summary_pb2").Summary
        folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(folder / "events"))
        # TensorBoard then hides records of this and later steps in earlier files of the folder.
        start = events.SessionLog(status=events.SessionLog.START)
        self._file.write_event(events.Event(step=first_step, wall_time=time.time(), session_log=start))

    def add(self, tag: str, value: float, step: int) -> None:
        """Adds one scalar."""
        summary = self._summary(value=[self._summary.Value(tag=tag, simple_value=value)])
        self._file.write_event(self._event(step=step, wall_time=time.time(), summary=summary))

    def flush(self) -> None:
        """Hands everything to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Context in which imports do not find a package, unless it is imported already."""
    if package in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules[package] = None
    try:
        yield
    finally:
        del modules[package]
