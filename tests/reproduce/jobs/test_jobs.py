"""A graph of jobs in worker processes: caching, failures, dying workers, signals."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from io import StringIO

import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.reproduce.jobs.jobs import Job, job_folder, run_jobs
from accdistill_jax.reproduce.jobs.schedule import Schedule

WORK = """
import json, os, signal, sys, time
from pathlib import Path
from accdistill_jax.errors import UserError
from accdistill_jax.runtime.interrupt import Interruption

def do(order, folder, needs):
    with (folder.parent.parent / "begun").open("a") as file:
        file.write(f"{folder.name} {os.getpid()}\\n")
    print("noise of a library")
    if "raise" in order:
        raise {"user": UserError, "bug": KeyError}[order["raise"]](order["text"])
    if "exit" in order:
        sys.exit(order["exit"])
    if "die" in order:
        os.kill(os.getpid(), order["die"])
    if "leave" in order:
        os._exit(order["leave"])
    steps = folder / "steps"
    taken = int(steps.read_text()) if steps.exists() else 0
    with Interruption() as interruption:  # as training does
        while taken < order.get("steps", 0):
            time.sleep(0.02)
            taken += 1
            if interruption.requested or order.get("saves"):
                part = steps.with_name("steps.part")
                part.write_text(str(taken))  # written atomically, because a kill may come at any time
                part.replace(steps)
            interruption.raise_if_requested(f"step {taken} is saved")
    time.sleep(order.get("sleep", 0))
    (folder / "result.json").write_text(json.dumps({
        "needs": {name: str(path) for name, path in needs.items()},
        "variable": os.environ.get("JOB_VARIABLE"),
        "steps": taken,
    }))
