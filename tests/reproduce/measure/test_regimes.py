"""Experiments that test a claim in its own regime, with generated embeddings of known quality."""

from types import SimpleNamespace

import numpy as np
import pytest

from accdistill_jax.reproduce.measure.large_pool import measure_large_pool
from accdistill_jax.reproduce.measure.many_people import measure_many_people
from accdistill_jax.reproduce.measure.repeats import measure_repeats
from accdistill_jax.reproduce.measure.shared_motion import measure_shared_motion
from accdistill_jax.reproduce.measure.trials import measure_trials
from accdistill_jax.reproduce.plan.regimes import REPEATS, joint_name
from accdistill_jax.reproduce.report.document import Report
from accdistill_jax.reproduce.report.write import write_grid_report
from tests.reproduce.measure.fake_bench import UNINFORMATIVE, FakeBench

MEASURES = {
    "repeated-minutes": measure_repeats,
    "shared-motion": measure_shared_motion,
    "many-people": measure_many_people,
    "large-pool": measure_large_pool,
    "trials": measure_trials,
}


def measured(name, folder, kind=FakeBench, **options):
    """The part of an experiment, which is also written as a report."""
    bench = kind(name, **options)
    part = MEASURES[name](bench, bench.plan.experiments[0])
    write_grid_report(folder, Report("t", (), part.claims, (part.section,), part.numbers, [], {}))
    assert all(number.startswith(f"{name}/") for number in part.numbers)
    return part


class Quarter(FakeBench):
    """250 steps of 128 minutes."""

    def facts(self, name, seed):
        return super().facts(name, seed) | {"steps": 250}


def test_augmentation_is_judged_where_minutes_repeat(tmp_path):
    noise = {variant.name: 0.2 for variant in REPEATS} | {"minutes-500-plain": 0.9, "minutes-1000-plain": 0.7}
    part = measured("repeated-minutes", tmp_path, kind=Quarter, noise=noise, people=(100, 15, 40), minutes=12)
    claim, literal = part.claims
    assert claim.holds == "yes" and "at 32 epochs of 1 000 minutes" in claim.measured
    assert literal.holds == "no" and literal.id == "no-augmentation-repeats-literal"
    assert "64 epochs: " in claim.why and "27 epochs: " in claim.why
    # there are 1 200 minutes, so larger numbers are all of them
    assert [row[:2] for row in part.section.tables[0].rows] == [("500", "64.0"), ("1 000", "32.0"), ("1 200", "26.7")]
    assert part.numbers["repeated-minutes/500/ratio"].value > part.numbers["repeated-minutes/1000/ratio"].value > 1.5
    assert part.numbers["repeated-minutes/1200/ratio"].value == pytest.approx(1, abs=0.15)
    assert part.numbers["repeated-minutes/literal/500/ratio"].value == pytest.approx(1, abs=0.15)
    (picture,) = part.section.pictures
    assert picture.name == "repeated-minutes" and len(picture.figure.axes[0].containers) == 4


def test_augmentation_is_judged_in_the_literal_form_by_its_own_students(tmp_path):
    noise = {variant.name: 0.2 for variant in REPEATS} | {"minutes-500-mean-plain": 0.9, "minutes-1000-mean-plain": 0.7}
    part = measured("repeated-minutes", tmp_path, kind=Quarter, noise=noise, people=(100, 15, 40), minutes=12)
    assert [claim.holds for claim in part.claims] == ["no", "yes"]
    assert "paper's literal form" in part.section.tables[1].caption
    errors = [part.numbers[f"repeated-minutes/{form}500/without/mae"].value for form in ("", "literal/")]
    assert errors[1] > 1.5 * errors[0]
    ratio, with_it = (part.numbers[f"repeated-minutes/literal/500/{name}"].value for name in ("ratio", "with/mae"))
    assert ratio == pytest.approx(errors[1] / with_it)  # of the means over seeds, as in the claim


def test_the_number_of_distinct_minutes_counts_each_store(tmp_path):
    """The cap on training minutes holds for each store by itself."""

    class TwoStores(Quarter):
        def __init__(self, *names, **options):
            super().__init__(*names, **options)
            self.opened.stores = tuple(SimpleNamespace(indices=lambda split: np.arange(600)) for _ in range(2))

    part = measured("repeated-minutes", tmp_path, kind=TwoStores, people=(100, 15, 40), minutes=12, seeds=1)
    assert [row[:2] for row in part.section.tables[0].rows] == [("1 000", "32.0"), ("1 200", "26.7")]
    assert "at 32 epochs of 1 000 minutes" in part.claims[0].measured


