"""Starts, watches, signals and cleans up runs of several real processes on this machine."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
# For a whole run on a machine that does other things too; what is measured has a limit of its own.
TIMEOUT_S = 500
_MARK = "ACCDISTILL_TEST_JOB"
# Nobody should ever read these; the stacks that a hang dumps have no such heading.
# JAX's own threads may notice a lost process 0 in the same instant, log it and begin to abort. Which status the process ends
# with, by our thread or by JAX's, is what the tests compare.
_UNEXPECTED = re.compile(
    r"Traceback|Exception ignored|\*\*\* Check failure|Fatal Python error|terminate called"
    r"|^[EF]\d{4} (?!.*(coordination_service_agent|preemption_sync_manager|JAX distributed service detected fatal errors))",
    re.MULTILINE,
)
_STACKS = "(most recent call first)"
_JAX_ABORTS = "JAX distributed service detected fatal errors"


class Topology(NamedTuple):
    """Number of processes, and of devices in each."""

    processes: int
    devices: int

    def __str__(self) -> str:
        return f"{self.processes}x{self.devices}"


class Job:
    """The processes of one run, each in a session of its own.

    Args:
        folder: for their logs.
        topology: how many, with how many devices.
        arguments: of all processes, after the coordinator's.
        own: further arguments by process.
        environment: further variables by process.
        program: what Python runs; the default is the command itself.
        cwd: where, by process; the default is the checkout.
        introduced: tell each process by flags who is who; otherwise it has to find out.
    """

    def __init__(
        self,
        folder: Path,
        topology: Topology,
        arguments: Sequence[str],
        *,
        own: Mapping[int, Sequence[str]] | None = None,
        environment: Mapping[int, Mapping[str, str]] | None = None,
        program: Sequence[str] = ("-m", "accdistill_jax.main"),
        cwd: Mapping[int, Path] | None = None,
        introduced: bool = True,
    ):
        folder.mkdir(parents=True)
        self.topology, self._folder = topology, folder
        together = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={topology.processes}"]
        self.processes: list[subprocess.Popen] = []
        for rank in range(topology.processes):
            command = [sys.executable, *program, *arguments, *(own or {}).get(rank, ())]
            if topology.processes > 1 and introduced:
                command += [*together, f"--process_id={rank}"]
            with (folder / f"{rank}.out").open("w") as out, (folder / f"{rank}.err").open("w") as err:
                self.processes.append(
                    subprocess.Popen(
                        command,
                        cwd=(cwd or {}).get(rank, REPOSITORY),
                        env=_environment(topology.devices) | {_MARK: str(folder), **(environment or {}).get(rank, {})},
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=err,
                        start_new_session=True,
                    )
                )

    def stdout(self, rank: int = 0) -> str:
        return (self._folder / f"{rank}.out").read_text()

    def said(self, rank: int = 0) -> list[str]:
        """The lines on standard output that are the program's, not gloo's."""
        return [line for line in self.stdout(rank).splitlines() if not line.startswith("[Gloo]")]

    def stderr(self, rank: int = 0) -> str:
        return (self._folder / f"{rank}.err").read_text()

    def logs(self) -> str:
        """Output of all processes, for the message of a failing test."""
        texts = []
        for rank, process in enumerate(self.processes):
            texts += [f"== process {rank}, status {process.poll()}", self.stdout(rank), self.stderr(rank)]
        return "\n".join(texts)

    def signal(self, rank: int, number: signal.Signals) -> None:
        """To one process alone."""
        self.processes[rank].send_signal(number)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for a condition while all processes run."""
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            assert all(process.poll() is None for process in self.processes), f"ended before: {what}\n{self.logs()}"
            assert time.monotonic() < end, f"never: {what}\n{self.logs()}"
            time.sleep(0.02)

    def wait(self, ranks: Sequence[int] | None = None, *, within_s: float = TIMEOUT_S) -> list[int]:
        """Exit statuses, in order of `ranks` (None: all), which must come within so many seconds from now."""
        ranks = range(len(self.processes)) if ranks is None else ranks
        end = time.monotonic() + within_s
        for rank in ranks:
            try:
                self.processes[rank].wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"process {rank} still runs after {within_s} s\n{self.logs()}") from None
        for rank in ranks:
            assert self.aborted_by_jax(rank) or not _UNEXPECTED.search(self.stderr(rank)), self.logs()
        return [self.processes[rank].returncode for rank in ranks]

    def finish(self) -> None:
        """All end with status 0."""
        assert set(self.wait()) == {0}, self.logs()

    def line(self, rank: int) -> str:
        """The one line with which a process ended, after checking that it is one."""
        lines = [line for line in self.stderr(rank).splitlines() if line.startswith(("error: ", "stopped by "))]
        assert len(lines) == 1 and self.stderr(rank).rstrip().endswith(lines[0]), self.logs()
        return lines[0]

    def aborted_by_jax(self, rank: int) -> bool:
        """True if JAX's runtime noticed the loss of process 0 before our thread did, and aborted the process."""
        return self.processes[rank].returncode == -signal.SIGABRT and _JAX_ABORTS in self.stderr(rank)

    def has_stacks(self, rank: int) -> bool:
        """True if a process has written the stacks of its threads."""
        return _STACKS in self.stderr(rank)

    def kill(self) -> list[int]:
        """Ends whatever is left and returns what of it was there besides the processes themselves: their children."""
        own = {process.pid for process in self.processes}
        left = [pid for pid in _marked(str(self._folder)) if pid not in own]
        for process in self.processes:
            process.kill()
            process.wait()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment(devices: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return kept | {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
        "PYTHONUNBUFFERED": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # many processes compile the same small programs
    }


def _marked(mark: str) -> list[int]:
    """Processes whose environment holds the mark. Session numbers would not do: the system reuses them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if f"{_MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
