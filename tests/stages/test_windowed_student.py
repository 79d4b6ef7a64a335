"""Students with heads on windows of tokens and regression onto tokens, through the stages and the Python API."""

import json
import shutil

import numpy as np
import pytest

import accdistill_jax as ad
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.data.store.store import Store
from accdistill_jax.run import run
from accdistill_jax.stages import student
from accdistill_jax.storage.export import load_params
from accdistill_jax.training.metrics import read_metrics
from tests.stages.test_teacher_views import NO_AUGMENTATION

CHANGES = {
    "student.head.windows": 12,
    "student.token_weight": 1.0,
    "student.token_schedule": "linear",
    "student.drop_fraction": 0.5,
    "student.train.micro_batches": 2,
    "student.contrast.loss": "sigmoid",
    "student.contrast.temperature_bounds": (0.01, 1.0),
}


def student_losses(workdir, kind):
    records = read_metrics(workdir / "metrics" / "student.jsonl")
    return np.array([record["loss"] for record in records if record["kind"] == kind])


@pytest.fixture(scope="module")
def teacher(smoke_store, tmp_path_factory):
    """Export of a teacher of six steps, with the arrays that every version has written."""
    workdir = tmp_path_factory.mktemp("teacher")
    run(
        changed(load_config("distill:smoke-mean"), {"data.stores": (str(smoke_store),), "stages": ("teacher",)}),
        workdir,
    )
    export = workdir / "teacher" / "export"
    assert set(load_params(export).state) == {"params", "mean", "std", "decoder"}
    return export


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [0.0, 1.0], ids=["windows", "windows and tokens"])
def test_cached_windows_and_tokens_train_as_the_teacher_does(
    tokens, teacher, smoke_config, smoke_store, tmp_path, capsys
):
    store = shutil.copytree(smoke_store, tmp_path / "store")
    keys = (
        NO_AUGMENTATION | CHANGES | {"teacher.path": str(teacher), "stages": ("student",), "data.stores": (str(store),)}
    )
    keys |= {"student.token_weight": tokens} | ({} if tokens else {"student.token_schedule": "constant"})
    run(smoke_config(**keys), tmp_path / "each step")
    run(smoke_config(**keys, **{"teacher.cached_views": 1}), tmp_path / "once")
    for kind in ("train", "validation"):
        np.testing.assert_allclose(
            *(student_losses(tmp_path / name, kind) for name in ("once", "each step")), rtol=1e-5
        )
    rows, width = len(Store.open(store).indices("train")), 32 * (60 if tokens else 12)
    described = "all tokens" if tokens else "means of tokens in 12 windows"
    line = next(line for line in capsys.readouterr().out.splitlines() if "segments once" in line)
    assert f"{rows * (4 * width + 8) / 1e6:.0f} MB in " in line and line.endswith(f" ({described})")


@pytest.mark.slow
def test_a_windowed_student_continues_bit_for_bit_is_evaluated_and_loads(teacher, smoke_config, tmp_path, monkeypatch):
    """Stopped after step 3 of 6 by an end that is moved there."""
    changes = CHANGES | {"teacher.path": str(teacher), "student.train.checkpoint_every": "1 steps"}
    changes |= {"evaluation.representation": "statistics"}
    run(smoke_config(**changes), tmp_path / "whole")
    run(smoke_config(**changes, stages=("student",)), tmp_path / "parts")
    checkpoints = tmp_path / "parts" / "student" / "checkpoints"
    for path in checkpoints.iterdir():
        if path.name == "6":
            shutil.rmtree(path)
    shutil.rmtree(tmp_path / "parts" / "student" / "export")
    with monkeypatch.context() as patched:
        patched.setattr(
            student, "teacher_token_statistics", None
        )  # other devices would give other bits: not computed again
        run(smoke_config(**changes, stages=("student",)), tmp_path / "parts")
    prints = [load_params(tmp_path / name / "student" / "export").meta["fingerprint"] for name in ("whole", "parts")]
    assert prints[0] == prints[1]

    params, meta = load_params(tmp_path / "whole" / "student" / "export")
    assert set(params) == {"encoder", "head", "teacher_head", "token_head", "teacher_tokens", "contrast"}
    assert abs(np.exp(params["contrast"]["log_temperature"]) - 0.07) > 1e-5 and params["contrast"]["bias"] != -10
    assert meta["head"]["windows"] == 12 and meta["representation"] == "statistics"
    assert "projection" not in params["encoder"], "an output layer would stay untrained"
    report = json.loads((tmp_path / "whole" / "report.json").read_text())["evaluation"]
    assert set(report["encoders"]) == {"teacher", "student", "untrained"} and report["retrieval"]
    with np.load(tmp_path / "whole" / "embeddings" / "main.npz") as saved:
        for name in ("teacher", "student", "untrained"):
            assert saved[f"{name}/test/embedding"].shape[1] == 3 * 32
        assert saved["student/test/projection"].shape == saved["teacher/test/projection"].shape
        encoder, store = ad.load(tmp_path / "whole"), ad.open_store(smoke_config().data.stores[0])
        embedded = encoder.encode(store.read(store.indices("test")))
        assert encoder.embedding_size == 3 * 32
        np.testing.assert_allclose(embedded, saved["student/test/embedding"], rtol=1e-4, atol=1e-4)
