"""Sweeps of variants against their reference, with generated embeddings of known quality."""

import numpy as np
import pytest

from accdistill_jax.data.store.store import Store
from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.retrieval.ranks import paired_ranks, unit_rows
from accdistill_jax.evaluation.retrieval.retrieval import top1_by_pool_size
from accdistill_jax.reproduce.measure import sweeps
from accdistill_jax.reproduce.measure.probe_scores import Score
from accdistill_jax.reproduce.measure.probe_sweep import expected_retrieval, judge, reach_of, sweep
from accdistill_jax.reproduce.plan.experiments import LEARNED_BASELINES
from accdistill_jax.reproduce.plan.variants import (
    AUGMENTATION_VARIANTS,
    OBJECTIVES,
    OTHER_STUDENTS,
    REFERENCE,
    SIMULATED_SENSORS,
    SIZES,
)
from accdistill_jax.reproduce.report.document import Report
from accdistill_jax.reproduce.report.write import write_grid_report
from tests.reproduce.measure.fake_bench import TEACHER, UNINFORMATIVE, FakeBench

BLIND = dict.fromkeys(LEARNED_BASELINES, UNINFORMATIVE)


def measured(name, **options):
    bench = FakeBench(name, **options)
    return getattr(sweeps, f"measure_{name}")(bench, bench.plan.experiments[0])


def written(part, folder):
    write_grid_report(folder, Report("t", (), part.claims, (part.section,), part.numbers, [], {}))


def cells(part, title, table=0):
    shown = part.section.tables[table]
    return next(dict(zip(shown.columns, row, strict=True)) for row in shown.rows if row[0] == title)


def test_variants_differ_from_the_reference_only_beyond_its_noise(tmp_path):
    noise = {"regression-mse": UNINFORMATIVE, "temperature-0.02": 0.1, "lambda-0": 0.5}
    part = measured("objectives", noise=noise, preset="cpu-mean")
    names = [v.name for v in OBJECTIVES if v.name != "contrast-mean"]
    ratio = {name: part.numbers[f"objectives/{name}/hr_bpm/ratio"].value for name in names}
    assert (
        ratio["regression-mse"] > 1.3
        and ratio["temperature-0.02"] < 0.7
        and ratio["lambda-0"] == pytest.approx(1, abs=0.15)
    )
    verdicts = {row[0]: row[5] for row in part.section.tables[0].rows}
    assert verdicts["regression, squared error"] == "higher" and verdicts["temperature 0.02"] == "lower"
    assert verdicts["distilled student, short"] == ""
    assert "HR error higher: regression, squared error" in part.section.text[1]
    (claim,) = part.claims
    assert claim.holds == "yes" and claim.paper.startswith("not in the paper")
    assert "standard deviation of" in part.section.notes[-1]
    written(part, tmp_path)


def test_the_claim_on_regression_follows_the_numbers():
    (claim,) = measured("objectives", noise={"regression-mse": 0.1, REFERENCE.name: 1.5}, seeds=1).claims
    assert claim.holds == "no"
    (claim,) = measured("objectives", failed=["regression-mse"], seeds=1).claims
    assert claim.holds == "not measured"


def test_regression_is_compared_with_contrast_in_the_same_form():
    """Both without windows: the student in windows is better than either."""
    noise = {REFERENCE.name: 0.05, "contrast-mean": 0.5, "regression-mse": 0.5}
    (claim,) = measured("objectives", noise=noise).claims
    assert claim.holds == "no" and "not distinguishable" in claim.measured
    (claim,) = measured("objectives", noise=noise | {"regression-mse": 1.5}).claims
    assert claim.holds == "yes"


def test_hand_made_features_and_means_are_beside_the_students():
    bench = FakeBench("objectives", "agreement", seeds=1, noise={"classical": 0.1}, people=(30, 8, 20), minutes=6)
    part = sweeps.measure_objectives(bench, next(e for e in bench.plan.experiments if e.id == "objectives"))
    shown = [row[0] for row in part.section.tables[0].rows]
    assert shown[-4:] == [
        "mean of the labels",
        "mean of the person's other minutes",
        "hand-made features, ridge",
        "hand-made features, gradient boosting",
    ]
    assert not any("classical" in name for name in part.numbers)


def test_small_differences_and_single_seeds_are_not_distinguishable():
    clear, wide = (Score(Estimate(1.1, low, 1.15), (1.1,)) for low in (1.05, 0.95))
    assert judge(clear, 0.09) == "higher" and judge(clear, 0.11) == "not distinguishable"
    assert judge(clear, None) == "higher" and judge(wide, None) == "not distinguishable"
    assert judge(Score(Estimate(0.5, 0.4, 0.6), (0.5,)), 0.1) == "lower"
    assert judge(Score(Estimate(0.5), (0.5,)), None) == "not distinguishable"  # no interval
    assert judge(None, 0.1) == ""
    bench = FakeBench("augmentations", seeds=1, preset="cpu-mean")
    swept = sweep(bench, bench.plan.experiments[0])
    assert not swept.noise and "noise of a seed is not known" in swept.notes[-1]
    assert set(swept.rows) == {REFERENCE.name, *(v.name for v in AUGMENTATION_VARIANTS)}


