"""TensorBoard's files."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path


class EventFile:
    """A TensorBoard event file, written in the caller: the library's own writer thread dies of a full disk unheard,
    and the training would wait for it for ever.
    """

    def __init__(self, folder: Path, *, first_step: int):
        with _hidden("torch"):  # where it is installed the library imports it, for seconds, and makes no use of it here
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.proto.summary_pb2 import Summary

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(folder / "events"))
        # TensorBoard hides what an earlier file of the folder says of this step and later ones.
        start = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(step=first_step, wall_time=time.time(), session_log=start))

    def add(self, tag: str, value: float, step: int) -> None:
        summary = self._summary(value=[self._summary.Value(tag=tag, simple_value=value)])
        self._file.write_event(self._event(step=step, wall_time=time.time(), summary=summary))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Lets what is imported inside not find a package that nothing has imported yet."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None
    try:
        yield
    finally:
        del sys.modules[package]
