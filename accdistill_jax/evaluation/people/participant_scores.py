"""Scores of predictions for test participants, with intervals over them and paired differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.evaluation.people.participant_targets import NUMBER, YES_NO, Target
from accdistill_jax.evaluation.people.roc import roc_areas
from accdistill_jax.evaluation.probing.probes import MEAN, MEDIAN

AUC, PARTIAL_AUC, MAE, R = "auc", "partial_auc", "mae", "r"
_HIGHER_IS_BETTER = {AUC: True, PARTIAL_AUC: True, MAE: False, R: True}


@dataclasses.dataclass(frozen=True)
class YesNoScore:
    """One encoder on one yes/no target, on the test participants.

    Attributes:
        encoder: its name.
        strength: ridge strength, penalty per participant on standardised features.
        auc: area under the ROC curve.
        partial_auc: its part at up to 10 % false positives, standardised (McClish): 0.5 at chance, 1 at best.
        score: [P] float64, higher for yes (not in the JSON).
        note: a doubt about the strength, or "".
    """

    encoder: str
    strength: float
    auc: Estimate
    partial_auc: Estimate
    score: np.ndarray = dataclasses.field(repr=False, metadata={"json": False})
    note: str = ""


@dataclasses.dataclass(frozen=True)
class NumberScore:
    """One encoder (or constant) on one number, on the test participants.

    Attributes:
        encoder: its name; "mean" and "median" are constants of the train participants.
        strength: as for `YesNoScore`; None for constants.
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
    """`measure` of `encoder` minus that of `reference`, on the same draws of test participants."""

    encoder: str
    reference: str
    measure: Literal["auc", "partial_auc", "mae", "r"]
    difference: Estimate

    @property
    def outcome(self) -> str:
        """ "better" or "worse" where the interval excludes zero, "same" where it does not, "unknown" without one."""
        if not self.difference.has_interval:
            return "unknown"
        low, high = self.difference.low, self.difference.high
        if not _HIGHER_IS_BETTER[self.measure]:
            low, high = -high, -low
        return "better" if low > 0 else "worse" if high < 0 else "same"


