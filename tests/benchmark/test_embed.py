"""Inference and evaluation are measured by real processes."""

import json

import numpy as np
import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.evaluation.probes import RidgePath


@pytest.mark.long
def test_every_part_is_measured(tmp_path, capsys):
    path, smoke = tmp_path / "embed.json", "configs/distill.py:smoke"
    arguments = ["embed", f"--config={smoke}", f"--large={smoke}", "--batches", "4", "--embeddings=300", "--rounds=1"]
    assert command.main([*arguments, "--round-s=0.01", f"--json={path}"]) == 0
    record, text = json.loads(path.read_text()), capsys.readouterr().out
    assert [one["batch"] for one in record["throughput"]] == [4]
    (latency,) = record["latency"]
    assert 0 < latency["facts"]["latency_s"]["p50"] <= latency["facts"]["latency_s"]["p95"]
    for task in ("probes", "retrieval"):
        assert record[task]["seconds"][0] > 0 and record[task]["peak_bytes"] >= record[task]["facts"]["before_bytes"]
    assert "300 embeddings" in text


def test_predictions_in_blocks_are_those_at_once():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    whole, parts = (RidgePath(x, y, (0.1, 1.0), block=block).predict(x) for block in (64, 7))
    np.testing.assert_allclose(whole, parts, rtol=1e-10)
