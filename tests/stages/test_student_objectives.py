"""The student's stage and its evaluation, whatever trains the encoder."""

import json

import numpy as np
import pytest

from accdistill_jax.run import run
from accdistill_jax.storage.arrays import flatten_arrays
from accdistill_jax.storage.export import load_params

WITHOUT_TEACHER = {"stages": ("data", "student", "evaluation", "report")}
CASES = {
    "masked": {"student.objective": "masked"},
    "contrastive": {"student.objective": "contrastive"},
    "supervised": {"student.objective": "supervised", "student.supervised.label_fraction": 0.5},
    "joint": {"student.objective": "joint"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_student_of_any_objective_is_trained_without_a_teacher_and_evaluated(name, smoke_config, tmp_path):
    run(smoke_config(**CASES[name] | WITHOUT_TEACHER), str(tmp_path))
    params, meta = load_params(tmp_path / "student" / "export")
    assert meta["objective"] == name and "decoder" not in params and "encoder" in params
    assert not (tmp_path / "teacher").exists()
    report = json.loads((tmp_path / "report.json").read_text())["evaluation"]
    assert set(report["encoders"]) == {"student", "untrained"} | ({"teacher"} if name == "joint" else set())
    assert bool(report["retrieval"]) == (name == "joint")
    with np.load(tmp_path / "embeddings" / "main.npz") as saved:
        assert ("student/test/prediction" in saved.files) == (name == "supervised")
        if name == "supervised":  # in the label's unit
            assert 40 < saved["student/test/prediction"].mean() < 120


@pytest.mark.slow
def test_a_contrastive_teacher_is_distilled_by_regression(smoke_config, tmp_path):
    changes = {"teacher.objective": "contrastive", "student.contrastive_weight": 0.0, "student.regression_weight": 1.0}
    changes["student.head.windows"] = 1  # windows are for the contrastive loss
    run(smoke_config(**changes), str(tmp_path))
    report = json.loads((tmp_path / "report.json").read_text())["evaluation"]
    assert set(report["encoders"]) == {"teacher", "student", "untrained"} and report["retrieval"]
    teacher, _ = load_params(tmp_path / "teacher" / "export")
    assert set(teacher) == {"params", "mean", "std"}
    student, _ = load_params(tmp_path / "student" / "export")
    assert set(student) == {"encoder", "regression_head", "token_head"}


@pytest.mark.slow
def test_a_momentum_branch_continues_bit_for_bit(smoke_config, tmp_path):
    """Stopped after the checkpoint of step 3 of 6 by an end that is moved there, continued to the end."""
    changes = {"stages": ("student",), "student.objective": "contrastive", "student.train.checkpoint_every": "1 steps"}
    run(smoke_config(**changes), str(tmp_path / "whole"))
    run(smoke_config(**changes), str(tmp_path / "parts"))
    checkpoints = tmp_path / "parts" / "student" / "checkpoints"
    newest = max((path for path in checkpoints.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    assert int(newest.name) == 6
    import shutil

    shutil.rmtree(newest)
    shutil.rmtree(tmp_path / "parts" / "student" / "export")
    run(smoke_config(**changes), str(tmp_path / "parts"))
    whole, parts = (
        flatten_arrays(load_params(tmp_path / name / "student" / "export").state) for name in ("whole", "parts")
    )
    for name, leaf in whole.items():
        np.testing.assert_array_equal(parts[name], leaf, err_msg=name)