"""


def job(name, *needs, cost_s=1.0, key=None, **order):
    return Job(name, key or f"{name:0>16}".replace("-", "0"), order, needs, cost_s)


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch, repository):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "stand_in.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{repository}")


@pytest.fixture
def start(tmp_path):
    """start(*jobs, ...) -> (outcomes, printed lines, lines of the progress display)."""

    def start(*jobs, folder=tmp_path / "out", **arguments):
        printed, stream = [], StringIO()
        outcomes = run_jobs(jobs, folder, work="stand_in:do", say=printed.append, stream=stream, **arguments)
        return outcomes, printed, stream.getvalue().splitlines()

    return start


def result(outcome):
    return json.loads((outcome.folder / "result.json").read_text())


def begun(folder):
    """(name, process id) of the jobs that began, in order."""
    lines = (folder / "begun").read_text().splitlines()
    return [(line.split()[0].rpartition("-")[0], int(line.split()[1])) for line in lines]


def test_jobs_run_after_the_jobs_they_need_and_only_once(start, tmp_path):
    jobs = [job("student", "teacher"), job("teacher")]
    first, printed, shown = start(*jobs)
    assert [*first] == ["student", "teacher"] and {o.status for o in first.values()} == {"finished"}
    assert result(first["student"])["needs"] == {"teacher": str(first["teacher"].folder)}
    assert first["teacher"].folder == job_folder(tmp_path / "out", jobs[1])
    assert printed == ["2 runs; about 2 s"]
    assert [line.split(":")[0] for line in shown] == ["[1/2] teacher", "[2/2] student"]
    log = (first["student"].folder / "log.txt").read_text()
    assert log.startswith("--- student, begun ") and log.endswith("noise of a library\n")
    assert len({process for _, process in begun(tmp_path / "out")}) == 1  # the same process did both

    again, printed, shown = start(*jobs)
    assert {o.status for o in again.values()} == {"cached"} and shown == []
    assert printed == ["all 2 runs are already finished"]
    assert {name: o.seconds for name, o in again.items()} == {name: o.seconds for name, o in first.items()}

    changed = start(jobs[0]._replace(key="f" * 16), jobs[1])[0]
    assert {name: o.status for name, o in changed.items()} == {"student": "finished", "teacher": "cached"}


def test_a_failed_job_prints_one_line_and_the_others_continue(start, tmp_path):
    text = "no store x;\ndo something"
    jobs = [
        job("user", cost_s=9, **{"raise": "user", "text": text}),
        job("bug", cost_s=8, **{"raise": "bug", "text": "gone"}),
        job("exits", cost_s=7, exit=3),
        job("below", "user"),
        job("far-below", "fine", "below"),
        job("fine"),
    ]
    outcomes, _, shown = start(*jobs)
    assert {name: o.status for name, o in outcomes.items()} == {
        "user": "failed",
        "bug": "failed",
        "exits": "failed",
        "below": "skipped",
        "far-below": "skipped",
        "fine": "finished",
    }
    assert outcomes["user"].reason == "no store x;" and outcomes["bug"].reason == "KeyError: 'gone'"
    assert outcomes["exits"].reason == "SystemExit: 3"
    assert outcomes["below"].reason == outcomes["far-below"].reason == "needs user, which failed"
    assert "UserError" in (outcomes["user"].folder / "error.txt").read_text()
    assert shown[0].startswith("[3/6] user: failed: no store x;")
    assert len({process for _, process in begun(tmp_path / "out")}) == 4  # a job after a failed one gets a new process

    healed = [jobs[0]._replace(order={}), *jobs[3:]]
    again = start(*healed)[0]
    assert {name: o.status for name, o in again.items()} == {
        "user": "finished",
        "below": "finished",
        "far-below": "finished",
        "fine": "cached",
    }
    assert not (again["user"].folder / "error.txt").exists()


def test_a_process_that_dies_fails_its_job_and_is_replaced(start):
    outcomes, _, _ = start(
        job("killed", cost_s=9, die=signal.SIGKILL),
        job("crashed", cost_s=8, leave=7),
        job("fine"),
        job("below", "killed"),
    )
    assert outcomes["killed"].reason == "its process died (SIGKILL: out of memory, or killed); see log.txt"
    assert outcomes["crashed"].reason == "its process died (exit status 7); see log.txt"
    assert outcomes["fine"].status == "finished" and outcomes["below"].status == "skipped"


def test_a_signal_to_one_worker_fails_only_its_job(start):
    outcomes, _, _ = start(job("hit", cost_s=9, die=signal.SIGTERM), job("fine"))
    assert outcomes["hit"].status == "failed" and outcomes["hit"].reason.startswith("stopped by SIGTERM")
    assert outcomes["fine"].status == "finished"


def test_a_missing_work_function_fails_the_job(tmp_path):
    outcomes = run_jobs([job("a")], tmp_path, work="stand_in:nothing", say=lambda line: None, stream=StringIO())
    assert "AttributeError" in outcomes["a"].reason and "nothing" in outcomes["a"].reason


def test_workers_have_separate_environments_and_run_at_the_same_time(start):
    jobs = [job("a", sleep=0.6), job("b", sleep=0.6), job("c", "a", "b")]
    outcomes, _, _ = start(*jobs, environments=[{"JOB_VARIABLE": "x"}, {"JOB_VARIABLE": "y"}])
    assert {result(outcomes["a"])["variable"], result(outcomes["b"])["variable"]} == {"x", "y"}
    assert outcomes["c"].status == "finished"


def test_the_longest_path_runs_first(start, tmp_path):
    start(job("short", cost_s=2), job("teacher", cost_s=1), job("student", "teacher", cost_s=5), job("long", cost_s=4))
    assert [name for name, _ in begun(tmp_path / "out")] == ["teacher", "student", "long", "short"]


def test_time_left():
    schedule = Schedule([job("a", cost_s=10), job("b", "a", cost_s=20), job("c", cost_s=6)])
    assert schedule.path_s == {"a": 30, "b": 20, "c": 6}
    assert schedule.left_s(["a", "b", "c"], {}, workers=1) == 36
    assert schedule.left_s(["a", "b", "c"], {}, workers=2) == 30  # the longest path
    assert schedule.left_s(["b", "c"], {"a": 4}, workers=2, scale=2) == 56
    assert schedule.left_s(["c"], {"b": 99}, workers=1) == 6
    assert schedule.left_s([], {}, workers=1) == 0


def test_measured_durations_scale_the_expected_ones():
    schedule = Schedule([job("a", cost_s=100), job("b", "a", cost_s=100), job("c", cost_s=300)])
    assert schedule.scale({}, {}, before={}) == 1
    assert schedule.scale({}, {"a": 90}, before={}) == 1
    assert schedule.scale({"a": 200}, {}, before={}) == pytest.approx(250 / 150)
    assert schedule.scale({}, {"a": 400, "c": 20}, before={}) == pytest.approx(450 / 150)  # late, and not yet ended
    earlier = 350 / 150
    assert schedule.scale({}, {}, before={"a": 300}) == pytest.approx(earlier)
    assert schedule.scale({"b": 150}, {}, before={"a": 300}) == pytest.approx((150 + 40 * earlier) / 140)
    assert Schedule([job("a", cost_s=0)]).scale({"a": 5}, {}, before={}) == 1


def test_a_later_start_knows_that_the_machine_is_slow(start):
    start(job("a", cost_s=0.05, sleep=1))
    _, printed, _ = start(job("a", cost_s=0.05, sleep=1), job("b", cost_s=1))
    (about,) = re.findall(r"2 runs, 1 of them already finished; about (\d+) s", printed[0])
    assert int(about) >= 5


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([job("a", "b")], "job 'a' needs 'b', which is no job"),
        (
            [job("a", "b"), job("b", "c"), job("c", "b")],
            "needs in a circle: b -> c -> b|needs in a circle: c -> b -> c",
        ),
        ([job("a"), job("a")], "two jobs are named 'a'"),
        ([job("a/b")], "makes no folder's name"),
        ([job("a", key="ab")], "makes no folder's name"),
    ],
)
def test_an_invalid_graph_is_a_valueerror(start, jobs, message):
    with pytest.raises(ValueError, match=message):
        start(*jobs)


def test_results_of_another_job_and_unreadable_results_are_refused(start, tmp_path):
    first = job("a", key="a" * 16)
    path = start(first)[0]["a"].folder / "finished.json"
    with pytest.raises(UserError, match="another run's result"):
        start(first._replace(key="a" * 12 + "bbbb"))
    path.write_text("{")
    with pytest.raises(UserError, match=r"finished.json is unreadable .*; delete it"):
        start(first)


def test_an_unusable_folder_is_refused(start, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        start(job("a"), folder=tmp_path / "file")


PARENT = """
import sys
from accdistill_jax.runtime.interrupt import Interrupted
from accdistill_jax.reproduce.jobs.jobs import Job, run_jobs
jobs = [Job("teacher", "0" * 16, {"steps": 5, "saves": True}), Job("student", "1" * 16, {"steps": %d, "saves": True}, ("teacher",))]
try:
    outcomes = run_jobs(jobs, sys.argv[1], work="stand_in:do", say=lambda line: print(line, flush=True))
