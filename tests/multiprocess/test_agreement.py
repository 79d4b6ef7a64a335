"""Processes that do not fit together end at the start; one line names the process and the difference."""

import shutil

import pytest

from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, write_store
from tests.multiprocess.conftest import HELD
from tests.multiprocess.processes import REPOSITORY, Topology

pytestmark = pytest.mark.slow


@pytest.fixture
def other_store(tmp_path):
    population = SyntheticSettings(participants=4, segments_per_participant=8, seed=5, ppg_channels=2)
    return write_store(tmp_path / "other", population, split=SplitRule(fractions=(0.5, 0.25, 0.25))).path


@pytest.fixture
def other_code(tmp_path):
    """A folder with a copy of the package that has one more comment."""
    for name in ("accdistill_jax", "configs"):
        shutil.copytree(REPOSITORY / name, tmp_path / "code" / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "code/accdistill_jax/objectives/losses.py").open("a") as file:
        file.write("# another comment\n")
    return tmp_path / "code"


def refused(job) -> str:
    assert job.wait() == [2, 2], job.logs()
    lines = {job.line(rank) for rank in range(2)}
    assert len(lines) == 1 and all(job.stderr(rank).count("\n") == 1 for rank in range(2)), job.logs()
    return lines.pop()


def test_another_config(launch, settings, tmp_path):
    job = launch(2, 1, settings(tmp_path / "run"), own={1: ["--config.student.temperature=0.5"]})
    assert refused(job).startswith(
        "error: process 1 has another config.student.temperature (0.5) than process 0 (0.07)"
    )
    assert not (tmp_path / "run").exists()


def test_another_number_of_devices(launch, settings, tmp_path):
    job = launch(2, 2, settings(tmp_path / "run"), environment={1: {"JAX_NUM_CPU_DEVICES": "1"}})
    assert refused(job).startswith("error: process 1 has another number of local devices (1) than process 0 (2)")


def test_another_store(launch, settings, tmp_path, smoke_store, other_store):
    own = {rank: [f"--config.data.stores=('{path}',)"] for rank, path in enumerate((smoke_store, other_store))}
    job = launch(2, 1, settings(tmp_path / "run", **{"data.stores": None}), own=own)
    assert refused(job).startswith("error: process 1 has another store fingerprint (")


def test_another_unseen_store(launch, settings, tmp_path, other_store):
    """The stores have the same path on each machine; the difference is reported before training."""
    population = SyntheticSettings(participants=4, segments_per_participant=8, seed=6, ppg_channels=2)
    second = write_store(tmp_path / "second/other", population, split=SplitRule(fractions=(0.5, 0.25, 0.25))).path
    own = {rank: [f"--config.data.unseen_stores=('{path}',)"] for rank, path in enumerate((other_store, second))}
    job = launch(2, 1, settings(tmp_path / "run", stages="('teacher','evaluation')"), own=own)
    assert refused(job).startswith("error: process 1 has another fingerprint of the unseen store other (")
    assert not (tmp_path / "run/teacher").exists()


def test_another_version_of_the_code(launch, settings, tmp_path, other_code):
    job = launch(2, 1, settings(tmp_path / "run"), cwd={1: other_code})
    assert refused(job).startswith("error: process 1 has another source code (")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_never_comes(launch, settings, tmp_path, rank):
    """Only process `rank` of two is started (the other one is stopped before it does anything)."""
    never = {1 - rank: ["--help"]}
    job = launch(
        *Topology(2, 1),
        settings(tmp_path / "run"),
        own=never,
        program=HELD,
        environment={rank: {"START_TIMEOUT_S": "4"}},
    )
    assert job.wait([rank]) == [75], job.logs()
    line = job.line(rank)
    assert line.startswith("error: the processes did not come together at 127.0.0.1:") and " within 4" in line, (
        job.logs()
    )
    assert job.stderr(rank).count("\n") == 1, job.logs()
