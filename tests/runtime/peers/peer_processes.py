"""Starts real processes that are peers (without jax, so that they start at once), and tells how they end."""

import contextlib
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

# Bounds are for a machine that is busy with other things; what must not be taken for something else lies well beyond them.
SILENCE_S = 60.0  # none is noticed within it but where a test is about silence
SHORT_SILENCE_S = 3.0
NOTICED_S = 20.0  # from a closed connection to the exit of the others; moments by itself
ALARM_S = 120  # ends a process that a failing test would leave behind
RELAUNCH = "start all processes again to continue."


PROGRAM = """
import os, signal, socket, subprocess, sys, threading, time
from pathlib import Path
from accdistill_jax.errors import UserError
from accdistill_jax.runtime.interrupt import Interrupted
from accdistill_jax.runtime.peers.peers import Peers, Timeouts

class Folder:
    def __init__(self, path):
        self.path = Path(path)
    def set(self, key, value):
        written = self.path / "writing"
        written.write_text(value)
        written.rename(self.path / key)
    def get(self, key, timeout_s):
        end = time.monotonic() + timeout_s
        while not (self.path / key).exists():
            if time.monotonic() > end:
                raise TimeoutError(key)
            time.sleep(0.01)
        return (self.path / key).read_text()

def say(*words):
    print(*words, flush=True)

rank, count, folder, silence_s = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
signal.alarm({alarm_s})
exchange = Folder(folder)
{before}
peers = Peers.connect(
    rank=rank, count=count, exchange=exchange, host="127.0.0.1", timeouts=Timeouts(silence_s=silence_s, start_s=20.0)
)
def wait_for_go():
    while not (Path(folder) / "go").exists():
        time.sleep(0.01)
def stuck():
    say("ready")
    threading.Event().wait()
{body}
"""


class Processes:
    """Starts the processes of one run; `body` follows the connection, `before` precedes it."""

    def __init__(self, folder: Path, repository: Path):
        self.folder, self._repository = folder, repository
        self.all: list[subprocess.Popen] = []

    def start(self, count: int, body: str, *, before: str = "", ranks=None, silence_s: float = SILENCE_S):
        program = PROGRAM.format(alarm_s=ALARM_S, before=textwrap.dedent(before), body=textwrap.dedent(body))
        for rank in range(count) if ranks is None else ranks:
            arguments = [str(rank), str(count), str(self.folder), str(silence_s)]
            self.all.append(
                subprocess.Popen(
                    [sys.executable, "-c", program, *arguments],
                    cwd=self._repository,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,  # `expect` would keep what it has read beyond its line from `ended`
                )
            )
        return self.all

    def expect(self, word: str) -> None:
        """Waits until every process has said so."""
        for process in self.all:
            line = process.stdout.readline()
            if line != f"{word}\n".encode():
                process.kill()
                pytest.fail(f"{line!r} instead of {word!r}: {process.communicate()}")

    def go(self) -> None:
        """Lets those continue that wait for it."""
        (self.folder / "go").touch()

    def stop(self) -> None:
        self.go()
        for process in self.all:
            for number in (signal.SIGKILL, signal.SIGCONT):
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)
            process.communicate()


def ended(process: subprocess.Popen, within_s: float, since: float) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a process that ends within a time limit."""
    out, error = (stream.decode() for stream in process.communicate(timeout=ALARM_S))
    assert time.monotonic() - since < within_s, (process.returncode, error)
    return process.returncode, out, error


def run(processes: Processes, count: int, body: str, **options) -> list[tuple[int, str, str]]:
    processes.start(count, body, **options)
    return [ended(process, ALARM_S, time.monotonic()) for process in processes.all]


FINISH = """
peers.leave(0, "finished")
peers.close()
"""


LEAVING = """
def work():
    {work}
try:
    work()
    status, reason = 0, "finished"
except UserError as error:
    status, reason = 2, str(error)
    print(f"error: {{error}}", file=sys.stderr, flush=True)
except Interrupted as error:
    status, reason = 128 + error.signal_number, str(error)
    print(error, file=sys.stderr, flush=True)
peers.leave(status, reason)
peers.close()
sys.exit(status)
"""


STUCK = """
with peers.progress("training", within_s=60) as watch:
    watch.beat(41)
    stuck()
"""
