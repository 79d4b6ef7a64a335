"""A sample of `python -m tests.chaos`, the whole of which takes many minutes: processes of a run are killed at random moments.

ACCDISTILL_CHAOS_KILLS=30 (or more) kills that often; ACCDISTILL_CHAOS_SEED chooses other moments.
"""

import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests import chaos_verdict

KILLS = int(os.environ.get("ACCDISTILL_CHAOS_KILLS", "2"))
SEED = os.environ.get("ACCDISTILL_CHAOS_SEED", "0")


@pytest.mark.long
@pytest.mark.timeout(600 + 240 * KILLS)
@pytest.mark.parametrize(
    "option", [(), ("--change-topology",), ("--through-launcher",)], ids=("same", "changed", "launched")
)
def test_killed_runs_end_as_the_undisturbed_one(repository, option):
    if option and "ACCDISTILL_CHAOS_KILLS" not in os.environ:
        pytest.skip("takes minutes: set ACCDISTILL_CHAOS_KILLS")
    command = [sys.executable, "-m", "tests.chaos", "--kills", str(KILLS), "--seed", SEED, *option]
    done = subprocess.run(command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    assert len(re.findall(r"^kill \d+/", done.stdout, re.MULTILINE)) == KILLS


@pytest.fixture
def tally():
    """Nothing has been seen yet."""
    return chaos_verdict.Tally()


def test_temporaries_that_a_finished_run_has_are_a_violation(tally, tmp_path, monkeypatch):
    monkeypatch.setattr(chaos_verdict, "load_params", lambda path: SimpleNamespace(state={}))
    monkeypatch.setattr(chaos_verdict, "result", lambda workdir: {})
    (tmp_path / "run1/metrics").mkdir(parents=True)
    chaos_verdict.compare(tmp_path / "run1", tmp_path / "reference", tally, change_topology=False)
    assert not tally.violations
    (tmp_path / "run1/metrics/.teacher.jsonl.1-2.tmp").touch()
    chaos_verdict.compare(tmp_path / "run1", tmp_path / "reference", tally, change_topology=False)
    assert tally.violations == ["run1: temporaries are left in it: metrics/.teacher.jsonl.1-2.tmp"]


@pytest.mark.parametrize(
    ("number", "name", "statuses", "violations"),
    [
        (signal.SIGINT, "SIGINT", [130, 130], 0),
        (signal.SIGINT, "SIGINT", [130, 143], 1),
        (signal.SIGTERM, "SIGTERM", [143, 143], 0),
        (signal.SIGTERM, "SIGTERM", [143, 75], 1),
        (signal.SIGKILL, "SIGKILL", [-9, 75], 0),
        (signal.SIGKILL, "SIGKILL", [75, 75], 1),
        (signal.SIGSTOP, "SIGSTOP then SIGCONT", [75, 75], 0),
    ],
)
def test_each_signal_has_its_statuses(tally, tmp_path, number, name, statuses, violations):
    job = SimpleNamespace(statuses=statuses, launched=False, logs=[tmp_path / "0", tmp_path / "1"])
    chaos_verdict.check_statuses(job, tally, 1, number=number, target=0, name=name)
    assert len(tally.violations) == violations
