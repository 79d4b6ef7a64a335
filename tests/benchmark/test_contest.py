"""The contest: contenders are measured in turn, each in its own process; failures are reported; the command line."""

import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

from accdistill_jax.benchmark import commands, contest
from accdistill_jax.benchmark.__main__ import COMMANDS, benchmark_parser
from accdistill_jax.benchmark.contest import Contender, Measured
from accdistill_jax.errors import UserError

PROGRAM = """
import importlib.util, os, sys, time, types
from pathlib import Path
from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.contest import Skipped, serve

class Clock:
    now = 0.0

contest.time = types.SimpleNamespace(perf_counter=lambda: Clock.now)  # the machine may be slow

def prepare(order):
    if order.get("skip"):
        raise Skipped("no such device")
    if order.get("fail"):
        raise RuntimeError("broken on purpose")
    log = Path(order["log"])
    def run(count):
        with log.open("a") as file:
            file.write(f"{order['name']} {count}\\n")
        print("noise of a library")
        if order.get("die"):
            sys.exit("lost its way")
        Clock.now += order["seconds"] * count
        time.sleep(order.get("hangs_s", 0.0))
    has_numpy = importlib.util.find_spec("numpy") is not None
    variable = os.environ.get("CONTEST_VARIABLE")
    return {"cores": len(os.sched_getaffinity(0)), "variable": variable, "has_numpy": has_numpy}, run

serve(prepare)
"""


