"""Child processes that do one piece of work after another, and the protocol between them and their parent.

A child runs a module of Python as `python -m` would. Its standard input is one end of a pair of connected sockets, over which both
sides send lines of JSON:

- parent to child: `{"message": VALUE}` is work, which the child answers with exactly one line; `{"stop": SIGNAL}` asks it to stop
  the work under way as that signal would.
- child to parent: `{"result": VALUE}` is an answer; `{"error": {...}}` is the exception that the work raised, with its traceback.

When the parent's lines end, an idle child ends in order and a busy one at once: no child outlives its parent. A child has a process
group of its own, so that a Ctrl-C in the terminal reaches the parent alone.
"""

import base64
import contextlib
import json
import os
import pickle
import queue
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from accdistill_jax.runtime import interrupt

END_S = 10.0  # for an idle child to end
_TICK_S = 1.0  # between two looks at whether a child still lives: a process that it started may keep its socket open
_FIRST_LOOK_S, _LAST_LOOK_S = 0.0005, 0.05  # pauses between looks at a process that is about to end
_CHUNK_BYTES = 1 << 16
_PACKAGE_FOLDER = str(Path(__file__).resolve().parents[2])
_BOOTSTRAP = (
    "import runpy, sys; sys.path += [path for path in {path!r} if path not in sys.path]; "
    "runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


class ChildDied(Exception):
    """A child process ended without an answer; the message is the cause, such as "SIGKILL: out of memory, or killed"."""


class ChildError(Exception):
    """The work of a child raised an exception; the message is its type and the first line of its text.

    Attributes:
        trace: the traceback in the child.
    """

    def __init__(self, line: str, trace: str, pickled: str | None):
        super().__init__(line)
        self.trace = trace
        self._pickled = pickled

    def original(self) -> Exception:
        """The exception itself, with the child's traceback as a note; a RuntimeError if it cannot be rebuilt here."""
        error: Exception = RuntimeError(str(self))
        if self._pickled is not None:
            with contextlib.suppress(Exception):  # its class cannot be imported in this process
                error = unpack(self._pickled)
        error.add_note(f"in another process:\n{self.trace}")
        return error


class Child:
    """The parent's side of a child process.

    Args:
        module: module to run; it calls `work_for_parent`.
        environment: variables to set besides those of this process.
        output: file for the child's standard output and standard error; None: those of this process.
        python: executable of another environment's Python; it gets this package from here and all others from its own environment.
            Empty: this process's Python.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(
        self, module: str, *, environment: Mapping[str, str] | None = None, output: IO | None = None, python: str = ""
    ):
        code = _BOOTSTRAP.format(path=[_PACKAGE_FOLDER] if python else sys.path, module=module)
        with interrupt.hold():  # a half-started child could not be ended
            self._socket, theirs = socket.socketpair()
            self._received = b""
            try:
                with theirs:
                    self._process: subprocess.Popen[bytes] = subprocess.Popen(
                        [python or sys.executable, "-c", code],
                        stdin=theirs.fileno(),
                        stdout=output,
                        stderr=output,
                        env=os.environ | dict(environment or {}),
                        process_group=0,
                    )
            except BaseException:
                self._socket.close()
                raise
            _children.add(self)

    @property
    def is_alive(self) -> bool:
        """True until the process has ended."""
        # Popen.poll takes a lock; an exception of a signal handler between that and its `try` would leave the lock taken for good
        with interrupt.hold():
            return self._process.poll() is None

    @property
    def has_news(self) -> bool:
        """True if `receive` would not wait."""
        return b"\n" in self._received or not self.is_alive

    def fileno(self) -> int:
        """File descriptor that becomes readable when the child answers or ends."""
        return self._socket.fileno()

    def send(self, message: Any) -> bool:
        """Hands over a piece of work (a JSON value) without waiting for the answer; False if the child has ended."""
        return self._send({"message": message})

    def stop(self, number: int) -> None:
        """Asks the work under way to stop as the signal `number` would; does not wait."""
        self._send({"stop": number})

    def receive(self, timeout_s: float | None = None) -> Any:
        """Waits for the answer to the next message.

        Args:
            timeout_s: longest wait, in seconds; 0 does not wait, None waits without end.

        Raises:
            TimeoutError: no answer within the timeout.
            ChildDied: the process ended without an answer.
            ChildError: the work raised an exception.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self._received:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not wait_for_any([self], left_s):
                raise TimeoutError(f"no answer within {timeout_s:g} s")
            try:
                data = self._socket.recv(_CHUNK_BYTES, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionResetError):
                data = b""
            if not data:
                self._wait(END_S)
                raise ChildDied(cause_of_death(self._process.returncode))
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise ChildError(**answer["error"])
        return answer["result"]

    def finish(self) -> None:
        """Tells the child that no message follows; it ends in order, or at once if it still works."""
        with contextlib.suppress(OSError):  # it has ended, or was told before
            self._socket.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """Ends the process at once; does not wait."""
        with interrupt.hold():  # as in `is_alive`
            self._process.kill()

    def close(self, *, patience_s: float = END_S) -> None:
        """Finishes the child, waits for its end, and kills it after `patience_s`. May be called again."""
        self.finish()
        self._wait(patience_s)
        self._socket.close()

    def _send(self, line: Mapping[str, Any]) -> bool:
        try:
            self._socket.sendall(json.dumps(line).encode() + b"\n")
        except OSError:  # the child has ended, or was closed
            return False
        return True

    def _wait(self, patience_s: float) -> None:
        deadline, pause_s = time.monotonic() + patience_s, _FIRST_LOOK_S
        while self.is_alive:
            if time.monotonic() >= deadline:
                self.kill()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_LOOK_S)


