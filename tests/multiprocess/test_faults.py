"""What goes wrong on one process ends all of them, and each says where it was."""

import contextlib
import shutil
import signal
import subprocess

import pytest

from accdistill_jax.checkpoint import Checkpointer
from tests.multiprocess.conftest import HELD, result
from tests.multiprocess.processes import Topology

pytestmark = pytest.mark.slow
TWO = Topology(2, 2)
AT_ONCE_S = 5.0


def last_checkpoint(workdir) -> int | None:
    with Checkpointer(workdir / "teacher/checkpoints") as checkpointer:
        return checkpointer.latest_valid_step()


def test_shards_unreadable_on_one_process(training_held, smoke_store, tmp_path):
    copy = shutil.copytree(smoke_store, tmp_path / "copy")
    own = {rank: [f"--config.data.stores=('{path}',)"] for rank, path in enumerate((smoke_store, copy))}
    job, place = training_held(tmp_path / "run", TWO, rank=1, step=7, own=own, **{"data.stores": None})
    for name in ("ppg", "accel"):
        for shard in (copy / name / "c").rglob("0"):
            if shard.is_file():
                shard.write_bytes(shard.read_bytes()[:100])
    place.release()
    assert job.wait() == [2, 2], job.logs()
    assert job.line(1).startswith(f"error: {copy}/") and "process 1" in job.line(0) and str(copy) in job.line(0), job.logs()
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
def reported(tmp_path_factory):
    """Filled by the first test with a work directory that wants only its report."""
    return {}


@pytest.mark.parametrize("signalled", [0, 1])
def test_stopped_while_process_0_writes_the_report(launch, settings, hold, tmp_path_factory, reported, tmp_path, signalled):
    stages = "('teacher','student','evaluation'{})"
    short = {"teacher.train.duration": "4 steps", "student.train.duration": "4 steps"}
    if not reported:
        reported["workdir"] = tmp_path_factory.mktemp("reported") / "run"
        launch(2, 1, settings(reported["workdir"], stages=stages.format(""), **short)).finish()
    workdir = shutil.copytree(reported["workdir"], tmp_path / "run")
    everything = settings(workdir, stages=stages.format(",'report'"), **short)
    place = hold()
    job = launch(2, 1, everything, program=HELD, environment={0: place.before_report()})
    job.until(place.reached, "the report is begun")
    job.signal(signalled, signal.SIGTERM)
    assert job.wait(within_s=60) == [143, 143], job.logs()
    assert all(job.line(rank).startswith("stopped by SIGTERM; ") for rank in range(2)), job.logs()
    assert not (workdir / "report.json").exists()
    launch(2, 1, everything).finish()
    assert (workdir / "report.json").exists()
