"""The control plane between the processes of a run, with real processes (without jax, so that they start at once)."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from accdistill_jax.errors import ExitStatus, UserError
from accdistill_jax.runtime.peers.agreement import disagreement
from accdistill_jax.runtime.peers.peers import Peers

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
from accdistill_jax.runtime.peers.peers import Peers

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
    rank=rank, count=count, exchange=exchange, host="127.0.0.1", silence_s=silence_s, start_timeout_s=20.0
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


@pytest.fixture
def processes(tmp_path, repository):
    made = Processes(tmp_path, repository)
    yield made
    made.stop()


def ended(process: subprocess.Popen, within_s: float, since: float) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a process that ends within so many seconds."""
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


def test_gather_share_and_barrier(processes):
    body = """
        for again in range(50):
            assert peers.gather("squares", {"of": rank, "is": rank * rank + again}) == [
                {"of": r, "is": r * r + again} for r in range(count)
            ]
        assert peers.share("seed", 7 if peers.first else None) == 7
        assert peers.from_first("config", lambda: {"rank": rank}) == {"rank": 0}
        sizes = [len(text) for text in peers.gather("large", "x" * (3_000_000 + rank))]
        assert sizes == [3_000_000, 3_000_001, 3_000_002]
        mark = Path(folder) / f"reached-{rank}"
        mark.touch()
        peers.barrier("all here")
        assert len(list(Path(folder).glob("reached-*"))) == count
        peers.agree({"store": "ab12", "version": [1, 2]})
    """
    for status, out, error in run(processes, 3, textwrap.dedent(body) + FINISH):
        assert (status, out, error) == (0, "", "")


def test_gather_waits_for_the_last(processes):
    body = """
        if rank == 1:
            say("ready")
            wait_for_go()
        else:
            say("ready")
        say(peers.gather("late", rank), (Path(folder) / "go").exists())
    """
    processes.start(3, textwrap.dedent(body) + FINISH)
    processes.expect("ready")
    processes.go()
    for process in processes.all:
        assert ended(process, ALARM_S, time.monotonic()) == (0, "[0, 1, 2] True\n", "")


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


def test_from_first_raises_a_user_error_everywhere(processes):
    body = """
def fail():
    assert peers.first
    raise UserError("no folder /data; make it")
""" + LEAVING.format(work='peers.from_first("folder", fail)')
    for status, out, error in run(processes, 3, body):
        assert (status, out, error) == (2, "", "error: no folder /data; make it\n")


@pytest.mark.parametrize("count, odd", [(3, 2), (3, 0), (2, 1)])
def test_agree_names_the_odd_process(processes, count, odd):
    work = f"""peers.agree({{"seed": 1, "store fingerprint": "ab" * 20 if rank == {odd} else "cd" * 20}})"""
    usual = 1 if odd == 0 else 0
    for status, _, error in run(processes, count, LEAVING.format(work=work)):
        assert status == 2
        assert error == (
            f"error: process {odd} has another store fingerprint (abababababababab..) than process {usual} "
            "(cdcdcdcdcdcdcdcd..); start all processes with the same command, code and data\n"
        )


def test_disagreement():
    assert disagreement([{"a": 1, "b": None}] * 3) is None
    same = "x" * 100
    line = disagreement([{"a": 1, "b": same + "1"}, {"a": 1, "b": same + "2", "c": True}])
    assert line.startswith(
        "process 1 has another b (..xxxxxxxx2) than process 0 (..xxxxxxxx1); they also differ in c;"
    )
    assert disagreement([{"a": 1}, {}]).startswith("process 1 has another a (missing) than process 0 (1);")
    assert disagreement([{"a": 1}, {"a": "1"}]) is not None
    four = disagreement([{"a": 1}, {"a": 2}, {"a": 1}, {"a": 3}])
    assert four.startswith("processes 1, 3 have another a (2) than process 0 (1);")


def test_different_names_are_a_failure_everywhere(processes):
    body = """
        try:
            peers.gather("this" if rank < 2 else "that", rank)
        except RuntimeError as error:
            say(error)
        assert peers.gather("again", rank) == [0, 1, 2]
    """
    results = run(processes, 3, textwrap.dedent(body) + FINISH)
    assert {status for status, *_ in results} == {0}
    (message,) = {out for _, out, _ in results}
    assert "'this'" in message and "'that'" in message and "(call 1)" in message


def test_a_gather_without_one_that_has_finished_fails(processes):
    body = """
        if rank != 1:
            try:
                peers.gather("more", rank)
            except RuntimeError as error:
                say(error)
    """
    results = run(processes, 3, textwrap.dedent(body) + FINISH)
    failure = "process 1 has finished and takes no part in 'more' (call 1)\n"
    assert [out for _, out, _ in results] == [failure, "", failure]


