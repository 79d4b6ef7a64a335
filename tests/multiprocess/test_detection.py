"""Processes without addresses on the command line find each other by the cluster's environment variables."""

import json
import socket

import pytest

from accdistill_jax.runtime import distributed
from tests.multiprocess.processes import Topology

TWO = Topology(2, 1)
# JAX derives the coordinator's port from the job's number.
PORTS = range(65535 - 2**12 + 1, 65536)


def slurm(rank: int, job: int) -> dict[str, str]:
    """The variables of a step of two tasks on one node that JAX's detection reads."""
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{PORTS[job]}",
    }


def free_job() -> int:
    """A job number whose port is free."""
    for job in range(len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", PORTS[job]))
                return job
            except OSError:
                continue
    raise AssertionError("no port is free")


@pytest.mark.slow
def test_a_slurm_step(launch, settings, tmp_path):
    job = free_job()
    environment = {rank: slurm(rank, job) for rank in range(2)}
    started = launch(
        *TWO,
        settings(tmp_path / "run", **{"teacher.train.duration": "4 steps"}),
        introduced=False,
        environment=environment,
    )
    started.finish()
    environment = json.loads((tmp_path / "run/config.json").read_text())["environment"]
    assert (environment["process_count"], environment["device_count"]) == (2, 2)
    assert "teacher: 4 steps" in started.stdout(0) and not started.said(1), started.logs()


def test_a_process_that_is_told_to_stay_alone(monkeypatch):
    """The environment of a step whose other task never starts."""
    for name, value in slurm(0, free_job()).items():
        monkeypatch.setenv(name, value)
    assert distributed.start_distributed(mode="off").count == 1
