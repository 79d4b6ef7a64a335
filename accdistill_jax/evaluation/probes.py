"""Linear probes: what can a ridge regression read from a frozen embedding on people it has never seen?

Features are standardised on the train split, the strength is chosen on validation participants, the numbers are those
of test participants. Everything is compared with two constants: the train mean (the usual "mean predictor") and the
train median, which is the better constant for absolute error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap

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
class Probe:
    """One encoder (or constant) on one target, on the test participants.

    Attributes:
      encoder: its name; "mean" and "median" are the constants.
      strength: ridge strength, penalty per segment on standardised features; None for constants.
      mae, rmse: mean absolute and root mean squared error, in the target's unit.
      r: Pearson correlation over all test segments.
      r_within: the same after each participant's mean is removed from truth and prediction: minute-to-minute changes.
      r2: 1 - squared error / variance around the test mean.
      prediction: [N] float64, in the target's unit (not in the JSON).
      note: a doubt about the strength, or "".
    """

    encoder: str
    strength: float | None
    mae: Estimate
    rmse: Estimate
    r: Estimate
    r_within: Estimate
    r2: Estimate
    prediction: np.ndarray = dataclasses.field(repr=False, metadata={"json": False})
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Difference:
    """MAE of `encoder` minus MAE of `reference` on the same test segments, drawn in pairs.

    Attributes:
      difference: in the target's unit; negative where `encoder` is better.
      ratio: MAE of `encoder` divided by that of `reference`.
    """

    encoder: str
    reference: str
    difference: Estimate
    ratio: Estimate

    @property
    def outcome(self) -> str:
        """ "better" or "worse" where the interval excludes zero, "same" where it does not, "unknown" without one."""
        if not self.difference.has_interval:
            return "unknown"
        if self.difference.high < 0:
            return "better"
        return "worse" if self.difference.low > 0 else "same"


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
    notes: list[str] = dataclasses.field(default_factory=list)

    def difference(self, encoder: str, reference: str) -> Difference | None:
        """The comparison of two encoders, or None where there is none."""
        for d in self.differences:
            if (d.encoder, d.reference) == (encoder, reference):
                return d
        return None


class RidgePath:
    """Closed-form ridge regression for a whole list of strengths from one eigendecomposition.

    Minimises mean((y - x w - b)^2) + strength * |w|^2 over standardised features, which is
    sklearn.linear_model.Ridge(alpha=strength * N) after a StandardScaler. Features that do not vary get weight 0.

    Args:
      features: [N, D] float; sums are float64, in blocks.
      target: [N] float.
      strengths: positive numbers, [S].
      block: rows at a time.
    """

    def __init__(
        self, features: np.ndarray, target: np.ndarray, strengths: Sequence[float], *, block: int = 16384
    ):
        n, width = features.shape
        target = np.asarray(target, np.float64)
        self.strengths, self._block = tuple(float(s) for s in strengths), block
        self.intercept = float(target.mean())
        blocks = [slice(i, i + block) for i in range(0, n, block)]
        self._mean = sum(np.asarray(features[b], np.float64).sum(axis=0) for b in blocks) / n
        gram, cross = np.zeros((width, width)), np.zeros(width)
        for b in blocks:
            x = np.asarray(features[b], np.float64) - self._mean
            gram += x.T @ x
            cross += x.T @ (target[b] - self.intercept)
        std = np.sqrt(np.diag(gram) / n)
        varies = std > 1e-6 * np.abs(self._mean) + 1e-12
        self._scale = np.where(varies, 1.0 / np.where(varies, std, 1.0), 0.0)
        gram *= self._scale[:, None] * self._scale[None, :] / n
        eigenvalue, basis = np.linalg.eigh(gram)
        rotated = basis.T @ (cross * self._scale / n)
        shrunk = rotated[:, None] / (
            np.maximum(eigenvalue, 0.0)[:, None] + np.asarray(self.strengths)[None, :]
        )
        self.weights = basis @ shrunk  # [D, S], on standardised features

    def predict(self, features: np.ndarray, index: int | None = None) -> np.ndarray:
        """Predictions for [N, D] features: [N, S] float64 for all strengths, [N] for strength number `index`.

        Beside the result it needs one block of rows in float64, whatever N is.
        """
        weights = self.weights if index is None else self.weights[:, index]
        result = np.empty((len(features), *weights.shape[1:]))
        for start in range(0, len(features), self._block):
            rows = slice(start, start + self._block)
            x = (np.asarray(features[rows], np.float64) - self._mean) * self._scale
            result[rows] = x @ weights + self.intercept
        return result


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
) -> TargetResult:
    """Probes every encoder for one target; a target with too few labels comes back with a reason instead.

    Args:
      target: column name, for the result.
      train: fits the probes.
      validation: chooses the strength; without labels there it is cross-validated over train participants.
      test: gives the numbers.
      comparisons: (encoder, reference) pairs; "mean" and "median" name the constants.
      strengths: candidates, penalty per segment.
      draws: bootstrap draws over participants.
      seed: seed of the draws and folds.
    """
    train, validation, test = train.labelled(), validation.labelled(), test.labelled()
    counts = {
        "train_segments": len(train.target),
        "train_participants": train.num_participants,
        "test_segments": len(test.target),
        "test_participants": test.num_participants,
    }
    if reason := _too_few(**counts):
        return TargetResult(target, reason, **counts)

    notes = []
    if counts["test_participants"] == 1:
        notes.append("one test participant: no interval over participants")
    elif counts["test_participants"] < FEW_PARTICIPANTS:
        notes.append(f"only {counts['test_participants']} test participants: the intervals are rough")
    if len(validation.target) >= MIN_VALIDATION_SEGMENTS:
        k = validation.num_participants
        chosen_on = f"{k} validation participant{'' if k == 1 else 's'}"
    else:
        chosen_on = f"cross-validation over {counts['train_participants']} train participants"
        notes.append("no labelled validation segments: strength by " + chosen_on)

    scorer = _Scorer(test, draws=draws, seed=seed)
    probes = {}
    for name in train.features:
        path = RidgePath(train.features[name], train.target, strengths)
        index = _choose(path, name, train, validation, seed)
        note = (
            "the strongest penalty was chosen" if len(strengths) > 1 and index == len(strengths) - 1 else ""
        )
        probes[name] = scorer.score(name, path.predict(test.features[name], index), strengths[index], note)
    for name, constant in ((MEAN, np.mean(train.target)), (MEDIAN, np.median(train.target))):
        probes[name] = scorer.score(name, np.full(len(test.target), float(constant)), None, "")
    differences = [scorer.compare(a, b) for a, b in comparisons if a in probes and b in probes]
    truth = test.target.astype(np.float64)
    return TargetResult(
        target, "", **counts, strength_chosen_on=chosen_on, probes=probes, differences=differences, truth=truth,
        notes=notes,
    )  # fmt: skip


def _too_few(
    *, train_segments: int, train_participants: int, test_segments: int, test_participants: int
) -> str:
    if train_segments == 0 and test_segments == 0:
        return "no labelled segments"
    if train_segments < MIN_TRAIN_SEGMENTS or train_participants < MIN_TRAIN_PARTICIPANTS:
        return (
            f"{train_segments} labelled train segments of {train_participants} participants, "
            f"needs {MIN_TRAIN_SEGMENTS} of {MIN_TRAIN_PARTICIPANTS}"
        )
    if test_segments < MIN_TEST_SEGMENTS:
        return f"{test_segments} labelled test segments, needs {MIN_TEST_SEGMENTS}"
    return ""


def _choose(path: RidgePath, name: str, train: ProbeSplit, validation: ProbeSplit, seed: int) -> int:
    """Index of the strength with the lowest mean absolute error; the stronger of equals."""
    x, strengths = train.features[name], path.strengths
    if len(validation.target) >= MIN_VALIDATION_SEGMENTS:
        predicted = path.predict(validation.features[name])
        error = np.abs(predicted - validation.target[:, None]).mean(axis=0)
    else:
        people, code = np.unique(train.participant, return_inverse=True)
        folds = min(FOLDS, len(people))
        fold = (np.random.default_rng([seed, 21]).permutation(len(people)) % folds)[code]
        error = np.zeros(len(strengths))
        for k in range(folds):
            held = fold == k
            predicted = RidgePath(x[~held], train.target[~held], strengths).predict(x[held])
            error += np.abs(predicted - train.target[held, None]).sum(axis=0)
    return len(strengths) - 1 - int(np.argmin(error[::-1]))


class _Scorer:
    """Scores predictions on one test split, all with the same draws of participants."""

    def __init__(self, test: ProbeSplit, *, draws: int, seed: int):
        self._truth = test.target.astype(np.float64)
        self._people = ParticipantBootstrap(test.participant, draws=draws, seed=[seed, 22])
        self._mae: dict[str, tuple[float, np.ndarray]] = {}

    def score(self, name: str, prediction: np.ndarray, strength: float | None, note: str) -> Probe:
        error = prediction - self._truth
        # Moments about the overall means, so that sums of squares keep their digits.
        y, p = self._truth - self._truth.mean(), prediction - prediction.mean()
        if np.ptp(prediction) <= 1e-9 * (np.abs(prediction).max() + 1):
            p = np.zeros_like(p)
        columns = np.stack([np.ones_like(y), np.abs(error), error**2, y, p, y * y, p * p, y * p], axis=1)
        sums = self._people.sums(columns)
        n, sy, sp, syy, spp, syp = (sums[:, k] for k in (0, 3, 4, 5, 6, 7))
        within = np.stack([syy - sy * sy / n, spp - sp * sp / n, syp - sy * sp / n], axis=1)
        sums = np.concatenate([sums, within], axis=1)
        value, drawn = _metrics(sums.sum(axis=0)), _metrics(self._people.resample(sums))
        self._mae[name] = (float(value[0]), drawn[0])
        estimates = [self._people.estimate(float(v), d) for v, d in zip(value, drawn, strict=True)]
        return Probe(name, strength, *estimates, prediction=prediction, note=note)

    def compare(self, encoder: str, reference: str) -> Difference:
        (a, a_drawn), (b, b_drawn) = self._mae[encoder], self._mae[reference]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self._people.estimate(np.divide(a, b), a_drawn / b_drawn)
        return Difference(encoder, reference, self._people.estimate(a - b, a_drawn - b_drawn), ratio)


def _metrics(sums: np.ndarray) -> tuple[np.ndarray, ...]:
    """MAE, RMSE, r, r within participants and R2 from totals [..., 11] (columns as in `_Scorer.score`)."""
    n, absolute, squared, sy, sp, syy, spp, syp, wyy, wpp, wyp = np.moveaxis(sums, -1, 0)
    vyy, vpp, vyp = syy - sy * sy / n, spp - sp * sp / n, syp - sy * sp / n

    def ratio(numerator, denominator):
        return np.where(
            denominator > 1e-9, numerator / np.where(denominator > 1e-9, denominator, 1.0), np.nan
        )

    r = ratio(vyp, np.sqrt(np.maximum(vyy, 0) * np.maximum(vpp, 0)))
    r_within = ratio(wyp, np.sqrt(np.maximum(wyy, 0) * np.maximum(wpp, 0)))
    return absolute / n, np.sqrt(squared / n), r, r_within, 1.0 - ratio(squared, vyy)
