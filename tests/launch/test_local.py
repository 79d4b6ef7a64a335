"""launch/local: the processes that it starts and restarts; none outlives it."""

import importlib.machinery
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LOCAL = Path(__file__).parents[2] / "launch" / "local"
TIMEOUT_S = 120  # of what takes moments by itself
sys.path.insert(0, str(LOCAL.parent))  # as for a script that is run from there

_loader = importlib.machinery.SourceFileLoader("launch_local", str(LOCAL))
local = importlib.util.module_from_spec(importlib.util.spec_from_loader("launch_local", _loader))
_loader.exec_module(local)

# Runs the launcher in a process of its own, with a script of the test's in place of accdistill_jax.main.
DRIVER = f"""
import importlib.machinery, importlib.util, sys
sys.path.insert(0, {str(LOCAL.parent)!r})
loader = importlib.machinery.SourceFileLoader("launch_local", {str(LOCAL)!r})
local = importlib.util.module_from_spec(importlib.util.spec_from_loader("launch_local", loader))
loader.exec_module(local)
script = sys.argv.pop(1)
sys.exit(local.main(sys.argv[1:], command=[sys.executable, script]))
"""

# What every child knows: its id, which start this is, its folder; `ready` tells the test that it runs.
PREAMBLE = """
import os, signal, sys, time
from pathlib import Path
folder = Path(__file__).parent
flags = dict(a.lstrip("-").partition("=")[::2] for a in sys.argv[1:])
k = int(flags.get("process_id", 0))
with open(folder / f"starts-{k}", "a") as file:
    file.write(flags.get("coordinator", "-") + "\\n")
start = len((folder / f"starts-{k}").read_text().splitlines())
def ready():
    (folder / f"pid-{k}.new").write_text(str(os.getpid()))
    os.rename(folder / f"pid-{k}.new", folder / f"pid-{k}")
def until_signalled():
    caught = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: caught.append(number))
    ready()
    while not caught:
        time.sleep(0.02)
    return caught
"""


@pytest.fixture
def script(tmp_path):
    def write(body: str) -> Path:
        path = tmp_path / "child.py"
        path.write_text(PREAMBLE + body)
        (tmp_path / "driver.py").write_text(DRIVER)
        return path

    return write


def command(path: Path, *options: str) -> list[str]:
    return [sys.executable, str(path.parent / "driver.py"), str(path), *options, "--", "--config=c"]


def run(path: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(path, *options), capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
    )


