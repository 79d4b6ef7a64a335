"""An encoder that a config file defines and registers is trained, exported, evaluated and loaded again by the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from accdistill_jax.storage.export import load_params

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("pooling_encoder.py")  # imported by the child processes only: it registers an encoder
LOADED = """
import sys
import numpy as np
from tests.stages import pooling_encoder
import accdistill_jax as ad
for part in ("teacher", "student"):
    encoder = ad.load(sys.argv[1], part=part)
    segments = np.zeros((2, encoder.samples, encoder.channels), np.float32)
    print(part, encoder.embedding_size, encoder.encode(segments).shape)
"""


@pytest.mark.slow
def test_a_third_architecture_is_one_file(smoke_store, tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )

    command = (
        "-m",
        "accdistill_jax.main",
        f"--config={CONFIG}",
        f"--workdir={tmp_path}",
        f"--config.data.stores=('{smoke_store}',)",
        "--config.student.encoder.pooling.width=20",
    )
    first = python(*command)
    assert first.returncode == 0, first.stderr
    for part, name, width in (("teacher", "params", 24), ("student", "encoder", 20)):
        params, meta = load_params(tmp_path / part / "export")
        assert meta["encoder"]["architecture"] == "pooling" and meta["encoder"]["pooling"]["width"] == width
        assert {layer: value["kernel"].shape[1] for layer, value in params[name].items()} == {"in": width, "out": width}
    assert "decoder" in load_params(tmp_path / "teacher" / "export").state  # masked autoencoding
    report = json.loads((tmp_path / "report.json").read_text())["evaluation"]
    assert set(report["encoders"]) == {"teacher", "student", "untrained"} and report["retrieval"]
    again = python(*command)
    assert again.returncode == 0 and "student: finished before" in again.stdout + again.stderr
    loaded = python("-c", LOADED, str(tmp_path))
    # mean, standard deviation, mean absolute difference and four autocovariances of the tokens
    assert loaded.stdout.split("\n")[:2] == ["teacher 168 (2, 168)", "student 140 (2, 140)"], loaded.stderr
