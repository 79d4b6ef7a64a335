"""Probes on other sensors and in unseen stores, with generated embeddings of known quality."""

import numpy as np
import pytest

from accdistill_jax.evaluation.probing.few_people import few_people
from accdistill_jax.evaluation.probing.probes import ProbeSplit
from accdistill_jax.reproduce.measure.transfer import measure_transfer, measure_unseen
from accdistill_jax.reproduce.report.document import Report
from accdistill_jax.reproduce.report.write import validate_report
from tests.reproduce.measure.made_up_bench import MadeUpBench, Minutes, experiment

TEACHER = "teacher-mae"
SENSORS = ("student", "accel-mae", "applied-64th-g", "applied-25hz-64th-g")
NOISE = dict(zip(SENSORS, (0.1, 2.0, 0.2, 0.1), strict=True))


def checked(part):
    validate_report(Report("", (), part.claims, (part.section,), part.numbers, [], {}))
    return part


def value(part, name):
    return part.numbers[name].value


def test_probes_transfer_to_a_similar_sensor_and_not_to_another():
    bench = MadeUpBench(NOISE, turned=("applied-25hz-64th-g",))
    part = checked(measure_transfer(bench, experiment("transfer", *SENSORS)))
    near, far = "transfer/applied-64th-g/hr_bpm", "transfer/applied-25hz-64th-g/hr_bpm"
    full, mean = value(part, "transfer/student/hr_bpm/all"), value(part, "transfer/mean/hr_bpm/all")
    assert full < value(part, f"{near}/0") < 3 * full < mean
    assert value(part, f"{far}/0") > mean
    assert value(part, f"{far}/all") < 1.5 * full < value(part, f"{far}/2")
    assert value(part, f"{far}/10") < value(part, f"{far}/2")
    assert value(part, "transfer/accel-mae/hr_bpm/all") > 3 * full
    text = part.section.text[0]
    assert "The probe does not transfer" in text and "The probe transfers." in text
    assert part.section.pictures and len(part.section.tables) == 1
    assert all(number.relative >= 0.05 for number in part.numbers.values())


def test_transfer_without_the_sensors_is_not_measured():
    bench = MadeUpBench({"student": 0.1, "applied-64th-g": 0.1}, failed=("applied-64th-g-s0",))
    part = checked(measure_transfer(bench, experiment("transfer", "student", "applied-64th-g")))
    assert "Not measured" in part.section.text[0] and not part.numbers
    assert "applied-64th-g-s0" in part.section.notes[0]


def store(people, *, shift=0.0, each=12, seed=9):
    return Minutes(np.random.default_rng(seed), "store", people, each, shift=shift)


UNSEEN = {TEACHER: 0.05, "student": 0.3, "accel-mae": 3.0, "untrained": 30.0}


def test_unseen_store_with_and_without_labelled_people():
    bench = MadeUpBench(UNSEEN, seeds=2, unseen={"troika": store(12)})
    part = checked(measure_unseen(bench, experiment("unseen", *UNSEEN)))
    zero = {name: value(part, f"unseen/troika/{name}/hr_bpm/0") for name in (*UNSEEN, "mean")}
    assert zero[TEACHER] < zero["student"] < zero["accel-mae"] < 1.1 * zero["mean"]
    assert value(part, "unseen/troika/student/hr_bpm/5") < value(part, "unseen/troika/mean/hr_bpm/5") / 1.5
    assert value(part, "unseen/troika/student/hr_bpm/5") < value(part, "unseen/troika/student/hr_bpm/1")
    assert len(part.numbers["unseen/troika/student/hr_bpm/0"].seeds) == 2
    assert "is better than that mean" in part.section.text[0]
    captions = " ".join(table.caption for table in part.section.tables)
    assert "acceleration finds PPG" in captions and "the student's error minus" in captions
    assert any("15.6 mg" in note for note in part.section.notes)
    assert [p.name for p in part.section.pictures] == ["unseen-troika-people"]


def test_value_and_interval_in_an_unseen_store_are_of_the_mean_over_seeds():
    bench = MadeUpBench({"student": 0.05}, seeds=2, unseen={"troika": store(12)})
    worse = bench.arrays("student", 1)
    for kind in ("embedding", "projection"):
        worse[f"unseen-troika/{kind}"] = np.zeros_like(worse[f"unseen-troika/{kind}"])
    part = checked(measure_unseen(bench, experiment("unseen", "student")))
    for name in ("hr_bpm/0", "retrieval/100/top-1"):
        number = part.numbers[f"unseen/troika/student/{name}"]
        assert number.value == pytest.approx(np.mean(number.seeds)) and abs(np.diff(number.seeds)[0]) > 0.5
        assert number.low < number.value < number.high


def test_rates_beyond_training_and_few_people_are_noted():
    bench = MadeUpBench({"student": 0.3}, unseen={"Run 1": store(4, shift=8.0), "Run 2": store(12)})
    for name in ("sdnn_ms", "rmssd_ms"):
        bench.columns("unseen-Run 1").labels[name][:] = np.nan
    part = checked(measure_unseen(bench, experiment("unseen", "student", TEACHER)))
    notes = " ".join(part.section.notes)
    assert "100 % of its minutes are above" in notes and "Run 1 has 4 people" in notes
    assert "Run 1, SDNN: 0 labelled test segments" in notes
    assert "too few people with labels to fit on 5" in notes
    assert len(part.section.notes) == len(set(part.section.notes))  # the stores have the same device
    assert not any("Run 1" in name and "sdnn" in name for name in part.numbers)
    assert [p.name for p in part.section.pictures] == ["unseen-run-1-people", "unseen-run-2-people"]


def test_labelled_people_are_left_out_of_the_test():
    """Labels are independent of the features, so only a probe that was fitted on the tested people has a low error."""
    rng = np.random.default_rng(0)
    person = np.repeat([f"p{k}" for k in range(6)], 8)
    offset = np.repeat(100.0 * np.arange(6), 8)
    features = np.repeat(np.eye(6), 8, axis=0) + 1e-3 * rng.standard_normal((48, 6))
    split = ProbeSplit({"x": features}, offset, person)
    result = few_people(split, split, people=4, repeats=5)["x"]
    assert result.mae.value > 80
    other = ProbeSplit({"x": features}, offset, np.char.add("other-", person))
    assert few_people(split, other, people=6, repeats=1)["x"].mae.value < 5
    assert few_people(split, split, people=5, repeats=5) == {}  # only one person is left for the test


def test_the_same_seed_draws_the_same_people():
    split = ProbeSplit({"x": store(8).state}, store(8).columns.labels["hr_bpm"], store(8).participant)
    first, again = (few_people(split, split, people=3, repeats=4, seed=2) for _ in range(2))
    assert first == again and first["x"].mae_std > 0
    assert first["mean"].ratio.value == pytest.approx(1.0) and first["x"].ratio.value < 1


def test_without_an_unseen_store_nothing_is_measured():
    part = checked(measure_unseen(MadeUpBench({"student": 0.1}), experiment("unseen", "student")))
    assert "Not measured" in part.section.text[0]
