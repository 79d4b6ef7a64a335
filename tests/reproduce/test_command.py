"""The command with a small grid: results, messages, exit statuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import types

import pytest

from accdistill_jax.config.load import load_config
from accdistill_jax.config.tree import plain
from accdistill_jax.reproduce import __main__ as command
from accdistill_jax.reproduce import measure, plan
from accdistill_jax.reproduce.plan.command_line import parse_command_line
from accdistill_jax.reproduce.report import check

GRID = """
import fnmatch, os
from pathlib import Path
from typing import NamedTuple
from accdistill_jax.errors import UserError
from accdistill_jax.reproduce.jobs.jobs import Job

class ExperimentInfo(NamedTuple):
    id: str
    title: str
    runs: tuple

class GridPlan(NamedTuple):
    jobs: list
    experiments: list
    settings: dict

def plan_grid(preset, *, stores, unseen, only, seeds, overrides):
    if any("missing" in store for store in stores):
        raise UserError(f"{stores[0]}: no such store")
    known = ["probes", "retrieval", "augmentation"]
    ids = [name for name in known if not only or any(fnmatch.fnmatchcase(name, pattern) for pattern in only)]
    if not ids:
        raise UserError(f"--only {only[0]}: there is no such experiment; did you mean probes?")
    experiments = [ExperimentInfo(name, name.title(), (name,)) for name in ids]
    cost_s = {"smoke": 1.0, "cpu": 100.0, "full": 1e4}[preset]
    jobs = [Job(name, f"{name:x<12}{preset}{seeds}{overrides}", {"name": name}, (), cost_s) for name in ids]
    settings = {"seeds": seeds or 3, "generator_version": int(os.environ.get("GENERATOR", "1"))}
    return GridPlan(jobs, experiments, settings)

def measure_report(plan, outcomes, *, say):
    from accdistill_jax.reproduce.report.document import Claim, Number, Report, Section
    done = {name: o.folder / "value" for name, o in outcomes.items() if o.status in ("finished", "cached")}
    numbers = {f"{n}/value": Number(float(path.read_text()), None, None, (), "", 0.1, 0.0) for n, path in done.items()}
    runs = [{"name": name, "status": o.status, "seconds": o.seconds, "reason": o.reason} for name, o in outcomes.items()]
    sections = tuple(Section(experiment.id, experiment.title) for experiment in plan.experiments)
    claims = (Claim("well", "all is well", "yes", "P", "yes", "yes", ""),)
    broken = {os.environ["BROKEN"]: "ZeroDivisionError: by hand"} if "BROKEN" in os.environ else {}
    return Report("Small", (), claims, sections, numbers, runs, plan.settings, broken)
"""
WORK = """
import os, time
from accdistill_jax.runtime.interrupt import Interruption

def do(order, folder, needs):
    if os.environ.get("FAIL") == order["name"]:
        raise RuntimeError("broken on purpose")
    with Interruption() as interruption:
        (folder / "began").touch()
        end = time.monotonic() + float(os.environ.get("SLEEP", "0"))
        while time.monotonic() < end:
            time.sleep(0.02)
            interruption.raise_if_requested("step 3 is saved")
    (folder / "value").write_text(os.environ.get("VALUE", "2.0"))
"""
COMMAND = """
import sys
import small_grid
import accdistill_jax.reproduce.plan as package
from accdistill_jax.runtime.interrupt import Interruption
from accdistill_jax.reproduce import __main__ as command
package.grid = sys.modules["accdistill_jax.reproduce.plan.grid"] = small_grid
command.WORK = "small_work:do"
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, repository):
    """Folder in which the command runs, with the modules of the small grid."""
    for name, text in (("small_grid", GRID), ("small_work", WORK), ("command", COMMAND)):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(repository)]))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """run(arguments..., **environment) -> (status, standard output, standard error), in this process."""
    small_grid = types.ModuleType("small_grid")
    exec(GRID, vars(small_grid))
    for package, name in ((plan, "grid"), (measure, "measure")):
        monkeypatch.setitem(sys.modules, f"{package.__name__}.{name}", small_grid)
        monkeypatch.setattr(package, name, small_grid, raising=False)
    monkeypatch.setattr(command, "WORK", "small_work:do")

    def run(*arguments, **environment):
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            status = command.main(arguments)
        return status, *capsys.readouterr()

    return run


