"""Measurements of inference and evaluation, in real processes."""

import json

import numpy as np
import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.benchmark.commands import embed
from accdistill_jax.benchmark.contenders import searching
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.probing.probes import RidgePath
from accdistill_jax.evaluation.retrieval.ranks import paired_ranks, unit_rows


@pytest.mark.long
def test_every_part_is_measured(tmp_path, capsys):
    path, smoke = tmp_path / "embed.json", "configs/distill.py:smoke-mean"
    arguments = ["embed", f"--config={smoke}", f"--large={smoke}", "--batches", "4", "--embeddings=2000", "--rounds=1"]
    assert command.main([*arguments, "--round-s=0.01", "--queries=500", "--draws=10", f"--json={path}"]) == 0
    record, text = json.loads(path.read_text()), capsys.readouterr().out
    assert [measured["batch"] for measured in record["throughput"]] == [4]
    (latency,) = record["latency"]
    assert 0 < latency["facts"]["latency_s"]["p50"] <= latency["facts"]["latency_s"]["p95"]
    for task in embed.EVALUATIONS:
        assert record[task]["seconds"][0] > 0 and record[task]["peak_bytes"] >= record[task]["facts"]["before_bytes"]
    assert "2000 embeddings" in text and "sample of 500 queries among all 2000" in text


@pytest.mark.slow
def test_signals_and_cold_start_are_measured(finished, tmp_path, capsys):
    path = tmp_path / "embed.json"
    words = ["embed", "--only", "signals", "cold start", f"--encoder={finished}", "--rounds=1", "--round-s=0.01"]
    assert command.main([*words, f"--json={path}"]) == 0
    record, text = json.loads(path.read_text()), capsys.readouterr().out
    assert list(record["signals"]) == ["50 Hz", "64 Hz"] and len(record["cold start"]) == 1
    assert "minutes/s" in text and "Cold start of" in text


def test_a_cold_start_that_fails_is_named(tmp_path):
    with pytest.raises(UserError, match="the cold start failed: .*no folder"):
        embed.cold_starts(str(tmp_path / "absent"), 1)


def test_predictions_in_blocks_equal_predictions_in_a_single_block():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    whole, parts = (RidgePath(x, y, (0.1, 1.0), block=block).predict(x) for block in (64, 7))
    np.testing.assert_allclose(whole, parts, rtol=1e-10)


def test_ranks_of_a_sample_equal_ranks_among_all(monkeypatch):
    rng = np.random.default_rng(0)
    query = unit_rows(rng.normal(size=(90, 6)).astype(np.float32))
    gallery = unit_rows((query + 0.5 * rng.normal(size=(90, 6))).astype(np.float32))
    rows = np.array([0, 7, 33, 34, 89])
    monkeypatch.setattr(searching, "QUERIES_AT_ONCE", 4)
    monkeypatch.setattr(searching, "CANDIDATES_AT_ONCE", 32)
    for ranks, all_ranks in zip(
        searching.sampled_ranks(query, gallery, rows), paired_ranks(query, gallery), strict=True
    ):
        np.testing.assert_array_equal(ranks, all_ranks[rows])
    assert (all_ranks > 1).any()