@dataclasses.dataclass(frozen=True)
class ParticipantTarget:
    """All encoders on one target.

    Attributes:
        target: its name.
        label: what a reader sees.
        kind: "number" or "yes_no".
        reason: why there are no scores, or "".
        train_participants, test_participants: those of whom it is known.
        train_yes, test_yes: those of them who say yes; None for a number.
        ceiling: highest AUC that anything can reach, where it is known.
        strength_chosen_on: what the strength was chosen on.
        scores: encoder -> its score; for a number the constants too.
        differences: of the main encoder to every other one.
        truth: [P] float64 of the test participants of whom it is known (not in the JSON).
        notes: what a reader must know about these numbers.
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
    scores: dict[str, YesNoScore] | dict[str, NumberScore] = dataclasses.field(default_factory=dict)
    differences: list[PairedDifference] = dataclasses.field(default_factory=list)
    truth: np.ndarray | None = dataclasses.field(default=None, repr=False, metadata={"json": False})
    notes: list[str] = dataclasses.field(default_factory=list)

    def difference(self, reference: str, measure: str) -> PairedDifference | None:
        """The main encoder against `reference`, or None where they are not compared."""
        found = (d for d in self.differences if (d.reference, d.measure) == (reference, measure))
        return next(found, None)


@dataclasses.dataclass(frozen=True)
class MeanAuc:
    """AUC averaged over the yes/no targets that are known of every test participant.

    Attributes:
        targets: those.
        auc: encoder -> its mean.
        differences: of the main encoder to every other one.
    """

    targets: list[str]
    auc: dict[str, Estimate]
    differences: list[PairedDifference]


class ParticipantScorer:
    """Scores predictions for test participants; people of whom a target is known are drawn alike for all encoders."""

    def __init__(self, people: Sequence[str], *, main: str, draws: int, seed: int):
        self._people, self._main, self._draws, self._seed = np.array(people), main, draws, seed
        self._bootstraps: dict[bytes, ParticipantBootstrap] = {}
        self._areas: dict[str, dict[str, tuple[float, np.ndarray]]] = {}  # target -> encoder -> AUC and its draws

    def score(
        self,
        target: Target,
        about: dict,
        predictions: Mapping[str, tuple],
        values: Mapping[str, np.ndarray],
        fitted: np.ndarray,
    ) -> ParticipantTarget:
        """Result of a target from encoder -> (strength, [P] prediction, note)."""
        known = np.isfinite(values["test"])
        bootstrap, truth = self._bootstrap(known), values["test"][known]
        if target.kind == NUMBER:
            constants = {MEAN: float(np.mean(fitted)), MEDIAN: float(np.median(fitted))}
            constant = {name: (None, np.full(len(known), value), "") for name, value in constants.items()}
            predictions = dict(predictions) | constant
        measure = _areas if target.kind == YES_NO else _errors
        measured, scores = {}, {}
        for encoder, (strength, prediction, note) in predictions.items():
            prediction = prediction[known]
            measured[encoder] = measure(prediction, truth, bootstrap)
            estimates = [bootstrap.estimate(*m) for m in measured[encoder].values()]
            kind = YesNoScore if target.kind == YES_NO else NumberScore
            scores[encoder] = kind(encoder, strength, *estimates, prediction, note)
        if target.kind == YES_NO and known.all():
            self._areas[target.name] = {encoder: m[AUC] for encoder, m in measured.items()}
        differences = [
            d
            for name in next(iter(measured.values()))
            for d in self._differences(name, {encoder: m[name] for encoder, m in measured.items()}, bootstrap)
        ]
        return ParticipantTarget(**about, scores=scores, differences=differences, truth=truth)

    def mean_auc(self) -> MeanAuc | None:
        """AUC over all targets scored on every test participant."""
        if not self._areas:
            return None
        bootstrap = self._bootstrap(np.ones(len(self._people), bool))
        means = {}
        for encoder in next(iter(self._areas.values())):
            values, drawn = zip(*(areas[encoder] for areas in self._areas.values()), strict=True)
            means[encoder] = float(np.mean(values)), np.mean(drawn, axis=0)
        auc = {encoder: bootstrap.estimate(*mean) for encoder, mean in means.items()}
        return MeanAuc(list(self._areas), auc, self._differences(AUC, means, bootstrap))

    def _bootstrap(self, known: np.ndarray) -> ParticipantBootstrap:
        key = known.tobytes()
        if key not in self._bootstraps:
            made = ParticipantBootstrap(self._people[known], draws=self._draws, seed=[self._seed, 32])
            self._bootstraps[key] = made
        return self._bootstraps[key]

    def _differences(
        self, measure: str, measured: Mapping[str, tuple[float, np.ndarray]], bootstrap: ParticipantBootstrap
    ) -> list[PairedDifference]:
        value, drawn = measured[self._main]
        return [
            PairedDifference(self._main, encoder, measure, bootstrap.estimate(value - v, drawn - d))
            for encoder, (v, d) in measured.items()
            if encoder != self._main
        ]


def _areas(
    score: np.ndarray, truth: np.ndarray, bootstrap: ParticipantBootstrap
) -> dict[str, tuple[float, np.ndarray]]:
    """Measure -> its value and its draws; a draw of one class has NaN, which `estimate` leaves out."""
    weight = np.concatenate([np.ones((1, len(truth))), bootstrap.counts])
    auc, partial = roc_areas(score, weight * truth, weight * (1.0 - truth))
    return {AUC: (float(auc[0]), auc[1:]), PARTIAL_AUC: (float(partial[0]), partial[1:])}


def _errors(
    prediction: np.ndarray, truth: np.ndarray, bootstrap: ParticipantBootstrap
) -> dict[str, tuple[float, np.ndarray]]:
    weight = np.concatenate([np.ones((1, len(truth))), bootstrap.counts]) / len(truth)
    p = (
        np.zeros_like(prediction)
        if np.ptp(prediction) <= 1e-9 * (np.abs(prediction).max() + 1)
        else prediction - prediction.mean()
    )
    t = truth - truth.mean()
    mp, mt, pp, tt, pt = (weight @ column for column in (p, t, p * p, t * t, p * t))
    variance = np.maximum(pp - mp**2, 0.0) * np.maximum(tt - mt**2, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(variance > 0, (pt - mp * mt) / np.sqrt(variance), np.nan)
    mae = weight @ np.abs(prediction - truth)
    return {MAE: (float(mae[0]), mae[1:]), R: (float(r[0]), r[1:])}
