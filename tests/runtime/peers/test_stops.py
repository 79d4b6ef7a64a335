"""Processes that leave: the others stop with the same reason, in order, and process 0 last."""

import subprocess
import sys
import textwrap
import time

import pytest

from tests.runtime.peers.peer_processes import ALARM_S, FINISH, LEAVING, ended, run


@pytest.mark.parametrize("leaver", [0, 1])
@pytest.mark.parametrize("status, expected", [(2, 2), (75, 75), (1, 75)])
def test_one_that_leaves_early_stops_the_others_with_its_reason(processes, leaver, status, expected):
    body = f"""
if rank == {leaver}:
    peers.leave({status}, "record 7 of store /data is damaged; make it anew")
    peers.close()
    sys.exit({status})
stuck()
"""
    for rank, (found, _, error) in enumerate(run(processes, 3, body)):
        assert found == (status if rank == leaver else expected)
        if rank != leaver:
            assert error == f"error: process {leaver} stopped: record 7 of store /data is damaged; make it anew\n"


@pytest.mark.parametrize("leaver", [0, 1])
def test_one_that_leaves_early_ends_those_that_wait_for_it(processes, leaver):
    body = f"""
if rank == {leaver}:
    peers.leave(2, "no space left")
    peers.close()
    sys.exit(2)
peers.gather("never complete", rank)
"""
    for rank, (status, _, error) in enumerate(run(processes, 3, body)):
        assert (status, error) == (
            2,
            "" if rank == leaver else f"error: process {leaver} stopped: no space left\n",
        )


STOPPED = """
if rank == {leaver}:
    peers.barrier("handlers are set")
    peers.leave({status}, "stopped by SIGTERM; step 7 is saved")
    peers.close()
    sys.exit({status})
"""


@pytest.mark.parametrize("leaver", [0, 1])
@pytest.mark.parametrize("status", [130, 143])
def test_a_stopped_one_stops_the_others_at_once_without_handler(processes, leaver, status):
    body = STOPPED.format(leaver=leaver, status=status) + 'peers.barrier("handlers are set")\nstuck()\n'
    for rank, (found, _, error) in enumerate(run(processes, 3, body)):
        assert found == status
        assert error == ("" if rank == leaver else f"process {leaver} stopped: stopped by SIGTERM; step 7 is saved\n")


def test_nothing_follows_the_line_with_which_a_process_ends(repository):
    """Libraries log from background threads until the process ends."""
    program = """
import os, threading, time
from accdistill_jax.runtime.watchdog import end_process
end_now = os._exit
os._exit = lambda status: (time.sleep(0.2), end_now(status))
def chatter():
    while True:
        os.write(2, b"noise\\n")
        time.sleep(0.001)  # a full pipe would hold a write that was begun before
for _ in range(4):
    threading.Thread(target=chatter, daemon=True).start()
end_process(75, "the last line")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, timeout=ALARM_S
    )
    assert done.returncode == 75
    assert done.stderr.endswith("noise\nthe last line\n")


@pytest.mark.parametrize("leaver", [0, 1])
def test_a_stopped_one_lets_the_others_stop_in_order(processes, leaver):
    handler = """
asked = threading.Event()
def handle(reason, status):
    say(status, reason)
    asked.set()
peers.set_stop_handler(handle, grace_s=20.0)
"""
    after = """
