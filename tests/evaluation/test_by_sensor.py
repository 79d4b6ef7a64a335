"""Errors by sensor: of the devices in the test split, and only if there are several."""

import dataclasses

import numpy as np
import pytest

from accdistill_jax.evaluation.evaluate import evaluate
from accdistill_jax.evaluation.report.markdown import run_report_text
from accdistill_jax.evaluation.report.verdict import verdict

FAST = {"bootstrap_draws": 5, "interval_draws": 200}


def with_devices(encoders, names):
    """Every encoder's test split with devices in turn by participant."""
    for splits in encoders.values():
        _, person = np.unique(splits["test"].participant, return_inverse=True)
        splits["test"] = dataclasses.replace(splits["test"], device=np.array(names)[person % len(names)])
    return encoders


def test_errors_of_each_device_join_to_the_error_of_all(make_encoders):
    encoders = with_devices(make_encoders(), ["fine", "coarse|*"])
    known = encoders["student"]["test"].labels["hr_bpm"]
    known[::7] = np.nan
    evaluation = evaluate(encoders, **FAST)
    results = [r for r in evaluation.sensors if r.target == "hr_bpm"]
    assert [r.device for r in results] == ["coarse|*", "fine"] and [r.participants for r in results] == [3, 3]
    whole = evaluation.targets["hr_bpm"]
    counts = [r.segments for r in results]
    assert sum(counts) == len(whole.truth) == np.isfinite(known).sum()
    for mine, probe in (("mae", "student"), ("mean_mae", "mean")):
        joined = np.average([getattr(r, mine).value for r in results], weights=counts)
        assert joined == pytest.approx(whole.probes[probe].mae.value)
    assert results[0].mae.has_interval
    text = run_report_text(
        evaluation, verdict(evaluation), run_info={"sensors": {"fine": "64 Hz, steps of 0.488 mg"}}, pictures={}
    )
    assert "## Errors by sensor" in text and "| fine<br>64 Hz, steps of 0.488 mg | heart rate" in text
    assert "fine: 64 Hz" in text.split("## Settings of the run")[1]


@pytest.mark.parametrize("names", [["fine"], None])
def test_one_device_or_none_has_no_table(make_encoders, names):
    encoders = with_devices(make_encoders(), names) if names else make_encoders()
    evaluation = evaluate(encoders, **FAST)
    assert evaluation.sensors == []
    assert "by sensor" not in run_report_text(evaluation, verdict(evaluation), run_info={}, pictures={})
