"""External stops reach all processes of a run, which saves its state and can continue: a maintenance notice, Ctrl-C to a launcher."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.launch.test_local import DRIVER, LOCAL
from tests.multiprocess.conftest import HELD, result, trained
from tests.multiprocess.processes import REPOSITORY, TIMEOUT_S, Topology
from tests.runtime.test_maintenance import MetadataServer

pytestmark = pytest.mark.slow
TWO = Topology(2, 2)


@pytest.fixture
def metadata():
    """A stand-in for Google's metadata server."""
    server = MetadataServer()
    yield server
    server.close()


def test_a_notice_of_maintenance(launch, settings, hold, metadata, undisturbed, tmp_path):
    """The notice goes to one machine: all processes save the step and end with 143; the same command finishes the run."""
    workdir, place = tmp_path / "run", hold()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        elsewhere = f"127.0.0.1:{closed.getsockname()[1]}"
    environment = {
        0: {"GCE_METADATA_HOST": elsewhere},
        1: {"GCE_METADATA_HOST": f"127.0.0.1:{metadata.port}", **place.before(7)},
    }
    job = launch(*TWO, settings(workdir), program=HELD, environment=environment)
    job.until(lambda: place.reached() and trained(workdir) >= 4, "step 7 is held")
    metadata.wait_until_waited_for("maintenance-event", "preempted")
    metadata.set("preempted", "TRUE")
    job.until(lambda: "Google Cloud is taking this machine back (preempted)" in job.stderr(1), "the notice is told")
    place.release()
    assert job.wait() == [143, 143], job.logs()
    saved = {job.line(rank).partition(";")[2] for rank in range(2)}
    assert len(saved) == 1 and " is saved." in saved.pop(), job.logs()
    again = launch(*TWO, settings(workdir))
    again.finish()
    assert "continuing from step" in again.stdout()
    found = result(workdir)
    assert found.fingerprint == undisturbed.fingerprint and found.metrics == undisturbed.metrics


@pytest.fixture
def launched(tmp_path):
    """launched(command, **environment) -> a launcher of two real processes with two devices each; killed after the test."""
    started: list[subprocess.Popen] = []

    def start(command, arguments, **environment) -> subprocess.Popen:
        options = ["--processes=2", "--devices=2", "--retries=0", "--", *arguments]
        # a file: a pipe that nobody reads would fill up
        with (tmp_path / f"launcher-{len(started)}").open("w") as log:
            kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
            started.append(
                subprocess.Popen(
                    [*command, *options],
                    cwd=REPOSITORY,
                    env=kept | environment | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        return started[-1]

    start.log = lambda: (tmp_path / f"launcher-{len(started) - 1}").read_text()
    yield start
    for process in started:
        process.kill()
        process.wait()


def test_ctrl_c_to_the_launcher(launched, settings, hold, undisturbed, tmp_path):
    """SIGINT to `launch/local` alone: 130, and the same command finishes the run."""
    workdir, place = tmp_path / "run", hold()
    driver = DRIVER.replace("[sys.executable, script]", "[sys.executable, '-m', script]")
    launcher = launched([sys.executable, "-c", driver, HELD[1]], settings(workdir), **place.before(7))
    while not (place.reached() and trained(workdir) >= 4):
        assert launcher.poll() is None, launched.log()
        time.sleep(0.02)
    launcher.send_signal(signal.SIGINT)
    while launched.log().count("stopping after this step") < 2:
        assert launcher.poll() is None, launched.log()
        time.sleep(0.02)
    place.release()
    assert launcher.wait(TIMEOUT_S) == 130, launched.log()
    log = launched.log()
    assert log.count("stopped by SIGINT; step") == 2 and "Traceback" not in log, log
    launcher = launched([sys.executable, str(LOCAL)], settings(workdir))
    assert launcher.wait(TIMEOUT_S) == 0, launched.log()
    assert "continuing from step" in launched.log()
    found = result(workdir)
    assert found.fingerprint == undisturbed.fingerprint and found.metrics == undisturbed.metrics
