"""launch/tpu_worker, driven by launch/tpu_pod: real processes, two workers on this machine.

The stand-in for gcloud's ssh runs the command in a folder per worker; a small script in the worker's virtual environment plays
accdistill_jax.main.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
RUN = ["--", "--config=configs/distill.py", "--workdir=gs://bucket/run"]

MAIN = """#!{python}
import os, signal, sys, time
assert sys.argv[1:3] == ["-m", "accdistill_jax.main"]
home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0]))))
print("arguments", sys.argv[3:], flush=True)
def save(*_):
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
while not os.path.exists(home + "/release"):
    time.sleep(0.02)
sys.exit(int(open(home + "/release").read()))
"""


@pytest.fixture
def workers(desk):
    """Two workers, with Python and packages already there."""
    desk.answer("tpu_worker", {"run": True})
    folders = [desk.folder / "workers" / str(k) for k in range(2)]
    for folder in folders:
        python = folder / "accdistill" / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(MAIN.format(python=sys.executable))
        python.chmod(0o755)
    yield folders
    release(folders, 0, 0)  # nothing outlives the test
    for folder in folders:
        lock = folder / "accdistill" / "state" / "lock"
        if lock.exists():
            subprocess.run(["flock", "--timeout", "20", lock, "true"], check=True)


def set_up(desk, workers):
    """Files that `setup` leaves on the workers, with this checkout's code; the packages count as installed."""
    unpack = "rm -rf accdistill/code && mkdir accdistill/code && tar -xzf accdistill-code.tar.gz -C accdistill/code"
    root = LAUNCH.parent
    files = ["launch", "requirements.lock", "pyproject.toml"]
    for folder in workers:
        archive = folder / "accdistill-code.tar.gz"
        subprocess.run(["tar", "-czf", archive, "-C", root, *files], check=True)
        subprocess.run(["bash", "-c", unpack], cwd=folder, check=True)
        code = folder / "accdistill" / "code"
        locks = [
            code / "requirements.lock",
            code / "launch" / "requirements-tpu.lock",
            code / "pyproject.toml",
        ]
        summed = subprocess.run("cat {} {} {} | sha256sum".format(*locks), shell=True, capture_output=True, text=True)
        (folder / "accdistill" / "venv" / "installed").write_text(summed.stdout)


def states(desk):
    out = desk.run("tpu_pod", "status", "--zone=z").out
    return [" ".join(line.split()[2:]) for line in out.splitlines() if line.startswith("worker ")]


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def release(workers, *statuses):
    for folder, status in zip(workers, statuses, strict=True):
        new = folder / "accdistill" / "release.new"
        new.write_text(str(status))
        new.rename(folder / "accdistill" / "release")


def test_workers_run_report_and_end(desk, workers):
    set_up(desk, workers)
    assert states(desk) == ["none", "none"]
    odd = "--config.a=it's $HOME (odd)"
    assert desk.run("tpu_pod", "run", "--zone=z", *RUN, odd).status == 0
    assert states(desk) == ["running", "running"]
    again = desk.run("tpu_pod", "run", "--zone=z", *RUN)
    assert again.status == 0 and "already running" in again.out
    release(workers, 0, 75)
    wait_for(lambda: states(desk) == ["ended 0", "ended 75"])
    log = desk.run("tpu_pod", "logs", "--zone=z", "--worker=1").out
    assert f"arguments {[*RUN[1:], odd]!r}" in log and log.count("arguments") == 1


def test_stop_lets_the_run_save_and_is_remembered(desk, workers):
    set_up(desk, workers)
    desk.run("tpu_pod", "run", "--zone=z", *RUN)
    assert desk.run("tpu_pod", "stop", "--zone=z").status == 0
    wait_for(lambda: states(desk) == ["stopped 143", "stopped 143"])
    assert "saved" in (workers[0] / "accdistill" / "state" / "log").read_text()


def test_a_run_that_went_with_its_machine_counts_as_killed(desk, workers):
    set_up(desk, workers)
    desk.run("tpu_pod", "run", "--zone=z", *RUN)
    pid = (workers[0] / "accdistill" / "state" / "pid").read_text().strip()
    parent = re.search(r"^PPid:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]
    subprocess.run(["kill", "-KILL", parent, pid], check=True)
    wait_for(lambda: states(desk) == ["ended 137", "running"])


@pytest.mark.slow
def test_up_on_real_workers_starts_again_after_a_loss(desk, workers):
    set_up(desk, workers)
    desk.answer(r" list ", {"out": "ACTIVE\n"})
    release(workers, 75, 75)
    launcher = subprocess.Popen(
        [str(LAUNCH / "tpu_pod"), "up", "--zone=z", "--accelerator-type=v5litepod-16", "--poll=1", *RUN],
        env=desk.environment,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    while "starting again" not in launcher.stderr.readline():
        assert launcher.poll() is None
    release(workers, 0, 0)
    _, error = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, error