_children: weakref.WeakSet[Child] = weakref.WeakSet()


def kill_all() -> None:
    """Kills all children of this process; for a process that ends without cleaning up."""
    for child in list(_children):
        child.kill()


def wait_for_any(children: Sequence[Child], timeout_s: float | None = None) -> list[Child]:
    """Waits until children have answered or ended, and returns those; none after the timeout (seconds; None: no timeout)."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        for child in children:
            selector.register(child, selectors.EVENT_READ, child)
        wait_s = 0.0
        while True:
            readable = [key.data for key, _ in selector.select(wait_s)]
            ready = [child for child in children if child in readable or child.has_news]
            left_s = _TICK_S if deadline is None else deadline - time.monotonic()
            if ready or left_s <= 0:
                return ready
            wait_s = min(_TICK_S, left_s)


def cause_of_death(status: int) -> str:
    """The exit status of a process in words; negative: the signal that ended it."""
    if status >= 0:
        return f"exit status {status}"
    if status == -signal.SIGKILL:
        return "SIGKILL: out of memory, or killed"
    return signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"


class Parent:
    """The child's side. A thread reads the parent's lines, so that a stop and the parent's end are noticed during work too.

    Attributes:
        stop: signal that the parent asked to stop with; None as long as it has not.
    """

    def __init__(self):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what a Ctrl-C means
        try:
            self._socket = socket.socket(fileno=os.dup(0))
        except OSError as problem:
            raise SystemExit(
                "error: another command of accdistill_jax starts this module; it is of no use alone"
            ) from problem
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)  # else a process that the work starts could read the parent's lines
        os.close(null)
        self.stop: int | None = None
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._busy = threading.Event()
        self._busy.set()  # until the first answer
        threading.Thread(target=self._read, name="parent", daemon=True).start()

    def receive(self) -> Any:
        """Waits for the next message; None when there will be none."""
        return self._messages.get()

    def reply(self, result: Any) -> None:
        """Answers a message with a JSON value."""
        self._send({"result": result})

    def fail(self, error: BaseException) -> None:
        """Answers a message with an exception."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        line = ": ".join([type(error).__name__, *lines[:1]])
        trace = "".join(traceback.format_exception(error))
        self._send({"error": {"line": line, "trace": trace, "pickled": _pickled(error)}})

    def _send(self, line: Mapping[str, Any]) -> None:
        self._busy.clear()  # before the parent can send another message
        try:
            self._socket.sendall(json.dumps(line).encode() + b"\n")
        except ConnectionError:  # the parent is gone
            os._exit(1)

    def _read(self) -> None:
        with contextlib.suppress(ConnectionError), self._socket.makefile("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):  # the parent was killed while it wrote
                    break
                message = json.loads(line)
                if "stop" in message:
                    self.stop = message["stop"]
                    interrupt.request(self.stop)
                else:
                    self._busy.set()
                    self._messages.put(message["message"])
        if self._busy.is_set():
            os._exit(1)
        self._messages.put(None)


def work_for_parent(work: Callable[[Parent], None]) -> None:
    """Runs the child's work; reports an exception that it raises to the parent before raising it."""
    parent = Parent()
    try:
        work(parent)
    except Exception as error:
        parent.fail(error)
        raise


def pack(value: Any) -> str:
    """Any picklable value as a text that a message can hold."""
    return base64.b64encode(pickle.dumps(value)).decode()


def unpack(text: str) -> Any:
    """The value that `pack` made into a text."""
    return pickle.loads(base64.b64decode(text))


def _pickled(error: BaseException) -> str | None:
    """The exception as a text, or None if it does not survive the journey to another process."""
    try:
        packed = pack(error)
        return packed if unpack(packed).args == error.args else None
    except Exception:
        return None
