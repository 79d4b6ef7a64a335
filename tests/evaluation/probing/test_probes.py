"""Probes against scikit-learn; the data that they may use and must not use."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from sklearn.preprocessing import StandardScaler

from accdistill_jax.evaluation.probing.probes import (
    MEAN,
    MEDIAN,
    OWN_MEAN,
    STRENGTHS,
    ProbeSplit,
    ProbeSplits,
    own_mean,
    probe_target,
)
from accdistill_jax.evaluation.probing.ridge import RidgePath


def _splits(seed=0, people=12, per_person=30, names=("student", "untrained"), slope=8.0):
    rng = np.random.default_rng(seed)
    splits = {}
    for offset, split in enumerate(("train", "validation", "test")):
        participant = np.repeat([f"{offset}-{i}" for i in range(people)], per_person)
        state = rng.standard_normal((len(participant), 5))
        target = 70 + slope * state[:, 0] + rng.standard_normal(len(participant))
        features = {n: rng.standard_normal((len(participant), 5)) for n in names}
        features["student"] = state + 0.3 * rng.standard_normal(state.shape)
        splits[split] = ProbeSplit(features, target, participant)
    return ProbeSplits(**splits)


@pytest.mark.parametrize(("rows", "width"), [(300, 20), (30, 60)])
def test_ridge_path_equals_scikit_learn(rows, width):
    rng = np.random.default_rng(0)
    x = 1000.0 + rng.standard_normal((rows, width)) * np.logspace(-2, 2, width)
    x[:, 3] = 7.0  # does not vary
    y = x[:, 0] + 3 * rng.standard_normal(rows)
    path = RidgePath(x.astype(np.float32), y, STRENGTHS, block=64)
    x = x.astype(np.float32).astype(np.float64)
    scaler = StandardScaler().fit(x)
    new = x[:10] + 0.5
    for index, strength in enumerate(STRENGTHS):
        reference = Ridge(alpha=strength * rows, solver="svd").fit(scaler.transform(x), y)
        inside = scaler.transform(new)
        inside[:, 3] = 0.0
        np.testing.assert_allclose(path.predict(new, index), reference.predict(inside), rtol=1e-6)
        np.testing.assert_allclose(path.predict(new)[:, index], path.predict(new, index), rtol=1e-12)


def test_numbers_equal_scikit_learn_and_scipy():
    splits = _splits()
    probe = probe_target("hr_bpm", splits).probes["student"]
    truth, predicted = splits.test.target, probe.prediction
    assert probe.mae.value == pytest.approx(mean_absolute_error(truth, predicted), rel=1e-9)
    assert probe.rmse.value == pytest.approx(mean_squared_error(truth, predicted) ** 0.5, rel=1e-9)
    assert probe.r2.value == pytest.approx(r2_score(truth, predicted), rel=1e-9)
    assert probe.r.value == pytest.approx(pearsonr(truth, predicted).statistic, rel=1e-9)
    means = {p: splits.test.participant == p for p in np.unique(splits.test.participant)}
    y, p = truth.copy(), predicted.copy()
    for rows in means.values():
        y[rows] -= y[rows].mean()
        p[rows] -= p[rows].mean()
    assert probe.r_within.value == pytest.approx(pearsonr(y, p).statistic, rel=1e-9)
    for estimate in (probe.mae, probe.rmse, probe.r, probe.r_within, probe.r2):
        assert estimate.low < estimate.value < estimate.high


def test_strength_is_the_best_on_validation_participants():
    splits = _splits(per_person=3)
    chosen = probe_target("hr_bpm", splits).probes["untrained"]
    path = RidgePath(splits.train.features["untrained"], splits.train.target, STRENGTHS)
    errors = np.abs(path.predict(splits.validation.features["untrained"]).T - splits.validation.target).mean(1)
    assert chosen.strength == STRENGTHS[int(np.argmin(errors))]


def test_test_labels_choose_nothing():
    splits = _splits(per_person=3)
    other = splits._replace(test=dataclasses.replace(splits.test, target=-splits.test.target))
    one, two = probe_target("hr_bpm", splits), probe_target("hr_bpm", other)
    for name, probe in one.probes.items():
        if name == OWN_MEAN:
            continue  # a baseline that is given the labels of the person's other minutes
        assert probe.strength == two.probes[name].strength
        np.testing.assert_array_equal(probe.prediction, two.probes[name].prediction)


def test_the_own_mean_leaves_the_minute_out():
    split = ProbeSplit({}, np.array([60.0, 70.0, 80.0, 55.0]), np.array(["a", "a", "b", "a"]))
    np.testing.assert_allclose(own_mean(split, otherwise=71.0), [62.5, 57.5, 71.0, 65.0])
    probe = probe_target("hr_bpm", _splits()).probes[OWN_MEAN]
    assert probe.r_within.value is None and probe.mae.low < probe.mae.value < probe.mae.high


def test_without_validation_labels_train_participants_choose_and_a_note_says_so():
    splits = _splits()
    unlabelled = dataclasses.replace(splits.validation, target=np.full(360, np.nan))
    result = probe_target("hr_bpm", splits._replace(validation=unlabelled))
    assert result.strength_chosen_on == "cross-validation over 12 train participants"
    assert any("cross-validation" in note for note in result.notes)
    assert result.probes["student"].mae.value < 0.6 * result.probes[MEAN].mae.value


def test_constants_come_from_the_train_split():
    splits = _splits()
    skewed = dataclasses.replace(splits.train, target=np.exp(splits.train.target / 10))
    result = probe_target("sdnn_ms", splits._replace(train=skewed))
    assert (result.probes[MEAN].prediction == skewed.target.mean()).all()
    assert (result.probes[MEDIAN].prediction == np.median(skewed.target)).all()
    assert result.probes[MEAN].r.value is None
    assert result.probes[MEAN].strength is None


def test_paired_differences():
    splits = _splits(names=("student", "untrained", "twin"))
    for split in splits:
        split.features["twin"] = split.features["student"]
    pairs = [("student", other) for other in (MEAN, "untrained", "twin", "absent")]
    result = probe_target("hr_bpm", splits, comparisons=pairs)
    assert len(result.differences) == 3
    twin = result.difference("student", "twin")
    assert (twin.difference.value, twin.difference.low, twin.difference.high, twin.outcome) == (
        0,
        0,
        0,
        "same",
    )
    mean = result.difference("student", MEAN)
    mae = {name: probe.mae for name, probe in result.probes.items()}
    assert mean.outcome == "better"
    assert mean.difference.value == pytest.approx(mae["student"].value - mae[MEAN].value)
    assert mean.ratio.value == pytest.approx(mae["student"].value / mae[MEAN].value)
    # Probes of noise are no better than a constant.
    noise = probe_target("hr_bpm", splits, comparisons=[("untrained", MEAN)]).difference("untrained", MEAN)
    assert noise.outcome in ("same", "worse")


def test_knowing_the_person_only_shows_in_r_within():
    rng = np.random.default_rng(0)
    splits = {}
    for split in ("train", "validation", "test"):
        level = rng.standard_normal(40)
        code = np.repeat(np.arange(40), 25)
        features = {"student": level[code][:, None] + 0.05 * rng.standard_normal((1000, 3))}
        target = 70 + 8 * level[code] + 4 * rng.standard_normal(1000)
        splits[split] = ProbeSplit(features, target, np.array([f"{split}{c}" for c in code]))
    probe = probe_target("hr_bpm", ProbeSplits(**splits)).probes["student"]
    assert probe.r.low > 0.7
    assert probe.r_within.low < 0.05 < 0.2 > abs(probe.r_within.value)


@pytest.mark.parametrize(
    ("split", "keep", "message"),
    [
        ("train", 10, "10 labelled train segments of 1 participants, needs 20 of 2"),
        ("train", 25, "of 1 participants"),
        ("test", 3, "3 labelled test segments, needs 5"),
        ("test", 0, "0 labelled test segments"),
    ],
)
def test_too_few_labels_give_a_reason(split, keep, message):
    splits = _splits()
    few = getattr(splits, split)
    few = dataclasses.replace(few, target=np.where(np.arange(len(few.target)) < keep, few.target, np.nan))
    result = probe_target("hr_bpm", splits._replace(**{split: few}))
    assert message in result.reason
    assert result.probes == {}


def test_no_labels_at_all_give_a_reason():
    nothing = ProbeSplits(*(dataclasses.replace(split, target=np.full(360, np.nan)) for split in _splits()))
    assert probe_target("resp_bpm", nothing).reason == "no labelled segments"


def test_one_test_participant_has_numbers_but_no_interval():
    splits = _splits()
    alone = dataclasses.replace(splits.test, participant=np.array(["x"] * 360))
    result = probe_target("hr_bpm", splits._replace(test=alone), comparisons=[("student", MEAN)])
    assert result.probes["student"].mae.value > 0
    assert not result.probes["student"].mae.has_interval
    assert result.differences[0].outcome == "unknown"
    assert "one test participant" in result.notes[0]


def test_unlabelled_rows_change_nothing():
    splits = _splits()
    padded = []
    for s in splits:
        features = {n: np.concatenate([x, np.full((5, 5), 1e3)]) for n, x in s.features.items()}
        padded.append(ProbeSplit(features, np.r_[s.target, np.full(5, np.nan)], np.r_[s.participant, ["z"] * 5]))
    one, two = probe_target("hr_bpm", splits), probe_target("hr_bpm", ProbeSplits(*padded))
    assert one.probes["student"].mae == two.probes["student"].mae
    assert two.test_segments == 360
