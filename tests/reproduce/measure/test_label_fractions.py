"""Errors by share of the labels, agreement, and their claims, with generated embeddings of known quality."""

import numpy as np
import pytest

from accdistill_jax.data.store.labels import labelled_subset
from accdistill_jax.reproduce.measure import label_fractions
from accdistill_jax.reproduce.measure.label_claims import label_claims, ppg_drift
from accdistill_jax.reproduce.measure.label_fractions import BOOSTING, PROBE_TITLES, RIDGE, SUPERVISED
from accdistill_jax.reproduce.measure.probe_claims import against, collapse, lower_everywhere
from accdistill_jax.reproduce.measure.probing import Probing
from accdistill_jax.reproduce.measure.tolerance import LEAST, SIGMAS
from accdistill_jax.reproduce.plan.experiments import LEARNED_BASELINES
from accdistill_jax.reproduce.plan.grid import among_variants
from accdistill_jax.reproduce.plan.variants import FRACTIONS, TARGETS, supervised_variant
from accdistill_jax.reproduce.report.document import Report, Statement
from accdistill_jax.reproduce.report.write import to_dict, write_grid_report
from tests.reproduce.measure.fake_bench import SCALES, TEACHER, UNINFORMATIVE, FakeBench

FULL = "label-fractions/{}/1/{}/mae"


def measured(failed=(), **options):
    """Measures label-fractions without the hand-made features, whose boosted trees are slow."""
    bench = FakeBench("label-fractions", failed=("classical", *failed), **options)
    return bench, label_fractions.measure_label_fractions(bench, bench.plan.experiments[0])


def written(part, folder):
    report = Report("t", (), part.claims, (part.section,), part.numbers, [], {})
    write_grid_report(folder, report)
    return to_dict(report)


def holds(part):
    return [claim.holds for claim in part.claims]


@pytest.fixture(scope="module")
def good():
    """A good student, worse baselines, and supervised training that fails with few labels."""
    noise = {"student": 0.1, "student-small": 0.15, "student-mean": 0.05, "no-augmentation": 0.3, "joint": 1.0}
    noise |= dict.fromkeys(LEARNED_BASELINES, 1.0) | {"untrained": UNINFORMATIVE}
    return measured(noise=noise, predicted={0.001: 3.0, 0.01: 1.0, 0.1: 0.8, 1.0: 0.6})


@pytest.mark.slow
def test_better_embeddings_have_lower_errors(good):
    _, part = good
    order = ("student-mean", "student", "no-augmentation", "accel-mae", "untrained")
    for target in TARGETS:
        errors = [part.numbers[FULL.format(target, name)].value for name in order]
        assert errors == sorted(errors)
        constant = part.numbers[FULL.format(target, "mean")].value
        assert errors[-1] == pytest.approx(constant, rel=0.06)
        assert constant == pytest.approx(np.hypot(*SCALES[target][1:]) * np.sqrt(2 / np.pi), rel=0.2)


def test_numbers_have_intervals_seeds_and_tolerances(good):
    _, part = good
    number = part.numbers["label-fractions/hr_bpm/1/student/mae"]
    assert number.low < number.value < number.high
    assert len(number.seeds) == 2 and np.mean(number.seeds) == pytest.approx(number.value)
    # the difference of two means, each over two seeds, has the standard deviation of a single seed
    assert number.relative == LEAST and number.absolute == pytest.approx(SIGMAS * np.std(number.seeds, ddof=1))
    ratio = part.numbers["label-fractions/hr_bpm/1/accel-mae/student-over-this"]
    errors = [part.numbers[f"label-fractions/hr_bpm/1/{name}/mae"].value for name in ("student", "accel-mae")]
    assert ratio.high < 0.77 and ratio.value == pytest.approx(errors[0] / errors[1])
    assert {name.split("/")[2] for name in part.numbers} == {f"{f:g}" for f in FRACTIONS}


def test_the_ratio_behind_the_claim_on_drift_is_a_number(good):
    """Both encoders have the same PPG side here."""
    _, part = good
    number = part.numbers["label-fractions/hr_bpm/1/joint/ppg-side-over-frozen"]
    assert number.value == 1.0 and number.seeds == (1.0, 1.0) and number.relative == LEAST
    assert "ratio 1.00" in part.claims[4].measured


def test_a_constant_of_each_person_has_no_correlation_within_people(good):
    """Without its own minute a person's mean falls where the minute rises: -1 by construction."""
    _, part = good
    rows = {row[0]: row for row in part.section.tables[0].rows}
    *_, r, within = rows[PROBE_TITLES["own mean"]]
    assert r != "–" and within == "–" and rows["distilled student"][-1] != "–"


