"""Starts, finds and signals the processes of one start of a run."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS = 32
UNITS = 12
OVERRIDES = (
    f"--config.data.synthetic.participants={UNITS}",
    "--config.data.synthetic.segments_per_participant=6",
    f"--config.teacher.train.duration={STEPS} steps",
    f"--config.student.train.duration={STEPS} steps",
    "--config.teacher.train.checkpoint_every=3 steps",
    "--config.student.train.checkpoint_every=4 steps",
    "--config.teacher.train.validate_every=5 steps",
    "--config.student.train.validate_every=5 steps",
    "--config.student.train.keep=best",
    "--config.student.train.ema_decay=0.9",
    "--config.teacher.train.batch_size=8",
    "--config.student.train.batch_size=8",
)
LAUNCHER = -1  # stands for launch/local where processes are numbered
MARKER = "ACCDISTILL_CHAOS"


class Job:
    """The processes of one start of the command, marked by an environment variable.

    Args:
        workdir: of the run; logs go beside it.
        processes, devices: how many processes, and devices of each.
        peer_timeout_s: config.runtime.peer_timeout_s.
        launched: start them by launch/local instead of one by one.
        number: of this start, for the names of the logs.
        cache: folder of compiled programs.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        processes: int,
        devices: int,
        peer_timeout_s: float,
        launched: bool,
        number: int,
        cache: Path,
    ):
        self.count, self.launched = processes, launched
        self.mark = uuid.uuid4().hex
        command = [
            "--config=configs/distill.py:smoke",
            f"--workdir={workdir}",
            *OVERRIDES,
            f"--config.runtime.peer_timeout_s={peer_timeout_s}",
        ]
        environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
        environment |= {MARKER: self.mark, "PYTHONUNBUFFERED": "1", "JAX_COMPILATION_CACHE_DIR": str(cache)}
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "MPLBACKEND": "agg"}
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        main = [sys.executable, "-m", "accdistill_jax.main", *command]
        if launched:
            options = ["--processes", str(processes), "--devices", str(devices), "--retries", "0"]
            commands = [[sys.executable, "launch/local", *options, "--", *command]]
        elif processes == 1:
            commands = [main]
        else:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                address = f"127.0.0.1:{probe.getsockname()[1]}"
            environment["JAX_COORDINATOR_BIND_ADDRESS"] = address
            together = [f"--coordinator={address}", f"--num_processes={processes}"]
            commands = [[*main, *together, f"--process_id={k}"] for k in range(processes)]
        self.logs = [workdir.with_name(f"{workdir.name}.{number:03}.{k}.log") for k in range(len(commands))]
        self.children, self.ended_at = [], {}
        for line, path in zip(commands, self.logs, strict=True):
            with path.open("w") as log:
                self.children.append(
                    subprocess.Popen(
                        line,
                        cwd=REPOSITORY,
                        env=environment,
                        stdout=log,
                        stderr=log,
                        stdin=subprocess.DEVNULL,
                        start_new_session=True,
                    )
                )

    def poll(self) -> bool:
        """True if one of the started processes is still there; notes when each has ended."""
        for k, child in enumerate(self.children):
            if k not in self.ended_at and child.poll() is not None:
                self.ended_at[k] = time.monotonic()
        return len(self.ended_at) < len(self.children)

    def wait(self, within_s: float, over: Callable[[], bool] = lambda: False) -> bool:
        """Waits until all have ended or `over` holds; False where that took longer than `within_s`."""
        end = time.monotonic() + within_s
        while self.poll() and not over():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def pid(self, target: int) -> int | None:
        """Process id of a process of the run, or of the launcher; None where it has ended."""
        if not self.launched or target == LAUNCHER:
            child = self.children[max(target, 0)]
            return child.pid if child.poll() is None else None
        pids = [pid for pid, command in marked(self.mark).items() if f"--process_id={target}" in command]
        return min(pids, default=None)

    @property
    def statuses(self) -> list[int | None]:
        return [child.returncode for child in self.children]

    @property
    def log(self) -> str:
        """Output of process 0; with the launcher, of all processes."""
        return self.logs[0].read_text(errors="replace")

    def kill(self) -> None:
        for pid in marked(self.mark):
            send(pid, signal.SIGKILL)
        for child in self.children:
            child.wait()


def marked(mark: str) -> dict[int, list[str]]:
    """Process id -> command line of the processes whose environment holds the mark."""
    commands = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARKER}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                commands[int(folder.name)] = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue  # gone meanwhile, or another user's
    return commands


def send(pid: int, number: int) -> bool:
    """Sends a signal; False where nobody is there any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def load() -> float:
    """Factor by which this machine may be slower now than without other load."""
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
