"""Runs cases and judges them."""

import concurrent.futures
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bad_inputs.case import Case, Outcome, command, contents, wrong

TIME_LIMIT_S = 120.0
MEMORY_BYTES = 12 * 2**30
OWN_PROCESS_EVERY = 10  # every tenth case runs in a separate interpreter
REPOSITORY = Path(__file__).resolve().parents[2]


class Result(NamedTuple):
    """A case, the fault of its outcome (None if it is right), and the outcome."""

    case: Case
    wrong: str | None
    outcome: Outcome


class _Server:
    """A tests.bad_inputs.server, started before the tests: a server that a test starts would end with that test."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bad_inputs.server"],
            cwd=REPOSITORY,
            env=_environment(),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def run(self, module: str, arguments: Sequence[str], out: Path, error: Path) -> int | None:
        request = {
            "module": module,
            "arguments": arguments,
            "out": str(out),
            "error": str(error),
            "memory_bytes": MEMORY_BYTES,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        child = json.loads(self._process.stdout.readline())["pid"]
        killed = threading.Event()

        def kill() -> None:
            killed.set()
            _kill_group(child)

        timer = threading.Timer(TIME_LIMIT_S, kill)
        timer.start()
        status = json.loads(self._process.stdout.readline())["status"]
        timer.cancel()
        return None if killed.is_set() else status

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _environment() -> dict[str, str]:
    """Environment with four fake devices, in which programs are compiled once for all cases."""
    cache = Path(tempfile.gettempdir()) / f"accdistill_jax-tests-{os.getuid()}"
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        **os.environ,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
    }


def _kill_group(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def _run_alone(module: str, arguments: Sequence[str], out: Path, error: Path) -> int | None:
    with out.open("w") as out_file, error.open("w") as error_file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=REPOSITORY,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=out_file,
            stderr=error_file,
            start_new_session=True,
        )
        try:
            return process.wait(TIME_LIMIT_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _kill_group(process.pid)
            process.wait()


def run_program(module: str, arguments: Sequence[str]) -> None:
    """Runs a program that must succeed.

    Raises:
        RuntimeError: it does not; with what it printed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)}: exit status {done.returncode}\n{done.stderr}")


class Runner:
    """Runs cases, several at a time; a context manager that ends what it started.

    Args:
        jobs: programs at a time.
    """

    def __init__(self, jobs: int = 1):
        self._pool = concurrent.futures.ThreadPoolExecutor(jobs)
        self._jobs = jobs
        self._servers: list[_Server] = []

    def __enter__(self) -> "Runner":
        self._servers = [_Server() for _ in range(self._jobs)]
        self._free = list(self._servers)
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for server in self._servers:
            server.close()

    def run(self, cases: Sequence[Case], scratch: Path, *, bases: Path) -> Iterator[Result]:
        """Runs cases and yields their results in the order of completion.

        Args:
            cases: what to run.
            scratch: folder for what they make; each case's own folder is removed when it is judged.
            bases: folder that no case may change.

        Raises:
            AssertionError: a case has changed something in `bases`.
        """
        before = contents(bases)

        def judge(number: int, case: Case) -> Result:
            server = self._free.pop()
            try:
                return _judge(case, scratch / f"case-{number}", server if number % OWN_PROCESS_EVERY else None)
            finally:
                self._free.append(server)

        pending = [self._pool.submit(judge, number, case) for number, case in enumerate(cases)]
        for done in concurrent.futures.as_completed(pending):
            yield done.result()
        changed = {name for name, _ in contents(bases).items() ^ before.items()}
        assert not changed, f"a case has changed {sorted(changed)}"


def _judge(case: Case, folder: Path, server: _Server | None) -> Result:
    case_folder = folder / "own"
    case_folder.mkdir(parents=True)
    case.build(case_folder)
    before = contents(case_folder)
    out, error = folder / "out", folder / "error"
    run = _run_alone if server is None else server.run
    status = run(case.module, command(case, case_folder), out, error)
    if status is None and server is not None:
        # a fork of a process with threads can hang at its end, which is no fault of the program
        shutil.rmtree(folder)
        return _judge(case, folder, None)
    outcome = Outcome(status, out.read_text(errors="replace"), error.read_text(errors="replace"))
    result = Result(case, wrong(case, case_folder, before, outcome), outcome)
    shutil.rmtree(folder)
    return result
