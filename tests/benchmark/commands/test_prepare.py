"""A worker that prepares many recordings: measured in small, and the hours that follow from it."""

import json

import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.benchmark.commands import prepare


@pytest.mark.slow
def test_a_worker_is_measured(tmp_path, capsys):
    record = tmp_path / "record.json"
    words = ["prepare", "--recordings=10", "--minutes=2", f"--folder={tmp_path}", f"--json={record}"]
    assert command.main(words) == 0, capsys.readouterr().err
    measured = json.loads(record.read_text())["measured"]
    assert measured["examined"] == 20 and 0 < measured["kept"] <= 20
    assert min(measured[f"{name}_s"] for name in ("making", "staging", "writing")) > 0
    assert measured["before_mb"] <= measured["staging_mb"] <= measured["writing_mb"]
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_hours_follow_from_the_rates():
    times = {"making_s": 1.0, "staging_s": 10.0, "writing_s": 1.0}
    memory = {"before_mb": 100.0, "staging_mb": 200.0, "writing_mb": 300.0}
    measured = {"examined": 1000, "kept": 900, "store_mb": 27.0} | times | memory
    text = prepare.report({"recordings": 100, "minutes": 10, "measured": measured})
    assert "| preprocess and stage (any number of workers) | 100 | 200 |" in text
    assert "| 64 | 0.9 | 5.6 |" in text and "| 1 | 55.6 | 5.6 |" in text
