"""Processes that are killed, stopped, fail or never connect: the others notice it and end."""

import os
import signal
import socket
import textwrap
import time

import pytest

from accdistill_jax.errors import ExitStatus, UserError
from accdistill_jax.runtime.peers.peers import Peers, Timeouts
from tests.runtime.peers.peer_processes import (
    ALARM_S,
    FINISH,
    NOTICED_S,
    RELAUNCH,
    SHORT_SILENCE_S,
    STUCK,
    ended,
    run,
)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("count", [2, 3])
def test_a_killed_process_ends_the_others_at_once(processes, victim, count):
    processes.start(count, STUCK)
    processes.expect("ready")
    begin = time.monotonic()
    processes.all[victim].kill()
    for rank, process in enumerate(processes.all):
        status, _, error = ended(process, NOTICED_S, begin)
        assert status == (-signal.SIGKILL if rank == victim else ExitStatus.RELAUNCH)
        if rank != victim:
            assert error == (
                f"error: process {victim} was lost (its connection closed: killed or crashed) at step 41; "
                f"this process stops. The last checkpoint is kept: {RELAUNCH}\n"
            )


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 2])
def test_a_stopped_process_ends_the_others_after_the_silence_and_then_itself(processes, victim):
    processes.start(3, STUCK, silence_s=SHORT_SILENCE_S)
    processes.expect("ready")
    begin = time.monotonic()
    processes.all[victim].send_signal(signal.SIGSTOP)
    for rank, process in enumerate(processes.all):
        if rank != victim:
            status, _, error = ended(process, SHORT_SILENCE_S + NOTICED_S, begin)
            assert time.monotonic() - begin > SHORT_SILENCE_S / 2
            assert status == ExitStatus.RELAUNCH
            *stacks, line = error.splitlines()
            assert f"error: process {victim} was lost (silent for " in line
            assert "s: stopped or its machine is gone) at step 41; this process stops." in line
            assert any("Current thread" in stack for stack in stacks) and any("stuck" in stack for stack in stacks)
    begin = time.monotonic()
    processes.all[victim].send_signal(signal.SIGCONT)
    status, _, error = ended(processes.all[victim], NOTICED_S, begin)
    assert status == ExitStatus.RELAUNCH
    assert error.count("error: ") == 1 and RELAUNCH in error


@pytest.mark.slow
def test_a_process_that_is_stopped_for_a_moment_goes_on(processes):
    body = """
        say("ready")
        wait_for_go()
        peers.barrier("still there")
    """
    processes.start(2, textwrap.dedent(body) + FINISH, silence_s=12.0)
    processes.expect("ready")
    for process in processes.all:
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)  # the pause is what is tested
        process.send_signal(signal.SIGCONT)
    processes.go()
    for process in processes.all:
        assert ended(process, ALARM_S, time.monotonic()) == (0, "", "")


@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_fails_without_leaving_is_lost(processes, failing):
    body = f"""
if rank == {failing}:
    raise ValueError("a mistake")
stuck()
"""
    for rank, (status, _, error) in enumerate(run(processes, 3, body)):
        if rank == failing:
            assert status == 1 and error.endswith("ValueError: a mistake\n")
        else:
            assert status == ExitStatus.RELAUNCH
            assert error.startswith(f"error: process {failing} was lost (its connection closed: killed or crashed); ")


@pytest.mark.slow
def test_one_that_never_connects_is_lost(processes):
    body = 'say("connected")\n'
    before = """
        if rank == 2:
            sys.exit(3)
        connect = Peers.connect
        Peers.connect = lambda **options: connect(**options | {"timeouts": Timeouts(silence_s, start_s=4.0)})
    """
    results = run(processes, 3, body, before=before)
    assert [status for status, *_ in results] == [75, 75, 3]
    for _, out, error in results[:2]:
        assert out == ""
        assert error.startswith("error: process 2 was lost (it did not connect within 4 s); this process stops.")


def test_an_address_out_of_reach_is_named():
    class Exchange:
        def get(self, key, timeout_s):
            return address + " token"

    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=f"process 1 cannot reach process 0 at {address} within 0.3 s .*refused"):
        Peers.connect(rank=1, count=2, exchange=Exchange(), host="", timeouts=Timeouts(silence_s=1.0, start_s=0.3))


def test_a_fork_does_not_keep_the_connection_of_a_killed_process(processes):
    body = """
        if rank == 1:
            if os.fork() == 0:
                signal.alarm(60)
                wait_for_go()
                os._exit(0)
            shell = 'until [ -e "$0" ]; do sleep 0.1; done'
            subprocess.Popen(["sh", "-c", shell, Path(folder) / "go"], close_fds=False)
        stuck()
    """
    processes.start(2, textwrap.dedent(body))
    processes.expect("ready")
    begin = time.monotonic()
    processes.all[1].kill()
    status, _, error = ended(processes.all[0], NOTICED_S, begin)
    assert status == 75 and "its connection closed" in error


def test_a_full_pipe_does_not_keep_a_process_alive(processes):
    body = """
        if rank == 1:
            stuck()
        say("ready")
        while True:
            print("x" * 10_000)
    """
    processes.start(2, textwrap.dedent(body))
    processes.expect("ready")
    begin = time.monotonic()
    processes.all[1].kill()
    assert processes.all[0].wait(timeout=ALARM_S) == 75
    assert time.monotonic() - begin < NOTICED_S + 6.0


def test_an_end_takes_the_worker_processes_along(processes):
    body = """
        from accdistill_jax.runtime.child import Child
        if rank == 0:
            (Path(folder) / "sleeper.py").write_text(
                "import os, pathlib, time\\n"
                "pathlib.Path(__file__).with_name('worker').write_text(str(os.getpid()))\\n"
                "time.sleep(50)\\n"
            )
            sys.path.append(folder)
            worker = Child("sleeper")
            while not (Path(folder) / "worker").exists() or not (Path(folder) / "worker").read_text():
                time.sleep(0.01)
        stuck()
    """
    processes.start(2, textwrap.dedent(body))
    processes.expect("ready")
    worker = int((processes.folder / "worker").read_text())
    begin = time.monotonic()
    processes.all[1].kill()
    assert ended(processes.all[0], NOTICED_S, begin)[0] == 75
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < begin + ALARM_S:
            os.kill(worker, 0)
