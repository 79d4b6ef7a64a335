"""Health targets of participants, with generated embeddings of known quality."""

import re

import numpy as np
import pyarrow as pa

from accdistill_jax.data.synthetic.health_oracle import NAMES, sample_truth
from accdistill_jax.data.synthetic.health_targets import CONTROL, KINDS
from accdistill_jax.data.synthetic.physiology import participant_id
from accdistill_jax.data.synthetic.synthetic import GENERATOR_VERSION
from accdistill_jax.reproduce.measure.people import ask, control_words, measure_participants
from accdistill_jax.reproduce.report.document import Report
from accdistill_jax.reproduce.report.write import validate_report
from tests.reproduce.measure.made_up_bench import MadeUpBench, Store, experiment

TEACHER = "teacher-mae"
NOISE = {TEACHER: 0.1, "student": 0.3, "accel-mae": 4.0, "accel-contrastive": 4.0, "untrained": 40.0, "classical": 1.0}
CONTROLS = [name for name, kind in KINDS.items() if kind == CONTROL]
QUESTIONS = [name for name in NAMES if name not in CONTROLS][:8]


def table(bench, *, controls=True, leak=False):
    """Answers that depend on the latent states of the people, and controls that depend on nothing."""
    rng = np.random.default_rng(3)
    people = {
        name: state for split in ("train", "validation", "test") for name, state in bench.minutes[split].people.items()
    }
    state = np.stack([*people.values()])
    noisy = lambda k: state[:, k] + 0.3 * rng.standard_normal(len(state))
    columns = {
        "participant": list(people),
        "age_years": 50 + 12 * noisy(0),
        "bmi": 30 + 4 * noisy(1),
        "sex": np.where(noisy(2) > 0, "male", "female").tolist(),
    }
    columns |= {f"condition_{name}": noisy(k % 6) > 0.2 for k, name in enumerate(QUESTIONS)}
    if controls:
        columns |= {
            f"condition_{name}": (state[:, 3] > 0) if leak else rng.random(len(state)) < 0.4 for name in CONTROLS
        }
    return pa.table(columns)


def made(noise, **options):
    bench = MadeUpBench(noise, people=(120, 40, 60), each=6, **options)
    bench.opened.stores = (Store(table(bench)),)
    return bench


def test_value_interval_and_count_of_the_mean_are_of_the_same_targets():
    bench = made(NOISE)
    questions = bench.opened.stores[0].participants
    one = {}
    for number, name in enumerate(n for n in questions.column_names if n.startswith("condition_")):
        answers = questions[name].to_pylist()
        one[name] = [None if row == len(answers) - 1 and number % 2 else value for row, value in enumerate(answers)]
    bench.opened.stores = (Store(pa.table(questions.to_pydict() | one)),)
    part = measure_participants(bench, experiment("participants", *NOISE))
    (claim,) = part.claims
    number = part.numbers["participants/student/mean-auc"]
    assert number.low < number.value < number.high
    known = int(re.search(r"mean AUC over (\d+) yes/no targets: student ([0-9.]+)", claim.measured)[1])
    assert known < len(QUESTIONS) + 3 and f"student {number.value:.3f}" in claim.measured
    assert f"(over seeds {number.value:.3f}" in claim.measured


def test_students_beat_baselines_and_controls_are_at_chance():
    bench = made(NOISE, seeds=2)
    part = measure_participants(bench, experiment("participants", *NOISE))
    validate_report(Report("", (), part.claims, (part.section,), part.numbers, [], {}))
    auc = {name: part.numbers[f"participants/{name}/mean-auc"] for name in NOISE}
    assert auc[TEACHER].value > 0.9 and auc["student"].value > 0.85 and abs(auc["untrained"].value - 0.5) < 0.1
    assert auc["student"].value > auc["accel-mae"].value + 0.1
    assert (
        len(auc["student"].seeds) == 2 and auc["student"].low is None
    )  # the first seed's interval is none of the mean
    assert (
        part.numbers["participants/student/age_years/mae"].value
        < part.numbers["participants/untrained/age_years/mae"].value
    )
    (claim,) = part.claims
    assert claim.holds == "partly" and "better than 2 of 2" in claim.why and "only 11 targets" in claim.why
    assert any("3 controls" in text and "they are at chance" in text for text in part.section.text)
    assert not any(control in name for name in part.numbers for control in CONTROLS)
    assert len(part.section.pictures) == 2 and len(part.section.tables) == 4


def test_readable_controls_are_reported_as_a_leak():
    bench = made({"student": 0.1})
    answers = ask(bench, {"student": 0}, table(bench, leak=True), main="student")
    assert "something leaks" in control_words(answers, {"student": "student"})[0]


