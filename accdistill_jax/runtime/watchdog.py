"""Notices a stuck main thread, and ends a process whose main thread may be stuck."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from accdistill_jax.runtime import child

_ENDING = threading.Lock()  # the first thread that ends the process takes it and keeps it
_TELL_S = 5.0  # for the last line and the flush: a full pipe without a reader must not keep the process alive


def end_process(status: int, line: str, *, stacks: bool = False) -> None:
    """Ends this process from any thread, without the clean-up of `sys.exit`; does not return.

    Args:
        status: see `errors.ExitStatus`.
        line: the last line on standard error.
        stacks: True writes the stacks of all threads before the line.
    """

    def tell() -> None:
        with contextlib.suppress(OSError, ValueError):  # a closed stream
            sys.stdout.flush()
            sys.stderr.flush()
        if stacks:
            faulthandler.dump_traceback(file=2, all_threads=True)
        with contextlib.suppress(OSError):
            shown = os.dup(2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries log in their own threads until the end
            os.write(shown, f"{line}\n".encode(errors="backslashreplace"))

    _ENDING.acquire()
    try:
        child.kill_all()  # an orderly exit would have ended them
        # in a separate thread: another thread may hold a stream's lock while it waits for a full pipe
        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        teller.join(_TELL_S)
    finally:
        os._exit(int(status))


class HangWatch:
    """Context that calls `hung` if the work inside stops calling `beat`.

    The first beat (after compilation) and `pause()` get ten times the deadline. Time in which the whole process was stopped, by
    Ctrl-Z for example, does not count.

    Args:
        what: name of the work, for the message: "training".
        within_s: longest time between two beats, in seconds.
        hung: called once, in the watching thread, with a line that says where progress ended.
        slack_elsewhere: returns True while another process, for which this one may have to wait, has ten times the deadline.
        in_steps: False for work without steps: it never beats, and may take `SLACK` times `within_s` in all.
    """

    SLACK = 10.0

    def __init__(
        self,
        what: str,
        *,
        within_s: float,
        hung: Callable[[str], None],
        slack_elsewhere: Callable[[], bool],
        in_steps: bool = True,
    ):
        self.step: int | None = None
        self._what, self._within_s, self._in_steps = what, within_s, in_steps
        self._hung, self._slack_elsewhere = hung, slack_elsewhere
        self._beats = self._pauses = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang-watch", daemon=True)

    def __enter__(self) -> "HangWatch":
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._over.set()
        self._thread.join()

    @property
    def slack(self) -> bool:
        """True while this process gets ten times the deadline: before its first beat and in a pause."""
        return not self._over.is_set() and (self._beats == 0 or self._pauses > 0)

    def beat(self, step: int) -> None:
        """Reports that `step` is done."""
        self.step = step
        self._beats += 1

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Context for long work between two beats, such as a validation or a save; gets ten times the deadline on all processes."""
        self._pauses += 1
        try:
            yield
        finally:
            self._beats += self._beats > 0  # restarts the deadline, except before the first step
            self._pauses -= 1

    def _watch(self) -> None:
        tick_s = min(1.0, self._within_s / 10)
        seen, waited_s, last = 0, 0.0, time.monotonic()
        while not self._over.wait(tick_s):
            now = time.monotonic()
            elapsed_s, last = min(now - last, 2 * tick_s), now
            slack = self.slack or self._slack_elsewhere()
            waited_s += elapsed_s / self.SLACK if slack else elapsed_s
            if seen != self._beats:
                seen, waited_s = self._beats, 0.0
            if waited_s > self._within_s:
                where = " before its first step" if self.step is None else f" after step {self.step}"
                factor = f"{self.SLACK:g} x " if slack else ""
                where = where if self._in_steps else ""
                self._hung(f"hung in {self._what}{where}: nothing done within {factor}{self._within_s:g} s")
                return