def test_expected_retrieval_equals_the_closed_form():
    rng = np.random.default_rng(0)
    ppg = rng.standard_normal((300, 8))
    accel = ppg + 0.9 * rng.standard_normal(ppg.shape)
    people = np.repeat([f"p{k}" for k in range(30)], 10)
    ranks, _ = paired_ranks(unit_rows(accel), unit_rows(ppg))
    for pool in (2, 50, 300):
        expected = expected_retrieval(accel, ppg, people, pool=pool)
        assert expected.top1.value == pytest.approx(top1_by_pool_size(ranks, np.array([pool]))[0])
        assert expected.top1.low < expected.top1.value < expected.top1.high
        assert expected.mean_rank == pytest.approx(1 + (ranks.mean() - 1) * (pool - 1) / 299)
    assert expected_retrieval(accel, ppg, people).pool == 300
    same = expected_retrieval(ppg, ppg, people)
    assert (same.top1.value, same.mean_rank) == (1.0, 1.0)


def test_students_are_shown_with_the_error_of_their_teacher(tmp_path):
    part = measured("teachers", noise=BLIND | {"teacher-contrastive": 0.05}, seeds=1)
    (claim,) = part.claims
    assert claim.holds == "yes"
    teacher_error = cells(part, "PPG teacher, contrastive, positives of one participant")["HR error, bpm"]
    student = cells(part, "student of the PPG teacher, contrastive, positives of one participant", table=1)
    assert student["its teacher's HR error, bpm"] == teacher_error
    blind = {v.name: UNINFORMATIVE for v in OTHER_STUDENTS if "efficientnet" in v.name} | BLIND
    (claim,) = measured("teachers", noise=blind, seeds=1).claims
    assert (
        claim.holds == "partly" and "its teacher's HR error is" in claim.why and "masked autoencoding" in claim.measured
    )
    (claim,) = measured("teachers", noise=BLIND, failed=["student-efficientnet"], seeds=1).claims
    assert claim.holds == "partly"
    written(part, tmp_path)


def test_students_must_be_ahead_of_every_baseline():
    title = "acceleration, contrastive, positives of one participant"
    (claim,) = measured("teachers", noise=BLIND, seeds=1).claims
    assert claim.holds == "yes" and claim.measured.count("HR error divided by that of") == 2 and title in claim.measured
    (claim,) = measured("teachers", noise=BLIND | {"accel-contrastive": 0.05}, seeds=1).claims
    assert claim.holds == "no"
    (claim,) = measured("teachers", noise=BLIND, failed=["accel-contrastive"], seeds=1).claims
    assert claim.holds == "partly" and claim.why.endswith(f"{title.capitalize()} has no result.")


def test_fewer_seeds_give_a_wider_noise():
    assert reach_of(0.01, 3) == pytest.approx(0.01 * 4.303 * 2**0.5, rel=1e-3)  # Student's with 2 degrees of freedom
    assert reach_of(0.01, 2) > reach_of(0.01, 3) > reach_of(0.01, 1000) == pytest.approx(0.01 * 1.96 * 2**0.5, rel=1e-2)


@pytest.mark.slow
def test_latencies_of_all_encoders_are_measured(smoke_store, monkeypatch):
    bench = FakeBench("sizes", seeds=1, preset="smoke")
    bench.opened.stores = (Store.open(str(smoke_store)),)
    monkeypatch.setattr(sweeps, "REPEATS", 3)
    times = sweeps.latencies(bench, ["teacher-mae", "student"])
    assert list(times) == ["teacher-mae", "student"]
    assert all(len(milliseconds) == 3 and (milliseconds > 0).all() for milliseconds in times.values())


def test_sizes_have_parameters_and_latency(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "latencies", lambda bench, names: {name: np.array([0.8, 1.0, 1.4]) for name in names})
    part = measured("sizes", failed=["accel-mae"], seeds=1)
    row = cells(part, SIZES[0].title)
    assert row["parameters"] == "9 000" and row["latency, ms"] == "1.00 [0.90, 1.20]"
    assert cells(part, "PPG teacher, masked autoencoding")["teacher's / encoder's"] == "1.0x"
    assert not any("latency" in name for name in part.numbers)
    assert part.section.pictures[0].name == "sizes"
    written(part, tmp_path)


def test_coarser_sensors_are_compared_with_the_student_of_the_same_duration(tmp_path):
    noise = {v.name: 1.2 for v in SIMULATED_SENSORS if "64th-g" in v.name}
    part = measured("sensors", noise=noise, failed=["trained-8bit", "applied-8bit"], seeds=1)
    assert part.numbers["sensors/applied-64th-g/hr_bpm/ratio"].value > 1.2
    assert part.numbers["sensors/applied-50hz/hr_bpm/ratio"].value == pytest.approx(1, abs=0.2)
    assert part.numbers["sensors/trained-64th-g/top1"].value < part.numbers["sensors/trained-50hz/top1"].value
    assert f"sensors/{TEACHER}/hr_bpm/ratio" not in part.numbers
    text = " ".join(part.section.text)
    assert "15.6 mg" in text and "4.5 mg" in text and "times the HR error of the full sensor (higher)" in text
    written(part, tmp_path)


def test_a_missing_reference_is_named(tmp_path):
    bench = FakeBench("objectives", failed=[REFERENCE.name], seeds=1)
    part = sweeps.measure_objectives(bench, bench.plan.experiments[0])
    assert not any("ratio" in name for name in part.numbers) and part.numbers
    assert REFERENCE.name in " ".join(part.section.notes)
    written(part, tmp_path)
