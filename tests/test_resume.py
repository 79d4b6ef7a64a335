"""Interrupted anywhere and started again, a run ends with the very bits of the run that nobody interrupted.

The command runs as a user starts it, in a process of its own, and is stopped at a random point of each stage by one
signal or another. ACCDISTILL_KILLS_PER_STAGE=1 (or more) also stops each stage by each signal, so many times, in some
minutes; ACCDISTILL_KILL_SEED chooses other points.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accdistill_jax.storage.export import load_params

STEPS = 12
STAGES = ("data", "teacher", "student", "evaluation", "report")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
KILLS_PER_STAGE = int(os.environ.get("ACCDISTILL_KILLS_PER_STAGE", "0"))
SEED = int(os.environ.get("ACCDISTILL_KILL_SEED", "0"))
TIMEOUT_S = 300

OVERRIDES = [
    "--config.data.synthetic.participants=12",
    "--config.data.synthetic.segments_per_participant=6",
    "--config.teacher.train.duration=12 steps",
    "--config.student.train.duration=12 steps",
    "--config.teacher.train.checkpoint_every=4 steps",
    "--config.student.train.checkpoint_every=5 steps",
    "--config.student.train.keep=best",
    "--config.student.train.ema_decay=0.9",
    "--config.teacher.train.batch_size=8",
    "--config.student.train.batch_size=8",
]


class Process:
    """The command, started in a session of its own."""

    def __init__(self, repository: Path, workdir: Path):
        command = [
            sys.executable,
            "-m",
            "accdistill_jax.main",
            "--config=configs/distill.py:smoke",
            f"--workdir={workdir}",
            *OVERRIDES,
        ]
        self.log = workdir.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=repository, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait(self) -> int:
        try:
            return self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise

    def stop(self, number: signal.Signals) -> None:
        """As a terminal sends Ctrl-C, to the whole group; the others to the process alone."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)


def reached(workdir: Path, stage: str, rng: random.Random):
    """() -> whether the run has come to a random point of a stage."""
    if stage == "data":
        wanted, units = rng.randrange(0, 12), workdir / "data" / "synthetic.partial" / "units"
        return lambda: units.exists() and len(list(units.glob("*.npz"))) >= wanted
    if stage in ("teacher", "student"):
        wanted, file = rng.randrange(0, STEPS + 1), workdir / "metrics" / f"{stage}.jsonl"
        return lambda: file.exists() and file.read_text().count('"train"') >= wanted
    file = workdir / ("student/export/export.json" if stage == "evaluation" else "embeddings/main.npz")
    after_s = rng.uniform(0, 2)
    return lambda: file.exists() and time.time() - file.stat().st_mtime >= after_s


def finished(workdir: Path, stage: str) -> bool:
    """True if a stage can no longer be interrupted."""
    marks = (
        "data/synthetic/manifest.json",
        "teacher/export/export.json",
        "student/export/export.json",
        "embeddings/main.npz",
        "report/made_from",
    )
    return (workdir / dict(zip(STAGES, marks, strict=True))[stage]).exists()


def interrupt(repository: Path, workdir: Path, stage: str, number: signal.Signals, rng: random.Random) -> bool:
    """Starts the command and stops it in a stage; False where it was faster."""
    if finished(workdir, stage):
        return False
    there = reached(workdir, stage, rng)
    process = Process(repository, workdir)
    began = time.monotonic()
    while process.running and not (there() and process.log.read_text()):  # what is there may be of an earlier start
        assert time.monotonic() - began < TIMEOUT_S, process.log.read_text()
        time.sleep(0.01)
    if not process.running:
        assert process.wait() == 0, process.log.read_text()
        return False
    time.sleep(rng.uniform(0, 0.2))
    process.stop(number)
    status, log = process.wait(), process.log.read_text()
    if status == 0:
        return False
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL, log
        return True
    assert status == 128 + number, log
    assert "Traceback" not in log and "Exception ignored" not in log, log
    assert log.splitlines()[-1].startswith(f"stopped by {number.name}; "), log
    assert log.splitlines()[-1].endswith(" The same command continues from there."), log
    return True


def result(workdir: Path) -> dict:
    """All that must be equal, without times and places."""
    found = json.loads((workdir / "report.json").read_text())
    del found["run"]["durations_s"], found["evaluation"]["seconds"]
    run = found["run"]
    run["data"], run["separation"]["stores"] = list(run["data"].values()), list(run["separation"]["stores"].values())
    kept = {"report": found}
    for stage in ("teacher", "student"):
        kept[stage] = load_params(workdir / stage / "export").meta["fingerprint"]
        kept[f"{stage} metrics"] = (workdir / "metrics" / f"{stage}.jsonl").read_text()
    return kept


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    process = Process(Path(__file__).parents[1], workdir)
    assert process.wait() == 0, process.log.read_text()
    found = result(workdir)
    assert found["teacher metrics"].count('"train"') == STEPS
    return found


def finish(repository: Path, workdir: Path, expected: dict) -> None:
    process = Process(repository, workdir)
    assert process.wait() == 0, process.log.read_text()
    found = result(workdir)
    for name in expected:
        assert found[name] == expected[name], name


@pytest.mark.slow
def test_a_stop_in_every_stage(repository, tmp_path, uninterrupted):
    rng = random.Random(SEED)
    workdir = tmp_path / "run"
    signals = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGINT)
    stopped = [
        interrupt(repository, workdir, stage, number, rng) for stage, number in zip(STAGES, signals, strict=True)
    ]
    assert sum(stopped) >= 3, "the run was faster than the signals"
    finish(repository, workdir, uninterrupted)


@pytest.mark.slow
@pytest.mark.skipif(not KILLS_PER_STAGE, reason="takes minutes: set ACCDISTILL_KILLS_PER_STAGE=1 or more")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_every_signal_in_every_stage(repository, tmp_path, uninterrupted, number):
    rng = random.Random(1000 * SEED + number)
    workdir = tmp_path / "run"
    stopped = {stage: 0 for stage in STAGES}
    for stage in STAGES:
        for _ in range(KILLS_PER_STAGE):
            stopped[stage] += interrupt(repository, workdir, stage, number, rng)
    print({"signal": number.name, "stopped": stopped})
    assert sum(stopped.values()) >= 3, "the run was faster than the signals"
    finish(repository, workdir, uninterrupted)
