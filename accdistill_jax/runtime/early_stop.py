"""Ctrl-C, SIGTERM and SIGHUP while a command still imports what it needs: seconds in which nothing has begun."""

import os
import signal

from accdistill_jax.runtime import streams

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# nohup, and a shell that starts a job in the background, have signals ignored: those are not for this process
IGNORED = frozenset(number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN)


def install() -> None:
    """Lets each signal that was not ignored end the process with one line and the documented status; secures the streams."""
    streams.secure(product="files")
    for number in SIGNALS:
        if number not in IGNORED:
            signal.signal(number, _stop)


def uninstall() -> None:
    """The interpreter's own handling again, which whoever handles signals next finds and restores."""
    for number in SIGNALS:
        if number not in IGNORED:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _stop(number: int, frame: object) -> None:
    streams.tell(f"stopped by {signal.Signals(number).name}; nothing was begun. The same command continues from there.")
    streams.flush()
    os._exit(128 + number)