def test_list_run_and_check(run, tmp_path):
    status, out, _ = run("--preset=smoke", "--list")
    assert status == 0 and not (tmp_path / "runs").exists()
    assert "3 experiments:" in out and "in total 3 s, of which 3 s are not yet done in runs/reproduce-smoke" in out

    status, out, error = run("--preset=smoke", "--seeds=2", "--only", "prob*", "retrieval")
    assert status == 0, error
    assert out.splitlines()[0] == "2 runs; about 2 s" and "report.html" in out.splitlines()[-1]
    assert "[2/2] " in error and "Traceback" not in error
    folder = tmp_path / "runs" / "reproduce-smoke"
    assert {path.name for path in folder.iterdir()} >= {"report.html", "report.md", "report.json", "runs"}
    settings = json.loads((folder / "report.json").read_text())["settings"]
    assert settings == {
        "preset": "smoke",
        "data": ["synthetic"],
        "unseen": [],
        "only": ["prob*", "retrieval"],
        "overrides": [],
        "seeds": 2,
        "generator_version": 1,
    }

    reference = str(folder / "report.json")
    status, out, _ = run("--check", reference, VALUE="2.1")  # preset, experiments and seeds come from the report
    assert status == 0 and "all 3 numbers and claims agree" in out and "before this start" not in out
    assert (tmp_path / "runs" / "reproduce-smoke-check" / "report.json").exists()

    status, out, _ = run("--check", reference, "--only=probes", "--out=elsewhere", VALUE="3.0")
    assert status == 3 and "1 of 2 numbers and claims moved" in out and "retrieval" not in out.partition("Compared")[2]


def test_an_impossible_check_is_refused_before_anything_runs(run, tmp_path):
    assert run("--preset=smoke", "--only=probes")[0] == 0
    reference = "runs/reproduce-smoke/report.json"
    for arguments, environment, message in (
        (["--preset=cpu"], {}, "the reports cannot be compared: preset is smoke in the reference, cpu here"),
        (["--seeds=1"], {}, "seeds is 3 in the reference, 1 here"),
        ([], {"GENERATOR": "2"}, "generator_version is 1 in the reference, 2 here"),
    ):
        status, out, error = run("--check", reference, *arguments, **environment)
        assert (status, out) == (2, "") and message in error and error.count("\n") == 1
    (tmp_path / reference).write_text((tmp_path / reference).read_text()[:100])
    status, _, error = run("--check", reference)
    assert status == 2 and "is not valid JSON" in error and error.count("\n") == 1


def test_a_check_with_the_runs_of_the_report_or_of_old_code_is_refused(run, tmp_path):
    assert run("--preset=smoke", "--only=probes")[0] == 0
    reference = "runs/reproduce-smoke/report.json"
    before = (tmp_path / reference).read_bytes()
    status, out, error = run("--check", reference, "--out=runs/reproduce-smoke")
    assert (status, out) == (2, "") and "holds the report to check" in error
    assert (tmp_path / reference).read_bytes() == before
    assert run("--check", reference, "--out=again")[0] == 0
    (folder,) = (tmp_path / "again" / "runs").iterdir()
    (folder / "facts.json").write_text(json.dumps({"environment": {"source_hash": "of another version"}}))
    status, _, error = run("--check", reference, "--out=again", VALUE="3.0")
    assert status == 2 and "1 runs in again (first: probes) were made by another version of the source code" in error


def test_an_experiment_with_an_error_is_named(run):
    status, _, error = run("--preset=smoke", BROKEN="retrieval")
    assert status == 4 and "not measured: retrieval: ZeroDivisionError: by hand" in error


