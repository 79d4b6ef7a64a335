"""Fits probes of a bench's encoders, all on the same labels and the same test participants."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.data.store.labels import MIN_SEGMENTS, Subset, labelled_subset
from accdistill_jax.evaluation.evaluate import SPLITS
from accdistill_jax.evaluation.probing.probes import (
    FEW_PARTICIPANTS,
    MEAN,
    MEDIAN,
    MIN_VALIDATION_SEGMENTS,
    OWN_MEAN,
    ProbeSplit,
    ProbeSplits,
    Regressor,
    fit_probes,
    own_mean,
    too_few_labels,
)
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings
from accdistill_jax.reproduce.measure.formatting import percent
from accdistill_jax.reproduce.measure.probe_scores import Scores, TestLabels
from accdistill_jax.reproduce.measure.results import Bench, ProbedEmbeddings

CONSTANTS = (MEAN, MEDIAN)


class LabelCounts(NamedTuple):
    """Size of the labelled training set of a target at a fraction: segments and their participants."""

    segments: int
    participants: int


class Probing:
    """Fits probes and keeps their predictions.

    A fraction of the labels consists of whole participants. The training seed draws them, as supervised training does
    (stages/sources.py). At every fraction the ridge strength is chosen on all labelled validation segments; supervised
    training uses the same segments to select its best step.

    Args:
        bench: its encoders are probed.
        targets: columns of labels; targets without any labelled test segment are skipped.
        fractions: of the labelled training segments.
        some: True fits only on training segments that every encoder of the grid has embedded.

    Attributes:
        targets: those that are not skipped.
        scores: errors of all predictions, including those of the constants.
        labels: (target, fraction) -> size of the first seed's subset.
        notes: caveats for the reader, each once.
    """

    def __init__(
        self,
        bench: ProbedEmbeddings,
        *,
        targets: Sequence[str],
        fractions: Sequence[float] = (1.0,),
        some: bool = False,
    ):
        self._bench, self._fractions, self._some = bench, tuple(fractions), some
        test = bench.columns("test")
        self._known = {target: np.isfinite(test.labels[target]) for target in targets}
        self.targets = tuple(target for target in targets if self._known[target].any())
        self.scores = Scores(
            {
                t: TestLabels(test.labels[t][self._known[t]].astype(np.float64), test.participant[self._known[t]])
                for t in self.targets
            }
        )
        self.labels: dict[tuple[str, float], LabelCounts] = {}
        self._notes: dict[str, None] = {}
        self._people: np.ndarray | None = None
        self._subsets: dict[tuple[str, float, int], Subset] = {}
        for target in targets:
            if target not in self.targets:
                self.note(f"no test segment has {target}")
        people = len(np.unique(test.participant))
        if people < FEW_PARTICIPANTS:
            self.note(f"only {people} test participants: the intervals are rough")

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def note(self, text: str) -> None:
        """Adds a note, unless it is already there."""
        self._notes[text] = None

    def encoder(self, name: str, seeds: Sequence[int]) -> None:
        """Fits linear probes of an encoder, for the given training seeds."""
        for seed in seeds:
            self.features(name, seed, self._bench.splits(name, seed, some=self._some))

    def features(
        self,
        name: str,
        seed: int,
        splits: Mapping[str, SplitEmbeddings],
        *,
        fractions: Sequence[float] | None = None,
        others: Mapping[str, Regressor] | None = None,
    ) -> None:
        """Fits linear probes of features, and further regressors.

        Args:
            name: of the linear probe.
            seed: of training and of the draw of labels.
            splits: train, validation and test, with the same rows as the other encoders.
            fractions: None for all.
            others: name of its predictions -> regressor.
        """
        self._check_rows(name, splits["train"].participant)
        for target in self.targets:
            whole = {
                s: ProbeSplit({name: splits[s].embedding}, splits[s].labels[target], splits[s].participant)
                for s in SPLITS
            }
            validation, test = whole["validation"].labelled(), whole["test"].labelled()
            for fraction in self._fractions if fractions is None else fractions:
                train = self._train(target, fraction, seed, whole["train"])
                if train is not None:
                    splits_of_target = ProbeSplits(train, validation, test)
                    predictions = self._fit(name, seed, target, splits_of_target, others or {})
                    for regressor, prediction in predictions.items():
                        self.scores.add(target, fraction, regressor, seed, prediction)

    def prediction(self, name: str, seed: int, target: str, fraction: float, prediction: np.ndarray) -> None:
        """Adds an encoder's own prediction for all test segments, [N] in the target's unit."""
        if target in self.targets:
            self.scores.add(target, fraction, name, seed, np.asarray(prediction)[self._known[target]])

    def repeat(self, name: str, seed: int, other: int, fraction: float) -> None:
        """Copies the predictions of one seed to another, for features that do not depend on the seed."""
        for target in self.targets:
            if seed in self.scores.seeds(target, fraction, name):
                self.scores.add(target, fraction, name, other, self.scores.prediction(target, fraction, name, seed))

    def distinct(self, target: str) -> list[float]:
        """The fractions whose labels differ from those of the next smaller fraction, for the first probed seed."""
        kept: list[float] = []
        for fraction in self._fractions:
            rows, rows_before = (
                [subset.rows for (t, f, _), subset in self._subsets.items() if (t, f) == (target, wanted)][:1]
                for wanted in (fraction, kept[-1] if kept else None)
            )
            if not (rows and rows_before and np.array_equal(rows[0], rows_before[0])):
                kept.append(fraction)
        return kept

    def _check_rows(self, name: str, people: np.ndarray) -> None:
        if self._people is None:
            self._people = people
        if not np.array_equal(self._people, people):
            raise ValueError(f"encoder {name}: its training rows are not the same segments as the others'")

    def _train(self, target: str, fraction: float, seed: int, train: ProbeSplit) -> ProbeSplit | None:
        """The training set of a probe; None if it has too few labels."""
        key = (target, fraction, seed)
        known = np.isfinite(train.target)
        if key not in self._subsets:
            self._subsets[key] = labelled_subset(train.participant, known, fraction, seed)
        subset = self._subsets[key]
        self.labels.setdefault((target, fraction), LabelCounts(len(subset.rows), subset.participants))
        truth = self.scores.truth[target]
        reason = too_few_labels(
            train_segments=len(subset.rows),
            train_participants=subset.participants,
            test_segments=len(truth.label),
            test_participants=len(np.unique(truth.participant)),
            min_train_segments=MIN_SEGMENTS,
            min_train_participants=1,
        )
        if reason:
            self.note(f"{target} at {percent(fraction)} of labels: {reason}")
            return None
        if subset.raised:
            self.note(
                f"{percent(fraction)} of {subset.labelled} labels of {target} are fewer than {MIN_SEGMENTS}; {MIN_SEGMENTS} were used"
            )
        return train.rows(subset.rows)

    def _fit(
        self, name: str, seed: int, target: str, splits: ProbeSplits, others: Mapping[str, Regressor]
    ) -> dict[str, np.ndarray]:
        labels = len(splits.validation.target)
        if labels < MIN_VALIDATION_SEGMENTS:
            reason = f"{labels} validation labels are too few" if labels else "no validation labels are left for it"
            self.note(f"{target}: the probe's strength was chosen by cross-validation on training labels ({reason})")
        regressors = {key: (name, regressor) for key, regressor in others.items()}
        fitted = fit_probes(splits, seed=seed, others=regressors)
        predictions = {key: fit.prediction for key, fit in fitted.items()}
        return predictions | {OWN_MEAN: own_mean(splits.test, otherwise=float(np.mean(splits.train.target)))}


def ppg_side(bench: Bench, name: str, seed: int) -> dict[str, SplitEmbeddings] | None:
    """The PPG projections that retrieval compares an encoder with, in place of its embeddings; None if it has none.

    The frozen teacher's projections are not stored for training segments. Therefore validation participants serve for
    training, the validation split is empty, and a probe's strength is chosen by cross-validation.
    """
    validation_pair, test_pair = (bench.pair(name, seed, split=split) for split in ("validation", "test"))
    if validation_pair is None or test_pair is None:
        return None
    splits = bench.splits(name, seed)
    validation = dataclasses.replace(splits["validation"], embedding=validation_pair[1], projection=None)
    test = dataclasses.replace(splits["test"], embedding=test_pair[1], projection=None)
    no_labels = {target: values[:0] for target, values in validation.labels.items()}
    empty = SplitEmbeddings(validation.embedding[:0], None, validation.participant[:0], no_labels)
    return {"train": validation, "validation": empty, "test": test}
