"""Scores of predictions for test participants, with intervals over them and paired differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.evaluation.people.participant_targets import (
    FEW_EACH,
    FEW_PEOPLE,
    MIN_EACH,
    MIN_TEST,
    MIN_TRAIN,
    NUMBER,
    YES_NO,
    Target,
)
from accdistill_jax.evaluation.people.roc import roc_areas
from accdistill_jax.evaluation.probing.probes import MEAN, MEDIAN, Fitted

Measure = Literal["auc", "partial_auc", "mae", "r"]
AUC: Measure = "auc"
PARTIAL_AUC: Measure = "partial_auc"
MAE: Measure = "mae"
R: Measure = "r"


@dataclasses.dataclass(frozen=True)
class YesNoScore:
    """Score of one encoder on one yes/no target, on the test participants.

    Attributes:
        encoder: its name.
        strength: ridge strength, penalty per participant on standardised features.
        auc: area under the ROC curve.
        partial_auc: area up to 10 % false positives, standardised (McClish): 0.5 is chance, 1 is best.
        score: [P] float64, higher for yes (not in the JSON).
        note: a doubt about the strength, or "".
    """

    encoder: str
    strength: float | None
    auc: Estimate
    partial_auc: Estimate
    score: np.ndarray = dataclasses.field(repr=False, metadata={"json": False})
    note: str = ""


@dataclasses.dataclass(frozen=True)
class NumberScore:
    """Score of one encoder (or constant) on one number, on the test participants.

    Attributes:
        encoder: its name; "mean" and "median" are constants of the train participants.
        strength: ridge strength, penalty per participant on standardised features; None for constants.
        mae: mean absolute error, in the target's unit.
        r: Pearson correlation.
        prediction: [P] float64 (not in the JSON).
        note: a doubt about the strength, or "".
    """

    encoder: str
    strength: float | None
    mae: Estimate
    r: Estimate
    prediction: np.ndarray = dataclasses.field(repr=False, metadata={"json": False})
    note: str = ""


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """Difference of two encoders in one measure, on the same draws of test participants.

    Attributes:
        encoder: name of the first encoder.
        reference: name of the encoder it is compared with.
        measure: "auc", "partial_auc", "mae" or "r".
        difference: measure of `encoder` minus measure of `reference`.
    """

    encoder: str
    reference: str
    measure: Measure
    difference: Estimate

    @property
    def outcome(self) -> str:
        """Result of the comparison: "better" or "worse" if the interval excludes zero, else "same"; "unknown" without one."""
        interval = self.difference.interval
        if interval is None:
            return "unknown"
        low, high = interval
        if self.measure == MAE:
            low, high = -high, -low
        return "better" if low > 0 else "worse" if high < 0 else "same"


@dataclasses.dataclass(frozen=True)
class ParticipantTarget:
    """Scores of all encoders on one target.

    Attributes:
        target: its name.
        label: name in reports.
        kind: "number" or "yes_no".
        reason: why there are no scores, or "".
        train_participants, test_participants: people with a known value.
        train_yes, test_yes: people with the answer yes; None for a number.
        ceiling: highest AUC that any predictor can reach, if known.
        strength_chosen_on: data that chose the strength, in words.
        scores: encoder -> its score; for a number the constants too.
        differences: the main encoder against every other one.
        truth: [P] float64, values of the test participants with a known value (not in the JSON).
        notes: limits of these numbers.
    """

    target: str
    label: str
    kind: Literal["yes_no", "number"]
    reason: str
    train_participants: int
    test_participants: int
    train_yes: int | None
    test_yes: int | None
    ceiling: float | None = None
    strength_chosen_on: str = ""
    scores: Mapping[str, YesNoScore] | Mapping[str, NumberScore] = dataclasses.field(default_factory=dict)
    differences: list[PairedDifference] = dataclasses.field(default_factory=list)
    truth: np.ndarray | None = dataclasses.field(default=None, repr=False, metadata={"json": False})
    notes: list[str] = dataclasses.field(default_factory=list)

    def difference(self, reference: str, measure: str) -> PairedDifference | None:
        """The main encoder against `reference`, or None if they are not compared."""
        matches = (d for d in self.differences if (d.reference, d.measure) == (reference, measure))
        return next(matches, None)

    def auc(self, encoder: str) -> Estimate:
        """AUC of an encoder on a yes/no target.

        Raises:
            ValueError: the target is a number.
        """
        score = self.scores[encoder]
        if not isinstance(score, YesNoScore):
            raise ValueError(f"{self.target} is a number: it has no AUC")
        return score.auc


@dataclasses.dataclass(frozen=True)
class MeanAuc:
    """AUC averaged over the yes/no targets that are known for every test participant.

    Attributes:
        targets: names of these targets.
        auc: encoder -> its mean AUC.
        differences: the main encoder against every other one.
    """

    targets: list[str]
    auc: dict[str, Estimate]
    differences: list[PairedDifference]


class _Drawn(NamedTuple):
    """A measure on all test participants and on each draw of them, [draws]."""

    value: float
    draws: np.ndarray


def unscored(target: Target, values: Mapping[str, np.ndarray], ceiling: float | None) -> ParticipantTarget:
    """A target without scores: its counts, its notes, and the reason if the known values are too few for scores.

    Args:
        target: the target.
        values: split -> [P] float, NaN where unknown, for "train" and "test".
        ceiling: highest AUC that any predictor can reach, if known.
    """
    known = {split: v[np.isfinite(v)] for split, v in values.items()}
    required = {"train": MIN_TRAIN, "test": MIN_TEST}
    yes: dict[str, int] = {}
    notes: list[str] = []
    reason = ""
    if not any(len(known[split]) for split in required):
        reason = "unknown for every train and test participant"
    elif target.kind == NUMBER:
        short = [split for split, least in required.items() if len(known[split]) < least]
        if short:
            split = short[0]
            reason = f"known for {len(known[split])} {split} participants, needs {required[split]}"
        elif len(known["test"]) < FEW_PEOPLE:
            notes.append(f"only {len(known['test'])} test participants: the intervals are rough")
    else:
        for split in required:
            yes[split] = int(known[split].sum())
            no = len(known[split]) - yes[split]
            fewest = min(yes[split], no)
            if fewest < MIN_EACH and not reason:
                reason = f"{yes[split]} yes and {no} no among {split} participants, needs {MIN_EACH} of each"
            elif fewest < FEW_EACH and split == "test" and not reason:
                answer = "yes" if yes[split] < no else "no"
                notes.append(f"only {fewest} test participants say {answer}: the intervals are rough")
    return ParticipantTarget(
        target=target.name,
        label=target.label,
        kind=target.kind,
        reason=reason,
        train_participants=len(known["train"]),
        test_participants=len(known["test"]),
        train_yes=yes.get("train"),
        test_yes=yes.get("test"),
        ceiling=ceiling,
        notes=notes,
    )


class ParticipantScorer:
    """Scores predictions for test participants. For each target all encoders share the draws of people.

    Args:
        people: [P] names of the test participants.
        main: name of the encoder that is compared with the others.
        draws: draws of participants behind each interval.
        seed: seed of the draws.
    """

    def __init__(self, people: Sequence[str], *, main: str, draws: int, seed: int):
        self._people, self._main, self._draws, self._seed = np.array(people), main, draws, seed
        self._bootstraps: dict[bytes, ParticipantBootstrap] = {}
        self._areas: dict[str, dict[str, _Drawn]] = {}  # target -> encoder -> AUC

    def score(
        self, target: ParticipantTarget, predictions: Mapping[str, Fitted], values: np.ndarray, fitted: np.ndarray
    ) -> ParticipantTarget:
        """Adds scores and differences to a target.

        Args:
            target: without scores, see `unscored`.
            predictions: encoder -> predictions [P] for the test participants.
            values: [P] values of the test participants, NaN where unknown.
            fitted: [train participants] values that the probes were fitted on; they give the constants of a number.
        """
        known = np.isfinite(values)
        bootstrap, truth = self._bootstrap(known), values[known]
        measured: dict[str, dict[Measure, _Drawn]] = {}
        if target.kind == YES_NO:
            answers = {}
            for encoder, fit in predictions.items():
                drawn = _areas(fit.prediction[known], truth, bootstrap)
                auc, partial = (bootstrap.estimate(*drawn[measure]) for measure in (AUC, PARTIAL_AUC))
                answers[encoder] = YesNoScore(encoder, fit.strength, auc, partial, fit.prediction[known], fit.note)
                measured[encoder] = drawn
            if known.all():
                self._areas[target.target] = {encoder: drawn[AUC] for encoder, drawn in measured.items()}
            scores: Mapping[str, YesNoScore] | Mapping[str, NumberScore] = answers
        else:
            numbers = {}
            constants = {MEAN: float(np.mean(fitted)), MEDIAN: float(np.median(fitted))}
            constant = {name: Fitted(np.full(len(known), value)) for name, value in constants.items()}
            for encoder, fit in {**predictions, **constant}.items():
                drawn = _errors(fit.prediction[known], truth, bootstrap)
                mae, r = (bootstrap.estimate(*drawn[measure]) for measure in (MAE, R))
                numbers[encoder] = NumberScore(encoder, fit.strength, mae, r, fit.prediction[known], fit.note)
                measured[encoder] = drawn
            scores = numbers
        differences = [
            difference
            for measure in next(iter(measured.values()))
            for difference in self._differences(
                measure, {encoder: drawn[measure] for encoder, drawn in measured.items()}, bootstrap
            )
        ]
        return dataclasses.replace(target, scores=scores, differences=differences, truth=truth)

    def mean_auc(self) -> MeanAuc | None:
        """AUC averaged over the scored targets that are known for every test participant; None without any."""
        if not self._areas:
            return None
        bootstrap = self._bootstrap(np.ones(len(self._people), bool))
        means = {}
        for encoder in next(iter(self._areas.values())):
            values, drawn = zip(*(areas[encoder] for areas in self._areas.values()), strict=True)
            means[encoder] = _Drawn(float(np.mean(values)), np.mean(drawn, axis=0))
        auc = {encoder: bootstrap.estimate(*mean) for encoder, mean in means.items()}
        return MeanAuc(list(self._areas), auc, self._differences(AUC, means, bootstrap))

    def _bootstrap(self, known: np.ndarray) -> ParticipantBootstrap:
        key = known.tobytes()
        if key not in self._bootstraps:
            people = self._people[known]
            self._bootstraps[key] = ParticipantBootstrap(people, draws=self._draws, seed=[self._seed, 32])
        return self._bootstraps[key]

    def _differences(
        self, measure: Measure, measured: Mapping[str, _Drawn], bootstrap: ParticipantBootstrap
    ) -> list[PairedDifference]:
        main = measured[self._main]
        return [
            PairedDifference(
                self._main, encoder, measure, bootstrap.estimate(main.value - other.value, main.draws - other.draws)
            )
            for encoder, other in measured.items()
            if encoder != self._main
        ]


def _areas(score: np.ndarray, truth: np.ndarray, bootstrap: ParticipantBootstrap) -> dict[Measure, _Drawn]:
    """AUC and partial AUC. A draw with one class has NaN, which `estimate` leaves out."""
    weight = np.concatenate([np.ones((1, len(truth))), bootstrap.counts])
    auc, partial = roc_areas(score, weight * truth, weight * (1.0 - truth))
    return {AUC: _Drawn(float(auc[0]), auc[1:]), PARTIAL_AUC: _Drawn(float(partial[0]), partial[1:])}


def _errors(prediction: np.ndarray, truth: np.ndarray, bootstrap: ParticipantBootstrap) -> dict[Measure, _Drawn]:
    """MAE and correlation; the correlation of a constant is NaN."""
    weight = np.concatenate([np.ones((1, len(truth))), bootstrap.counts]) / len(truth)
    constant = np.ptp(prediction) <= 1e-9 * (np.abs(prediction).max() + 1)
    p = np.zeros_like(prediction) if constant else prediction - prediction.mean()
    t = truth - truth.mean()
    mp, mt, pp, tt, pt = (weight @ column for column in (p, t, p * p, t * t, p * t))
    variance = np.maximum(pp - mp**2, 0.0) * np.maximum(tt - mt**2, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(variance > 0, (pt - mp * mt) / np.sqrt(variance), np.nan)
    mae = weight @ np.abs(prediction - truth)
    return {MAE: _Drawn(float(mae[0]), mae[1:]), R: _Drawn(float(r[0]), r[1:])}