def test_the_rule_of_a_collapse_covers_encoders_that_are_worse_than_a_constant():
    bench = FakeBench("label-fractions", seeds=1)
    probing = Probing(bench, targets=("hr_bpm",), fractions=(0.1, 1.0))
    probing.encoder("student", [0])
    label = bench.columns("test").labels["hr_bpm"]
    for fraction, offset in ((0.1, 40.0), (1.0, 1.0)):
        probing.prediction("it", 0, "hr_bpm", fraction, label + offset)
    claim = collapse(probing.scores, "it", ["hr_bpm"], few=0.1, statement=Statement("id", "c", "p"))
    assert probing.scores.ratio("hr_bpm", 0.1, "it", "mean").above_1
    assert claim.holds == "yes" and "does not lie below 1 with few labels" in claim.rule


def test_a_repeated_part_of_a_plan_misses_no_baseline_that_it_does_not_run():
    bench = FakeBench("label-fractions", seeds=1, failed=("classical",), noise={"student": 0.05, "accel-mae": 3.0})
    kept = {"teacher-mae", "student", "accel-mae", *(supervised_variant(t, f).name for t in TARGETS for f in FRACTIONS)}
    bench.plan = among_variants(bench.plan, kept)
    part = label_fractions.measure_label_fractions(bench, bench.plan.experiments[0])
    assert (
        "missing" not in part.claims[0].measured
        and "accel-contrastive" not in part.claims[0].measured.split(". Bas")[0]
    )
    assert "leaves out: acceleration, contrastive, positives of one participant;" in part.claims[0].measured


def test_claims_hold_where_they_should(good, tmp_path):
    _, part = good
    student, collapse, augmentation, joint, _, small = part.claims
    assert augmentation.holds == joint.holds == collapse.holds == "yes"
    assert student.holds in ("yes", "partly") and small.holds in ("yes", "partly")  # ten labels are few
    cells = (
        3 * 3 * len((*LEARNED_BASELINES, SUPERVISED))
    )  # 0.1 % and 1 % of 720 labels are the same ten labels, counted once
    assert f"of {cells} comparisons" in student.measured
    assert small.measured.startswith("13 000 parameters")
    assert f"Student in the paper's literal form: at least 23 % lower in {cells} of {cells}" in student.measured
    assert "Its error with few labels over that of the mean of all labels: HR " in collapse.measured
    assert written(part, tmp_path)["claims"][0]["holds"] == student.holds


def test_claims_fail_with_an_uninformative_student():
    noise = {"student": UNINFORMATIVE, "student-small": UNINFORMATIVE, "no-augmentation": UNINFORMATIVE, "joint": 0.2}
    _, part = measured(noise=noise, predicted=dict.fromkeys(FRACTIONS, 0.3), seeds=1)
    assert holds(part)[:4] == ["no"] * 4 and holds(part)[5] == "no"
    assert "itself is not better than the mean" in part.claims[0].why
    assert "still better than a constant with few labels" in part.claims[1].why


def test_a_claim_on_all_comparisons_holds_in_part_if_one_is_missing():
    bench = FakeBench("label-fractions", seeds=1, noise={"student": 0.1, "accel-mae": 1.0})
    probing = Probing(bench, targets=TARGETS, fractions=(1.0,))
    for name in ("student", "accel-mae"):
        probing.encoder(name, [0])
    titles = {"accel-mae": "baseline", "student": "baseline"}

    def judged(name, *baselines, least):
        comparisons = against(probing.scores, name, "it", baselines, fractions=dict.fromkeys(TARGETS, (1.0,)))
        return lower_everywhere(comparisons, probing.scores, titles, statement=Statement("id", "c", "p"), least=least)

    assert judged("student", "accel-mae", least=0.23).holds == "yes"
    assert judged("student", "accel-mae", "absent", least=0.23).holds == "partly"
    assert judged("student", "accel-mae", least=0.95).holds == "no"
    assert judged("accel-mae", "student", least=0.0).holds == "no"
    assert judged("absent", "student", least=0.0).holds == "not measured"


@pytest.mark.slow
def test_a_claim_on_three_targets_holds_in_part_if_two_have_no_labels():
    class OnlyHeartRate(FakeBench):
        def columns(self, split):
            columns = super().columns(split)
            return columns._replace(
                labels={k: v if k == "hr_bpm" else np.full_like(v, np.nan) for k, v in columns.labels.items()}
            )

    bench = OnlyHeartRate("label-fractions", seeds=1, noise={"student": 0.05} | dict.fromkeys(LEARNED_BASELINES, 3.0))
    part = label_fractions.measure_label_fractions(bench, bench.plan.experiments[0])
    assert part.claims[0].holds == "partly" and "more comparisons are missing" in part.claims[0].measured


