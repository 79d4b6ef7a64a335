"""Aborts raised by a library: one line where the reason is known, otherwise the library's own text."""

import socket
import subprocess
import sys
import time

import pytest

PROGRAM = """
import os, sys, threading
from accdistill_jax.runtime.abort_line import AbortLine

def known(said):
    return (2, "error: told") if "a known reason" in said else None

os.write(2, b"before\\n")
with AbortLine(known) as aborts:
    os.write(2, b"held\\n")
    BODY
os.write(2, b"after\\n")
"""


def run(body: str, **options) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("BODY", body)], stderr=subprocess.PIPE, text=True, timeout=60, **options
    )
    return done.returncode, done.stderr


def test_a_known_abort_is_one_line(repository):
    assert run('os.write(2, b"pages\\nof a known reason\\nand more\\n"); os.abort()', cwd=repository) == (
        2,
        "before\nerror: told\n",
    )
    body = (
        'os.write(2, b"a known reason\\n"); thread = threading.Thread(target=os.abort); thread.start(); thread.join()'
    )
    assert run(body, cwd=repository) == (2, "before\nerror: told\n")


def test_another_abort_is_as_it_was(repository):
    status, said = run('os.write(2, b"pages\\n"); os.abort()', cwd=repository)
    assert status == -6 and said.startswith("before\nheld\npages\n")


def test_what_was_held_back_is_shown_in_the_end(repository):
    assert run("pass", cwd=repository) == (0, "before\nheld\nafter\n")
    status, said = run("raise ValueError('x')", cwd=repository)
    assert status == 1 and said.startswith("before\nheld\nTraceback")
    assert run("aborts.show(); os._exit(5)", cwd=repository) == (5, "before\nheld\n")


def test_without_standard_error(repository):
    program = "import os; from accdistill_jax.runtime.abort_line import AbortLine\nwith AbortLine(lambda said: None): os.write(1, b'inside')"
    done = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -c "$0" 2>&-', program], cwd=repository, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "inside")


@pytest.mark.slow
def test_a_number_given_to_two_processes_is_one_line(repository, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "accdistill_jax.main",
        "--config=configs/distill.py:smoke",
        f"--workdir={tmp_path}/run",
        f"--coordinator=127.0.0.1:{port}",
        "--num_processes=3",
    ]
    started = [
        subprocess.Popen([*command, f"--process_id={number}"], cwd=repository, stderr=subprocess.PIPE, text=True)
        for number in (0, 1, 1)
    ]
    try:
        end = time.monotonic() + 200
        while time.monotonic() < end and started[1].poll() is None and started[2].poll() is None:
            time.sleep(0.1)
        [ended] = [process for process in started if process.poll() is not None]
        assert ended.returncode == 2
        assert (
            ended.stderr.read()
            == "error: another process was started with --process_id=1; give each its own and start all again\n"
        )
    finally:
        for process in started:
            process.kill()
            process.communicate()
