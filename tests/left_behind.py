"""Finds and ends processes that tests leave behind, by a variable of their environment. On Linux; elsewhere it finds none."""

import contextlib
import os
import signal
import time
from multiprocessing import resource_tracker
from pathlib import Path

MARK = "ACCDISTILL_STARTED_BY_TEST"


def marked(mark: str) -> set[int]:
    """Process ids of what runs with this value of the variable, whoever its parent is; but for the one that multiprocessing keeps."""
    wanted, found = f"{MARK}={mark}".encode(), set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # another user's, or gone
            if wanted in path.read_bytes().split(b"\0"):
                found.add(int(path.parent.name))
    return found - {os.getpid(), resource_tracker._resource_tracker._pid}


def end(mark: str) -> set[int]:
    """Kills all of them, and what they start meanwhile; returns their process ids."""
    ended = set()
    while left := marked(mark):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        ended |= left
        time.sleep(0.01)
    return ended
