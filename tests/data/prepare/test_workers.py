"""Tasks in several processes."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accdistill_jax.data.prepare.workers import run_all
from accdistill_jax.errors import UserError

power_of_two = functools.partial(pow, 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_is_run_once(workers):
    assert sorted(run_all(power_of_two, [3, 1, 2], workers=workers)) == [(1, 2), (2, 4), (3, 8)]
    assert list(run_all(power_of_two, [], workers=workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_task_is_raised_here(workers):
    with pytest.raises(ZeroDivisionError):
        list(run_all(functools.partial(divmod, 1), [2, 0], workers=workers))


def test_a_killed_process_is_reported():
    with pytest.raises(UserError, match="a worker process died"):
        list(run_all(signal.raise_signal, [signal.SIGKILL, signal.SIGKILL], workers=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_process_is_told_with_its_item_and_the_others_go_on(workers):
    results = dict(
        run_all(os._exit, [3, 0, 7], workers=workers, apart=True, died=lambda item, cause: f"{item}: {cause}")
    )
    assert results == {code: f"{code}: exit status {code}" for code in (0, 3, 7)}
    killed = list(
        run_all(signal.raise_signal, [signal.SIGKILL, 0], workers=workers, apart=True, died=lambda item, cause: cause)
    )
    assert sorted(killed, key=lambda pair: pair[0] == 0) == [
        (signal.SIGKILL, "SIGKILL: out of memory, or killed"),
        (0, None),
    ]


def test_a_process_that_was_asked_to_end_is_not_blamed_on_its_item():
    with pytest.raises(UserError, match=r"a worker process died \(SIGTERM\)"):
        list(run_all(signal.raise_signal, [signal.SIGTERM], workers=1, apart=True, died=lambda item, cause: cause))


def unpicklable(_):
    class Odd(Exception):
        pass

    raise Odd("cannot travel")


def test_an_error_of_another_process_keeps_its_trace():
    with pytest.raises(RuntimeError, match="Odd: cannot travel") as error:
        list(run_all(unpicklable, [1], workers=1, apart=True))
    assert "in unpicklable" in error.value.__notes__[0]


def test_processes_have_one_numerical_thread_and_this_one_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
    assert dict(run_all(os.getenv, names, workers=2)) == dict.fromkeys(names, "1")
    assert os.environ["OMP_NUM_THREADS"] == "7" and "OPENBLAS_NUM_THREADS" not in os.environ


def children():
    """Process ids of this process's children, those included that have ended and not been waited for."""
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_stopping_early_ends_the_own_processes_and_no_others():
    earlier = children()
    results = run_all(time.sleep, [0.0, 60.0, 60.0, 60.0], workers=2)
    next(results)
    workers = children() - earlier
    assert len(workers) == 2
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        results.close()
        assert children() - earlier == {stranger.pid}
    finally:
        stranger.kill()
        stranger.wait()


STOPPED = """
import os, time
from accdistill_jax.data.prepare.workers import run_all
from accdistill_jax.runtime.interrupt import Interrupted, Interruption

if __name__ == "__main__":  # the workers import this file
    try:
        with Interruption(at_once=True):
            print("begun", flush=True)
            for _ in run_all(time.sleep, [0.0] * 10 + [60.0] * 10, workers=2):
                print("item", flush=True)
    except Interrupted:
        os._exit(143)
"""


@pytest.mark.parametrize("after_s", [None, 0.0, 0.02, 0.05, 0.1])
def test_a_process_that_is_stopped_and_leaves_at_once_leaves_nothing_behind(tmp_path, repository, after_s):
    """Neither messages of what Python cleans up after it, nor workers."""
    (tmp_path / "stopped.py").write_text(STOPPED)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "stopped.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(repository)},
    )
    assert process.stdout.readline() == "begun\n"
    if after_s is None:  # while the workers work
        assert process.stdout.readline() == "item\n"
    time.sleep(after_s or 0.0)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)  # workers that live on keep the pipe open
    assert (process.returncode, errors) == (143, "")


def test_workers_need_no_shared_memory(monkeypatch):
    """/dev/shm may be full, or not there."""
    import multiprocessing.synchronize

    def refuse(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refuse)
    assert sorted(run_all(abs, [-1, -2, -3], workers=2)) == [(-3, 3), (-2, 2), (-1, 1)]