def started(path: Path, *options: str, processes: int = 2) -> tuple[subprocess.Popen, list[int]]:
    """A launcher with all its processes ready, and their ids."""
    launcher = subprocess.Popen(
        command(path, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    files = [path.parent / f"pid-{k}" for k in range(processes)]
    wait_for(lambda: all(file.exists() for file in files))
    return launcher, [int(file.read_text()) for file in files]


def wait_for(condition, seconds: float = TIMEOUT_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def starts(path: Path, k: int = 0) -> list[str]:
    return (path.parent / f"starts-{k}").read_text().splitlines()


@pytest.mark.parametrize(
    "statuses, worst",
    [
        ([0, 0], 0),
        ([2, 75], 2),
        ([75, 2, 143], 2),
        ([0, 75], 75),
        ([143, 143], 143),
        ([143, 75], 75),
        ([130, 143], 130),
        ([130, 75], 130),
        ([-9, 75], 75),
        ([-9, 0], 75),
        ([137, 143], 75),
        ([134, 0], 75),
        ([1, 75], 1),
        ([77, 75], 1),
        ([1, 2], 2),
    ],
)
def test_the_job_ends_with_the_worst_documented_status(statuses, worst):
    assert local.job_status(statuses) == worst
    assert local.job_status(statuses[::-1]) == worst


@pytest.mark.slow
@pytest.mark.parametrize(
    "ends, starts_wanted, status",
    [
        ("sys.exit(0)", 1, 0),
        ("sys.exit(2)", 1, 2),
        ("sys.exit(130)", 1, 130),
        ("raise KeyError('bug')", 1, 1),
        ("sys.exit(75 if start == 1 else 0)", 2, 0),
        ("sys.exit(143 if start == 1 else 0)", 2, 0),
        ("start == 1 and os.kill(os.getpid(), signal.SIGKILL)", 2, 0),
        ("start == 1 and os.abort()", 2, 0),
        ("sys.exit(75)", 2, 75),
        ("sys.exit(2 if k else 75)", 1, 2),
    ],
)
def test_starts_again_only_where_that_helps(script, ends, starts_wanted, status):
    path = script(ends)
    done = run(path, "--retries=1")
    assert done.returncode == status, done.stderr
    assert len(starts(path, 0)) == len(starts(path, 1)) == starts_wanted


def test_every_start_has_its_own_port_on_the_loopback(script):
    path = script("sys.exit(75)")
    run(path, "--retries=1")
    ports = starts(path, 0)
    assert ports == starts(path, 1)
    assert len(set(ports)) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_lines_carry_the_number_of_their_process(script):
    path = script("print(f'one\\ntwo of {k}'); print('no end', end='', file=sys.stderr)")
    done = run(path)
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == ["[0] one", "[0] two of 0", "[1] one", "[1] two of 1"]
    assert sorted(done.stderr.splitlines()) == ["[0] no end", "[1] no end"]


def test_a_single_process_is_left_alone(script):
    path = script("print(sys.argv[1:], os.environ['JAX_NUM_CPU_DEVICES'])")
    done = run(path, "--processes=1", "--devices=3")
    assert done.stdout == "['--config=c'] 3\n"


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_a_signal_is_passed_on_once_and_nothing_starts_again(script, number, status):
    path = script("caught = until_signalled(); time.sleep(0.2); assert len(caught) == 1; sys.exit(128 + caught[0])")
    launcher, _ = started(path, "--retries=3")
    launcher.send_signal(number)
    _, error = launcher.communicate(timeout=TIMEOUT_S)
    assert launcher.returncode == status, error
    assert len(starts(path, 0)) == 1


def test_a_second_signal_kills(script):
    path = script("until_signalled(); (folder / f'caught-{k}').touch(); [time.sleep(1) for _ in range(300)]")
    launcher, children = started(path)
    launcher.send_signal(signal.SIGTERM)
    wait_for(lambda: (path.parent / "caught-0").exists() and (path.parent / "caught-1").exists())
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=TIMEOUT_S)
    assert launcher.returncode == 75
    assert not any(map(is_alive, children))


def test_a_stopped_process_is_killed_after_the_grace(script):
    path = script(
        """
if k:
    ready()
    os.kill(os.getpid(), signal.SIGSTOP)
while not (folder / "pid-1").exists():
    time.sleep(0.02)
sys.exit(75)
"""
    )
    done = run(path, "--retries=0", "--grace=1")
    assert done.returncode == 75
    assert "[1] did not end within 1 s" in done.stderr
    assert not is_alive(int((path.parent / "pid-1").read_text()))


def test_those_that_end_within_the_grace_are_not_killed(script):
    path = script("k and time.sleep(0.5); (folder / f'ended-{k}').touch(); sys.exit(75)")
    done = run(path, "--retries=0", "--grace=20")
    assert (path.parent / "ended-1").exists() and "killed" not in done.stderr


def test_a_process_that_finishes_first_does_not_hurry_the_others(script):
    path = script("k or time.sleep(1.5); sys.exit(0)")
    done = run(path, "--grace=0")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_nothing_outlives_a_killed_launcher(script):
    path = script("until_signalled(); [time.sleep(1) for _ in range(300)]")
    launcher, children = started(path)
    launcher.kill()
    launcher.communicate(timeout=TIMEOUT_S)
    wait_for(lambda: not any(map(is_alive, children)))


def test_what_a_process_leaves_behind_goes_with_it(script):
    body = """
import subprocess
left = subprocess.Popen(["sleep", "300"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
(folder / f"left-{k}").write_text(str(left.pid))
os._exit(0)
"""
    path = script(body)
    assert run(path).returncode == 0
    for k in range(2):
        left = int((path.parent / f"left-{k}").read_text())
        wait_for(lambda left=left: not is_alive(left))


@pytest.mark.slow
def test_a_signal_while_waiting_to_start_again_ends_the_launcher(script):
    path = script("sys.exit(75)")
    launcher = subprocess.Popen(command(path, "--retries=9"), stderr=subprocess.PIPE, text=True)
    while "starting again in 4 s" not in launcher.stderr.readline():
        assert launcher.poll() is None
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=TIMEOUT_S)
    assert launcher.returncode == 143
    assert len(starts(path)) == 3


def test_the_reader_going_away_does_not_end_the_run(script):
    path = script("[print(i, flush=True) for i in range(2000)]; (folder / f'ended-{k}').touch()")
    launcher = subprocess.Popen(command(path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    launcher.stdout.readline()
    launcher.stdout.close()
    assert launcher.wait(timeout=TIMEOUT_S) == 0
    assert (path.parent / "ended-0").exists() and (path.parent / "ended-1").exists()


def test_dry_run_prints_what_is_started():
    arguments = ["--processes=2", "--devices=4", "--dry-run", "--", "--config=c.py", "--config.x=it's"]
    shown = subprocess.run([str(LOCAL), *arguments], capture_output=True, text=True, timeout=TIMEOUT_S)
    lines = [shlex.split(line) for line in shown.stdout.splitlines()]
    assert len(lines) == 2
    for k, words in enumerate(lines):
        assert {"JAX_PLATFORMS=cpu", "JAX_NUM_CPU_DEVICES=4"} < set(words)
        assert words[words.index("-m") :][:4] == [
            "-m",
            "accdistill_jax.main",
            "--config=c.py",
            "--config.x=it's",
        ]
        address = next(word.partition("=")[2] for word in words if word.startswith("--coordinator="))
        assert f"JAX_COORDINATOR_BIND_ADDRESS={address}" in words
        assert words[-2:] == ["--num_processes=2", f"--process_id={k}"]


def test_gpus_are_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    options = local.parse(["--accelerator", "gpu", "--processes", "2", "--", "--config=c"])
    devices = local.visible_devices(options)
    processes = local.plan(options, devices=devices, command=["main"], port=1)
    assert [process.environment["CUDA_VISIBLE_DEVICES"] for process in processes] == ["3,5", "6,7"]
    assert {process.environment["JAX_PLATFORMS"] for process in processes} == {"cuda,cpu"}


def test_gpus_are_counted_by_nvidia_smi(monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho GPU 0\necho GPU 1\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    options = local.parse(["--accelerator=gpu", "--processes=2", "--", "--config=c"])
    assert local.visible_devices(options) == ["0", "1"] and options.devices == 1


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--processes=0", "--", "x"], "'0' must be a whole number of at least 1"),
        (["--processes=2"], "nothing to run"),
        (["--accelerator=tpu", "--", "x"], "invalid choice"),
        (["--", "--config=c", "--process_id=1"], "--process_id is set by the launcher"),
        (["--accelerator=gpu", "--processes=3", "--", "x"], "3 processes of 1 GPU need 3; 2 visible"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(capsys, monkeypatch, arguments, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert local.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
