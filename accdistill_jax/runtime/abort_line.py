"""Replaces a library's abort, with its pages of log and stacks, by one line if the reason is known."""

import contextlib
import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import Self


class AbortLine:
    """Context that holds back standard error and reads it if a library calls abort().

    The held text is shown when the context ends, or at once if the reason of the abort is unknown.

    Args:
        known: called with the held text; returns the exit status and the line for the user, or None if the reason is unknown.
    """

    def __init__(self, known: Callable[[str], tuple[int, str] | None]):
        self._known = known
        self._held = None

    def __enter__(self) -> Self:
        try:
            self._shown = os.dup(2)
        except OSError:  # standard error is closed
            return self
        try:
            self._held = tempfile.TemporaryFile()
        except OSError:  # no space: messages are shown as they come
            os.close(self._shown)
            return self
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os.dup2(self._held.fileno(), 2)
        # Python runs its own signal handlers between instructions, and abort() returns to none
        self._libc = ctypes.CDLL(None)
        self._libc.signal.restype, self._libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._aborted)
        self._before = self._libc.signal(signal.SIGABRT, ctypes.cast(self._handler, ctypes.c_void_p))
        return self

    def __exit__(self, *exception: object) -> None:
        self.show()

    def show(self) -> None:
        """Restores standard error and writes the held text; may be called from a thread that ends the process."""
        held, self._held = self._held, None
        if held is None:
            return
        self._libc.signal(signal.SIGABRT, self._before)
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os.dup2(self._shown, 2)
        held.seek(0)
        with contextlib.suppress(OSError):
            os.write(2, held.read())
        os.close(self._shown)
        held.close()

    def _aborted(self, number: int) -> None:
        if self._held is None:
            return
        self._held.seek(0)
        outcome = self._known(self._held.read().decode(errors="replace"))
        if outcome is None:
            self.show()
            return  # abort() then ends the process itself
        status, line = outcome
        with contextlib.suppress(OSError):
            os.write(self._shown, f"{line}\n".encode(errors="backslashreplace"))
        os._exit(status)
