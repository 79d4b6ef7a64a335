"""Subsets of labels keep people together and are nested; probes on them are those of the subset alone."""

import dataclasses

import numpy as np
import pytest

from accdistill_jax.data.store.labels import labelled_subset
from accdistill_jax.evaluation.probing.label_fractions import probe_fractions
from accdistill_jax.evaluation.probing.probes import MEAN, STRENGTHS, ProbeSplit, RidgePath, probe_target

SMALL = {"strengths": (1e-3, 1e-1, 10.0), "draws": 300}


def _splits(people=20, per_person=40, seed=0):
    rng = np.random.default_rng(seed)
    splits = {}
    for split, count in (("train", people), ("validation", people // 2), ("test", people // 2)):
        participant = np.repeat([f"{split}-{i}" for i in range(count)], per_person)
        offset = 3 * rng.standard_normal(count).repeat(per_person)
        state = rng.standard_normal((len(participant), 4))
        target = 70 + 8 * state[:, 0] + offset + rng.standard_normal(len(participant))
        features = {
            "student": state + 0.2 * rng.standard_normal(state.shape),
            "baseline": state + 1.5 * rng.standard_normal(state.shape),
        }
        splits[split] = ProbeSplit(features, target, participant)
    return splits


def _subset_participants(sizes=(5, 1, 30, 12, 8, 40)):
    participant = np.repeat([f"p{i}" for i in range(len(sizes))], sizes)
    return participant, np.ones(len(participant), bool)


@pytest.mark.parametrize("seed", range(8))
def test_subsets_are_whole_people_but_the_last_and_nested(seed):
    participant, known = _subset_participants()
    known[::7] = False
    before = np.array([], int)
    for fraction in (0.05, 0.12, 0.3, 0.301, 0.77, 1.0):
        subset = labelled_subset(participant, known, fraction, seed, minimum=1)
        rows = subset.rows
        assert len(rows) == round(fraction * known.sum()) == len(np.unique(rows))
        assert known[rows].all() and (np.diff(rows) > 0).all()
        assert np.isin(before, rows).all()
        partial = [
            p
            for p in np.unique(participant[rows])
            if not np.isin(np.flatnonzero(known & (participant == p)), rows).all()
        ]
        assert len(partial) <= 1
        assert subset.participants == len(np.unique(participant[rows]))
        assert not subset.raised
        before = rows
    assert len(before) == subset.labelled == known.sum()


def test_subsets_depend_on_the_seed_and_the_minimum_is_reported():
    participant, known = _subset_participants()
    chosen = {tuple(labelled_subset(participant, known, 0.1, s).rows) for s in range(20)}
    assert len(chosen) > 10
    assert tuple(labelled_subset(participant, known, 0.1, 3).rows) in chosen
    few = labelled_subset(participant, known, 0.01, 0)
    assert (len(few.rows), few.raised) == (10, True)
    assert not labelled_subset(participant, known, 0.2, 0).raised
    tiny = labelled_subset(participant[:6], known[:6], 1.0, 0)
    assert (len(tiny.rows), tiny.raised) == (6, False)
    for wrong in (0.0, -0.1, 1.2):
        with pytest.raises(ValueError, match="fraction"):
            labelled_subset(participant, known, wrong, 0)


def test_people_come_in_the_same_order_for_every_target():
    participant, known = _subset_participants(sizes=(10,) * 30)
    other = known.copy()
    other[::2] = False
    for seed in range(5):
        people = [set(participant[labelled_subset(participant, k, 0.2, seed).rows]) for k in (known, other)]
        assert people[0] == people[1]


def test_every_person_comes_first_equally_often():
    participant, known = _subset_participants(sizes=(30, 10, 20))
    first = [participant[labelled_subset(participant, known, 0.01, s, minimum=1).rows[0]] for s in range(600)]
    counts = np.unique(first, return_counts=True)[1]
    assert len(counts) == 3 and (abs(counts - 200) < 60).all()


def test_all_labels_give_the_numbers_of_the_plain_probe():
    splits = _splits()
    whole = probe_fractions("hr_bpm", **splits, main="student", fractions=(1.0,), **SMALL)[0]
    plain = probe_target("hr_bpm", **splits, comparisons=[("student", "baseline")], **SMALL)
    assert whole.repeats == 1
    for name, probe in plain.probes.items():
        found = whole.probes[name]
        for k in ("mae", "rmse", "r", "r_within", "r2"):
            for end in ("value", "low", "high"):
                expected = getattr(getattr(probe, k), end)
                assert getattr(getattr(found, k), end) == (expected if expected is None else pytest.approx(expected))
        assert found.strengths == [probe.strength]
        assert found.mae_std is None
    ours, theirs = (r.difference("student", "baseline").ratio for r in (whole, plain))
    assert dataclasses.astuple(ours) == pytest.approx(dataclasses.astuple(theirs))


def test_a_fraction_is_fitted_and_chosen_on_its_subset_alone():
    splits = _splits()
    train, validation, test = splits.values()
    result = probe_fractions("hr_bpm", **splits, main="student", fractions=(0.1,), repeats={0.1: 2}, seed=5, **SMALL)[0]
    errors = []
    for repeat in range(2):
        rows = labelled_subset(train.participant, np.ones(800, bool), 0.1, [5, 41, repeat]).rows
        checked = labelled_subset(validation.participant, np.ones(400, bool), 0.1, [5, 42, repeat]).rows
        path = RidgePath(train.features["student"][rows], train.target[rows], SMALL["strengths"])
        error = np.abs(path.predict(validation.features["student"][checked]).T - validation.target[checked])
        best = int(np.argmin(error.mean(axis=1)))
        assert result.probes["student"].strengths[repeat] == SMALL["strengths"][best]
        errors.append(np.abs(path.predict(test.features["student"], best) - test.target).mean())
    probe = result.probes["student"]
    assert probe.mae_by_subset == pytest.approx(errors)
    assert probe.mae.value == pytest.approx(np.mean(errors))
    assert probe.mae_std == pytest.approx(np.std(errors, ddof=1))
    assert probe.mae.low < probe.mae.value < probe.mae.high
    ratio = result.difference("student", "baseline").ratio
    assert ratio.value == pytest.approx(probe.mae.value / result.probes["baseline"].mae.value)
    assert result.train_participants == [2, 2]
    assert result.validation_segments == [40, 40]
    assert all("validation participant" in how for how in result.strength_chosen_on)


def test_few_labels_fall_back_on_cross_validation_and_say_so():
    results = probe_fractions("hr_bpm", **_splits(), main="student", fractions=(0.001, 0.08), **SMALL)
    one, two = results
    assert one.repeats == 5 and one.raised and one.train_segments == [10] * 5
    assert any("were used" in note for note in one.notes)
    assert any("over segments of one train participant (5 of 5 subsets)" in note for note in one.notes)
    assert not two.raised and two.repeats == 1 and two.validation_segments == [32]
    # Even ten minutes of one person beat the constant with a good encoder.
    assert one.probes["student"].mae.value < one.probes[MEAN].mae.value
    assert two.probes["student"].mae.value < one.probes["student"].mae.value
    assert one.probes[MEAN].r.value is None
    splits = _splits()
    splits["validation"] = dataclasses.replace(splits["validation"], target=np.full(400, np.nan))
    many = probe_fractions("hr_bpm", **splits, main="student", fractions=(0.5,), **SMALL)[0]
    assert many.strength_chosen_on == ["cross-validation over 10 train participants"]


def test_unlabelled_rows_and_test_labels_choose_nothing():
    splits = _splits()
    hidden = splits["train"].target.copy()
    hidden[splits["train"].participant == "train-3"] = np.nan
    splits["train"] = dataclasses.replace(splits["train"], target=hidden)
    flipped = dict(splits, test=dataclasses.replace(splits["test"], target=140 - splits["test"].target))
    one, two = (
        probe_fractions("hr_bpm", **s, main="student", fractions=(0.05, 1.0), **SMALL) for s in (splits, flipped)
    )
    assert one[1].train_labelled == 760 and one[1].train_participants == [19]
    assert [r.probes["student"].strengths for r in one] == [r.probes["student"].strengths for r in two]
    again = probe_fractions("hr_bpm", **splits, main="student", fractions=(0.05, 1.0), **SMALL)
    assert again == one


def test_too_few_labels_give_a_reason():
    splits = _splits()
    for split, words in (("train", "0 labelled train segments"), ("test", "0 labelled test segments")):
        empty = dataclasses.replace(splits[split], target=np.full(len(splits[split].target), np.nan))
        results = probe_fractions("hr_bpm", **{**splits, split: empty}, main="student", **SMALL)
        assert len(results) == 4 and all(words in r.reason and r.probes == {} for r in results)


def test_a_probe_may_ask_for_fewer_labels():
    splits = _splits()
    rows = np.arange(12)
    few = ProbeSplit(
        {k: x[rows] for k, x in splits["train"].features.items()},
        splits["train"].target[rows],
        splits["train"].participant[rows],
    )
    assert probe_target("hr_bpm", **{**splits, "train": few}).reason
    result = probe_target(
        "hr_bpm",
        **{**splits, "train": few},
        min_train_segments=10,
        min_train_participants=1,
        strengths=STRENGTHS,
    )
    assert result.reason == "" and result.train_participants == 1
