"""Killed, stopped or hung processes: the others end soon with the reason, and the same command finishes the run."""

import signal
import time

import pytest

from tests.multiprocess.conftest import result
from tests.multiprocess.processes import Topology

pytestmark = pytest.mark.slow
TWO = Topology(2, 2)
CONNECTION_S, BEYOND_SILENCE_S = 30.0, 30.0  # moments by themselves; other tests run beside these
SILENCE_S, HANG_S = 5.0, 5.0


@pytest.fixture
def continues(launch, settings, undisturbed):
    """continues(workdir): the repeated command leaves the same bits as the undisturbed run."""

    def check(workdir):
        launch(*TWO, settings(workdir)).finish()
        found = result(workdir)
        assert found.fingerprint == undisturbed.fingerprint and found.metrics == undisturbed.metrics

    return check


@pytest.mark.parametrize("killed", [0, 1])
def test_killed(training_held, continues, tmp_path, killed):
    """The process is lost in a collective; process 0 waits in it."""
    job, _ = training_held(tmp_path / "run", TWO, rank=1, step=7)
    job.signal(killed, signal.SIGKILL)
    (status,) = job.wait([1 - killed], within_s=CONNECTION_S)
    if not job.aborted_by_jax(1 - killed):  # a race, which launchers treat alike
        assert status == 75, job.logs()
        line = job.line(1 - killed)
        assert line.startswith(f"error: process {killed} ") and "killed or crashed" in line, line
    assert job.wait([killed]) == [-signal.SIGKILL]
    continues(tmp_path / "run")


def test_stopped_for_a_while(training_held, continues, tmp_path):
    job, _ = training_held(tmp_path / "run", TWO, rank=1, step=7, **{"runtime.peer_timeout_s": SILENCE_S})
    job.signal(1, signal.SIGSTOP)
    assert job.wait([0], within_s=SILENCE_S + BEYOND_SILENCE_S) == [75], job.logs()
    assert job.line(0).startswith("error: process 1 ") and "silent" in job.line(0) and job.has_stacks(0), job.logs()
    job.signal(1, signal.SIGCONT)
    assert job.wait([1], within_s=BEYOND_SILENCE_S) == [75], job.logs()
    assert job.line(1).startswith("error: process "), job.logs()
    continues(tmp_path / "run")


@pytest.mark.parametrize("hung", [0, 1])
def test_hung(training_held, continues, tmp_path, hung):
    """One process never finishes reading a batch; the other waits for it in a collective."""
    job, _ = training_held(tmp_path / "run", TWO, rank=hung, step=7, **{"runtime.hang_timeout_s": HANG_S})
    began = time.monotonic()
    assert job.wait(within_s=2 * HANG_S + BEYOND_SILENCE_S) == [75, 75], job.logs()
    print(f"hang of process {hung}: all ended {time.monotonic() - began:.1f} s after it was noticed by the test")
    for rank in range(2):
        assert job.has_stacks(rank) and "hung in training after step" in job.line(rank), job.logs()
    continues(tmp_path / "run")
