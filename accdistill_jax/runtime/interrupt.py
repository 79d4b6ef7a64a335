"""Ctrl-C, SIGTERM, SIGHUP and notices of maintenance: stop in order, having kept what is done; a second signal stops at once.

A signal that was ignored when the process began stays ignored, as for every well-behaved command: nohup asks for SIGHUP to be
ignored, a shell that starts a job in the background for SIGINT.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

from accdistill_jax.runtime import streams
from accdistill_jax.runtime.early_stop import IGNORED, SIGNALS

# A signal that several senders pass on (terminal, launcher, service manager) comes more than once within moments.
SAME_SIGNAL_S = 0.3
_AGAIN_S = 0.05
_KEPT = "what is finished is kept"


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has kept what it had; `signal_number` says by what.

    Like KeyboardInterrupt no `Exception`: code that handles failures lets it pass.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class Interruption:
    """Context in which SIGINT, SIGTERM and SIGHUP stop the work inside in order instead of ending the process.

    The second signal restores the system's behaviour and is delivered again, so that it ends the process at once.
    Outside the main thread, where signals cannot be caught, nothing is changed.

    Args:
        at_once: raise `Interrupted` wherever the work is, for work that leaves nothing half-done; otherwise the signal
            is only remembered, and the work asks `signal_number` or `raise_if_requested` where it can stop.

    Attributes:
        signal_number: the signal that has come, or that a request stands for; None as long as there is none.
    """

    SIGNALS = SIGNALS
    _active: ClassVar[list["Interruption"]] = []

    def __init__(self, *, at_once: bool = False):
        self.signal_number: int | None = None
        self._at_once = at_once
        self._former: dict[int, Any] = {}
        self._received_at: float | None = None
        self._asked_by_request = False
        self._again: threading.Timer | None = None
        self._holds, self._held_back = 0, False

    @property
    def requested(self) -> bool:
        return self.signal_number is not None

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._former = {s: signal.signal(s, self._handle) for s in self.SIGNALS}
            self._former_hook, sys.unraisablehook = sys.unraisablehook, self._lost
        self._active.append(self)
        return self

    def __exit__(self, *exception) -> None:
        self._active.remove(self)
        if self._again is not None:
            self._again.cancel()
            self._again.join()
        if self._former:
            sys.unraisablehook = self._former_hook
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        if self._asked_by_request:
            self._asked_by_request = False
        elif number in IGNORED:
            return
        else:
            now = time.monotonic()
            if self._received_at is not None:
                if now - self._received_at < SAME_SIGNAL_S:
                    return
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self._received_at = now
            if self.requested:  # asked to before, by a notice or another process; this is the first signal
                return
            self.signal_number = number
            # Not print: the signal may have come in the middle of one.
            if not self._at_once:
                streams.tell("\nstopping after this step; the same signal again stops at once")
        if self._at_once and self._holds:
            self._held_back = True
        elif self._at_once:
            self.raise_if_requested(_KEPT)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """See the function of that name."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            if self._held_back and not self._holds:
                self._held_back = False
                self.raise_if_requested(_KEPT)

    def _lost(self, unraisable) -> None:
        """Has the signal delivered again whose exception Python would print and forget: in finalisers, and in callbacks of weak
        references and of the garbage collector.
        """
        if not isinstance(unraisable.exc_value, Interrupted):
            return self._former_hook(unraisable)
        self._asked_by_request = True
        self._again = threading.Timer(
            _AGAIN_S, os.kill, (os.getpid(), self.signal_number)
        )  # not in here, where it is lost too
        self._again.start()

    def request(self, number: int) -> None:
        """Asks the work inside to stop as the signal `number` would; from any thread. It does not count as a signal."""
        if self.requested:
            return
        self.signal_number = number
        if self._at_once and self._former:
            self._asked_by_request = True
            os.kill(os.getpid(), number)  # has the handler run in the main thread

    def raise_if_requested(self, what_is_kept: str) -> None:
        """Raises Interrupted if a signal has come."""
        if self.signal_number is not None:
            self.raise_for(self.signal_number, what_is_kept)

    @staticmethod
    def raise_for(number: int, what_is_kept: str) -> None:
        """Raises Interrupted for the signal `number`, which may have come to another process of the run."""
        name = signal.Signals(number).name
        raise Interrupted(f"stopped by {name}; {what_is_kept}. The same command continues from there.", number)


def request(number: int) -> None:
    """Asks whatever runs inside the innermost `Interruption` to stop as the signal `number` would; from any thread."""
    if Interruption._active:
        Interruption._active[-1].request(number)


def hold() -> contextlib.AbstractContextManager[None]:
    """Context for moments of work that must not be left half-done: what would be raised inside is raised at its end.

    Outside the main thread, where nothing is raised, it changes nothing.
    """
    main = threading.current_thread() is threading.main_thread()
    return Interruption._active[-1].hold() if main and Interruption._active else contextlib.nullcontext()
