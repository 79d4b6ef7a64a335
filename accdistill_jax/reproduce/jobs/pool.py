"""The parent's side of a worker process: starting it, handing it a job, noticing its end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accdistill_jax.reproduce.jobs.schedule import Job
from accdistill_jax.reproduce.jobs.worker import LOG

_END_S = 10.0  # for an idle process to end


class Worker:
    """A process that does one job after another; started with its first, and anew after it died.

    Args:
        work: "package.module:function".
        environment: variables besides those of this process.

    Attributes:
        job: under way; None while idle.
        began: when it was handed over, as the caller's clock said.
    """

    def __init__(self, work: str, environment: Mapping[str, str]):
        self._work, self._environment = work, dict(environment)
        self._process: subprocess.Popen | None = None
        self._replies = -1
        self._received = b""
        self.job: Job | None = None
        self.began = 0.0

    def begin(self, job: Job, folder: Path, needs: Mapping[str, Path], *, now: float) -> None:
        """Hands a job over.

        Raises:
            OSError: no process can be started, or the job's folder not made.
        """
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start(folder)
        self.job, self.began = job, now
        paths = {name: str(path) for name, path in needs.items()}
        self._send({"name": job.name, "key": job.key, "order": job.order, "folder": str(folder), "needs": paths})

    def stop(self, number: int) -> None:
        """Asks the job under way to stop as the signal `number` would; does not wait."""
        self._send({"stop": number})

    def fileno(self) -> int:
        """File descriptor that becomes readable when there is a reply; -1 without a process."""
        return self._replies

    def reply(self) -> dict[str, Any] | None:
        """Outcome of the job, None while it goes on; takes the job off this worker. Does not block.

        A process that died is replied for: "status" is "died" and "reason" says of what.
        """
        while self._receive():
            pass
        line, newline, _ = self._received.partition(b"\n")
        if newline:
            answer = json.loads(line)
            self.job, self._received = None, b""
            if answer["status"] != "finished":  # the next job finds nothing left over
                self.close()
            return answer
        if self._process.poll() is None:
            return None
        status, self.job = self._process.returncode, None
        self.close()
        return {"status": "died", "reason": _cause_of_death(status)}

    def close(self) -> None:
        """Ends the process: at once where a job is under way."""
        if self._process is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._replies)
        self._process, self._replies, self._received, self.job = None, -1, b"", None

    def _start(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._replies, theirs = os.pipe()
        os.set_blocking(self._replies, False)
        try:
            with (folder / LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "accdistill_jax.reproduce.jobs.worker", self._work, str(theirs)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=os.environ | self._environment,
                    pass_fds=(theirs,),
                    process_group=0,  # a Ctrl-C in the terminal is for the parent alone, which passes it on
                )
        except BaseException:
            os.close(self._replies)
            self._replies = -1
            raise
        finally:
            os.close(theirs)

    def _send(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died, which `reply` tells
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _receive(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            if data := os.read(self._replies, 1 << 16):
                self._received += data
                return True
            with contextlib.suppress(subprocess.TimeoutExpired):  # it is ending
                self._process.wait(_END_S)
        return False


def _cause_of_death(status: int) -> str:
    if status >= 0:
        return f"its process ended with status {status}; see {LOG}"
    name = signal.Signals(-status).name
    hint = " (killed, or out of memory)" if -status == signal.SIGKILL else ""
    return f"its process died of {name}{hint}; see {LOG}"
