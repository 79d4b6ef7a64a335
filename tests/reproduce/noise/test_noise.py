"""A finished run is scored by the noise of its test people's sensors."""

import json

import numpy as np
import pytest

from accdistill_jax.config.load import load_config
from accdistill_jax.config.record import dump
from accdistill_jax.reproduce.noise.__main__ import main
from accdistill_jax.reproduce.noise.routes import slow_devices
from accdistill_jax.storage.checked_npz import encode_npz


@pytest.mark.slow
def test_a_finished_run_is_scored_by_noise(copy, tmp_path, capsys):
    out = tmp_path / "out"
    line = [str(copy), "--out", str(out)]
    untouched = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert main(line) == 0
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == untouched
    with np.load(copy / "embeddings" / "main.npz") as arrays:
        kept = {name: arrays[name] for name in arrays.files}
    count = len(kept["student/test/embedding"])
    results = json.loads((out / "noise.json").read_text())
    everybody = results["levels"][-1]
    assert (everybody["name"], everybody["people"], everybody["minutes"], results["pool"]) == ("all", 3, count, count)
    assert sum(level["minutes"] for level in results["levels"][:-1]) == count
    assert 0.05 < everybody["noise_mg"] < 0.15  # the first generator's sensors are quiet
    assert everybody["top1"]["classical matcher, no learning"]["value"] > 0.5
    # the embeddings that the run kept are the ones that are searched
    first = np.mean(kept["student/test/rank/accel->ppg"] == 1)
    assert everybody["top1"]["student"]["value"] == pytest.approx(first)
    assert everybody["error_bpm"]["acceleration's envelope, no learning"]["value"] < 3
    assert set(everybody["error_bpm"]) >= {"student", "PPG teacher", "person's own mean", "mean of the training people"}
    assert (out / "noise.md").read_text().rstrip().endswith("](noise.png)") and (out / "noise.png").stat().st_size
    assert "| people |" in capsys.readouterr().out

    for arrays, problem in (
        ({k: v for k, v in kept.items() if k != "student/test/projection"}, "there is no projection of the student"),
        (
            {k: v[:-1] if "test" in k else v for k, v in kept.items()},
            f"{count - 1} test minutes, but the stores have {count}",
        ),
        (None, "main.npz is missing; repeat the run's command"),
    ):
        (copy / "embeddings" / "main.npz").unlink()
        if arrays is not None:
            (copy / "embeddings" / "main.npz").write_bytes(encode_npz(arrays))
        assert main(line) == 2
        error = capsys.readouterr().err
        assert problem in error and error.count("\n") == 1


def test_sensors_below_60_hz_are_slow():
    def unit(device, rate_hz):
        return {"notes": {"sensors": {"device": device, "accel": {"unit": "g", "rate_hz": rate_hz}}}}

    class Prepared:
        manifest = {"prepared": [unit("E4", 32.0), unit("fast", 100.0), unit("unknown", None), {"notes": {}}]}

    assert slow_devices(Prepared()) == {"E4", "synthetic 32 Hz", "synthetic 52 Hz"}


@pytest.mark.parametrize(
    ("objective", "problem"),
    [
        (None, "no student/export; give the work directory of a finished run of distillation"),
        ("masked", "its student (masked) did not learn from a frozen teacher"),
        ("distillation", "synthetic is missing; repeat the run's command, which writes it"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(objective, problem, tmp_path, capsys):
    run = tmp_path / "run"
    for part in ("teacher", "student") if objective else ("teacher",):
        (run / part / "export").mkdir(parents=True)
        (run / part / "export" / "export.json").write_text("{}")
    if objective:
        dump(load_config("distill:smoke", [f"--config.student.objective={objective}"]), run)
    assert main([str(run), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
