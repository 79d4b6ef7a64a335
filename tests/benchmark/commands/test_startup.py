"""Start time of the real command, and memory of the real step."""

import json

import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.benchmark.commands import startup

pytestmark = pytest.mark.long
SMOKE = "--config=configs/distill.py:smoke-mean"


def measure(tmp_path, *arguments):
    path = tmp_path / "startup.json"
    assert command.main(["startup", SMOKE, "--rounds=1", f"--json={path}", *arguments]) == 0
    return json.loads(path.read_text())


def test_starts_are_timed_by_the_files_that_they_write(tmp_path, capsys):
    cold, warm = measure(tmp_path, "--only", "time")["starts"]
    assert (cold["kind"], warm["kind"]) == (startup.COLD, startup.WARM)
    for start in (cold, warm):
        assert sum(start["marks"].values()) == pytest.approx(start["first_step_s"])
        assert 0 < start["compiled_s"] < start["first_step_s"]
    assert warm["compiled_s"] < cold["compiled_s"]
    assert "command to first step" in capsys.readouterr().out


def test_memory_of_each_form(tmp_path):
    record = measure(tmp_path, "--only", "memory", "--batches", "4", "--micro-batches=2")
    assert [step["way"] for step in record["memory"]] == ["as configured", "blocks rematerialised", "2 micro-batches"]
    assert all(step["peak_bytes"] > 0 and step["seconds"][0] > 0 for step in record["memory"])


def test_a_run_that_ends_before_its_first_step_is_reported(capsys):
    assert command.main(["startup", SMOKE, "--only", "time", "--rounds=1", "--config.teacher.train.batch_size=7"]) == 2
    assert "a run ended before its first step: error: config.teacher.train.batch_size = 7" in capsys.readouterr().err