def test_augmentation_is_not_judged_without_repeats(tmp_path):
    class Short(FakeBench):
        def facts(self, name, seed):
            return super().facts(name, seed) | {"steps": 20}

    claims = measured("repeated-minutes", tmp_path, kind=Short, seeds=1).claims
    assert [claim.holds for claim in claims] == ["not measured", "not measured"]


def test_a_ppg_side_that_forgets_the_heart_is_a_drift(tmp_path):
    class Drifting(FakeBench):
        """At scale 10 the joint encoders' PPG side is noise."""

        def arrays(self, name, seed):
            arrays = super().arrays(name, seed)
            if name.startswith("joint-shared-10"):
                rng = np.random.default_rng(3)
                for split in ("validation", "test"):
                    side = arrays[f"{split}/teacher_projection"]
                    arrays[f"{split}/teacher_projection"] = rng.standard_normal(side.shape).astype(np.float32)
            return arrays

    for kind, expected in ((FakeBench, "no"), (Drifting, "yes")):
        part = measured("shared-motion", tmp_path, kind=kind, seeds=1)
        (claim,) = part.claims
        assert claim.holds == expected
    assert "shared motion 10" in claim.measured and "At the other scales: " in claim.why
    steps = {row[2] for row in part.section.tables[0].rows if row[0] == "10"}
    assert steps == {"100", "300", "1000"}
    known = part.numbers[f"shared-motion/{joint_name(1, 0.1)}/ppg/mae"].value
    forgotten = part.numbers[f"shared-motion/{joint_name(10, 0.1)}/ppg/mae"].value
    assert forgotten > 2 * known
    frozen = part.numbers["shared-motion/student-shared-10/ppg/mae"].value
    ratio = part.numbers[f"shared-motion/{joint_name(10, 0.1)}/ppg/over-frozen"]
    assert ratio.value == pytest.approx(forgotten / frozen) and ratio.low < ratio.value < ratio.high
    assert part.section.pictures


def test_labels_of_many_people_are_shares_of_a_large_corpus(tmp_path):
    noise = {f"{name}-people": 0.1 for name in ("student", "student-mean", "teacher-mae")}
    noise |= {f"accel-{name}-people": 1.5 for name in ("mae", "contrastive")}
    part = measured(
        "many-people",
        tmp_path,
        noise=noise,
        failed=["classical-people"],
        predicted={0.001: 3.0, 0.01: 0.5},
        people=(1000, 80, 100),
        minutes=1,
        seeds=1,
    )
    lower, collapse = part.claims
    assert lower.holds in ("yes", "partly") and collapse.holds == "yes"
    # the fractions of the generated labels are 10 and 100 %
    assert "100 % of the labels" not in lower.measured + lower.why and " % of the labels" in lower.measured + lower.why
    assert "one or two people" not in lower.rule
    (table, *_) = part.section.tables
    assert table.columns == ("encoder", "0.1 % (100 people)", "1 % (1000 people)")
    titles = [row[0] for row in table.rows]
    assert "acceleration, supervised on the target" in titles and "mean of the labels" in titles
    errors = [part.numbers[f"many-people/hr_bpm/{share}/student/mae"].value for share in (0.001, 0.01)]
    assert errors == sorted(errors, reverse=True)
    assert any("classical-people-s0" in note for note in part.section.notes)


def test_a_failed_baseline_of_many_people_is_a_missing_comparison(tmp_path):
    noise = {"student-people": 0.02, "accel-mae-people": 3.0, "accel-contrastive-people": 3.0}
    options = {
        "noise": noise,
        "predicted": {0.001: 3.0, 0.01: 2.0},
        "people": (1000, 80, 100),
        "minutes": 1,
        "seeds": 1,
    }
    for failed, holds in ((), "yes"), (("accel-mae-people",), "partly"):
        part = measured("many-people", tmp_path, failed=["classical-people", *failed], **options)
        assert part.claims[0].holds == holds
    assert "6 more comparisons are missing" in part.claims[0].measured


def test_claims_name_the_baselines_and_the_largest_share_that_they_are_about(tmp_path):
    part = measured("many-people", tmp_path, people=(200, 20, 30), minutes=1, seeds=1, preset="claims")
    lower, collapse = part.claims
    assert lower.measured.endswith(
        "Baselines: acceleration, masked autoencoding; acceleration, contrastive, positives of one participant; "
        "acceleration, supervised on the target"
    )
    assert "with few labels and with 1 % of the labels: HR" in collapse.measured and "all labels" not in collapse.rule


