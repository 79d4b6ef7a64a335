"""Ctrl-C and SIGTERM while a command still imports what it needs: seconds in which nothing has begun."""

import os
import signal
import sys


def install() -> None:
    """Lets both signals end the process with one line and the documented status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def uninstall() -> None:
    """The interpreter's own handling again, which whoever handles signals next finds and restores."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop(number: int, frame: object) -> None:
    os.write(2, f"stopped by {signal.Signals(number).name}; nothing was begun. The same command continues from there.\n".encode())
    sys.stdout.flush()
    os._exit(128 + number)
