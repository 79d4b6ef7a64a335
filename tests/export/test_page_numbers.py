"""The page's arithmetic in JavaScript gives the numbers of Python, in node, without a browser."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.quality import motion_g
from accdistill_jax.data.preprocessing.resample import to_grid
from accdistill_jax.data.recording import Stream
from accdistill_jax.export import demo
from accdistill_jax.readouts.readout import FAR, MOTION, NO_HEART, WIDE, Domain, HeartTest, Readout, Readouts

NODE = shutil.which("node")
PROGRAM = """
import { readFileSync } from "node:fs";
import { motionOf, prediction, resample } from "./signal.mjs";
const given = JSON.parse(readFileSync("given.json"));
const results = {
  grids: given.columns.map(([column, rate]) => Array.from(resample(Float64Array.from(column), rate, 64))),
  motion: motionOf(Float32Array.from(given.segment), 64),
  rows: given.rows.map(([embedding, motion]) => prediction(Float32Array.from(embedding), motion, given.about)),
};
console.log(JSON.stringify(results));
"""


class Student:
    rate_hz, samples, fingerprint = 64.0, 3840, "f00d"


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_resampling_motion_and_read_outs_are_those_of_python(tmp_path):
    rng = np.random.default_rng(0)
    signals = {rate: rng.normal(0.0, 0.01, 5 * rate) + np.linspace(0.8, 0.9, 5 * rate) for rate in (25, 50, 64, 100)}
    segment = rng.normal([0.0, 0.6, 0.8], 0.02, (3840, 3)).astype(np.float32)
    weights, spread_weights = rng.normal(0, 2.0, 6), rng.normal(0, 0.5, 6)
    heart_rate = Readout("bpm", weights, 60.0, spread_weights, 0.5, (0.5, 9.0), 2.0, 12.0)
    domain = Domain(rng.normal(size=6), rng.normal(size=(6, 4)), 3.0, 0.05)
    readouts = Readouts(
        "f00d", 0.9, {"hr_bpm": 40}, domain, {"hr_bpm": heart_rate}, HeartTest(rng.normal(size=6), -2.0)
    )
    embeddings, motion = rng.normal(0, 1.6, (60, 6)).astype(np.float32), rng.uniform(0, 0.06, 60)
    embeddings[-1] = -30 * np.sign(weights)  # a rate below 0
    given = {
        "columns": [[signal.tolist(), rate] for rate, signal in signals.items()],
        "segment": segment.reshape(-1).tolist(),
        "rows": [[row.tolist(), float(moved)] for row, moved in zip(embeddings, motion, strict=True)],
        "about": demo.page_description(Student, readouts, None),
    }
    page = demo.page_folder()
    shutil.copy(page / "signal.js", tmp_path / "signal.mjs")
    (tmp_path / "run.mjs").write_text(PROGRAM)
    (tmp_path / "given.json").write_text(json.dumps(given))
    done = subprocess.run([NODE, "run.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    for grid, (rate, signal) in zip(found["grids"], signals.items(), strict=True):
        stream = Stream("accel", np.stack([signal] * 3, axis=1), ("x", "y", "z"), "g", rate_hz=float(rate))
        expected = to_grid(stream, start_s=0.0, count=5 * 64, rate_hz=64.0, gap_s=1.0).values[:, 0]
        np.testing.assert_allclose(grid, expected, atol=2e-5)  # the package resamples in float32
    assert found["motion"] == pytest.approx(float(motion_g(segment[None], rate_hz=64.0)[0]), rel=1e-5)
    expected = readouts.predict(embeddings, motion_g=motion)["hr_bpm"]
    rows = found["rows"]
    assert [row["reason"] for row in rows] == expected.reason.tolist()
    assert {"", FAR, MOTION, NO_HEART, WIDE} == set(expected.reason.tolist())
    for name in ("value", "low", "high"):
        shown = np.array([row[name] for row in rows])
        np.testing.assert_allclose(shown[expected.known], getattr(expected, name)[expected.known], rtol=1e-9, atol=1e-9)
    assert min(row["low"] for row in rows) == 0.0