peers.barrier("handlers are set")
asked.wait()
time.sleep(0.5)  # saving, while the others end
peers.leave(143, "stopped too")
peers.close()
say("saved")
sys.exit(143)
"""
    body = handler + STOPPED.format(leaver=leaver, status=143) + after
    for rank, (status, out, error) in enumerate(run(processes, 3, body)):
        assert (status, error) == (143, "")
        if rank != leaver:
            assert out == f"143 process {leaver} stopped: stopped by SIGTERM; step 7 is saved\nsaved\n"


def test_a_stop_handler_without_effect_ends_after_the_grace(processes):
    body = "peers.set_stop_handler(lambda reason, status: None, grace_s=0.5)\n"
    body += STOPPED.format(leaver=1, status=143) + 'peers.barrier("handlers are set")\nstuck()\n'
    for rank, (status, _, error) in enumerate(run(processes, 3, body)):
        assert status == 143
        if rank != 1:
            assert "process 1 stopped: stopped by SIGTERM" in error
            assert "this process has not stopped within 0.5 s" in error


@pytest.mark.parametrize("leaver", [0, 1])
def test_a_gather_or_failure_after_a_stop_raises_interrupted(processes, leaver):
    work = """
    peers.set_stop_handler(lambda reason, status: None)
    if rank == leaver:
        peers.barrier("handlers are set")
        raise Interrupted("step 7 is saved", 15)
    peers.barrier("handlers are set")
    if rank == 2:
        peers.explain(ValueError("connection closed by peer"), wait_s=30.0)
    else:
        peers.gather("never complete", rank)
    """
    body = f"leaver = {leaver}\n" + LEAVING.format(work=work)
    for rank, (status, _, error) in enumerate(run(processes, 3, body)):
        assert status == 143
        if rank == leaver:
            assert error == "step 7 is saved\n"
        else:  # the one in explain may learn of either of the other two
            assert error.startswith("process ") and error.endswith("step 7 is saved\n")


def test_explain_waits_for_the_news_and_returns_without(processes):
    body = """
        begin = time.monotonic()
        peers.explain(ValueError("of this process alone"), wait_s=0.2)
        assert 0.1 < time.monotonic() - begin < 20.0
        peers.barrier("all")
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        peers.explain(ValueError("connection closed by peer"), wait_s=30.0)
        say("not reached")
    """
    results = run(processes, 3, textwrap.dedent(body))
    assert [status for status, *_ in results] == [75, -9, 75]
    assert all(out == "" for _, out, _ in results)
    assert all("process 1 was lost" in results[rank][2] for rank in (0, 2))


def test_a_finished_process_is_no_loss(processes):
    body = """
        if rank != 2:
            wait_for_go()
            peers.explain(ValueError("nothing is known"), wait_s=0.3)
    """
    processes.start(3, textwrap.dedent(body) + FINISH)
    assert ended(processes.all[2], ALARM_S, time.monotonic()) == (0, "", "")
    processes.go()
    for process in processes.all[:2]:
        assert ended(process, ALARM_S, time.monotonic()) == (0, "", "")


def test_leaving_when_the_others_are_gone(processes):
    body = """
        if rank:
            peers.leave(0, "finished")
            peers.close()
            sys.exit()
        wait_for_go()
        peers.leave(0, "finished")
        peers.leave(0, "finished")
        peers.close()
        peers.close()
        peers.leave(2, "too late")
    """
    processes.start(3, textwrap.dedent(body))
    for process in processes.all[1:]:
        assert ended(process, ALARM_S, time.monotonic()) == (0, "", "")
    processes.go()
    assert ended(processes.all[0], ALARM_S, time.monotonic()) == (0, "", "")


def test_process_0_ends_after_the_others(processes):
    """JAX's services in process 0 must outlive the other processes, however long these take to notice a stop."""
    body = f"""
        peers.set_stop_handler(lambda reason, status: None)
        peers.barrier("handlers")
        say("ready")
        if peers.first:
            peers.leave(143, "stopped by SIGTERM")
            peers.outlast({ALARM_S})
        else:
            wait_for_go()
            time.sleep(0.3)
            peers.leave(143, "stopped too")
        say(time.monotonic())
        os._exit(143)
    """
    processes.start(3, textwrap.dedent(body))
    processes.expect("ready")
    time.sleep(0.5)
    assert processes.all[0].poll() is None
    processes.go()
    ends = [ended(process, ALARM_S, time.monotonic()) for process in processes.all]
    assert [status for status, _, _ in ends] == [143, 143, 143]
    assert float(ends[0][1]) >= max(float(ends[1][1]), float(ends[2][1]))


def test_process_0_does_not_wait_for_ever(processes):
    body = """
        peers.set_stop_handler(lambda reason, status: None)
        peers.barrier("handlers")
        say("ready")
        if peers.first:
            peers.leave(143, "stopped by SIGTERM")
            peers.outlast(0.3)
            os._exit(143)
        wait_for_go()
    """
    processes.start(2, textwrap.dedent(body))
    processes.expect("ready")
    assert ended(processes.all[0], ALARM_S, time.monotonic())[0] == 143