def test_failed_runs_are_named_and_the_report_is_written(run, tmp_path):
    status, out, error = run("--preset=smoke", FAIL="retrieval")
    assert status == 4
    assert "failed: retrieval: RuntimeError: broken on purpose (" in error.splitlines()[-1]
    assert "broken on purpose" in (tmp_path / "runs" / "reproduce-smoke" / "report.html").read_text()
    status, out, _ = run("--preset=smoke")
    assert status == 0 and re.search(r"3 runs, 2 of them already finished; about \d s", out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_one_line_and_the_same_command_continues(run, tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "command.py", "--preset=smoke", "--only=probes"],
        env=os.environ | {"SLEEP": "60"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not [*tmp_path.glob("runs/*/runs/*/began")] and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + number and "Traceback" not in error
    assert error.splitlines()[-1] == (
        f"stopped by {number.name}; finished work is kept, 0 of 1 runs are finished. The same command continues from there."
    )
    assert run("--preset=smoke", "--only=probes")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset=huge"], "argument --preset: invalid choice: 'huge'"),
        (["--only", "probs"], "--only probs: there is no such experiment; did you mean probes?"),
        (["--workrs=2"], "unknown argument '--workrs=2'; did you mean --workers?"),
        (["--workers=0"], "argument --workers: '0' must be a positive integer; see --help"),
        (["--seeds=none"], "argument --seeds: 'none' must be a positive integer; see --help"),
        (["--data", "synthetic", "x"], "--data synthetic x: synthetic cannot be combined with stores"),
        (["--data", "missing"], "missing: no such store"),
        (["--check", "none.json"], "cannot read none.json: No such file or directory"),
        (["--out", "small_grid.py"], "small_grid.py"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(run, arguments, message):
    status, _, error = run("--preset=smoke", *arguments)
    assert status == 2 and message in error and error.startswith("error: ") and error.count("\n") == 1


def test_the_real_command_refuses_and_helps(repository):
    for arguments, status in ((["--nonsense"], 2), (["--help"], 0)):
        done = subprocess.run(
            [sys.executable, "-m", "accdistill_jax.reproduce", *arguments],
            cwd=repository,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status and done.stderr.count("\n") == status // 2
    assert "--check REPORT.json" in done.stdout and "five hours on two cores" in " ".join(done.stdout.split())


def test_the_plan_is_listed_outside_the_repository(repository, tmp_path):
    program = (
        "import sys; from accdistill_jax.reproduce.__main__ import main; sys.exit(main(['--preset=smoke', '--list']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+ experiments:$", done.stdout, re.MULTILINE)


def test_a_signal_whose_exception_was_lost_while_measuring_still_stops(run, monkeypatch, tmp_path):
    """Python drops exceptions that are raised in a finaliser."""
    grid = sys.modules["accdistill_jax.reproduce.plan.grid"]
    report = grid.measure_report

    class Finalised:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    def lost(plan, outcomes, *, say):
        Finalised()  # its finaliser runs at once
        say("measuring goes on")
        return report(plan, outcomes, say=say)

    monkeypatch.setattr(grid, "measure_report", lost)
    status, out, error = run("--preset=smoke", "--only=probes")
    assert status == 143 and "measuring goes on" not in out
    assert error.splitlines()[-1].startswith("stopped by SIGTERM; finished runs are kept")


def test_a_check_repeats_a_report_of_another_version_with_the_values_of_then(capsys):
    then = plain(load_config("reproduce:claims"))
    then["student"] |= {"token_weight": 1.0, "token_schedule": "linear"}
    then["data"]["synthetic"]["workers"] += 1  # decides nothing
    reference = {"preset": "claims", "overrides": ["--config.student.learning=1"], "config": then}
    wanted = parse_command_line(["--check=report.json"], reference=reference | {"overrides": []})
    as_then = command.as_in_reference(wanted, reference | {"overrides": []})
    assert as_then.overrides == ("--config.student.token_weight=1.0", "--config.student.token_schedule=linear")
    assert (
        "as in the report, unlike this version's preset: --config.student.token_weight=1.0" in capsys.readouterr().out
    )
    settings = {"config": plain(load_config("reproduce:claims", as_then.overrides)), "overrides": as_then.overrides}
    check.check_alike(reference, settings | {"preset": "claims"})
    for own in (["--preset=smoke"], ["--config.seed=1"]):
        wanted = parse_command_line(["--check=report.json", *own], reference=reference)
        assert command.as_in_reference(wanted, reference) == wanted


def test_a_config_override_with_a_space_is_not_a_store():
    wanted = parse_command_line(["--data", "a", "b", "--unseen", "c", "--config.student.train.duration=300 steps"])
    assert wanted.stores == ("a", "b") and wanted.unseen == ("c",)
    assert wanted.overrides == ("--config.student.train.duration=300 steps",)