@pytest.fixture
def contender(tmp_path, monkeypatch):
    (tmp_path / "slow_or_fast.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name, seconds=0.01, *, environment=None, cores=(), **order):
        order = order | {"name": name, "seconds": seconds, "log": str(tmp_path / "log")}
        return Contender(name, "slow_or_fast", order, environment or {}, cores)

    return make


def test_every_round_measures_all_and_starts_with_a_different_contender(contender, tmp_path):
    results = contest.compete([contender("a", 2**-5), contender("b", 2**-7)], rounds=3, round_s=2**-4)
    lines = (tmp_path / "log").read_text().splitlines()
    # The first run of each sets its number of repetitions; three rounds follow.
    assert [line.split()[0] for line in lines] == ["a", "b", "a", "b", "b", "a", "a", "b"]
    counts = {name: {int(line.split()[1]) for line in lines[2:] if line[0] == name} for name in "ab"}
    assert counts["a"] == {2} and counts["b"] == {8}
    assert all(len(measured.seconds) == 3 and measured.peak_bytes > 1e6 for measured in results.values())
    assert results["a"].seconds == [2**-5] * 3 and results["b"].seconds == [2**-7] * 3
    assert contest.ratios(results["a"], results["b"]).median == 4


def test_environment_and_cores(contender):
    pinned = contender("a", environment={"CONTEST_VARIABLE": "set"}, cores=(0,))
    assert contest.compete([pinned], rounds=1, round_s=0.01)["a"].facts == {
        "cores": 1,
        "variable": "set",
        "has_numpy": True,
    }


def test_a_contender_may_run_in_another_environment(contender, tmp_path):
    """Another Python imports this package from here, and nothing else of this environment."""
    other = tmp_path / "python"
    # -S leaves out this environment's packages: only those that the parent would hand over could be found
    other.write_text(f'#!/bin/sh\nCONTEST_VARIABLE=other exec "{sys.executable}" -S "$@"\n')
    other.chmod(0o755)
    facts = contest.compete([contender("a")._replace(python=str(other))], rounds=1, round_s=0.01)["a"].facts
    assert facts["variable"] == "other" and not facts["has_numpy"]
    assert contest.compete([contender("a")], rounds=1, round_s=0.01)["a"].facts["has_numpy"]


def test_a_contender_that_cannot_take_part_is_left_out(contender):
    lines = []
    results = contest.compete([contender("a"), contender("b", skip=True)], rounds=2, round_s=0.01, say=lines.append)
    assert results["b"].facts == {"skipped": "no such device"} and results["b"].seconds == []
    assert len(results["a"].seconds) == 2 and "b is left out: no such device" in lines


@pytest.mark.parametrize("failure, message", [("fail", "broken on purpose"), ("die", "lost its way")])
def test_a_failing_contender_ends_the_contest_with_its_last_line(contender, failure, message):
    with pytest.raises(UserError, match=message):
        contest.compete([contender("a"), contender("b", **{failure: True})], rounds=1, round_s=0.01)


def test_long_work_has_the_smallest_number_of_repetitions(contender, tmp_path):
    contest.compete([contender("a", 0.05)], rounds=1, round_s=0.01, least=3)
    assert (tmp_path / "log").read_text() == "a 1\na 3\n"


def test_long_work_of_a_single_contender_is_measured_once(contender, tmp_path):
    results = contest.compete([contender("a", 0.05)], rounds=3, round_s=0.01, enough_s=0.04)
    assert len(results["a"].seconds) == 1 and results["a"].seconds[0] >= 0.05
    assert (tmp_path / "log").read_text() == "a 1\n"
    assert len(contest.compete([contender("a", 0.01)], rounds=3, round_s=0.01, enough_s=10.0)["a"].seconds) == 3


@pytest.mark.slow
def test_a_contender_that_does_not_answer_in_time_fails(contender):
    with pytest.raises(UserError, match="did not answer within 2 s"):
        contest.compete([contender("a", hangs_s=600.0)._replace(patience_s=2.0)], rounds=1)


def test_spread_and_ratios():
    assert contest.spread([3.0, 1.0]) == (2.0, 1.0, 3.0)
    assert contest.spread([5.0, 1.0, 2.0, 3.0, 4.0]) == (3.0, 2.0, 4.0)
    base, other = Measured({}, [2.0, 8.0, 3.0], 0), Measured({}, [1.0, 2.0, 3.0], 0)
    assert contest.ratios(base, other) == (2.0, 1.5, 3.0)  # the rounds' ratios are 2, 4 and 1
    assert contest.rates(other, per_iteration=6.0) == (3.0, 2.5, 4.5)
    assert contest.spread([0.5, 0.25]).scaled(100).text("{:.0f}") == "38 (25 to 50)"


def test_command_line(repository):
    """Help needs no device; errors are reported in a line, before any work."""

    def run(*arguments):
        command = [sys.executable, "-m", "accdistill_jax.benchmark", *arguments]
        return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60)

    assert "against PyTorch" in " ".join(run("--help").stdout.split()) and "--batch" in run("step", "--help").stdout
    for arguments, message in [
        (["step", "--json", "nowhere/at/all.json"], "no folder"),
        (["step", "--config.no.such=1"], "no.such"),
        (["step", "--rounds", "0"], "must be a positive integer"),
        (["nothing"], "invalid choice"),
    ]:
        done = run(*arguments)
        assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_every_command_s_module_is_in_the_table():
    modules = [
        importlib.import_module(f"{commands.__name__}.{module.name}")
        for module in pkgutil.iter_modules(commands.__path__)
    ]
    names = {
        module.__name__.rpartition(".")[2].replace("_", "-") for module in modules if hasattr(module, "add_arguments")
    }
    assert names == set(COMMANDS)


@pytest.mark.parametrize("chosen", COMMANDS)
def test_every_command_has_help(chosen, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark_parser(chosen).parse_args([chosen, "--help"])
    assert ended.value.code == 0 and "--json" in capsys.readouterr().out


def test_json_is_written(tmp_path, monkeypatch, capsys):
    from accdistill_jax.benchmark import __main__ as command
    from accdistill_jax.benchmark.commands import step

    monkeypatch.setattr(step, "measure", lambda arguments, say: {"rounds": arguments.rounds})
    monkeypatch.setattr(step, "report", lambda record: f"measured {record['rounds']} times\n")
    assert command.main(["step", "--rounds", "3", "--json", str(tmp_path / "found.json")]) == 0
    assert "measured 3 times" in capsys.readouterr().out
    record = json.loads((tmp_path / "found.json").read_text())
    assert record["command"] == "step" and record["rounds"] == 3
    assert record["environment"]["python"] == sys.version.split()[0]
