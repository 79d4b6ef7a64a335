"""Probes of a bench's encoders: all on the same labels, judged on the same test participants."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.data.store.labels import MIN_SEGMENTS, Subset, labelled_subset
from accdistill_jax.evaluation.evaluate import SPLITS, SplitEmbeddings
from accdistill_jax.evaluation.probing.probes import (
    FEW_PARTICIPANTS,
    MEAN,
    MEDIAN,
    MIN_VALIDATION_SEGMENTS,
    ProbeSplit,
    ProbeSplits,
    Regressor,
    fit_probes,
    too_few_labels,
)
from accdistill_jax.reproduce.measure.probe_scores import Scores, TestLabels
from accdistill_jax.reproduce.measure.results import Bench
from accdistill_jax.reproduce.measure.wording import percent

CONSTANTS = (MEAN, MEDIAN)


class LabelCounts(NamedTuple):
    """Number of labels that the probes of a target had at a fraction: segments, and the people they are of."""

    segments: int
    participants: int


class Probing:
    """Fits probes and keeps what they predict.

    A fraction of the labels is whole participants, drawn by the training seed as supervised training draws them
    (stages/sources.py). The ridge strength is chosen on all labelled validation segments at every fraction, as supervised
    training keeps its best step by them.

    Args:
        bench: whose encoders.
        targets: columns of labels; those that no test segment has are left out.
        fractions: of the labelled training segments.
        some: fit on those training segments only that every encoder of the grid has embedded.

    Attributes:
        scores: of all that was predicted, the constants among it.
        labels: (target, fraction) -> what the first seed's subset held.
        notes: what a reader must know, each once.
    """

    def __init__(
        self, bench: Bench, *, targets: Sequence[str], fractions: Sequence[float] = (1.0,), some: bool = False
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
        """Adds to the notes, once."""
        self._notes[text] = None

    def encoder(self, name: str, seeds: Sequence[int]) -> None:
        """Probes an encoder linearly, with these of its training seeds."""
        for seed in seeds:
            self.features(name, seed, self._bench.splits(name, seed, some=self._some))

    def features(
        self,
        name: str,
        seed: int,
        splits: Mapping[str, SplitEmbeddings],
        *,
        targets: Sequence[str] | None = None,
        fractions: Sequence[float] | None = None,
        others: Mapping[str, Regressor] | None = None,
    ) -> None:
        """Probes features linearly, and with other regressors by the name of what these give.

        Args:
            name: of the linear probe.
            seed: of training and of the choice of labels.
            splits: train, validation and test, rows as the other encoders'.
            targets, fractions: fewer than all.
            others: name -> regressor.
        """
        self._check_rows(name, splits["train"].participant)
        for target in self.targets if targets is None else [t for t in targets if t in self.targets]:
            whole = {
                s: ProbeSplit({name: splits[s].embedding}, splits[s].labels[target], splits[s].participant)
                for s in SPLITS
            }
            validation, test = whole["validation"].labelled(), whole["test"].labelled()
            for fraction in self._fractions if fractions is None else fractions:
                train = self._train(target, fraction, seed, whole["train"])
                if train is not None:
                    found = self._fit(name, seed, target, ProbeSplits(train, validation, test), others or {})
                    for one, prediction in found.items():
                        self.scores.add(target, fraction, one, seed, prediction)

    def prediction(self, name: str, seed: int, target: str, fraction: float, prediction: np.ndarray) -> None:
        """Takes up what an encoder itself predicts for all test segments, [N] in the target's unit."""
        if target in self.targets:
            self.scores.add(target, fraction, name, seed, np.asarray(prediction)[self._known[target]])

    def repeat(self, name: str, seed: int, other: int, fraction: float) -> None:
        """Reuses the predictions of one seed for another, where nothing depends on the seed."""
        for target in self.targets:
            if seed in self.scores.seeds(target, fraction, name):
                self.scores.add(target, fraction, name, other, self.scores.prediction(target, fraction, name, seed))

    def distinct(self, target: str) -> list[float]:
        """The fractions that take other labels of a target than a smaller fraction, with the first seed that was probed."""
        kept: list[float] = []
        for fraction in self._fractions:
            rows, before = (
                [own.rows for (t, f, _), own in self._subsets.items() if (t, f) == (target, one)][:1]
                for one in (fraction, kept[-1] if kept else None)
            )
            if not (rows and before and np.array_equal(rows[0], before[0])):
                kept.append(fraction)
        return kept

    def _check_rows(self, name: str, people: np.ndarray) -> None:
        if self._people is None:
            self._people = people
        if not np.array_equal(self._people, people):
            raise ValueError(f"encoder {name}: its training rows are not the same segments as the others'")

    def _train(self, target: str, fraction: float, seed: int, train: ProbeSplit) -> ProbeSplit | None:
        """The labels that the probe is fitted on, or None where they are too few."""
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
                f"{percent(fraction)} of {subset.labelled} labels of {target} are fewer than {MIN_SEGMENTS}: {MIN_SEGMENTS} were used"
            )
        return train.rows(subset.rows)

    def _fit(
        self, name: str, seed: int, target: str, splits: ProbeSplits, others: Mapping[str, Regressor]
    ) -> dict[str, np.ndarray]:
        if len(splits.validation.target) < MIN_VALIDATION_SEGMENTS:
            self.note(
                f"{len(splits.validation.target)} validation labels of {target} are too few: strength by cross-validation on train labels"
            )
        regressors = {one: (name, regressor) for one, regressor in others.items()}
        fitted = fit_probes(splits, seed=seed, others=regressors)
        return {one: own.prediction for one, own in fitted.items()}


def ppg_side(bench: Bench, name: str, seed: int) -> dict[str, SplitEmbeddings] | None:
    """Projections that an encoder's are compared with in retrieval, in place of its embeddings; None where it has none.

    Projections of a frozen teacher are not kept for training segments, so validation participants take their place, and there
    is none left for validation: a probe's strength is cross-validated over them.
    """
    pairs = {split: bench.pair(name, seed, split=split) for split in ("validation", "test")}
    if None in pairs.values():
        return None
    splits = bench.splits(name, seed)
    found = {
        split: dataclasses.replace(splits[split], embedding=ppg, projection=None) for split, (_, ppg) in pairs.items()
    }
    nothing = {what: values[:0] for what, values in found["validation"].labels.items()}
    empty = SplitEmbeddings(found["validation"].embedding[:0], None, found["validation"].participant[:0], nothing)
    return {"train": found["validation"], "validation": empty, "test": found["test"]}
