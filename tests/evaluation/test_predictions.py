"""Fitted read-outs: coverage of new people, abstention, and honest behaviour with few people."""

import numpy as np
import pytest

from accdistill_jax.evaluation.predictions import fit_readouts, measure_predictions, people_quantile
from accdistill_jax.evaluation.report.prediction_parts import prediction_text
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings
from accdistill_jax.readouts.readout import FAR, MOTION, WIDE

MINUTES = 20


def population(people, *, seed, offset_ms=0.0):
    """Heart rate is in the first dimension, with a personal error; its noise grows with the second. SDNN is nowhere."""
    rng = np.random.default_rng(seed)
    person = np.repeat([f"{seed}-{number}" for number in range(people)], MINUTES)
    embedding = rng.normal(size=(people * MINUTES, 6)).astype(np.float32)
    noise = np.exp(0.8 * embedding[:, 1]) * rng.normal(size=len(person)) + np.repeat(
        0.7 * rng.normal(size=people), MINUTES
    )
    labels = {"hr_bpm": 70 + 10 * embedding[:, 0] + noise, "sdnn_ms": 50 + 9 * rng.normal(size=len(person)) + offset_ms}
    motion = rng.uniform(0.001, 0.02, size=len(person))
    return SplitEmbeddings(
        embedding, None, person, {k: v.astype(np.float32) for k, v in labels.items()}, motion.astype(np.float32)
    )


@pytest.fixture(scope="module")
def splits():
    return {
        "train": population(60, seed=1),
        "validation": population(40, seed=2),
        "test": population(200, seed=3),
    }


@pytest.fixture(scope="module")
def readouts(splits):
    return fit_readouts(splits, fingerprint="f00d", seed=0)


def test_intervals_cover_new_people_and_widen_with_the_noise(splits, readouts):
    result = measure_predictions(readouts, splits["test"], draws=200, seed=0)["hr_bpm"]
    assert 0.87 < result.coverage.number < 0.94 and 0.87 < result.coverage_kept.number < 0.94
    assert result.calibration_people == 40 and result.kept > 0.8
    estimated = readouts.targets["hr_bpm"].estimate(splits["test"].embedding)
    second = splits["test"].embedding[:, 1]
    assert np.median(estimated.half_width[second > 1]) > 2 * np.median(estimated.half_width[second < -1])
    assert result.curve.error[4] < 0.6 * result.curve.error[-1]  # the most certain quarter
    assert result.curve.error[-1] == pytest.approx(result.mae.number)
    assert (result.curve.best_error <= result.curve.error + 1e-12).all()


def test_a_label_that_the_embedding_does_not_hold_is_never_predicted(splits, readouts):
    prediction = readouts.predict(splits["test"].embedding)["sdnn_ms"]
    assert not prediction.known.any() and set(prediction.reason) <= {WIDE, FAR}
    result = measure_predictions(readouts, splits["test"], draws=50, seed=0)["sdnn_ms"]
    assert result.kept == 0 and result.mae_kept.value is None


@pytest.mark.parametrize(("correlation", "answers"), [(0.37, False), (0.6, True)])
def test_a_read_out_little_better_than_a_constant_answers_nothing(correlation, answers):
    """The errors are 7 % and 20 % below the constant's; the first difference is significant, too."""

    def weakly(people, seed):
        split = population(people, seed=seed)
        noise = np.random.default_rng(seed + 100).normal(size=len(split))
        label = 15 + 3 * (correlation * split.embedding[:, 0] + np.sqrt(1 - correlation**2) * noise)
        return SplitEmbeddings(split.embedding, None, split.participant, {"resp_bpm": label.astype(np.float32)})

    splits = {"train": weakly(300, 1), "validation": weakly(60, 2)}
    prediction = fit_readouts(splits, fingerprint="f00d", seed=0).predict(weakly(60, 3).embedding)["resp_bpm"]
    assert (prediction.known.mean() > 0.3) == answers and prediction.known.any() == answers


def test_minutes_unlike_the_training_are_unknown(splits, readouts):
    embedding = splits["test"].embedding[:2].copy()
    embedding[0] *= 30
    prediction = readouts.predict(embedding, motion_g=np.array([0.01, 0.5]))["hr_bpm"]
    assert prediction.reason.tolist() == [FAR, MOTION]


def test_few_people_give_no_interval_and_say_so(splits):
    few = {**splits, "validation": population(8, seed=5)}
    readout = fit_readouts(few, fingerprint="f00d", seed=0).targets["hr_bpm"]
    assert readout.quantile == np.inf
    nine = {**splits, "validation": population(9, seed=5)}
    assert np.isfinite(fit_readouts(nine, fingerprint="f00d", seed=0).targets["hr_bpm"].quantile)


def test_people_without_the_label_are_not_behind_its_intervals(splits):
    validation = population(40, seed=2)
    validation.labels["sdnn_ms"][: 28 * MINUTES] = np.nan
    fitted = fit_readouts({**splits, "validation": validation}, fingerprint="f00d", seed=0)
    assert fitted.calibration_people == {"hr_bpm": 40, "sdnn_ms": 12}
    measured = measure_predictions(fitted, splits["test"], draws=10, seed=0)
    assert measured["sdnn_ms"].calibration_people == 12
    assert "the validation people with the label (heart rate 40, SDNN 12), each with" in prediction_text(measured)


def test_the_same_fit_twice_is_the_same_to_the_bit(splits, readouts):
    again = fit_readouts(splits, fingerprint="f00d", seed=0)
    for name, readout in readouts.targets.items():
        assert np.array_equal(readout.weights, again.targets[name].weights)
        assert (readout.quantile, readout.intercept) == (again.targets[name].quantile, again.targets[name].intercept)


def test_labels_of_one_person_or_none_give_no_read_out(splits):
    unlabelled = population(60, seed=1)
    labels = {"hr_bpm": np.full(len(unlabelled), np.nan, np.float32)}
    train = SplitEmbeddings(unlabelled.embedding, None, unlabelled.participant, labels)
    assert not fit_readouts({**splits, "train": train}, fingerprint="f00d", seed=0).targets


def test_the_quantile_weighs_people_not_minutes():
    scores = np.concatenate([np.arange(1.0, 20.0), np.full(1000, 99.0)])
    person = np.concatenate([np.arange(19).astype(str), np.full(1000, "many")])
    # 20 people: each has 1/21; 19/21 of the weight is at 1 to 19, then comes the person of a thousand minutes
    assert people_quantile(scores, person, 0.9) == 19.0
    assert people_quantile(scores, person, 0.95) == 99.0
    assert people_quantile(scores, person, 0.96) == np.inf
    assert people_quantile(np.empty(0), np.empty(0, str), 0.9) == np.inf
