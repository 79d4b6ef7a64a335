"""Ctrl-C and SIGTERM: stop in order, having kept what is done; a second signal stops at once."""

import os
import signal
import threading


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has kept what it had; `signal_number` says by what.

    Like KeyboardInterrupt no `Exception`: code that handles failures lets it pass.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class Interruption:
    """Context in which SIGINT and SIGTERM stop the work inside in order instead of ending the process.

    The second signal restores the system's behaviour and is delivered again, so that it ends the process at once.
    Outside the main thread, where signals cannot be caught, nothing is changed.

    Args:
        at_once: raise `Interrupted` wherever the work is, for work that leaves nothing half-done; otherwise the signal
            is only remembered, and the work asks `requested` or `raise_if_requested` where it can stop.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, *, at_once: bool = False):
        self.signal_number: int | None = None
        self._at_once = at_once
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
        if self._at_once:
            self.raise_if_requested("what is finished is kept")
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nstopping after this step; the same signal again stops at once\n")

    def raise_if_requested(self, what_is_kept: str) -> None:
        """Raises Interrupted if a signal has come."""
        if self.requested:
            name = signal.Signals(self.signal_number).name
            raise Interrupted(
                f"stopped by {name}; {what_is_kept}. The same command continues from there.", self.signal_number
            )
