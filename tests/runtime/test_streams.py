"""Standard streams that are closed, full, without a reader, or of a small character set."""

import os
import subprocess
import sys
import textwrap

import pytest

PRELUDE = "import os, sys\nfrom accdistill_jax.runtime import streams\n"


def run(repository, body, redirect="", *, product="files", environment=None, head=""):
    program = PRELUDE + f"streams.secure(product={product!r})\n" + textwrap.dedent(body)
    return subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirect}; {head or "exit $?"}', sys.executable, program],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | (environment or {}),
    )


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_what_is_written_to_a_closed_stream_ends_up_in_no_file(repository, tmp_path, redirect):
    body = f"""
        file = open({str(tmp_path / "file")!r}, "w")
        assert file.fileno() > 2
        print("out", flush=True), print("error", file=sys.stderr, flush=True), streams.tell("told")
        os.write(1, b"out of a library"), os.write(2, b"error of a library")
        assert sys.stdin.read() is not None
        streams.flush()
        file.write("mine")
    """
    done = run(repository, body, redirect + ("" if "<" in redirect else " </dev/null"))
    assert done.returncode == 0 and (tmp_path / "file").read_text() == "mine", done.stderr


def test_the_work_goes_on_without_output_to_a_full_disk(repository, tmp_path):
    body = f"""
        for number in range(3):
            print("line", number, flush=True)
        subprocess = os.system("echo of a child")
        open({str(tmp_path / "done")!r}, "w").close()
        sys.exit(subprocess)
    """
    done = run(repository, body, ">/dev/full")
    assert done.returncode == 0 and (tmp_path / "done").exists()
    assert done.stderr == "standard output cannot be written (No space left on device): the work goes on without it\n"


def test_the_work_goes_on_when_nobody_reads(repository, tmp_path):
    body = f"""
        for number in range(100_000):
            print("line", number)
        open({str(tmp_path / "done")!r}, "w").close()
    """
    done = run(repository, body, "| head -1", head='exit "${PIPESTATUS[0]}"')
    assert (done.returncode, done.stdout) == (0, "line 0\n") and (tmp_path / "done").exists()
    assert done.stderr == "standard output cannot be written (nobody reads it any more): the work goes on without it\n"


def test_a_full_disk_behind_standard_error_stops_nothing(repository):
    done = run(
        repository, "print('error', file=sys.stderr, flush=True)\nstreams.tell('told')\nprint('out')", "2>/dev/full"
    )
    assert (done.returncode, done.stdout) == (0, "out\n")


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGHUP"])
def test_a_signal_is_followed_where_standard_error_is_full(repository, signal):
    body = f"""
        import signal
        from accdistill_jax.runtime.interrupt import Interrupted, Interruption
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.{signal})
            print(interruption.signal_number == signal.{signal})
    """
    assert run(repository, body, "2>/dev/full").stdout == "True\n"


@pytest.mark.parametrize(
    ("redirect", "status", "words"),
    [
        (
            ">/dev/full",
            2,
            "error: standard output cannot be written (No space left on device); what was to be printed is lost\n",
        ),
        ("| head -1", 141, ""),
        (">&-", 0, ""),
    ],
)
def test_output_that_was_asked_for_and_is_lost_is_no_success(repository, redirect, status, words):
    body = """
        from accdistill_jax.runtime.command import run_command
        sys.exit(run_command(lambda: [print("line", number) for number in range(100_000)] and None))
    """
    done = run(repository, body, redirect, product="output", head='exit "${PIPESTATUS[0]}"')
    assert (done.returncode, done.stderr) == (status, words)


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1:strict"}, {"LC_ALL": "C"}]
)
def test_letters_that_a_terminal_lacks_are_escaped(repository, environment):
    done = run(
        repository, "print('b\\u0142\\u0105d')\nprint('b\\u0142\\u0105d', file=sys.stderr)", environment=environment
    )
    assert done.returncode == 0 and done.stdout == done.stderr
    assert done.stdout in ("b\\u0142\\u0105d\n", "błąd\n")


def test_unbuffered_output_stays_so(repository):
    body = "print('at once', end='')\nos._exit(0)"
    assert run(repository, body, environment={"PYTHONUNBUFFERED": "1"}).stdout == "at once"
    assert run(repository, body, environment={"PYTHONUNBUFFERED": ""}).stdout == ""
