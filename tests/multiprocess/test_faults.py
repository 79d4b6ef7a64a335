"""A fault of one process ends all processes, and each reports its place."""

import contextlib
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from accdistill_jax.storage.checkpoint import Checkpointer
from tests.multiprocess.conftest import HELD, launcher, result
from tests.multiprocess.processes import Job, Topology

pytestmark = pytest.mark.slow
TWO = Topology(2, 2)
EVERYTHING = "('teacher','student','evaluation','report')"
SHORT = {"teacher.train.duration": "4 steps", "student.train.duration": "4 steps"}
WAIT_S = 15.0  # beyond what one process may be behind the other
AT_ONCE_S = 30.0  # moments by itself; nothing else would end it


def last_checkpoint(workdir) -> int | None:
    with Checkpointer(workdir / "teacher/checkpoints") as checkpointer:
        return checkpointer.latest_valid_step()


def test_shards_unreadable_on_one_process(training_held, smoke_store, tmp_path):
    copy = shutil.copytree(smoke_store, tmp_path / "copy")
    own = {rank: [f"--config.data.stores=('{path}',)"] for rank, path in enumerate((smoke_store, copy))}
    job, place = training_held(tmp_path / "run", TWO, rank=1, step=7, own=own, **{"data.stores": None})
    # written meanwhile; the steps up to the held batch are so short that it could still be under way
    job.until((tmp_path / "run/teacher/checkpoints/4").exists, "checkpoint 4 is written")
    for name in ("ppg", "accel"):
        for shard in (copy / name / "c").rglob("0"):
            if shard.is_file():
                shard.write_bytes(shard.read_bytes()[:100])
    place.release()
    assert job.wait() == [2, 2], job.logs()
    assert job.line(1).startswith(f"error: {copy}/") and "process 1" in job.line(0) and str(copy) in job.line(0), (
        job.logs()
    )
    assert last_checkpoint(tmp_path / "run") == 4


def test_full_disk(launch, settings, back_to_step_12, undisturbed):
    """Process 0 cannot write the checkpoint of step 16."""
    limited = {"FILE_LIMIT": "50000", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    job = launch(*TWO, settings(back_to_step_12), program=HELD, environment={0: limited})
    assert job.wait() == [2, 2], job.logs()
    assert str(back_to_step_12) in job.line(0) and "process 0" in job.line(1), job.logs()
    assert last_checkpoint(back_to_step_12) == 12
    launch(*TWO, settings(back_to_step_12)).finish()
    assert result(back_to_step_12).fingerprint == undisturbed.fingerprint


def test_second_signal_ends_at_once(training_held, tmp_path):
    job, _ = training_held(tmp_path / "run", TWO, rank=1, step=7)
    job.signal(1, signal.SIGTERM)
    job.until(lambda: "stopping after this step" in job.stderr(1), "the first signal is noticed")
    # the same signal within moments is taken for one that was passed on twice, so it may take several
    for _ in range(10):
        job.signal(1, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.processes[1].wait(0.2)
            break
    assert job.wait([1], within_s=AT_ONCE_S) == [-signal.SIGTERM], job.logs()
    assert job.wait([0], within_s=AT_ONCE_S) == [75], job.logs()
    assert last_checkpoint(tmp_path / "run") == 4


@pytest.fixture(scope="module")
def embedded(settings, tmp_path_factory) -> Path:
    """A work directory that lacks only its report; read-only."""
    folder = tmp_path_factory.mktemp("embedded")
    with launcher(folder) as start:
        start(2, 1, settings(folder / "run", stages="('teacher','student','evaluation')", **SHORT)).finish()
    return folder / "run"


@pytest.mark.parametrize("signalled", [0, 1])
def test_stopped_while_process_0_writes_the_report(launch, settings, hold, embedded, tmp_path, signalled):
    workdir = shutil.copytree(embedded, tmp_path / "run")
    everything = settings(workdir, stages=EVERYTHING, **SHORT)
    place = hold()
    job = launch(2, 1, everything, program=HELD, environment={0: place.before_report()})
    job.until(place.reached, "the report is begun")
    job.signal(signalled, signal.SIGTERM)
    assert job.wait() == [143, 143], job.logs()
    assert all(job.line(rank).startswith("stopped by SIGTERM; ") for rank in range(2)), job.logs()
    assert not (workdir / "report.json").exists()
    launch(2, 1, everything).finish()
    assert (workdir / "report.json").exists()


def hung(job: Job, limit_s: float) -> str:
    """The line of the process that noticed a hang, after a check that all processes ended and wrote their stacks."""
    assert job.wait() == [75, 75], job.logs()
    assert all(job.has_stacks(rank) for rank in range(2)), job.logs()
    lines = {job.line(rank) for rank in range(2)}
    assert len(lines) == 1, job.logs()
    (line,) = lines
    assert f": nothing done within 1 x {limit_s:g} s; the last checkpoint is kept" in line, line
    return line


def test_process_0_hangs_in_the_report(launch, settings, hold, embedded, tmp_path):
    """The waiting processes notice it, and process 0 as well."""
    workdir = shutil.copytree(embedded, tmp_path / "run")
    limit = {"runtime.hang_timeout_s": WAIT_S}
    environment = {0: hold().before_report(), 1: {"SLACK": "1"}}
    arguments = settings(workdir, stages=EVERYTHING, **SHORT, **limit)
    job = launch(2, 1, arguments, program=HELD, environment=environment)
    assert hung(job, WAIT_S).startswith("error: process 1 stopped: hung in the wait for all processes ('report'): "), (
        job.logs()
    )
    assert "in hold" in job.stderr(0) and not (workdir / "report.json").exists()


def test_a_process_hangs_in_the_pool_search(launch, settings, hold, embedded, tmp_path):
    """The other process waits for it in a collective."""
    workdir = shutil.copytree(embedded, tmp_path / "run")
    (workdir / "embeddings/main.npz").unlink()
    environment = {
        0: {"SLACK": "1"},
        1: hold().before_search(),
    }  # both wait from the same moment on: one is to notice first
    arguments = settings(workdir, stages=EVERYTHING, **SHORT, **{"runtime.hang_timeout_s": WAIT_S})
    job = launch(2, 1, arguments, program=HELD, environment=environment)
    assert hung(job, WAIT_S).startswith("error: process 0 stopped: hung in the pool search: "), job.logs()
    assert not (workdir / "embeddings/main.npz").exists()