def test_the_full_preset_measures_three_shares_of_the_labels_of_many_people(tmp_path):
    noise = {f"{name}-people": 0.1 for name in ("student", "student-mean", "teacher-mae")}
    part = measured("many-people", tmp_path, noise=noise, people=(1000, 80, 100), minutes=1, seeds=1, preset="full")
    (table, *_) = part.section.tables
    assert [column.partition(" (")[0] for column in table.columns] == ["encoder", "0.1 %", "1 %", "10 %"]
    errors = [part.numbers[f"many-people/hr_bpm/{share}/student/mae"].value for share in (0.001, 0.01, 0.1)]
    assert errors == sorted(errors, reverse=True)


def test_a_large_pool_is_searched_by_rate_and_within_one_person(tmp_path):
    noise = {"student-pool": 0.01, "student-mean-pool": 1.0, "matcher-pool": 0.5}
    part = measured("large-pool", tmp_path, noise=noise, seeds=1, people=(4, 4, 60), minutes=20)
    (claim,) = part.claims
    assert claim.holds == "not measured" and "smaller than 10 000" in claim.why
    pools, within, by_rate = part.section.tables
    assert {row[0] for row in pools.rows} == {
        "distilled student",
        "student in the paper's literal form",
        "classical matcher of envelope and upstroke",
    }
    assert len(by_rate.columns) == 6 and len(within.rows) == 3
    numbers = [part.numbers[f"large-pool/{name}/1000/top-1"] for name in noise]
    assert all(number.low <= number.value <= number.high for number in numbers)
    top1 = [number.value for number in numbers]
    assert top1[0] > top1[2] > top1[1] > 0.1
    assert "10 000" in " ".join(part.section.notes)
    assert "among 1 000 minutes" in by_rate.caption


def test_a_small_pool_is_called_as_small_as_it_is(tmp_path):
    part = measured("large-pool", tmp_path, seeds=1, people=(4, 4, 10), minutes=8)
    assert "among 80 minutes of all rates" in part.section.tables[-1].caption


def test_a_large_pool_decides_the_claim(tmp_path, monkeypatch):
    monkeypatch.setattr("accdistill_jax.reproduce.measure.large_pool.POOLS", (100, 1000, "all"))
    for level, holds in ((0.01, "yes"), (UNINFORMATIVE, "no")):
        noise = {"student-pool": level, "student-mean-pool": 1.0, "matcher-pool": 0.5}
        part = measured("large-pool", tmp_path, noise=noise, seeds=1, people=(4, 4, 60), minutes=20)
        assert part.claims[0].holds == holds and "matcher: " in part.claims[0].why


def test_trials_are_measured_on_validation_people(tmp_path):
    class WithoutTest(FakeBench):
        """Labels and embeddings of test people are not finite."""

        def columns(self, split):
            columns = super().columns(split)
            if split != "test":
                return columns
            return columns._replace(
                labels={name: np.full_like(values, np.nan) for name, values in columns.labels.items()}
            )

    noise = {"trial-muon": 0.1, "trial-ema": 1.0}
    part = measured("trials", tmp_path, kind=WithoutTest, noise=noise, people=(60, 40, 10), preset="trials")
    rows = {row[0]: dict(zip(part.section.tables[0].columns, row, strict=True)) for row in part.section.tables[0].rows}
    assert rows["none: the student before these trials"]["HR error divided by that without a change"] == "–"
    assert rows["batches of 256"]["steps"] == "200"
    errors = {name: part.numbers[f"trials/trial-{name}/hr_bpm/mae"].value for name in ("muon", "none", "ema")}
    assert errors["muon"] < errors["none"] < errors["ema"]
    assert part.numbers["trials/trial-muon/top1"].value > part.numbers["trials/trial-ema/top1"].value
    assert not part.claims and "validation people" in part.section.text[0]
    errors_panel, *_, top1_panel = part.section.pictures[0].figure.axes
    assert [label.get_text() for label in errors_panel.get_yticklabels()] == list(rows)
    titles = [panel.get_title(loc="left") for panel in (errors_panel, top1_panel)]
    assert titles == ["HR error (bpm)", "top-1 (share of minutes)"]
    drawn = {int(dot.get_ydata()[0]): dot.get_xdata()[0] for dot in errors_panel.lines if len(dot.get_xdata()) == 1}
    assert drawn[list(rows).index("optimiser Muon")] == pytest.approx(errors["muon"])
