"""Stops the work in order on Ctrl-C, SIGTERM, SIGHUP and maintenance notices; a second signal stops it at once.

A signal that was ignored when the process began stays ignored: nohup lets a process ignore SIGHUP, and a shell lets a background
job ignore SIGINT.
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

# Several senders (terminal, launcher, service manager) may pass on the same signal within moments.
SAME_SIGNAL_S = 0.3
_AGAIN_S = 0.05
_KEPT = "what is finished is kept"


class Interrupted(KeyboardInterrupt):
    """The run stopped on request and kept its work; `signal_number` is the signal.

    Like KeyboardInterrupt it is no `Exception`, so that handlers of failures let it pass.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class Interruption:
    """Context in which SIGINT, SIGTERM and SIGHUP stop the work in order instead of ending the process.

    The second signal gets the system's default action and ends the process at once. Outside the main thread, where signals cannot be
    caught, the context has no effect.

    Args:
        at_once: True raises `Interrupted` at any point, for work that leaves nothing half-done. False only records the signal, and
            the work checks `signal_number` or `raise_if_requested` where it can stop.

    Attributes:
        signal_number: the signal that came or was requested; None if there was none.
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
            if self.requested:  # by a notice or another process; this is the first signal
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
        """See the function `hold`."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            if self._held_back and not self._holds:
                self._held_back = False
                self.raise_if_requested(_KEPT)

    def _lost(self, unraisable) -> None:
        """Delivers the signal again if Python drops its exception.

        Python prints and drops exceptions in finalisers and in callbacks of weak references and of the garbage collector.
        """
        if not isinstance(unraisable.exc_value, Interrupted):
            return self._former_hook(unraisable)
        self._asked_by_request = True
        self._again = threading.Timer(
            _AGAIN_S, os.kill, (os.getpid(), self.signal_number)
        )  # not in here, where it is lost too
        self._again.start()

    def request(self, number: int) -> None:
        """Asks the work to stop as the signal `number` would; from any thread. It does not count as the first signal."""
        if self.requested:
            return
        self.signal_number = number
        if self._at_once and self._former:
            self._asked_by_request = True
            os.kill(os.getpid(), number)  # has the handler run in the main thread

    def raise_if_requested(self, what_is_kept: str) -> None:
        """Raises Interrupted if a signal came or was requested."""
        if self.signal_number is not None:
            self.raise_for(self.signal_number, what_is_kept)

    @staticmethod
    def raise_for(number: int, what_is_kept: str) -> None:
        """Raises Interrupted for the signal `number`, which may have come to another process of the run."""
        name = signal.Signals(number).name
        raise Interrupted(f"stopped by {name}; {what_is_kept}. The same command continues from there.", number)


def request(number: int) -> None:
    """Asks the work inside the innermost `Interruption` to stop as the signal `number` would; from any thread."""
    if Interruption._active:
        Interruption._active[-1].request(number)


def hold() -> contextlib.AbstractContextManager[None]:
    """Context for work that must not be left half-done: delays `Interrupted` to its end.

    Outside the main thread, where nothing is raised, it has no effect.
    """
    main = threading.current_thread() is threading.main_thread()
    return Interruption._active[-1].hold() if main and Interruption._active else contextlib.nullcontext()