def test_few_people_and_no_controls():
    bench = MadeUpBench({"student": 0.1}, people=(12, 4, 4))
    bench.opened.stores = (Store(table(bench, controls=False)),)
    part = measure_participants(bench, experiment("participants", "student", "untrained"))
    validate_report(Report("", (), part.claims, (part.section,), part.numbers, [], {}))
    assert part.claims[0].holds == "not measured" and not part.numbers and not part.section.tables
    assert any("needs 5 of each" in note for note in part.section.notes)


def test_without_the_student_the_other_encoders_are_measured():
    bench = made(NOISE, failed=("student-s0",))
    part = measure_participants(bench, experiment("participants", *NOISE))
    assert part.claims[0].holds == "not measured" and "the student has no result" in part.claims[0].why
    assert part.numbers[f"participants/{TEACHER}/mean-auc"].value > 0.9
    assert any("student-s0" in note for note in part.section.notes)


def test_a_baseline_without_a_result_is_not_beaten(monkeypatch):
    monkeypatch.setattr("accdistill_jax.reproduce.measure.people.AIM", 5)
    for failed, holds in (((), "yes"), (("accel-contrastive-s0",), "partly")):
        part = measure_participants(made(NOISE, failed=failed), experiment("participants", *NOISE))
        assert part.claims[0].holds == holds
    assert "better than 1 of 2" in part.claims[0].why and "without a result: accel-contrastive" in part.claims[0].why


def test_people_of_the_same_name_in_several_stores_are_different_people():
    bench = made({"student": 0.1})
    whole = bench.opened.stores[0].participants
    for minutes in bench.minutes.values():
        names = np.array([f"1/{name}" for name in minutes.participant], object)
        minutes.columns = minutes.columns._replace(participant=names)
    # the other store has fewer columns, and people of the same names
    other = whole.drop_columns(["bmi", "condition_hypertension"])
    bench.opened.stores = (Store(other.set_column(1, "age_years", pa.array(np.zeros(len(whole))))), Store(whole))
    part = measure_participants(bench, experiment("participants", "student"))
    assert part.numbers["participants/student/age_years/mae"].value < 8  # the ages of the other store are 0
    assert part.numbers["participants/student/mean-auc"].value > 0.85


def test_ceilings_of_synthetic_people():
    counts, seed, start = (90, 30, 60), 5, 0
    names = {}
    for split, count in zip(("train", "validation", "test"), counts, strict=True):
        names[split] = [participant_id(seed, start + k) for k in range(count)]
        start += count
    truth = sample_truth(seed, range(start))
    manifest = {"source": "synthetic", "source_settings": {"generator": GENERATOR_VERSION, "seed": seed}}
    bench = MadeUpBench({"student": 0.1}, people=counts, each=2, names=names, manifest=manifest)
    people = pa.table(
        {"participant": sum(names.values(), [])} | {f"condition_{n}": truth.answers[:, k] for k, n in enumerate(NAMES)}
    )
    bench.opened.stores = (Store(people, manifest=manifest),)
    part = measure_participants(bench, experiment("participants", "student"))
    (areas,) = (table for table in part.section.tables if table.caption.startswith("ROC AUC by target"))
    ceilings = [float(row[areas.columns.index("ceiling")]) for row in areas.rows if row[1] != "control"]
    assert 0.65 < np.mean(ceilings) < 1.0  # with 60 people, the ceiling of a hard target may be below chance
    # generated embeddings do not depend on the answers
    assert abs(part.numbers["participants/student/mean-auc"].value - 0.5) < 0.1
    bench.opened.stores = (Store(people, manifest=dict(manifest, source_settings={"generator": -1, "seed": seed})),)
    assert any(
        "No ceilings" in note
        for note in measure_participants(bench, experiment("participants", "student")).section.notes
    )


def test_numbers_are_the_same_when_measured_again():
    first, again = (
        measure_participants(made({"student": 0.3}), experiment("participants", "student")).numbers for _ in range(2)
    )
    assert first == again and first


def test_encoders_with_other_training_rows_are_cut_to_the_common_ones():
    bench = made({"student": 0.2, "accel-mae": 0.2})
    half = np.arange(0, 720, 2)
    arrays = bench.arrays("accel-mae", 0)
    arrays |= {"train_rows": half, "train/embedding": arrays["train/embedding"][half]}
    bench.opened.train_positions = lambda limit: half
    part = measure_participants(bench, experiment("participants", "student", "accel-mae"))
    assert part.numbers["participants/accel-mae/mean-auc"].value > 0.8