STUCK = """
with peers.progress("training", within_s=60) as watch:
    watch.beat(41)
    stuck()
"""


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
            assert any("Current thread" in stack for stack in stacks) and any(
                "stuck" in stack for stack in stacks
            )
    begin = time.monotonic()
    processes.all[victim].send_signal(signal.SIGCONT)
    status, _, error = ended(processes.all[victim], NOTICED_S, begin)
    assert status == ExitStatus.RELAUNCH
    assert error.count("error: ") == 1 and RELAUNCH in error


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
            assert (
                error
                == f"error: process {leaver} stopped: record 7 of store /data is damaged; make it anew\n"
            )


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
            assert error.startswith(
                f"error: process {failing} was lost (its connection closed: killed or crashed); "
            )


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
        assert error == (
            "" if rank == leaver else f"process {leaver} stopped: stopped by SIGTERM; step 7 is saved\n"
        )


def test_nothing_follows_the_line_with_which_a_process_ends(repository):
    """Libraries log from threads of their own until the process is gone."""
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
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, timeout=ALARM_S)
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
Peers.connect = lambda **options: connect(**options | {"hang_s": 0.2})
"""


@pytest.mark.parametrize("work", ['peers.from_first("report", stuck)', 'peers.gather("rows", rank) if rank else stuck()'])
def test_a_wait_for_a_process_that_hangs_has_a_limit(processes, work):
    """Process 0 is not watched itself here; the others find out that they wait too long, and its stacks are written too."""
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


def test_strangers_are_dropped(processes):
    before = """
        if rank == 1:
            address, token = exchange.get("peers", 20.0).split()
            host, port = address.split(":")
            for line in (
                b'{"kind": "hello", "rank": 1, "token": "wrong"}\\n',
                b'{"kind": "hello", "rank": 1}\\n',
                b'{"kind": "leave", "status": 2, "reason": "no"}\\n',
                b"GET / HTTP/1.1\\r\\n\\r\\n",
                b"[" * 100_000 + b"\\n",
                b"x" * 1_000_000,
                f'{{"kind": "hello", "rank": 5, "token": "{token}"}}\\n'.encode(),
            ):
                with socket.create_connection((host, int(port)), timeout=10) as stranger:
                    try:
                        stranger.sendall(line)
                        answer = stranger.recv(100)
                    except ConnectionError:
                        answer = b""
                    assert answer == b"", answer
            say("all dropped")
    """
    body = 'assert peers.gather("rank", rank) == [0, 1]\n' + FINISH
    (first, second) = run(processes, 2, body, before=before)
    assert first == (0, "", "")
    assert second == (0, "all dropped\n", "")


def test_one_that_never_connects_is_lost(processes):
    body = 'say("connected")\n'
    before = """
        if rank == 2:
            sys.exit(3)
        connect = Peers.connect
        Peers.connect = lambda **options: connect(**options | {"start_timeout_s": 4.0})
    """
    results = run(processes, 3, body, before=before)
    assert [status for status, *_ in results] == [75, 75, 3]
    for _, out, error in results[:2]:
        assert out == ""
        assert error.startswith(
            "error: process 2 was lost (it did not connect within 4 s); this process stops."
        )


def test_an_address_out_of_reach_is_named():
    class Exchange:
        def get(self, key, timeout_s):
            return address + " token"

    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(
        UserError, match=f"process 1 cannot reach process 0 at {address} within 0.3 s .*refused"
    ):
        Peers.connect(rank=1, count=2, exchange=Exchange(), host="", silence_s=1.0, start_timeout_s=0.3)


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
        import multiprocessing
        if rank == 0:
            worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(50,))
            worker.start()
            (Path(folder) / "worker").write_text(str(worker.pid))
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


def test_alone():
    peers = Peers.alone()
    assert (peers.rank, peers.count, peers.first) == (0, 1, True)
    assert peers.gather("name", (1, None)) == [[1, None]]
    assert peers.share("name", "value") == "value"
    assert peers.from_first("name", lambda: {"a": 1.5}) == {"a": 1.5}
    peers.barrier("name")
    peers.agree({"a": 1})
    with pytest.raises(UserError, match="^told$"):
        peers.from_first("name", lambda: (_ for _ in ()).throw(UserError("told")))
    with pytest.raises(TypeError):
        peers.gather("name", object())
    peers.set_stop_handler(lambda reason, status: None)
    peers.explain(ValueError("no one else is to blame"))
    with peers.waiting("nobody"):
        pass
    with peers.progress("training", within_s=60.0) as watch:
        watch.beat(1)
        with watch.pause():
            pass
    peers.leave(0, "finished")
    peers.close()
    peers.close()


def test_process_0_ends_after_the_others(processes):
    """What JAX runs in process 0 must outlive the others' way out, however long they take to notice a stop."""
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
