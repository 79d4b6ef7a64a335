"""Agreement of exports with the trained encoder, measured on a finished run."""

import json

import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.errors import ExitStatus


@pytest.mark.slow
def test_every_format_agrees_with_python(finished, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    path = tmp_path / "parity.json"
    assert command.main(["parity", str(finished), "--minutes", "20", f"--json={path}"]) == 0
    formats = json.loads(path.read_text())["formats"]
    assert list(formats) == ["Python", "ONNX, float32", "ONNX, int8 weights", "StableHLO", "numpy"]
    for name, found in formats.items():
        assert found["largest_difference"] < (0.2 if "int8" in name else 1e-4) and found["smallest_cosine"] > 0.99
    assert "| StableHLO |" in capsys.readouterr().out


def test_a_run_without_its_stores_is_refused(copy, capsys):
    config = json.loads((copy / "config.json").read_text())
    config["config"]["data"]["stores"] = [str(copy / "gone")]
    (copy / "config.json").write_text(json.dumps(config))
    assert command.main(["parity", str(copy)]) == ExitStatus.USER_ERROR
    assert "are not at hand; give a finished run" in capsys.readouterr().err