def test_joint_ppg_projections_are_compared_with_those_of_the_frozen_teacher():
    class Trivial(FakeBench):
        def arrays(self, name, seed):
            arrays = super().arrays(name, seed)
            if name == "joint":
                for split in ("validation", "test"):
                    signal = arrays[f"{split}/teacher_projection"]
                    arrays[f"{split}/teacher_projection"] = (
                        np.random.default_rng(3).standard_normal(signal.shape).astype(np.float32)
                    )
            return arrays

    for kind, expected in ((FakeBench, "no"), (Trivial, "yes")):
        bench = kind("label-fractions", seeds=1)
        claims = label_claims(bench, Probing(bench, targets=TARGETS), {}, ppg_drift(bench))
        assert claims[4].holds == expected and "effective rank" in claims[4].why
        assert claims[0].holds == "not measured"


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_probes_of_noisy_labels_reach_the_best_possible_error(noise):
    """The embedding is a random rotation of the labels with Gaussian noise of `noise` standard deviations."""
    bench = FakeBench("label-fractions", seeds=1, noise={"student": noise}, people=(300, 40, 100))
    probing = Probing(bench, targets=TARGETS)
    probing.encoder("student", [0])
    for target in TARGETS:
        best = np.hypot(*SCALES[target][1:]) * noise / np.hypot(1, noise) * np.sqrt(2 / np.pi)
        error = probing.scores.error(target, 1.0, "student").value
        assert error == pytest.approx(best, rel=0.06, abs=0.01 * SCALES[target][2])


def test_shuffled_labels_give_the_error_of_the_mean():
    _, part = measured(shuffled=True, seeds=1, failed=["untrained", *LEARNED_BASELINES])
    for name in ("student", TEACHER):
        ratio = part.numbers[FULL.format("hr_bpm", name)].value / part.numbers[FULL.format("hr_bpm", "mean")].value
        assert ratio == pytest.approx(1.0, abs=0.03)


@pytest.mark.slow
def test_failed_runs_are_left_out_and_named(tmp_path):
    failed = ["student", "accel-mae", "joint", *(supervised_variant(t, f).name for t in TARGETS for f in FRACTIONS)]
    _, part = measured(failed=failed, seeds=1)
    assert holds(part) == ["not measured"] * 5 + [part.claims[5].holds]
    assert "18 more comparisons are missing" in part.claims[5].measured and part.claims[5].holds != "yes"
    assert any("student-s0" in note for note in part.section.notes) and any(
        "accel-mae-s0" in note for note in part.section.notes
    )
    written(part, tmp_path)


def test_hand_made_features_get_two_probes_with_the_labels_of_each_seed():
    bench = FakeBench(
        "label-fractions", failed=["joint"], seeds=2, people=(20, 8, 10), minutes=8, noise={"classical": 0.1}
    )
    probing = Probing(bench, targets=("hr_bpm",), fractions=FRACTIONS)
    label_fractions.probe_classical(bench, probing, "classical", 0)
    for name in (RIDGE, BOOSTING):
        assert [probing.scores.seeds("hr_bpm", f, name) for f in FRACTIONS] == [[0, 1]] * 4
        first, second = probing.scores.error("hr_bpm", 1.0, name).seeds
        assert first == second
        first, second = probing.scores.error("hr_bpm", 0.1, name).seeds
        assert first != second
        assert name in PROBE_TITLES


def test_probes_use_the_same_labels_as_supervised_training():
    bench = FakeBench("label-fractions", seeds=2)
    probing = Probing(bench, targets=("hr_bpm",), fractions=(0.1,))
    probing.encoder("student", [0, 1])
    columns = bench.columns("train")
    names = np.array([f"0/{name}" for name in columns.participant])  # as stages/sources.py names them
    known = np.isfinite(columns.labels["hr_bpm"])
    for seed in (0, 1):
        expected = columns.labels["hr_bpm"][labelled_subset(names, known, 0.1, seed).rows].mean()
        assert probing.scores.prediction("hr_bpm", 0.1, "mean", seed)[0] == pytest.approx(expected, rel=1e-6)


def test_an_encoder_with_other_rows_is_refused():
    bench = FakeBench("label-fractions", seeds=1)
    probing = Probing(bench, targets=("hr_bpm",))
    splits = bench.splits("student", 0)
    probing.features("student", 0, splits)
    with pytest.raises(ValueError, match="not the same segments"):
        probing.features("other", 0, splits | {"train": splits["validation"]})


def test_agreement_by_encoder(tmp_path):
    bench = FakeBench("agreement", noise={"student": 0.1, "accel-mae": UNINFORMATIVE}, failed=["classical"])
    part = label_fractions.measure_agreement(bench, bench.plan.experiments[0])
    sd = {name: part.numbers[f"agreement/hr_bpm/{name}/sd"] for name in ("student", "accel-mae")}
    assert sd["student"].value < 0.4 * sd["accel-mae"].value
    bias, low, high = (part.numbers[f"agreement/hr_bpm/student/{name}"] for name in ("bias", "low", "high"))
    assert low.value < bias.value < high.value and abs(bias.value) < 1
    assert high.value - low.value == pytest.approx(2 * 1.96 * sd["student"].value)
    assert bias.absolute >= 0.05 * sd["student"].value
    assert [picture.name for picture in part.section.pictures] == ["agreement-hr", "agreement-sdnn", "agreement-rmssd"]
    assert "classical" in " ".join(part.section.notes)
    written(part, tmp_path)
