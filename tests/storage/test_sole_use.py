"""One process at a time in a folder: by the lock, or by the counter in the lock file where locks do not work."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.storage import sole_use as module
from accdistill_jax.storage.sole_use import LOCK, sole_use

HOLD = """
import signal, sys
from accdistill_jax.storage.sole_use import sole_use
with sole_use(sys.argv[1], refusal=str):
    print("held", flush=True)
    signal.pause()
"""


def refusal(holder):
    return f"in use by {holder}"


@pytest.fixture
def holder(repository, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], cwd=repository, text=True, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_told_who_the_first_is(holder, tmp_path):
    said = (
        rf"^in use by process {holder.pid} on {module.socket.gethostname()}, since \d\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d$"
    )
    with pytest.raises(UserError, match=said), sole_use(tmp_path, refusal=refusal, patience_s=0.1):
        pytest.fail("two at once")
    assert (tmp_path / LOCK).exists()


def test_who_is_killed_holds_nothing(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with sole_use(tmp_path, refusal=refusal):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_one_that_is_just_ending_is_waited_for(tmp_path):
    inside = threading.Event()

    def hold():
        with sole_use(tmp_path, refusal=refusal):
            inside.set()
            time.sleep(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    with sole_use(tmp_path, refusal=refusal, patience_s=60.0):
        thread.join()


def test_of_many_that_take_turns_there_is_one_at_a_time(tmp_path):
    """Each process removes the lock file; a process that waited for the removed file must not believe that it holds the lock."""
    inside, most = [], []

    def work():
        for _ in range(20):
            with sole_use(tmp_path, refusal=refusal, patience_s=60.0, machines=False):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.05)
    monkeypatch.setattr(module, "DOUBT_S", 5.0)
    monkeypatch.setattr(module, "SETTLE_S", 0.1)


@pytest.fixture
def without_locks(monkeypatch, quick):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)


def entry(tmp_path, **changes):
    content = {"host": "elsewhere", "pid": 7, "since": "2024-05-01 10:00:00", "beat": 3} | changes
    descriptor = os.open(tmp_path / LOCK, os.O_WRONLY | os.O_CREAT)
    os.pwrite(
        descriptor, json.dumps(content).encode().ljust(500), 0
    )  # as the holder does: a reader never sees it empty
    os.close(descriptor)


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_holder_that_lives_is_noticed(tmp_path):
    with sole_use(tmp_path, refusal=refusal):
        with (
            pytest.raises(UserError, match=f"in use by process {os.getpid()} on "),
            sole_use(tmp_path, refusal=refusal),
        ):
            pytest.fail("two at once")
    assert not (tmp_path / LOCK).exists()
    with sole_use(tmp_path, refusal=refusal):
        pass


def test_an_entry_of_a_dead_holder_is_taken_over(tmp_path, without_locks, monkeypatch):
    monkeypatch.setattr(module, "DOUBT_S", 0.2)
    entry(tmp_path)
    with sole_use(tmp_path, refusal=refusal):
        assert json.loads((tmp_path / LOCK).read_text())["host"] != "elsewhere"


@pytest.mark.usefixtures("without_locks")
def test_of_two_that_begin_together_without_locks_the_last_has_it(tmp_path, monkeypatch):
    write = module.write_entry
    monkeypatch.setattr(module, "write_entry", lambda *_: (write(*_), entry(tmp_path)))
    with pytest.raises(UserError, match="in use by process 7 on elsewhere"), sole_use(tmp_path, refusal=refusal):
        pytest.fail("two at once")
    assert (tmp_path / LOCK).exists()


@pytest.mark.usefixtures("quick")
def test_a_holder_on_another_machine_whom_the_lock_does_not_tell(tmp_path):
    """The counter grows although the lock is free."""
    entry(tmp_path)
    ended = threading.Event()

    def live():
        beat = 3
        while not ended.wait(0.02):
            beat += 1
            entry(tmp_path, beat=beat)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with (
            pytest.raises(UserError, match="in use by process 7 on elsewhere, since 2024"),
            sole_use(tmp_path, refusal=refusal),
        ):
            pytest.fail("two at once")
    finally:
        ended.set()
        thread.join()


def test_a_full_disk_does_not_keep_anybody_out(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with sole_use(tmp_path, refusal=refusal):
        with (
            pytest.raises(UserError, match="which has not written its name yet"),
            sole_use(tmp_path, refusal=refusal, patience_s=0.0),
        ):
            pytest.fail("two at once")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/folder: cannot be written \(Not a directory\)"):
        with sole_use(tmp_path / "file" / "folder", refusal=refusal):
            pass
