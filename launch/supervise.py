"""Runs the processes of a job on this machine: passes on signals and output; no process outlives the launcher."""

import ctypes
import os
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

_POLL_S = 0.1
_LONGEST_LINE = 65536
_PR_SET_PDEATHSIG = 1
_EXEC_FAILED = 126


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process of the job: its arguments and the variables that are added to the launcher's environment."""

    argv: tuple[str, ...]
    environment: dict[str, str]

    def shell(self) -> str:
        """The process as a shell command line."""
        settings = [f"{key}={shlex.quote(value)}" for key, value in self.environment.items()]
        return " ".join([*settings, shlex.join(self.argv)])


def supervise(
    processes: Sequence[Process], *, grace_s: float, signals: "Signals", say: Callable[[str], None]
) -> list[int]:
    """Runs the processes to their end.

    Args:
        processes: processes to start.
        grace_s: time that the others get after one has failed, in seconds; then they are killed.
        signals: received signals; the first is passed on, the second kills.
        say: prints messages of the launcher.

    Returns:
        Exit status of each process; negative: number of the signal that killed it.
    """
    output = Output(prefixed=len(processes) > 1)
    children: list[subprocess.Popen] = []
    statuses: dict[int, int] = {}
    deadline, passed_on, killed = None, 0, False
    try:
        for k, process in enumerate(processes):
            children.append(_start(process, output.pipes(k)))
            output.add(k, children[k])
        while len(statuses) < len(children):
            output.pump(_POLL_S)
            for k, child in enumerate(children):
                if k not in statuses and child.poll() is not None:
                    statuses[k] = child.returncode
                    _kill(child)  # processes that remain in its group
                    if child.returncode != 0 and deadline is None:
                        deadline = time.monotonic() + grace_s
            for number in signals.received[passed_on : passed_on + 1]:
                passed_on += 1
                for child in _running(children, statuses):
                    if passed_on == 1:
                        child.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
                    else:
                        _kill(child)
            if deadline is not None and time.monotonic() > deadline and not killed:
                killed = True
                for child in _running(children, statuses):
                    say(
                        f"[{children.index(child)}] did not end within {grace_s:g} s after another process failed: killed"
                    )
                    _kill(child)
    finally:
        for child in _running(children, statuses):
            _kill(child)
            child.wait()
        output.close()
    return [statuses[k] for k in range(len(children))]


class Signals:
    """Context that records SIGINT, SIGTERM and SIGHUP."""

    def __init__(self) -> None:
        self.received: list[int] = []

    def __enter__(self) -> "Signals":
        caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self, seconds: float) -> bool:
        """Waits until a signal arrives (True) or the time is over (False)."""
        end = time.monotonic() + seconds
        while not self.received and time.monotonic() < end:
            time.sleep(_POLL_S)
        return bool(self.received)

    def _note(self, number: int, _: object) -> None:
        self.received.append(number)


class Output:
    """Passes on the output of the processes, line by line, with the number of the process in front."""

    def __init__(self, *, prefixed: bool) -> None:
        self._prefixed = prefixed
        self._selector = selectors.DefaultSelector()
        self._rest: dict[int, bytes] = {}

    def pipes(self, k: int) -> dict[str, int | None]:
        """Streams of process k: pipes, or the launcher's own streams if no prefix is needed."""
        plain = not self._prefixed or (k == 0 and sys.stdout.isatty())
        to = None if plain else subprocess.PIPE
        return {"stdout": to, "stderr": to}

    def add(self, k: int, child: subprocess.Popen) -> None:
        for stream, to in ((child.stdout, sys.stdout), (child.stderr, sys.stderr)):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                self._selector.register(stream, selectors.EVENT_READ, (f"[{k}] ".encode(), to))

    def pump(self, timeout_s: float) -> None:
        """Passes on new output; waits at most `timeout_s` seconds for it."""
        if not self._selector.get_map():
            time.sleep(timeout_s)
            return
        for key, _ in self._selector.select(timeout_s):
            self._read(key)

    def close(self) -> None:
        """Passes on the remaining output; does not wait for the end of a pipe, which a grandchild may hold open."""
        for key in list(self._selector.get_map().values()):
            while self._read(key):
                pass
        for key in list(self._selector.get_map().values()):
            self._finish(key)
        self._selector.close()

    def _read(self, key: selectors.SelectorKey) -> bool:
        try:
            data = os.read(key.fd, _LONGEST_LINE)
        except BlockingIOError:
            return False
        if not data:
            self._finish(key)
            return False
        *lines, rest = (self._rest.pop(key.fd, b"") + data).split(b"\n")
        if len(rest) >= _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._rest[key.fd] = rest
        self._write(key, lines)
        return True

    def _finish(self, key: selectors.SelectorKey) -> None:
        rest = self._rest.pop(key.fd, b"")
        self._write(key, [rest] if rest else [])
        self._selector.unregister(key.fileobj)
        key.fileobj.close()

    def _write(self, key: selectors.SelectorKey, lines: Sequence[bytes]) -> None:
        prefix, to = key.data
        try:
            to.buffer.write(b"".join(prefix + line + b"\n" for line in lines))
            to.flush()
        except OSError:
            pass  # the reader has gone (`| head`); the run goes on without output


def _start(process: Process, pipes: dict[str, int | None]) -> subprocess.Popen:
    return subprocess.Popen(
        process.argv,
        env={**os.environ, **process.environment},
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=partial(_die_with, os.getpid()) if sys.platform == "linux" else None,
        **pipes,
    )


def _die_with(launcher: int) -> None:
    """Runs in the child: asks the kernel to kill it when the launcher ends, even by a kill."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        os._exit(_EXEC_FAILED)


def _kill(child: subprocess.Popen) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # the group is empty


def _running(children: Sequence[subprocess.Popen], statuses: dict[int, int]) -> list[subprocess.Popen]:
    return [child for k, child in enumerate(children) if k not in statuses]
