"""Linear probes: ridge regression from frozen embeddings to a label, tested on people it has never seen.

Features are standardised with the train split, validation participants choose the strength, and test participants give
the numbers. Every result is compared with two constants: the train mean (the usual "mean predictor") and the train
median, which has the lowest absolute error of all constants. A third baseline knows the person: the mean of the labels of
the person's other minutes. It needs reference labels of the test person, which no encoder here has; at rest it is hard to beat.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.probing.ridge import RidgePath
from accdistill_jax.evaluation.probing.scoring import Difference, Probe, Scorer

STRENGTHS = tuple(10.0 ** (k / 2) for k in range(-12, 5))
MEAN, MEDIAN, OWN_MEAN = "mean", "median", "own mean"
MIN_TRAIN_SEGMENTS, MIN_TRAIN_PARTICIPANTS = 20, 2
MIN_VALIDATION_SEGMENTS, MIN_TEST_SEGMENTS = 10, 5
FEW_PARTICIPANTS = 10
FOLDS = 5


@dataclasses.dataclass(frozen=True)
class ProbeSplit:
    """Input of a probe from one split.

    Attributes:
        features: encoder name -> [N, D] float, the same rows for all encoders.
        target: [N] float, NaN where unknown.
        participant: [N] str.
    """

    features: Mapping[str, np.ndarray]
    target: np.ndarray
    participant: np.ndarray

    def rows(self, rows: np.ndarray) -> ProbeSplit:
        """The rows at these indices, or where this mask is True."""
        features = {name: x[rows] for name, x in self.features.items()}
        return ProbeSplit(features, self.target[rows], self.participant[rows])

    def labelled(self) -> ProbeSplit:
        """The rows with a known target."""
        known = np.isfinite(self.target)
        return self if known.all() else self.rows(known)

    @property
    def num_participants(self) -> int:
        """Number of people in the split."""
        return len(np.unique(self.participant))


class ProbeSplits(NamedTuple):
    """Input of a probe.

    Attributes:
        train: fits the probe.
        validation: chooses the strength.
        test: gives the numbers.
    """

    train: ProbeSplit
    validation: ProbeSplit
    test: ProbeSplit

    def labelled(self) -> ProbeSplits:
        """The rows with a known target."""
        return ProbeSplits(*(split.labelled() for split in self))


@dataclasses.dataclass(frozen=True)
class TargetResult:
    """All probes of one target.

    Attributes:
        target: label name, for example "hr_bpm".
        reason: why there are no probes, or "".
        train_segments, train_participants, test_segments, test_participants: numbers of labelled segments, and of people
            who have such segments.
        strength_chosen_on: data that chose the strength, in words.
        probes: encoder name -> Probe, the constants included.
        differences: one per compared pair.
        truth: [N] float64, labels of the labelled test segments (not in the JSON).
        participant: [N] str, of the same segments (not in the JSON).
        notes: limits of these numbers.
    """

    target: str
    reason: str
    train_segments: int
    train_participants: int
    test_segments: int
    test_participants: int
    strength_chosen_on: str = ""
    probes: dict[str, Probe] = dataclasses.field(default_factory=dict)
    differences: list[Difference] = dataclasses.field(default_factory=list)
    truth: np.ndarray | None = dataclasses.field(default=None, repr=False, metadata={"json": False})
    participant: np.ndarray | None = dataclasses.field(default=None, repr=False, metadata={"json": False})
    notes: list[str] = dataclasses.field(default_factory=list)

    def difference(self, encoder: str, reference: str) -> Difference | None:
        """The comparison of two encoders, or None if they were not compared."""
        for d in self.differences:
            if (d.encoder, d.reference) == (encoder, reference):
                return d
        return None


class Fitted(NamedTuple):
    """Predictions of a fitted probe for the test segments.

    Attributes:
        prediction: [N] float64, in the target's unit.
        strength: ridge strength, None for other regressors and constants.
        note: a choice made or a doubt, or "".
    """

    prediction: np.ndarray
    strength: float | None = None
    note: str = ""


Regressor = Callable[[str, ProbeSplits, int], Fitted]
"""A regressor besides the ridge: (features, splits, seed) -> Fitted. It reads `split.features[features]` of labelled splits and
must not use the test labels."""


def probe_target(
    target: str,
    splits: ProbeSplits,
    *,
    comparisons: Sequence[tuple[str, str]] = (),
    draws: int = 2000,
    seed: int = 0,
) -> TargetResult:
    """Probes every encoder for one target. With too few labels the result has a reason and no probes.

    Args:
        target: label name, for the result.
        splits: embeddings and labels. With fewer than `MIN_VALIDATION_SEGMENTS` validation labels the strength is
            cross-validated over train participants, or over segments if there is one train participant.
        comparisons: (encoder, reference) pairs; "mean", "median" and "own mean" name the baselines.
        draws: bootstrap draws over participants.
        seed: seed of the draws and folds.
    """
    splits = splits.labelled()
    train, validation, test = splits
    counts = {
        "train_segments": len(train.target),
        "train_participants": train.num_participants,
        "test_segments": len(test.target),
        "test_participants": test.num_participants,
    }
    reason = too_few_labels(**counts)
    if reason:
        return TargetResult(target, reason, **counts)

    notes = []
    if test.num_participants == 1:
        notes.append("one test participant: no interval over participants")
    elif test.num_participants < FEW_PARTICIPANTS:
        notes.append(f"only {test.num_participants} test participants: the intervals are rough")
    chosen_on = data_of_choice(train, validation)
    if len(validation.target) < MIN_VALIDATION_SEGMENTS:
        count = f"only {len(validation.target)}" if len(validation.target) else "no"
        notes.append(f"{count} labelled validation segments: strength by {chosen_on}")

    scorer = Scorer(test.target, test.participant, draws=draws, seed=seed)
    fitted = fit_probes(splits, seed=seed)
    fitted[OWN_MEAN] = Fitted(own_mean(test, otherwise=float(np.mean(train.target))))
    measured = {name: scorer.measure(f.prediction) for name, f in fitted.items()}
    probes = {
        name: Probe(name, f.strength, *scorer.estimates(measured[name]), prediction=f.prediction, note=f.note)
        for name, f in fitted.items()
    }
    # leaving a minute out of its person's mean makes it fall where the minute rises: -1 by construction
    probes[OWN_MEAN] = dataclasses.replace(probes[OWN_MEAN], r_within=Estimate(None))
    differences = [scorer.compare(a, b, measured) for a, b in comparisons if a in probes and b in probes]
    return TargetResult(
        target,
        "",
        **counts,
        strength_chosen_on=chosen_on,
        probes=probes,
        differences=differences,
        truth=test.target.astype(np.float64),
        participant=test.participant,
        notes=notes,
    )


def fit_probes(
    splits: ProbeSplits,
    *,
    seed: int = 0,
    others: Mapping[str, tuple[str, Regressor]] | None = None,
) -> dict[str, Fitted]:
    """Predicts the test segments with a ridge probe per encoder, with `others` and with both constants.

    Args:
        splits: labelled splits; the test labels are not used.
        seed: seed of the folds and of `others`.
        others: further probes: name -> (name of the features, regressor).

    Returns:
        name -> predictions, for the encoders, for `others`, for "mean" and for "median", in this order.
    """
    train, validation, test = splits
    fitted = {}
    for name, features in train.features.items():
        path = RidgePath(features, train.target, STRENGTHS)
        index = best_candidate(
            name,
            path.predict,
            lambda x, y: RidgePath(x, y, STRENGTHS).predict,
            train=train,
            validation=validation,
            seed=seed,
        )
        note = "the strongest penalty was chosen" if index == len(STRENGTHS) - 1 else ""
        fitted[name] = Fitted(path.predict(test.features[name], index), STRENGTHS[index], note)
    for name, (features, regressor) in (others or {}).items():
        fitted[name] = regressor(features, splits, seed)
    for name, constant in ((MEAN, np.mean(train.target)), (MEDIAN, np.median(train.target))):
        fitted[name] = Fitted(np.full(len(test.target), float(constant)))
    return fitted


def own_mean(test: ProbeSplit, *, otherwise: float) -> np.ndarray:
    """Mean label [N] of the same person's other minutes; never of the minute itself.

    Args:
        test: labelled split.
        otherwise: value for a person with a single labelled minute.
    """
    _, code = np.unique(test.participant, return_inverse=True)
    target = np.asarray(test.target, np.float64)
    count, total = np.bincount(code), np.bincount(code, weights=target)
    others = count[code] - 1
    return np.where(others > 0, (total[code] - target) / np.maximum(others, 1), otherwise)


def too_few_labels(
    *,
    train_segments: int,
    train_participants: int,
    test_segments: int,
    test_participants: int,
    min_train_segments: int = MIN_TRAIN_SEGMENTS,
    min_train_participants: int = MIN_TRAIN_PARTICIPANTS,
) -> str:
    """Why the labels are too few for a probe, or ""."""
    if train_segments == 0 and test_segments == 0:
        return "no labelled segments"
    if train_segments < min_train_segments or train_participants < min_train_participants:
        return (
            f"{train_segments} labelled train segments of {train_participants} participants, "
            f"needs {min_train_segments} of {min_train_participants}"
        )
    if test_segments < MIN_TEST_SEGMENTS:
        return f"{test_segments} labelled test segments, needs {MIN_TEST_SEGMENTS}"
    return ""


def data_of_choice(train: ProbeSplit, validation: ProbeSplit) -> str:
    """The data that `best_candidate` uses, in words."""
    if len(validation.target) >= MIN_VALIDATION_SEGMENTS:
        k = validation.num_participants
        return f"{k} validation participant{'' if k == 1 else 's'}"
    k = train.num_participants
    if k == 1:
        return "cross-validation over segments of one train participant"
    return f"cross-validation over {k} train participants"


def best_candidate(
    features: str,
    predict: Callable[[np.ndarray], np.ndarray],
    fit: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]],
    *,
    train: ProbeSplit,
    validation: ProbeSplit,
    seed: int,
) -> int:
    """Index of the candidate with the lowest mean absolute error. Of equal candidates the last wins.

    Args:
        features: name of the features.
        predict: [N, D] -> [N, candidates], fitted on all of `train`.
        fit: (features [N, D], target [N]) -> a function like `predict`. It is used for cross-validation over `train` if there
            are too few validation labels.
        train: labelled split that `predict` was fitted on.
        validation: labelled split.
        seed: seed of the folds.
    """
    if len(validation.target) >= MIN_VALIDATION_SEGMENTS:
        error = np.abs(predict(validation.features[features]) - validation.target[:, None]).mean(axis=0)
    else:
        x = train.features[features]
        units, code = np.unique(train.participant, return_inverse=True)
        if len(units) == 1:
            code = units = np.arange(len(train.target))
        folds = min(FOLDS, len(units))
        fold = (np.random.default_rng([seed, 21]).permutation(len(units)) % folds)[code]
        errors = []
        for k in range(folds):
            held_out = fold == k
            predicted = fit(x[~held_out], train.target[~held_out])(x[held_out])
            errors.append(np.abs(predicted - train.target[held_out, None]).sum(axis=0))
        error = np.sum(errors, axis=0)
    return len(error) - 1 - int(np.argmin(error[::-1]))
