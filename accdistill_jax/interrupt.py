"""Ctrl-C and SIGTERM: finish the step, save, stop; a second signal stops at once."""

import signal
import threading


class Interrupted(Exception):
    """The run was asked to stop and has saved what it had; `signal_number` says by what."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class Interruption:
    """Context in which SIGINT and SIGTERM set `requested` instead of ending the process.

    The second signal restores the former behaviour and is delivered again, so that it ends the process at once.
    Outside the main thread, where signals cannot be caught, nothing is changed.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.signal_number: int | None = None
        self._former: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        return self.signal_number is not None

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._former = {s: signal.signal(s, self._handle) for s in self.SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal_number = number

    def raise_if_requested(self, what_is_saved: str) -> None:
        """Raises Interrupted if a signal has come."""
        if self.requested:
            name = signal.Signals(self.signal_number).name
            raise Interrupted(
                f"stopped by {name}; {what_is_saved}. The same command continues from there.", self.signal_number
            )
