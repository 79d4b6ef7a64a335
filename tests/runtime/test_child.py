"""Child processes and their parent: messages, errors, deaths, stops, and the end of either side."""

import os
import signal
import subprocess
import sys
import time

import pytest

from accdistill_jax.runtime.child import Child, ChildDied, ChildError, wait_for_any
from accdistill_jax.runtime.interrupt import Interrupted, Interruption

WORK = """
import os, signal, subprocess, sys, time
from accdistill_jax.runtime.child import work_for_parent

class Local(Exception):
    def __init__(self, text, number):
        super().__init__(text)

def main(parent):
    while (message := parent.receive()) is not None:
        name, value = message
        if name == "echo":
            print("noise of a library")
            parent.reply(value)
        elif name == "fail":
            try:
                raise {"value": ValueError("no,\\nnot that", 3), "local": Local("lost", 1)}[value]
            except Exception as error:
                parent.fail(error)
        elif name == "raise":
            raise LookupError(value)
        elif name == "die":
            os.kill(os.getpid(), value)
        elif name == "exit":
            os._exit(value)
        elif name == "leave a process":
            for entry in os.scandir("/proc/self/fd"):
                if os.path.islink(entry) and os.readlink(entry).startswith("socket:"):
                    os.set_inheritable(int(entry.name), True)
            child = subprocess.Popen(["sleep", "60"], close_fds=False)
            parent.reply(child.pid)
            os._exit(4)
        elif name == "input":
            parent.reply([os.getpid(), subprocess.run(["cat"], capture_output=True, text=True).stdout])
        elif name == "until stopped":
            while parent.stop is None:
                time.sleep(0.01)
            parent.reply(parent.stop)
        elif name == "sleep":
            open(value, "w").write(str(os.getpid()))
            time.sleep(60)
    print("ended in order", flush=True)

work_for_parent(main)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start(**options) -> child that does WORK; its output goes to tmp_path / "output"."""
    (tmp_path / "child_work.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    children = []

    def start(**options):
        with (tmp_path / "output").open("ab") as output:
            children.append(Child("child_work", output=output, **options))
        return children[-1]

    yield start
    for child in children:
        child.close(patience_s=0.0)


def is_gone(process):
    try:
        with open(f"/proc/{process}/stat") as file:  # "Z": it has ended, but nobody has taken its status
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def test_messages_are_answered_in_turn_and_noise_does_not_disturb(start, tmp_path):
    child = start()
    for value in [1, "two\nlines", {"three": [None, 0.5]}, "x" * 300_000]:
        assert child.send(["echo", value])
        assert child.receive(60.0) == value
    child.close()
    assert (tmp_path / "output").read_text() == "noise of a library\n" * 4 + "ended in order\n"
    assert not child.send(["echo", 1])


def test_errors_come_with_their_trace_and_the_child_goes_on(start):
    child = start()
    child.send(["fail", "value"])
    with pytest.raises(ChildError, match=r"^ValueError: \('no") as raised:
        child.receive(60.0)
    original = raised.value.original()
    assert type(original) is ValueError and original.args == ("no,\nnot that", 3)
    assert "in main" in original.__notes__[0] and "in main" in raised.value.trace
    child.send(["fail", "local"])  # an exception that pickle cannot rebuild
    with pytest.raises(ChildError, match="^Local: lost$") as raised:
        child.receive(60.0)
    assert type(raised.value.original()) is RuntimeError and str(raised.value.original()) == "Local: lost"
    child.send(["echo", "still here"])
    assert child.receive(60.0) == "still here"


def test_an_exception_that_ends_the_child_is_told_before_its_end(start, tmp_path):
    child = start()
    child.send(["raise", "nothing of that name"])
    with pytest.raises(ChildError, match="LookupError: nothing of that name"):
        child.receive(60.0)
    with pytest.raises(ChildDied, match="exit status 1"):
        child.receive(60.0)
    assert "LookupError: nothing of that name" in (tmp_path / "output").read_text()


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (["die", signal.SIGKILL], "SIGKILL: out of memory, or killed"),
        (["die", signal.SIGTERM], "SIGTERM"),
        (["exit", 7], "exit status 7"),
    ],
)
def test_a_death_is_noticed_with_its_cause(start, message, cause):
    child = start()
    child.send(message)
    assert wait_for_any([child], 60.0) == [child]
    with pytest.raises(ChildDied) as death:
        child.receive(60.0)
    assert str(death.value) == cause and not child.is_alive


