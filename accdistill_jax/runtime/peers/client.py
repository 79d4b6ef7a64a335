"""The client of the control plane: a thread in each process that holds its connection to the hub. See `peers.Peers`.

The thread ends the process when another process was lost, because the main thread may wait in a collective for ever.
"""

import contextlib
import selectors
import socket
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from accdistill_jax.errors import ExitStatus
from accdistill_jax.runtime.interrupt import Interrupted
from accdistill_jax.runtime.peers.hub import CLOSED, beat_interval_s, silent
from accdistill_jax.runtime.peers.wire import Wire, close_in_forks
from accdistill_jax.runtime.watchdog import HangWatch, end_process

GRACE_S = 30.0
_STOPS = (ExitStatus.INTERRUPTED, ExitStatus.TERMINATED)
_CONTINUE = "this process stops. The last checkpoint is kept: start all processes again to continue."

Judge = Callable[[list], str | None]


class Client:
    """Connects a process with the hub.

    Args:
        wire: the connection.
        rank: number of this process.
        token: secret that the hub requires.
        silence_s: a hub that sends nothing for so many seconds is lost.
        watch: returns the present or last hang watch of this process, None if there was none.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        rank: int,
        token: str,
        silence_s: float,
        watch: Callable[[], HangWatch | None],
    ):
        self._thread = threading.Thread(target=self._run, name="peers-control", daemon=True)
        self.slack_elsewhere = False
        self._wire, self._rank, self._silence_s, self._watch = wire, rank, silence_s, watch
        self._awoken, self._waker = socket.socketpair()
        for end in (self._awoken, self._waker):
            end.setblocking(False)
            close_in_forks(end)
        self._changed = threading.Condition()  # guards the attributes below
        self._connected, self._joined, self._released = True, False, False
        self._leaving = self._closing = self._ending = False
        self._calls = 0
        self._results: dict[int, dict[str, Any]] = {}
        self._judge: Judge | None = None
        self._verdict: str | None = None  # error that all processes are about to report
        self._gone: set[int] = set()  # processes that left
        self._stop: tuple[str, ExitStatus] | None = None  # another process was stopped by a signal
        self._stop_handler: Callable[[str, int], None] | None = None
        self._grace_s = GRACE_S
        self._deadline: tuple[float, ExitStatus, str] | None = None  # time, status and line of this process's end
        wire.put({"kind": "hello", "rank": rank, "token": token})

    # Called by the main thread.

    def join_others(self) -> None:
        """Starts the thread and waits until all processes are connected."""
        self._thread.start()
        self._wait(lambda: self._joined)

    def gather(self, name: str, value: Any, judge: Judge | None) -> tuple[list, str | None]:
        """Values of all processes, and the verdict of `judge` on them; see `Peers.gather`."""
        self._calls += 1
        number, self._judge = self._calls, judge
        self._put({"kind": "gather", "number": number, "name": name, "value": value})
        self._wait(lambda: number in self._results or not self._connected)
        result = self._results.pop(number, None)
        if result is None:
            if self._stop:
                raise _interrupted(*self._stop)
            raise RuntimeError(f"{name}: the processes are no longer connected (call {number})")
        if "error" in result:
            if result["status"] in _STOPS:
                raise _interrupted(result["error"], result["status"])
            raise RuntimeError(result["error"])
        return result["values"], result["verdict"]

    def leave(self, status: int, reason: str, *, stacks: bool = False, wait_s: float = 5.0) -> None:
        """See `Peers.leave`; with `stacks` the others write their stacks before they end."""
        if self._leaving:
            return
        self._leaving = True
        self._put({"kind": "leave", "status": int(status), "reason": reason, "stacks": stacks})
        self._wait(lambda: self._released or not self._connected, wait_s)

    def leave_hung(self, reason: str) -> None:
        """As `leave`, for a caller that is about to end the process because its main thread hangs."""
        self._change(_ending=True)
        self.leave(ExitStatus.RELAUNCH, reason, stacks=True, wait_s=2.0)

    def explain(self, error: BaseException, wait_s: float) -> None:
        """See `Peers.explain`."""
        self._wait(lambda: self._stop or self._ending or self._leaving, wait_s)
        if self._ending:
            threading.Event().wait()  # until the process ends
        if self._stop:
            raise _interrupted(*self._stop) from error

    def set_stop_handler(self, fn: Callable[[str, int], None], grace_s: float) -> None:
        """See `Peers.set_stop_handler`."""
        self._stop_handler, self._grace_s = fn, grace_s

    def close(self) -> None:
        """See `Peers.close`."""
        self._closing = True
        self._wake()
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)

    def _wait(self, condition: Callable[[], Any], timeout_s: float | None = None) -> None:
        with self._changed:
            self._changed.wait_for(condition, timeout_s)

    def _put(self, message: dict[str, Any]) -> None:
        self._wire.put(message)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # closed, or full, and then the thread is awake
            self._waker.send(b"x")

    # Run by the control thread.

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._awoken, selectors.EVENT_READ)
                selector.register(self._wire.socket, selectors.EVENT_READ, self._wire)
                self._serve(selector)
            self._change(_connected=False)
            for end in (self._wire, self._awoken, self._waker):
                end.close()
        except BaseException:
            # Without this thread the others would count the process as silent.
            traceback.print_exc()
            line = f"error: the control thread of process {self._rank} failed; {_CONTINUE}"
            self._end(ExitStatus.RELAUNCH, line)

    def _serve(self, selector: selectors.BaseSelector) -> None:
        interval_s = beat_interval_s(self._silence_s)
        now = next_beat = time.monotonic()
        while not self._closing:
            ready = [key.data for key, _ in selector.select(max(0.0, next_beat - time.monotonic()))]
            last, now = now, time.monotonic()
            if now - last > self._silence_s and not self._leaving:
                late = f"error: process {self._rank} did not run for {now - last:.0f} s, the others gave it up"
                self._end(ExitStatus.RELAUNCH, f"{late}; {_CONTINUE}")
            with contextlib.suppress(BlockingIOError):
                self._awoken.recv(4096)
            if self._connected:
                self._converse(selector, readable=self._wire in ready, now=now, beat=now >= next_beat)
            if self._deadline and now > self._deadline[0] and not self._leaving:
                self._end(*self._deadline[1:])
            if now >= next_beat:
                next_beat = now + interval_s

    def _converse(self, selector: selectors.BaseSelector, *, readable: bool, now: float, beat: bool) -> None:
        try:
            messages = self._wire.read() if readable else []
        except OSError:
            selector.unregister(self._wire.socket)
            return self._disconnected(CLOSED)
        for message in messages:
            self._handle(message)
        if now - self._wire.heard > self._silence_s:
            selector.unregister(self._wire.socket)
            return self._disconnected(silent(now - self._wire.heard), stacks=True)
        if beat:
            watch = self._watch()
            self._wire.put({"kind": "beat", "slack": watch is not None and watch.slack})
        self._wire.flush()
        self._wire.select_on(selector)

    def _handle(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "beat":
            self.slack_elsewhere = message["slack"]
        elif kind == "refused":
            self._end(ExitStatus.USER_ERROR, f"error: {message['reason']}")
        elif kind == "welcome":
            self._change(_joined=True)
        elif kind == "done":
            self._change(_released=True)
        elif kind == "result":
            if "values" in message:
                # Before any news is read: another process may already leave because of the same verdict.
                self._verdict = message["verdict"] = self._judge(message["values"]) if self._judge else None
            with self._changed:
                self._results[message["number"]] = message
                self._changed.notify_all()
        elif kind == "news":
            self._wire.put({"kind": "seen", "id": message["id"]})
            self._wire.flush()
            if message["left"]:
                self._gone.add(message["rank"])
            if not (self._leaving or self._stop):
                self._hear(message)

    def _hear(self, news: dict[str, Any]) -> None:
        """Acts on news of another process."""
        rank, status, stacks = news["rank"], news["status"], news["stacks"]
        line = f"process {rank} stopped: {news['text']}"
        if not news["left"]:
            self._lost(rank, news["text"], stacks=stacks)
        elif status in _STOPS:
            self._change(_stop=(line, ExitStatus(status)))
            handler = self._stop_handler
            if handler is None:
                return self._end(status, line)
            late = f"{line}; this process has not stopped within {self._grace_s:g} s"
            self._deadline = time.monotonic() + self._grace_s, ExitStatus(status), late
            handler(line, status)
        elif self._verdict and self._verdict in news["text"]:
            # the main thread is about to report the same error
            self._deadline = time.monotonic() + GRACE_S, ExitStatus(status), f"error: {line}"
        elif status != ExitStatus.FINISHED:
            known = status == ExitStatus.USER_ERROR
            self._end(status if known else ExitStatus.RELAUNCH, f"error: {line}", stacks=stacks)

    def _disconnected(self, how: str, *, stacks: bool = False) -> None:
        if not (self._leaving or self._stop or 0 in self._gone):
            self._lost(0, how, stacks=stacks)
        self._change(_connected=False)

    def _lost(self, rank: int, how: str, *, stacks: bool) -> None:
        watch = self._watch()
        # this process's step, as all processes are at the same step
        at = "" if watch is None or watch.step is None else f" at step {watch.step}"
        line = f"error: process {rank} was lost ({how}){at}; {_CONTINUE}"
        self._end(ExitStatus.RELAUNCH, line, stacks=stacks)

    def _change(self, **attributes: Any) -> None:
        with self._changed:
            self.__dict__.update(attributes)
            self._changed.notify_all()

    def _end(self, status: int, line: str, *, stacks: bool = False) -> None:
        self._change(_ending=True)
        end_process(status, line, stacks=stacks)


def _interrupted(line: str, status: int) -> Interrupted:
    return Interrupted(line, status - 128)
