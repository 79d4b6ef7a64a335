"""Runs a graph of named jobs in worker processes; finished jobs are not repeated.

<folder>/runs/<name>-<key>/   files of the work function, and
    finished.json             marks the job as finished; written last and atomically
    log.txt, error.txt        the job's output; the traceback of its last failure
"""

import contextlib
import json
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

from accdistill_jax.errors import UserError
from accdistill_jax.reproduce.jobs.pool import JobWorker
from accdistill_jax.reproduce.jobs.progress import JobsLine, JobsState
from accdistill_jax.reproduce.jobs.schedule import Job, Schedule
from accdistill_jax.reproduce.jobs.worker import FINISHED
from accdistill_jax.runtime.interrupt import Interruption
from accdistill_jax.runtime.progress import format_seconds
from accdistill_jax.storage.sole_use import sole_use

__all__ = ["Job", "JobOutcome", "finished_seconds", "job_folder", "run_jobs"]

_TICK_S = 1.0  # between updates of the live line


class JobOutcome(NamedTuple):
    """Outcome of a job.

    Attributes:
        status: "cached" if an earlier start finished it; "skipped" if it needs a job that failed.
        seconds: duration in the start that finished it, or until it failed; 0 if it did not begin.
        reason: of a failure or skip, in one line.
        folder: of the job.
    """

    status: Literal["finished", "cached", "failed", "skipped"]
    seconds: float
    reason: str
    folder: Path


def job_folder(folder: Path, job: Job) -> Path:
    """The folder of a job's files."""
    return folder / "runs" / f"{job.name}-{job.key[:12]}"


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    *,
    work: str,
    environments: Sequence[Mapping[str, str]] = ({},),
    say: Callable[[str], None],
    stream: TextIO | None = None,
) -> dict[str, JobOutcome]:
    """Runs all jobs that are not finished, each after the jobs that it needs, and waits for them.

    A job fails if it raises or its process dies. Jobs that need it are skipped; the others continue.

    Args:
        jobs: see `Job`.
        folder: of all jobs; created if missing.
        work: "package.module:function", called as function(order, folder, needs) in a worker process; `needs` maps the
            names of needed jobs to their folders. When it is stopped, it saves its progress and raises `Interrupted`; the
            next call with the same folder continues from there.
        environments: a worker process is started for each; these are its environment variables, besides those of this process.
        say: called with a line about the work to do.
        stream: for the live line; None for standard error.

    Returns:
        Name -> outcome, in the order of `jobs`.

    Raises:
        UserError: the folder cannot be used, or another process works in it.
        Interrupted: on Ctrl-C or SIGTERM, after the running jobs have stopped; a second signal ends this process and its
            workers at once.
        ValueError: no environment, or jobs that `Schedule` refuses.
    """
    if not environments:
        raise ValueError("at least one environment is needed, for one worker")
    schedule = Schedule(jobs)
    folder = Path(folder).absolute()
    with Interruption() as interruption, exclusive_folder(folder / "runs", named=folder):
        runner = _JobsRun(schedule, folder, interruption, JobsLine(stream))
        try:
            runner.run([JobWorker(work, environment) for environment in environments], say)
        except OSError as problem:
            raise UserError(f"{problem.filename or folder}: {problem.strerror or problem}") from problem
    return {job.name: runner.outcomes[job.name] for job in jobs}


def exclusive_folder(folder: Path, *, named: Path) -> contextlib.AbstractContextManager[None]:
    """Context in which no other process works in a folder; raises a UserError that names `named` if one does."""
    return sole_use(
        folder,
        refusal=lambda holder: f"{named} is in use by another process ({holder}); wait for it, or give another --out",
    )


