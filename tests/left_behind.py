"""Finds and ends processes that tests leave behind, by a variable of their environment. On Linux; elsewhere it finds none."""

import contextlib
import os
import signal
import time
from pathlib import Path

MARK = "ACCDISTILL_STARTED_BY_TEST"


def marked(mark: str) -> set[int]:
    """Process ids of all processes with this value of the variable, except this one and multiprocessing's resource tracker."""
    wanted, pids = f"{MARK}={mark}".encode(), set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # another user's process, or one that has ended
            if wanted in path.read_bytes().split(b"\0") and not _is_resource_tracker(path.parent):
                pids.add(int(path.parent.name))
    return pids - {os.getpid()}


def _is_resource_tracker(process: Path) -> bool:
    return b"multiprocessing.resource_tracker" in (process / "cmdline").read_bytes()


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