except Interrupted as stop:
    print(stop, flush=True)
    sys.exit(128 + stop.signal_number)
print({name: outcome.status for name, outcome in outcomes.items()})
"""


class Parent:
    """A process that runs two jobs, as the command does, in a separate session."""

    def __init__(self, folder, steps):
        self.folder = folder
        self.jobs_before = len(begun(folder)) if (folder / "begun").exists() else 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PARENT % steps), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def steps(self):
        path = self.folder / "runs" / "student-111111111111" / "steps"
        return int(path.read_text() or 0) if path.exists() else 0

    def when_training(self):
        """Waits until a worker that this parent started trains; returns the worker's process id."""
        until(lambda: self.steps >= 3 and len(begun(self.folder)) > self.jobs_before)
        name, worker = begun(self.folder)[-1]
        assert name == "student"
        return worker

    def end(self):
        text, _ = self.process.communicate(timeout=60)
        return self.process.returncode, text


def until(condition, timeout_s=120.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{process}/stat") as file:  # a zombie: killed, and not yet reaped
        return file.read().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True)])
def test_a_signal_stops_cleanly_and_the_same_command_continues(tmp_path, number, to_all):
    """A terminal sends Ctrl-C to all foreground processes; a job scheduler sends SIGTERM to every process."""
    parent = Parent(tmp_path / "out", steps=100000)
    worker = parent.when_training()
    if to_all and number == signal.SIGTERM:
        os.kill(worker, number)
    (os.killpg if to_all else os.kill)(parent.process.pid, number)
    status, text = parent.end()
    assert status == 128 + number
    assert "Traceback" not in text
    assert text.splitlines()[-1] == (
        f"stopped by {number.name}; finished work is kept, 1 of 2 runs are finished. The same command continues from there."
    )
    assert is_gone(worker)
    saved = parent.steps
    status, text = Parent(tmp_path / "out", steps=saved + 1).end()
    assert status == 0 and text.splitlines()[-1] == "{'teacher': 'cached', 'student': 'finished'}"
    saved_result = json.loads((tmp_path / "out" / "runs" / "student-111111111111" / "result.json").read_text())
    assert saved_result["steps"] == saved + 1  # it continued from the saved step


def test_a_second_signal_or_a_kill_ends_everything_at_once(tmp_path):
    parent = Parent(tmp_path / "out", steps=100000)
    worker = parent.when_training()
    os.kill(worker, signal.SIGSTOP)  # it cannot answer
    parent.process.send_signal(signal.SIGINT)
    until(lambda: select_output(parent))
    time.sleep(0.4)
    parent.process.send_signal(signal.SIGINT)
    assert parent.process.wait(timeout=120) == -signal.SIGINT
    os.kill(worker, signal.SIGCONT)
    until(lambda: is_gone(worker))
    parent.process.stdout.close()

    parent = Parent(tmp_path / "out", steps=100000)
    worker = parent.when_training()
    parent.process.kill()
    parent.process.communicate()
    until(lambda: is_gone(worker))
    saved = parent.steps
    assert Parent(tmp_path / "out", steps=saved + 1).end()[0] == 0


def select_output(parent):
    return "stopping after this step" in parent.process.stdout.readline()


@pytest.mark.slow
def test_a_folder_in_use_is_refused(start, tmp_path):
    parent = Parent(tmp_path / "out", steps=100000)
    parent.when_training()
    with pytest.raises(UserError, match="is in use by another process"):
        start(job("a"))
    parent.process.send_signal(signal.SIGTERM)
    parent.end()
