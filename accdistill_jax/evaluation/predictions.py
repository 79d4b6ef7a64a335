"""Fits the read-outs of an encoder, calibrates their intervals, and measures both on the test participants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.evaluation.probing import probes
from accdistill_jax.evaluation.probing.ridge import RidgePath
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings
from accdistill_jax.labels import LABELS
from accdistill_jax.readouts.readout import Domain, HeartTest, Readout, Readouts

PREDICTION_VERSION = 3  # of the fit: another one is fitted again
LEVEL = 0.9
_DOMAIN_LEVEL = 0.95  # share of people whose minutes count as like the training data
_USEFUL = 0.9  # of the constant's error on train people left out in turn: with more, no minute gets a prediction
_HEART_LEVEL = 0.99  # share of minutes without a heart that are refused
_KEPT_VARIANCE = 0.999
_FEATURES = "embedding"
_CURVE_POINTS = 20
_DRAWS = 2000


@dataclasses.dataclass(frozen=True)
class ErrorByCoverage:
    """Mean absolute error of the most certain minutes.

    Attributes:
        share: [K] shares of the test minutes, increasing to 1.
        error: [K] mean absolute error of that share with the narrowest intervals, in the target's unit.
        best_error: [K] the same if the minutes were sorted by their true error, the lowest possible curve.
    """

    share: np.ndarray
    error: np.ndarray
    best_error: np.ndarray


@dataclasses.dataclass(frozen=True)
class PredictionResult:
    """Measured read-out of one target, on the test participants.

    Attributes:
        target: label.
        level: nominal coverage.
        calibration_people: validation people with the label, who are behind the intervals.
        coverage: share of labelled test minutes whose label is in the interval, before abstention.
        coverage_kept: the same of the minutes with a prediction.
        width: median width of the interval of the minutes with a prediction, in the target's unit.
        kept: share of the test minutes with a prediction.
        unknown: reason -> share of the test minutes without a prediction for this reason.
        mae: mean absolute error of all test minutes, before abstention.
        mae_kept: of the minutes with a prediction.
        curve: error by coverage.
    """

    target: str
    level: float
    calibration_people: int
    coverage: Estimate
    coverage_kept: Estimate
    width: float
    kept: float
    unknown: dict[str, float]
    mae: Estimate
    mae_kept: Estimate
    curve: ErrorByCoverage


def people_quantile(scores: np.ndarray, participant: np.ndarray, level: float) -> float:
    """Quantile of scores for a minute of a new person; people are exchangeable, the minutes of one person are not.

    Each of the K people has the weight 1 / (K + 1), shared by the person's minutes; the new person has the rest, as an
    infinite score. So the interval of a new person's random minute covers with at least `level`, if that person comes from
    the same population. With K < level / (1 - level) people the quantile is infinite: 9 people for 0.9.

    Args:
        scores: [n] float.
        participant: [n] str.
        level: from 0 to 1.

    Source: Lee, Barber and Willett, "Distribution-free inference with hierarchical data", arXiv 2306.06342.
    """
    scores = np.asarray(scores, np.float64)
    people, code, minutes = np.unique(np.asarray(participant), return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    weight = np.cumsum(1.0 / (minutes[code[order]] * (len(people) + 1)))
    place = int(np.searchsorted(weight, level - 1e-12))
    return float(scores[order[place]]) if place < len(scores) else np.inf


def fit_readouts(
    splits: Mapping[str, SplitEmbeddings],
    *,
    fingerprint: str,
    seed: int,
    heartless: Mapping[str, SplitEmbeddings] | None = None,
) -> Readouts:
    """Fits a read-out of every label with enough values.

    Each read-out is the ridge regression of the report's linear probe: fitted on the train people, its strength chosen by
    the validation people. A second ridge predicts the logarithm of the absolute error, which cross-validation over train
    people gives. The intervals are split conformal: the validation people's errors, in units of the predicted error. The
    same people choose the strength, one of 17 values, which makes the intervals slightly too narrow.

    Args:
        splits: "train" and "validation" -> embeddings and labels.
        fingerprint: content hash of the encoder's parameters.
        seed: seed of the folds.
        heartless: "train" and "validation" -> embeddings of minutes without a heart; None if the encoder is not at hand.

    Returns:
        The read-outs; without targets if no label has enough values.
    """
    train, validation = splits["train"], splits["validation"]
    targets, people = {}, {}
    for target in LABELS:
        fitting, choosing = (_labelled(split, target) for split in (train, validation))
        reason = probes.too_few_labels(
            train_segments=len(fitting.target),
            train_participants=fitting.num_participants,
            test_segments=probes.MIN_TEST_SEGMENTS,
            test_participants=1,
        )
        if not reason:
            targets[target] = _fit(LABELS[target].unit, fitting, choosing, seed=seed)
            people[target] = choosing.num_participants
    heart = None if heartless is None else _heart_test(splits, heartless, seed=seed)
    return Readouts(fingerprint, LEVEL, people, _domain(train, validation), targets, heart)


def _heart_test(
    splits: Mapping[str, SplitEmbeddings], heartless: Mapping[str, SplitEmbeddings], *, seed: int
) -> HeartTest:
    """A linear discriminant of minutes with and without a heart; validation minutes without a heart give its limit."""
    both = {}
    for split in ("train", "validation"):
        parts = (splits[split], heartless[split])
        target = np.repeat([1.0, 0.0], [len(part) for part in parts])
        features = {_FEATURES: np.concatenate([part.embedding for part in parts])}
        both[split] = probes.ProbeSplit(features, target, np.concatenate([part.participant for part in parts]))
    path, index = _ridge(both["train"], both["validation"], seed=seed)
    weights, _ = path.linear(index)
    judging = heartless["validation"] if len(heartless["validation"]) else heartless["train"]
    limit = np.quantile(np.asarray(judging.embedding, np.float64) @ weights, _HEART_LEVEL, method="higher")
    return HeartTest(weights, float(limit))


def _labelled(split: SplitEmbeddings, target: str) -> probes.ProbeSplit:
    labels = np.asarray(split.labels.get(target, np.full(len(split), np.nan)), np.float64)
    return probes.ProbeSplit({_FEATURES: split.embedding}, labels, np.asarray(split.participant)).labelled()


def _fit(unit: str, train: probes.ProbeSplit, validation: probes.ProbeSplit, *, seed: int) -> Readout:
    value, index = _ridge(train, validation, seed=seed)
    error = np.abs(_out_of_fold(train, probes.STRENGTHS[index], seed=seed) - train.target)
    floor = max(0.05 * float(np.median(error)), 1e-6)
    log_error = probes.ProbeSplit(train.features, np.log(error + floor), train.participant)
    known = validation.features[_FEATURES]
    missed = np.abs(value.predict(known, index) - validation.target) if len(known) else np.empty(0)
    spread, spread_index = _ridge(
        log_error, probes.ProbeSplit(validation.features, np.log(missed + floor), validation.participant), seed=seed
    )
    low, high = np.exp(np.quantile(spread.predict(train.features[_FEATURES], spread_index), [0.005, 0.995]))
    weights, intercept = value.linear(index)
    spread_weights, spread_intercept = spread.linear(spread_index)
    uncalibrated = Readout(
        unit, weights, intercept, spread_weights, spread_intercept, (float(low), float(high)), np.inf, np.inf
    )
    if not len(known):
        return uncalibrated
    constant = np.median(train.target)
    constant_missed = np.abs(validation.target - constant)
    useful = _is_better(error, np.abs(train.target - constant), train.participant, seed=seed)
    return dataclasses.replace(
        uncalibrated,
        quantile=people_quantile(missed / uncalibrated.spread(known), validation.participant, LEVEL),
        constant_half_width=people_quantile(constant_missed, validation.participant, LEVEL) if useful else 0.0,
    )


def _is_better(error: np.ndarray, constant_error: np.ndarray, participant: np.ndarray, *, seed: int) -> bool:
    """True if an error is clearly below that of a constant: by 10 %, and with an interval over people that excludes zero."""
    people = ParticipantBootstrap(participant, draws=_DRAWS, seed=[seed, 26])
    sums = people.sums(np.stack([error - constant_error, np.ones_like(error)], axis=1))
    drawn = people.resample(sums)
    difference = people.estimate(float(np.mean(error - constant_error)), drawn[:, 0] / drawn[:, 1])
    excludes_zero = difference.interval is None or difference.interval[1] < 0
    return bool(np.mean(error) < _USEFUL * np.mean(constant_error)) and excludes_zero


def _ridge(train: probes.ProbeSplit, validation: probes.ProbeSplit, *, seed: int) -> tuple[RidgePath, int]:
    """The ridge of a linear probe, and the number of its strength."""
    path = RidgePath(train.features[_FEATURES], train.target, probes.STRENGTHS)
    index = probes.best_candidate(
        _FEATURES,
        path.predict,
        lambda x, y: RidgePath(x, y, probes.STRENGTHS).predict,
        train=train,
        validation=validation,
        seed=seed,
    )
    return path, index


def _out_of_fold(train: probes.ProbeSplit, strength: float, *, seed: int) -> np.ndarray:
    """Predictions [n] of train minutes by ridges that are fitted without the person."""
    people, code = np.unique(train.participant, return_inverse=True)
    folds = min(probes.FOLDS, len(people))
    fold = (np.random.default_rng([seed, 24]).permutation(len(people)) % folds)[code]
    predicted = np.empty(len(train.target))
    features = train.features[_FEATURES]
    for k in range(folds):
        held_out = fold == k
        path = RidgePath(features[~held_out], train.target[~held_out], (strength,))
        predicted[held_out] = path.predict(features[held_out], 0)
    return predicted


def _domain(train: SplitEmbeddings, validation: SplitEmbeddings) -> Domain:
    motion = np.asarray([]) if train.motion_g is None else np.asarray(train.motion_g, np.float64)
    motion = motion[np.isfinite(motion)]
    domain = domain_of(train.embedding, validation.embedding, validation.participant)
    return dataclasses.replace(domain, motion_limit_g=float(motion.max()) if len(motion) else np.inf)


def domain_of(embedding: np.ndarray, others: np.ndarray, participant: np.ndarray) -> Domain:
    """Region of embeddings: the distance in the principal directions that hold nearly all variance.

    Args:
        embedding: [N, D], of the fit.
        others: [M, D], of other people, whose distances give the limit; with M = 0 the fit gives it.
        participant: [M] str, of `others`.

    Returns:
        The region, without a limit of motion.
    """
    features = np.asarray(embedding, np.float64)
    mean = features.mean(axis=0)
    variance, directions = np.linalg.eigh(np.cov(features - mean, rowvar=False).reshape(features.shape[1], -1))
    variance, directions = np.maximum(variance[::-1], 0.0), directions[:, ::-1]
    total = float(variance.sum())
    kept = int(np.searchsorted(np.cumsum(variance), _KEPT_VARIANCE * total)) + 1 if total > 0 else 1
    scale = np.sqrt(np.maximum(variance[:kept], 1e-12 * max(total, 1e-12)))
    domain = Domain(mean, directions[:, :kept] / scale, np.inf, np.inf)
    if not len(others):
        return dataclasses.replace(domain, distance_limit=float(domain.distance(embedding).max()))
    distance = domain.distance(others)
    limit = people_quantile(distance, participant, _DOMAIN_LEVEL)
    return dataclasses.replace(domain, distance_limit=limit if np.isfinite(limit) else float(distance.max()))


def measure_predictions(
    readouts: Readouts, test: SplitEmbeddings, *, draws: int, seed: int
) -> dict[str, PredictionResult]:
    """Measures coverage, abstention and errors of the read-outs on labelled test minutes.

    Args:
        readouts: fitted on other people.
        test: embeddings and labels of the test people.
        draws: draws of people behind each interval.
        seed: seed of the draws.

    Returns:
        Target -> result, for targets with at least `probes.MIN_TEST_SEGMENTS` labelled test minutes.
    """
    results = {}
    for target, readout in readouts.targets.items():
        truth = np.asarray(test.labels.get(target, np.full(len(test), np.nan)), np.float64)
        rows = np.flatnonzero(np.isfinite(truth))
        if len(rows) < probes.MIN_TEST_SEGMENTS:
            continue
        truth, embedding = truth[rows], test.embedding[rows]
        motion = None if test.motion_g is None else np.asarray(test.motion_g)[rows]
        estimated = readout.estimate(embedding)
        prediction = readouts.predict(embedding, motion_g=motion)[target]
        error, known = np.abs(estimated.value - truth), prediction.known
        people = ParticipantBootstrap(np.asarray(test.participant)[rows], draws=draws, seed=[seed, 25])
        covered = error <= estimated.half_width
        reasons, counts = np.unique(prediction.reason[~known], return_counts=True)
        width = 2 * estimated.half_width[known]
        results[target] = PredictionResult(
            target,
            readouts.level,
            readouts.calibration_people[target],
            coverage=_mean(people, covered, np.ones(len(rows), bool)),
            coverage_kept=_mean(people, covered, known),
            width=float(np.median(width)) if len(width) else np.nan,
            kept=float(known.mean()),
            unknown={str(reason): float(count / len(rows)) for reason, count in zip(reasons, counts, strict=True)},
            mae=_mean(people, error, np.ones(len(rows), bool)),
            mae_kept=_mean(people, error, known),
            curve=_curve(error, np.where(known, estimated.half_width, np.inf)),
        )
    return results


def _mean(people: ParticipantBootstrap, values: np.ndarray, chosen: np.ndarray) -> Estimate:
    sums = people.sums(np.stack([np.where(chosen, values, 0.0), chosen], axis=1))
    total, drawn = sums.sum(axis=0), people.resample(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return people.estimate(np.divide(*total), drawn[:, 0] / drawn[:, 1])


def _curve(error: np.ndarray, risk: np.ndarray) -> ErrorByCoverage:
    share = np.arange(1, _CURVE_POINTS + 1) / _CURVE_POINTS
    count = np.maximum(np.round(share * len(error)).astype(int), 1)

    def mean_of_first(order: np.ndarray) -> np.ndarray:
        return np.cumsum(error[order])[count - 1] / count

    return ErrorByCoverage(
        share, mean_of_first(np.argsort(risk, kind="stable")), mean_of_first(np.argsort(error, kind="stable"))
    )
