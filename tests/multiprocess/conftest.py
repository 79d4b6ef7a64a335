import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from accdistill_jax.storage.export import load_params
from tests.multiprocess.processes import Job, Topology

HELD = ("-m", "tests.multiprocess.held")


@contextmanager
def launcher(folder: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def start(processes: int, devices: int, arguments, **how) -> Job:
        jobs.append(Job(folder / f"logs-{len(jobs)}", Topology(processes, devices), arguments, **how))
        return jobs[-1]

    try:
        yield start
    finally:
        left = [pid for job in jobs for pid in job.kill()]
    assert not left, f"processes were left behind: {left}"


@pytest.fixture
def launch(tmp_path):
    """launch(processes, devices, arguments, **as Job) -> Job; no process of it outlives the test."""
    with launcher(tmp_path) as start:
        yield start


@pytest.fixture(scope="session")
def settings(smoke_store):
    """settings(workdir, **{"config.key": value}) -> arguments: the smoke preset, 16 steps of the teacher alone.

    None leaves a key to the arguments of single processes (a tuple that is given twice is both tuples).
    """

    def make(workdir, **changes):
        keys = {
            "data.stores": f"('{smoke_store}',)",
            "stages": "('teacher',)",
            "teacher.train.duration": "16 steps",
            "teacher.train.checkpoint_every": "4 steps",
            "teacher.train.validate_every": "8 steps",
        } | changes
        return [
            "--config=configs/distill.py:smoke",
            f"--workdir={workdir}",
            *(f"--config.{key}={value}" for key, value in keys.items() if value is not None),
        ]

    return make


class Result(NamedTuple):
    """Files that a run of the teacher leaves."""

    fingerprint: str
    params: Any
    metrics: str


def result(workdir: Path) -> Result:
    params, meta = load_params(workdir / "teacher/export")
    return Result(meta["fingerprint"], params, (workdir / "metrics/teacher.jsonl").read_text())


@pytest.fixture(scope="session")
def undisturbed_workdir(settings, tmp_path_factory) -> Path:
    """The work directory of `settings` on two processes with two devices each; read-only."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with launcher(folder) as start:
        start(2, 2, settings(folder / "run")).finish()
    return folder / "run"


@pytest.fixture(scope="session")
def undisturbed(undisturbed_workdir) -> Result:
    return result(undisturbed_workdir)


@pytest.fixture
def back_to_step_12(undisturbed_workdir, tmp_path) -> Path:
    """A copy of the undisturbed run at the moment after the checkpoint of step 12."""
    workdir = Path(shutil.copytree(undisturbed_workdir, tmp_path / "run"))
    shutil.rmtree(workdir / "teacher/export")
    shutil.rmtree(workdir / "teacher/checkpoints/16")
    (workdir / "teacher/checkpoints/16.json").unlink()
    return workdir


class Hold:
    """A place at which processes wait; see held.py."""

    def __init__(self, folder: Path):
        self._file = folder / "go"

    def before(self, step: int) -> dict[str, str]:
        """Environment of a process that holds before training's step `step` (from 1)."""
        return {"HOLD_AT": str(step - 1), "HOLD_UNTIL": str(self._file)}

    def before_report(self) -> dict[str, str]:
        return {"HOLD_IN_REPORT": "1", "HOLD_UNTIL": str(self._file)}

    def before_search(self) -> dict[str, str]:
        return {"HOLD_IN_SEARCH": "1", "HOLD_UNTIL": str(self._file)}

    def reached(self) -> bool:
        return self._file.with_suffix(".reached").exists()

    def release(self) -> None:
        self._file.touch()


@pytest.fixture
def hold(tmp_path):
    """hold() -> another Hold."""
    made: list[Hold] = []

    def make() -> Hold:
        folder = tmp_path / f"hold-{len(made)}"
        folder.mkdir()
        made.append(Hold(folder))
        return made[-1]

    return make


def trained(workdir: Path, stage: str = "teacher") -> int:
    """The last step of training in the metrics."""
    file = workdir / "metrics" / f"{stage}.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    steps = [json.loads(line)["step"] for line in lines if line.endswith("\n") and '"train"' in line]
    return max(steps, default=0)


@pytest.fixture
def training_held(launch, settings, hold):
    """training_held(workdir, topology, rank, step, **config) -> (job, hold): all processes wait for process `rank` before `step`."""

    def start(workdir: Path, topology: Topology, *, rank: int, step: int, own=None, **changes) -> tuple[Job, Hold]:
        place = hold()
        job = launch(
            *topology, settings(workdir, **changes), program=HELD, environment={rank: place.before(step)}, own=own
        )
        # a step's metrics are written when the next one has begun and the batch of the one after it was taken
        job.until(lambda: place.reached() and trained(workdir) >= step - 3, f"step {step} is held")
        return job, place

    return start
