"""Linear probes: what can a ridge regression read from a frozen embedding on people it has never seen?

Features are standardised on the train split, the strength is chosen on validation participants, the numbers are those
of test participants. Everything is compared with two constants: the train mean (the usual "mean predictor") and the
train median, which is the better constant for absolute error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.evaluation.probing.ridge import RidgePath
from accdistill_jax.evaluation.probing.scoring import Difference, Probe, Scorer

STRENGTHS = tuple(10.0 ** (k / 2) for k in range(-12, 5))
MEAN, MEDIAN = "mean", "median"
MIN_TRAIN_SEGMENTS, MIN_TRAIN_PARTICIPANTS = 20, 2
MIN_VALIDATION_SEGMENTS, MIN_TEST_SEGMENTS = 10, 5
FEW_PARTICIPANTS = 10
FOLDS = 5


@dataclasses.dataclass(frozen=True)
class ProbeSplit:
    """One split as a probe sees it.

    Attributes:
        features: encoder name -> [N, D] float, the same rows for all encoders.
        target: [N] float, NaN where unknown.
        participant: [N] str.
    """

    features: Mapping[str, np.ndarray]
    target: np.ndarray
    participant: np.ndarray

    def labelled(self) -> ProbeSplit:
        """The rows whose target is known."""
        known = np.isfinite(self.target)
        if known.all():
            return self
        features = {name: x[known] for name, x in self.features.items()}
        return ProbeSplit(features, self.target[known], self.participant[known])

    @property
    def num_participants(self) -> int:
        """Number of people in the split."""
        return len(np.unique(self.participant))


@dataclasses.dataclass(frozen=True)
class TargetResult:
    """All probes of one target.

    Attributes:
        target: column name, for example "hr_bpm".
        reason: why it is not available, or "".
        train_segments, train_participants, test_segments, test_participants: labelled ones.
        strength_chosen_on: what the strength was chosen on.
        probes: encoder name -> Probe, the constants included.
        differences: pairs compared.
        truth: [N] float64, labels of the labelled test segments (not in the JSON).
        participant: [N] str, of the same (not in the JSON).
        notes: what a reader must know about these numbers.
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
        """The comparison of two encoders, or None where there is none."""
        for d in self.differences:
            if (d.encoder, d.reference) == (encoder, reference):
                return d
        return None


class Fitted(NamedTuple):
    """A probe's answer for the test segments.

    prediction: [N] float64, in the target's unit.
    strength: ridge strength, None for other regressors and constants.
    note: a doubt or a choice the reader must know of, or "".
    """

    prediction: np.ndarray
    strength: float | None = None
    note: str = ""


Regressor = Callable[[str, ProbeSplit, ProbeSplit, ProbeSplit, int], Fitted]
"""Another regressor than the ridge: (features, train, validation, test, seed) -> Fitted, from `split.features[features]` of labelled
splits; test labels are not for it."""