class _JobsRun:
    """One call of `run_jobs`."""

    def __init__(self, schedule: Schedule, folder: Path, interruption: Interruption, line: JobsLine):
        self._schedule, self._interruption, self._line = schedule, interruption, line
        self._folders = {name: job_folder(folder, job) for name, job in schedule.jobs.items()}
        self.outcomes: dict[str, JobOutcome] = {}

    def run(self, workers: Sequence[JobWorker], say: Callable[[str], None]) -> None:
        for name, job in self._schedule.jobs.items():
            seconds = finished_seconds(self._folders[name], job)
            if seconds is not None:
                self.outcomes[name] = JobOutcome("cached", seconds, "", self._folders[name])
        total, cached = len(self._schedule.jobs), len(self.outcomes)
        if cached == total:
            say(f"all {total} runs are already finished")
            return
        before = f", {cached} of them already finished" if cached else ""
        say(f"{total} runs{before}; about {format_seconds(self._left_s({}, len(workers)))}")
        try:
            with self._line, selectors.DefaultSelector() as selector, _wakeup(selector):
                self._loop(workers, selector)
        finally:
            for worker in workers:
                worker.close()
        if self._interruption.requested:
            count = f"{len(self._names('finished', 'cached'))} of {total} runs are finished"
            self._interruption.raise_if_requested(f"finished work is kept, {count}")

    def _loop(self, workers: Sequence[JobWorker], selector: selectors.BaseSelector) -> None:
        asked = False
        while True:
            number = self._interruption.signal_number
            if number is not None:
                if not asked:
                    for worker in filter(lambda worker: worker.job, workers):
                        worker.stop(number)
                asked = True
            else:
                self._begin_what_can(workers)
            busy = [worker for worker in workers if worker.job is not None]
            if not busy:
                return
            self._line.update(self._state(workers))
            registered = [worker.fileno() for worker in busy]
            for descriptor in registered:
                selector.register(descriptor, selectors.EVENT_READ)
            for key, _ in selector.select(_TICK_S):
                if key.data is not None:
                    key.data()
            for descriptor in registered:
                selector.unregister(descriptor)
            for worker in busy:
                self._take_reply(worker, workers)

    def _begin_what_can(self, workers: Sequence[JobWorker]) -> None:
        for worker in workers:
            if worker.job is None:
                job = self._schedule.next(self._waiting(workers), self._names("finished", "cached"))
                if job is None:
                    return
                needs = {need: self._folders[need] for need in job.needs}
                worker.begin(job, self._folders[job.name], needs, now=time.monotonic())

    def _take_reply(self, worker: JobWorker, workers: Sequence[JobWorker]) -> None:
        job, elapsed = worker.job, time.monotonic() - worker.began
        reply = worker.reply()
        if reply is None or job is None:
            return
        seconds, folder = reply.get("seconds", elapsed), self._folders[job.name]
        if reply["status"] == "finished":
            self.outcomes[job.name] = JobOutcome("finished", seconds, "", folder)
            self._line.job_ended(self._state(workers), job.name, f"finished in {format_seconds(seconds)}", failed=False)
        elif not self._interruption.requested:
            self.outcomes[job.name] = JobOutcome("failed", seconds, reply["reason"], folder)
            for name in self._schedule.dependents(job.name):
                if name not in self.outcomes:
                    reason = f"needs {job.name}, which failed"
                    self.outcomes[name] = JobOutcome("skipped", 0.0, reason, self._folders[name])
            self._line.job_ended(self._state(workers), job.name, f"failed: {reply['reason']}", failed=True)

    def _state(self, workers: Sequence[JobWorker]) -> JobsState:
        now = time.monotonic()
        running = {worker.job.name: now - worker.began for worker in workers if worker.job is not None}
        return JobsState(
            len(self._names("finished", "cached")),
            len(self._names("failed", "skipped")),
            len(self._schedule.jobs),
            running,
            self._left_s(running, len(workers)),
            self._interruption.requested,
        )

    def _left_s(self, running: Mapping[str, float], workers: int) -> float:
        waiting = [name for name in self._schedule.jobs if name not in self.outcomes and name not in running]
        took_s = {
            status: {name: outcome.seconds for name, outcome in self.outcomes.items() if outcome.status == status}
            for status in ("cached", "finished")
        }
        scale = self._schedule.scale(took_s["finished"], running, before=took_s["cached"])
        return self._schedule.left_s(waiting, running, workers=workers, scale=scale)

    def _waiting(self, workers: Sequence[JobWorker]) -> list[str]:
        running = {worker.job.name for worker in workers if worker.job is not None}
        return [name for name in self._schedule.jobs if name not in self.outcomes and name not in running]

    def _names(self, *statuses: str) -> list[str]:
        return [name for name, outcome in self.outcomes.items() if outcome.status in statuses]


def finished_seconds(folder: Path, job: Job) -> float | None:
    """Duration of a finished job in seconds; None if it is not finished.

    Raises:
        UserError: the folder belongs to another job.
    """
    try:
        record = json.loads((folder / FINISHED).read_text())
        key, seconds = record["key"], float(record["seconds"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{folder / FINISHED} is unreadable ({problem}); delete it to do this run again") from problem
    if key != job.key:
        raise UserError(
            f"{folder} holds another run's result (key {key}, not {job.key}); delete it or give another --out"
        )
    return seconds


@contextlib.contextmanager
def _wakeup(selector: selectors.BaseSelector) -> Iterator[None]:
    """Makes a signal end the selector's wait, which would otherwise continue after the signal's handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        selector.register(ours, selectors.EVENT_READ, lambda: ours.recv(1 << 10))
        former = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(former)
