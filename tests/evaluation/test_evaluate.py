"""From embeddings to numbers."""

import dataclasses
import json

import numpy as np
import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.evaluate import evaluate, json_value
from accdistill_jax.evaluation.report.verdict import format_number, verdict
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings

FAST = {"bootstrap_draws": 5, "interval_draws": 200}


def _replace(encoders, name, **changes):
    encoders[name] = {
        s: dataclasses.replace(e, **{k: f(e) for k, f in changes.items()}) for s, e in encoders[name].items()
    }
    return encoders


def test_a_student_that_knows_is_told_from_one_that_does_not(make_encoders):
    good, bad = evaluate(make_encoders(), **FAST), evaluate(make_encoders(student_noise=30.0), **FAST)
    assert good.main == bad.main == "student"
    for reference in ("mean", "median", "untrained"):
        assert good.targets["hr_bpm"].difference("student", reference).outcome == "better"
        assert bad.targets["hr_bpm"].difference("student", reference).outcome in ("same", "worse")
    assert good.targets["hr_bpm"].difference("student", "teacher").outcome == "worse"
    assert good.find_retrieval().times_chance > 20
    assert bad.find_retrieval().top1.low <= bad.find_retrieval().chance_top[1]
    assert verdict(good).headline.startswith("The student reads heart rate from acceleration")
    assert "does not read heart rate" in verdict(bad).headline
    assert "includes zero" in verdict(bad).summary or "worse than" in verdict(bad).summary


def test_the_text_names_the_constant_that_the_outcome_is_of(make_encoders):
    evaluation = evaluate(make_encoders(), **FAST)
    result = evaluation.targets["hr_bpm"]
    of_mean = dataclasses.replace(result.difference("student", "mean"), difference=Estimate(-0.6, -1.14, -0.04))
    of_median = dataclasses.replace(result.difference("student", "median"), difference=Estimate(-0.55, -1.15, 0.05))
    others = [d for d in result.differences if d.encoder != "student" or d.reference not in ("mean", "median")]
    evaluation.targets["hr_bpm"] = dataclasses.replace(result, differences=[of_mean, of_median, *others])
    assert (
        verdict(evaluation).headline
        == "The student does not read heart rate: it is no better than the median predictor."
    )
    assert (
        "than the median predictor: the 95 % interval of the difference, −1.15 to 0.05 bpm, includes zero."
        in verdict(evaluation).summary
    )


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(make_encoders):
    def run(seed):
        return {**evaluate(make_encoders(), **FAST, seed=seed).to_json(), "seconds": 0, "settings": 0}

    assert run(0) == run(0) != run(1)


def test_json_has_no_nan_and_leaves_arrays_out(make_encoders):
    content = json.loads(json.dumps(evaluate(make_encoders(), **FAST).to_json(), allow_nan=False))
    assert content["targets"]["hr_bpm"]["probes"]["mean"]["r"]["value"] is None
    assert "prediction" not in content["targets"]["hr_bpm"]["probes"]["student"]
    assert not {"ranks", "test"} & set(content)
    assert content["splits"]["test"] == {
        "segments": 90,
        "participants": 6,
        "labelled": {"hr_bpm": 90, "sdnn_ms": 90, "rmssd_ms": 90},
    }
    assert json_value({"a": np.array([1.0, np.nan, np.inf]), 2: np.float32(0.5), "c": np.bool_(True)}) == {
        "a": [1.0, None, None],
        "2": 0.5,
        "c": True,
    }


def test_a_constant_student_raises_the_alarm_and_finds_nothing(make_encoders):
    def constant(e):
        return np.ones_like(e.embedding)

    def same(e):
        return np.full_like(e.projection, 8**-0.5)

    evaluation = evaluate(_replace(make_encoders(), "student", embedding=constant, projection=same), **FAST)
    assert "constant output" in evaluation.health["student"].alarm
    assert evaluation.health["teacher"].alarm == ""
    assert evaluation.find_retrieval().top[1].mean < 0.05
    # Every acceleration candidate ties.
    assert all(
        r.top[1].mean == 0.0 for r in evaluation.retrieval if (r.encoder, r.direction) == ("student", "ppg->accel")
    )
    assert evaluation.targets["hr_bpm"].difference("student", "mean").outcome == "same"
    assert any("constant output" in c for c in verdict(evaluation).cautions)


def test_pretraining_alone_is_evaluated_without_retrieval(make_encoders):
    evaluation = evaluate(make_encoders(names=("teacher", "untrained"), projections=False), **FAST)
    assert (evaluation.main, evaluation.retrieval, evaluation.alignment) == ("teacher", [], None)
    assert "student" in evaluation.retrieval_reason
    assert evaluation.targets["hr_bpm"].difference("teacher", "untrained").outcome == "better"
    assert verdict(evaluation).headline.startswith("The PPG teacher reads heart rate from PPG")


def test_projections_of_other_widths_give_a_reason(make_encoders):
    narrow = _replace(make_encoders(), "student", projection=lambda e: e.projection[:, :4])
    assert "same width" in evaluate(narrow, **FAST).retrieval_reason


def test_respiration_is_shown_where_known(make_encoders):
    encoders = make_encoders()
    assert "resp_bpm" not in evaluate(encoders, **FAST).targets
    for name in encoders:
        _replace(encoders, name, labels=lambda e: {**e.labels, "resp_bpm": 15 + e.labels["hr_bpm"] / 10})
    assert evaluate(encoders, **FAST).targets["resp_bpm"].probes["teacher"].r.value > 0.9


def test_bad_input_is_named(make_encoders):
    encoders = make_encoders()
    encoders["student"]["test"].embedding[3, 2] = np.nan
    with pytest.raises(UserError, match="encoder student, split test: 1 of 90 embeddings are not finite"):
        evaluate(encoders, **FAST)
    encoders = make_encoders()
    shuffled = _replace(encoders, "student", participant=lambda e: e.participant[::-1])
    with pytest.raises(ValueError, match="not the same segments"):
        evaluate(shuffled, **FAST)
    with pytest.raises(UserError, match="test split has no segments"):
        evaluate(make_encoders(segments=(100, 20, 0)), **FAST)
    with pytest.raises(ValueError, match="participant has 3 rows"):
        SplitEmbeddings(np.zeros((4, 2), np.float32), None, np.array(list("abc")), {})


def test_numbers_are_written_as_people_write_them():
    assert [format_number(v) for v in (0.123, 9.996, 12.34, 99.96, 1234.5, -3.456, -0.001, None)] == [
        "0.12",
        "10.0",
        "12.3",
        "100",
        "1234",
        "−3.46",
        "0.00",
        "–",
    ]