def probe_target(
    target: str,
    *,
    train: ProbeSplit,
    validation: ProbeSplit,
    test: ProbeSplit,
    comparisons: Sequence[tuple[str, str]] = (),
    strengths: Sequence[float] = STRENGTHS,
    draws: int = 2000,
    seed: int = 0,
    others: Mapping[str, tuple[str, Regressor]] | None = None,
    min_train_segments: int = MIN_TRAIN_SEGMENTS,
    min_train_participants: int = MIN_TRAIN_PARTICIPANTS,
) -> TargetResult:
    """Probes every encoder for one target; a target with too few labels comes back with a reason instead.

    Args:
        target: column name, for the result.
        train: fits the probes.
        validation: chooses the strength; with fewer labels there than `MIN_VALIDATION_SEGMENTS` it is cross-validated over
            train participants, or over segments where there is one train participant only.
        test: gives the numbers.
        comparisons: (encoder, reference) pairs; "mean" and "median" name the constants.
        strengths: candidates, penalty per segment.
        draws: bootstrap draws over participants.
        seed: seed of the draws and folds.
        others: further probes beside the ridge of each encoder: name -> (name of the features, regressor).
        min_train_segments: labelled train segments that are needed.
        min_train_participants: people that they must be of.
    """
    train, validation, test = train.labelled(), validation.labelled(), test.labelled()
    counts = {
        "train_segments": len(train.target),
        "train_participants": train.num_participants,
        "test_segments": len(test.target),
        "test_participants": test.num_participants,
    }
    reason = too_few(**counts, min_train_segments=min_train_segments, min_train_participants=min_train_participants)
    if reason:
        return TargetResult(target, reason, **counts)

    notes = []
    if counts["test_participants"] == 1:
        notes.append("one test participant: no interval over participants")
    elif counts["test_participants"] < FEW_PARTICIPANTS:
        notes.append(f"only {counts['test_participants']} test participants: the intervals are rough")
    chosen_on = choice_made_on(train, validation)
    if len(validation.target) < MIN_VALIDATION_SEGMENTS:
        found = f"only {len(validation.target)}" if len(validation.target) else "no"
        notes.append(f"{found} labelled validation segments: strength by {chosen_on}")

    scorer = Scorer(test.target, test.participant, draws=draws, seed=seed)
    fitted = fit_probes(train, validation, test, strengths=strengths, seed=seed, others=others)
    measured = {name: scorer.measure(f.prediction) for name, f in fitted.items()}
    probes = {
        name: Probe(name, f.strength, *scorer.estimates(measured[name]), prediction=f.prediction, note=f.note)
        for name, f in fitted.items()
    }
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
    train: ProbeSplit,
    validation: ProbeSplit,
    test: ProbeSplit,
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    others: Mapping[str, tuple[str, Regressor]] | None = None,
) -> dict[str, Fitted]:
    """Answers of a ridge probe per encoder, of `others`, and of the two constants; arguments as in `probe_target`.

    The splits are labelled ones; labels of `test` are not looked at.
    """
    fitted = {}
    for name in train.features:
        x = train.features[name]
        path = RidgePath(x, train.target, strengths)
        index = choose(
            name,
            path.predict,
            lambda x, y: RidgePath(x, y, strengths).predict,
            train=train,
            validation=validation,
            seed=seed,
        )
        strongest = len(strengths) > 1 and index == len(strengths) - 1
        note = "the strongest penalty was chosen" if strongest else ""
        fitted[name] = Fitted(path.predict(test.features[name], index), strengths[index], note)
    for name, (features, regressor) in (others or {}).items():
        fitted[name] = regressor(features, train, validation, test, seed)
    for name, constant in ((MEAN, np.mean(train.target)), (MEDIAN, np.median(train.target))):
        fitted[name] = Fitted(np.full(len(test.target), float(constant)))
    return fitted


def too_few(
    *,
    train_segments: int,
    train_participants: int,
    test_segments: int,
    test_participants: int,
    min_train_segments: int = MIN_TRAIN_SEGMENTS,
    min_train_participants: int = MIN_TRAIN_PARTICIPANTS,
) -> str:
    """Why so many labels do not do, or ""."""
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


def choice_made_on(train: ProbeSplit, validation: ProbeSplit) -> str:
    """The data that `choose` looks at, in words."""
    if len(validation.target) >= MIN_VALIDATION_SEGMENTS:
        k = validation.num_participants
        return f"{k} validation participant{'' if k == 1 else 's'}"
    k = train.num_participants
    if k == 1:
        return "cross-validation over segments of one train participant"
    return f"cross-validation over {k} train participants"


def choose(
    features: str,
    predict: Callable[[np.ndarray], np.ndarray],
    fit: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]],
    *,
    train: ProbeSplit,
    validation: ProbeSplit,
    seed: int,
) -> int:
    """Index of the candidate with the lowest mean absolute error; the last of equals.

    Args:
        features: name of the features.
        predict: [N, D] -> [N, candidates], fitted on the whole of `train`.
        fit: (features [N, D], target [N]) -> such a function, for cross-validation where validation labels are too few.
        train, validation: labelled splits.
        seed: seed of the folds.
    """
    if len(validation.target) >= MIN_VALIDATION_SEGMENTS:
        error = np.abs(predict(validation.features[features]) - validation.target[:, None]).mean(axis=0)
    else:
        x, error = train.features[features], 0.0
        units, code = np.unique(train.participant, return_inverse=True)
        if len(units) == 1:
            code = units = np.arange(len(train.target))
        folds = min(FOLDS, len(units))
        fold = (np.random.default_rng([seed, 21]).permutation(len(units)) % folds)[code]
        for k in range(folds):
            held = fold == k
            predicted = fit(x[~held], train.target[~held])(x[held])
            error = error + np.abs(predicted - train.target[held, None]).sum(axis=0)
    return len(error) - 1 - int(np.argmin(error[::-1]))
