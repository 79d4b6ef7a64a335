"""Checkpoints are independent of the topology: a run stopped on one continues on another."""

import re
import signal

import jax
import numpy as np
import pytest

from tests.multiprocess.conftest import result
from tests.multiprocess.processes import Topology

pytestmark = pytest.mark.slow
TWO = Topology(2, 2)


@pytest.fixture
def stop(training_held, tmp_path):
    """stop(workdir, topology, rank=, step=): starts or continues the run, and stops it by a signal to a single process."""

    def run(workdir, topology, *, rank, step):
        job, place = training_held(workdir, topology, rank=rank, step=step)
        job.signal(rank, signal.SIGTERM)
        job.until(lambda: "stopping after this step" in job.stderr(rank), "the signal is noticed")
        place.release()
        assert set(job.wait()) == {143}, job.logs()
        saved = {
            re.fullmatch(r"stopped by SIGTERM; step (\d+) is saved. .*", job.line(r))[1]
            for r in range(topology.processes)
        }
        assert len(saved) == 1, job.logs()
        newest = max(int(path.stem) for path in (workdir / "teacher/checkpoints").glob("*.json"))
        # `training_held` waits for the metrics of step - 3, which are written when step - 2 has begun
        assert {str(newest)} == saved and step - 2 <= newest <= step + 2, job.logs()

    return run


@pytest.mark.parametrize("rank", [0, 1])
def test_same_topology_bit_for_bit(launch, settings, stop, undisturbed, tmp_path, rank):
    workdir = tmp_path / "run"
    stop(workdir, TWO, rank=rank, step=7)
    job = launch(*TWO, settings(workdir))
    job.finish()
    assert "continuing from step" in job.stdout()
    found = result(workdir)
    assert found.fingerprint == undisturbed.fingerprint and found.metrics == undisturbed.metrics


def test_from_topology_to_topology(launch, settings, stop, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    stop(workdir, TWO, rank=1, step=4)
    stop(workdir, Topology(1, 1), rank=0, step=8)
    stop(workdir, Topology(1, 8), rank=0, step=12)
    job = launch(*TWO, settings(workdir))
    job.finish()
    assert "continuing from step 1" in job.stdout()
    for ours, theirs in zip(*map(jax.tree.leaves, (result(workdir).params, undisturbed.params)), strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)
