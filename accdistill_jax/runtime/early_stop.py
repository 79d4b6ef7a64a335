"""Handles Ctrl-C, SIGTERM and SIGHUP while a command still imports its modules and no work has begun."""

import os
import signal
from typing import Literal

from accdistill_jax.runtime import streams

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# nohup, and a shell that starts a background job, let the process ignore signals; it must go on ignoring them
IGNORED = frozenset(number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN)


def install(*, product: Literal["files", "output"] = "files") -> None:
    """Lets each signal that was not ignored end the process with one line and the documented status; secures the streams.

    Args:
        product: of the command, see `streams.secure`.
    """
    streams.secure(product=product)
    for number in SIGNALS:
        if number not in IGNORED:
            signal.signal(number, _stop)


def uninstall() -> None:
    """Restores the interpreter's handling of each signal that `install` took over; without effect where it did not run."""
    for number in SIGNALS:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _stop(number: int, frame: object) -> None:
    streams.tell(f"stopped by {signal.Signals(number).name}; nothing was begun. The same command continues from there.")
    streams.flush()
    os._exit(128 + number)
