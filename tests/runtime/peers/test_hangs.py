"""Processes that hang: work and waits have a limit, and every process ends with its stacks."""

import textwrap

import pytest

from accdistill_jax.errors import ExitStatus
from tests.runtime.peers.peer_processes import FINISH, run


@pytest.mark.parametrize("hung", [0, 1])
def test_a_hang_ends_every_process_with_all_stacks(processes, hung):
    body = f"""
with peers.progress("training", within_s=0.5 if rank == {hung} else 60) as watch:
    for step in range(1, 4):
        watch.beat(step)
    stuck()
"""
    for rank, (status, _, error) in enumerate(run(processes, 3, body)):
        assert status == ExitStatus.RELAUNCH
        *stacks, line = error.splitlines()
        assert line == (
            "error: " + f"process {hung} stopped: hung in training after step 3: nothing done within 0.5 s; "
            "the last checkpoint is kept: start all processes again to continue"
        ), rank
        assert any("in stuck" in stack for stack in stacks)


def test_processes_that_hang_together_say_so_once_each(processes):
    body = """
        with peers.progress("training", within_s=0.5) as watch:
            watch.beat(1)
            peers.barrier("together")
            stuck()
    """
    for status, _, error in run(processes, 3, textwrap.dedent(body)):
        assert status == ExitStatus.RELAUNCH
        assert error.count("error: process") == error.count("hung in training after step 1") == 1
        assert error.count("Current thread") == 1


@pytest.mark.slow
def test_the_first_step_and_a_pause_have_ten_times_the_time(processes):
    body = """
        with peers.progress("training", within_s=0.4) as watch:
            time.sleep(1.0)  # compilation
            watch.beat(1)
            with watch.pause():
                time.sleep(1.0)
            watch.beat(2)
            time.sleep(0.1)
        say("inside the time")
        time.sleep(0.6)  # no longer watched
        with peers.progress("a second time", within_s=0.1):
            stuck()
    """
    ((status, out, error),) = run(processes, 1, textwrap.dedent(body))
    assert (status, out) == (75, "inside the time\nready\n"), error
    assert "hung in a second time before its first step: nothing done within 10 x 0.1 s" in error


SHORT_WAITS = """
connect = Peers.connect
Peers.connect = lambda **options: connect(**options | {"timeouts": Timeouts(silence_s, hang_s=0.2, start_s=20.0)})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "work", ['peers.from_first("report", stuck)', 'peers.gather("rows", rank) if rank else stuck()']
)
def test_a_wait_for_a_process_that_hangs_has_a_limit(processes, work):
    """Process 0 has no watch of its own here; the others notice that they wait too long, and its stacks are written too."""
    for rank, (status, _, error) in enumerate(run(processes, 3, work, before=SHORT_WAITS)):
        assert status == ExitStatus.RELAUNCH
        *stacks, line = error.splitlines()
        assert line.startswith("error: process ") and "hung in the wait for all processes ('r" in line
        assert "'): nothing done within 10 x 0.2 s; the last checkpoint is kept" in line
        assert any("Current thread" in stack for stack in stacks)
        assert rank or any("in stuck" in stack for stack in stacks)


def test_work_that_waits_for_others_has_a_limit_too(processes):
    body = """
        with peers.waiting("the pool search"):
            stuck()
    """
    for status, _, error in run(processes, 2, textwrap.dedent(body), before=SHORT_WAITS):
        assert status == ExitStatus.RELAUNCH
        assert "hung in the pool search: nothing done within 10 x 0.2 s" in error and "in stuck" in error


@pytest.mark.slow
def test_a_pause_of_one_process_holds_for_all(processes):
    body = """
        with peers.progress("training", within_s=4.0) as watch:
            watch.beat(1)
            if peers.first:
                with watch.pause():
                    time.sleep(6.0)
                peers.barrier("saved")
            else:
                peers.barrier("saved")
    """
    for result in run(processes, 2, textwrap.dedent(body) + FINISH, silence_s=5.0):
        assert result == (0, "", "")