def test_a_death_is_noticed_though_another_process_keeps_the_socket_open(start):
    child = start()
    child.send(["leave a process", None])
    stranger = child.receive(60.0)
    try:
        with pytest.raises(ChildDied, match="exit status 4"):
            child.receive(60.0)
    finally:
        os.kill(stranger, signal.SIGKILL)


def test_waiting_ends_with_the_first_answer_or_the_timeout(start, tmp_path):
    slow, quick = start(), start()
    slow.send(["sleep", str(tmp_path / "pid")])
    assert wait_for_any([slow, quick], 0.05) == []
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        slow.receive(0.05)
    quick.send(["echo", 1])
    assert wait_for_any([slow, quick], 60.0) == [quick]
    assert quick.receive(0.0) == 1


def test_a_stop_is_noticed_during_work(start):
    child = start()
    child.send(["until stopped", None])
    child.stop(signal.SIGHUP)
    assert child.receive(60.0) == signal.SIGHUP


@pytest.mark.parametrize("ask", [lambda child: child.is_alive, Child.kill, Child.close], ids=["look", "kill", "close"])
def test_an_interruption_waits_while_python_looks_at_the_process(start, monkeypatch, ask):
    """`Popen.poll` takes a lock. An exception between that and its `try` leaves the lock taken, and the next look waits for ever."""
    child, looks = start(), []
    poll = subprocess.Popen.poll

    def poll_while_a_signal_comes(process):
        if not looks:
            signal.raise_signal(signal.SIGTERM)
        looks.append(process)
        return poll(process)

    with pytest.raises(Interrupted), Interruption(at_once=True):
        monkeypatch.setattr(subprocess.Popen, "poll", poll_while_a_signal_comes)
        ask(child)
    assert looks


def test_a_process_that_the_work_starts_reads_none_of_the_messages(start):
    child = start(environment={"CHILD_VARIABLE": "set"})
    child.send(["input", None])
    process, text = child.receive(60.0)
    assert text == "" and os.getpgid(process) == process != os.getpgid(
        0
    )  # a Ctrl-C in the terminal is for this one alone


def test_a_busy_child_ends_at_once_when_it_is_closed(start, tmp_path):
    child = start()
    child.send(["sleep", str(tmp_path / "pid")])
    until((tmp_path / "pid").exists)
    begun = time.monotonic()
    child.close(patience_s=30.0)
    assert time.monotonic() - begun < 20.0 and not child.is_alive


PARENT = """
import signal, sys
from accdistill_jax.runtime import child
from accdistill_jax.runtime.watchdog import end_process
worker = child.Child("child_work")
worker.send(["sleep", sys.argv[1]])
sys.stdin.readline()
end_process(75, "the last line")
"""


@pytest.mark.parametrize("ending", ["killed", "ends without cleaning up while the child is stopped"])
def test_no_child_outlives_its_parent(start, tmp_path, repository, ending):
    command = [sys.executable, "-c", PARENT, str(tmp_path / "pid"), ending]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{repository}"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as parent:
        process = int(until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
        if ending == "killed":
            parent.kill()
        else:
            os.kill(process, signal.SIGSTOP)  # it can notice nothing
            parent.communicate(b"\n", timeout=60)
            assert parent.returncode == 75
    until(lambda: is_gone(process))


def test_the_module_of_a_child_is_of_no_use_alone(tmp_path, repository):
    (tmp_path / "child_work.py").write_text(WORK)
    environment = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, tmp_path / "child_work.py"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 1 and done.stderr.startswith("error: another command") and done.stdout == ""
