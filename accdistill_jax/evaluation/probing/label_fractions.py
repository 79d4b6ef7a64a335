"""Probes that are trained on a fraction of the labels: how few labelled people does an encoder need?

A fraction takes whole participants, as a lab would: 1 % of the labels are all minutes of few people, not some minutes of
everyone. Every encoder reads the same subsets, and the same test participants judge all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from accdistill_jax.data.store.labels import MIN_SEGMENTS, labelled_subset
from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.probing.probes import (
    FEW_PARTICIPANTS,
    STRENGTHS,
    ProbeSplit,
    Regressor,
    choice_made_on,
    fit_probes,
    too_few,
)
from accdistill_jax.evaluation.probing.scoring import Difference, Scorer, mean_measures

FRACTIONS = (0.001, 0.01, 0.1, 1.0)
REPEATS = {0.001: 5, 0.01: 5, 0.1: 3}


@dataclasses.dataclass(frozen=True)
class FractionProbe:
    """One encoder (or constant) on one target at one fraction: means over the subsets.

    Attributes:
        encoder: its name.
        mae, rmse, r, r_within, r2: as in `scoring.Probe`; the interval is over test participants. A correlation that is undefined
            on one subset (a constant prediction) counts as 0.
        mae_std: standard deviation of the MAE over the subsets, None with one subset.
        mae_by_subset: MAE of each.
        strengths: ridge strength of each, None for other regressors and constants.
        notes: doubts and choices, with the number of subsets they are about.
    """

    encoder: str
    mae: Estimate
    rmse: Estimate
    r: Estimate
    r_within: Estimate
    r2: Estimate
    mae_std: float | None
    mae_by_subset: list[float]
    strengths: list[float | None]
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class FractionResult:
    """All probes of one target at one fraction of the labels.

    Attributes:
        target: column name.
        fraction: of the labelled train segments, 0 to 1.
        reason: why it is not available, or "".
        repeats: subsets drawn.
        train_segments, train_participants: of each subset.
        train_labelled: labelled segments in the whole train split.
        validation_segments: of each cut-down validation split.
        raised: whether the fraction was below the minimum of train segments, which was taken instead.
        strength_chosen_on: what the strength was chosen on, for each subset.
        test_segments, test_participants: labelled ones.
        probes: encoder name -> its numbers, the constants included.
        differences: main encoder against each other one, by the mean MAE over subsets.
        notes: what a reader must know about these numbers.
    """

    target: str
    fraction: float
    reason: str
    repeats: int
    train_segments: list[int]
    train_participants: list[int]
    train_labelled: int
    validation_segments: list[int]
    raised: bool
    strength_chosen_on: list[str]
    test_segments: int
    test_participants: int
    probes: dict[str, FractionProbe] = dataclasses.field(default_factory=dict)
    differences: list[Difference] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def difference(self, encoder: str, reference: str) -> Difference | None:
        """The comparison of two encoders, or None where there is none."""
        for d in self.differences:
            if (d.encoder, d.reference) == (encoder, reference):
                return d
        return None


def probe_fractions(
    target: str,
    *,
    train: ProbeSplit,
    validation: ProbeSplit,
    test: ProbeSplit,
    main: str,
    fractions: Sequence[float] = FRACTIONS,
    repeats: Mapping[float, int] = REPEATS,
    minimum: int = MIN_SEGMENTS,
    strengths: Sequence[float] = STRENGTHS,
    draws: int = 2000,
    seed: int = 0,
    others: Mapping[str, tuple[str, Regressor]] | None = None,
) -> list[FractionResult]:
    """Probes all encoders at several fractions of the train and validation labels, on the same subsets.

    The strength is chosen on as large a fraction of the validation labels; where those are fewer than
    `probes.MIN_VALIDATION_SEGMENTS` it is cross-validated on the train subset, over its participants, or over its segments
    where they are of one participant.

    Args:
        target: column name, for the results.
        train, validation, test: whole splits; unlabelled rows are left out.
        main: encoder that is compared with every other one.
        fractions: of the labels, above 0 and at most 1.
        repeats: fraction -> subsets to average over; 1 for fractions that are not named, and for all of the labels.
        minimum: train segments of a subset at least.
        strengths, draws, others: as in `probes.probe_target`.
        seed: of the subsets, draws and folds.

    Returns:
        A result per fraction, in their order.
    """
    train, validation, test = train.labelled(), validation.labelled(), test.labelled()
    scorer = Scorer(test.target, test.participant, draws=draws, seed=seed) if len(test.target) else None
    options = {"strengths": strengths, "seed": seed, "others": others}
    return [
        _probe_fraction(
            target,
            fraction,
            1 if fraction == 1 else repeats.get(fraction, 1),
            train,
            validation,
            test,
            main,
            minimum,
            scorer,
            options,
        )
        for fraction in fractions
    ]


def _probe_fraction(
    target: str,
    fraction: float,
    repeats: int,
    train: ProbeSplit,
    validation: ProbeSplit,
    test: ProbeSplit,
    main: str,
    minimum: int,
    scorer: Scorer | None,
    options: dict,
) -> FractionResult:
    subsets, fitted, chosen_on, validation_segments = [], [], [], []
    seed = options["seed"]
    counts = {"test_segments": len(test.target), "test_participants": test.num_participants}
    reason = too_few(
        train_segments=len(train.target),
        train_participants=train.num_participants,
        **counts,
        min_train_segments=minimum,
        min_train_participants=1,
    )
    for repeat in range(0 if reason else repeats):
        # Without the fraction in the seed, so that subset number k of a smaller fraction is part of that of a larger one.
        subset = labelled_subset(
            train.participant, np.isfinite(train.target), fraction, [seed, 41, repeat], minimum=minimum
        )
        kept = labelled_subset(
            validation.participant, np.isfinite(validation.target), fraction, [seed, 42, repeat], minimum=0
        )
        part, checked = _rows(train, subset.rows), _rows(validation, kept.rows)
        subsets.append(subset)
        validation_segments.append(len(kept.rows))
        chosen_on.append(choice_made_on(part, checked))
        fitted.append(fit_probes(part, checked, test, **options))

    measured, probes = {}, {}
    for name in fitted[0] if fitted else ():
        each = [scorer.measure(f[name].prediction) for f in fitted]
        measured[name] = mean_measures(each)
        mae = [float(m.value[0]) for m in each]
        notes = [f[name].note for f in fitted if f[name].note]
        counted = [f"{note} ({notes.count(note)} of {repeats} subsets)" for note in dict.fromkeys(notes)]
        probes[name] = FractionProbe(
            name,
            *scorer.estimates(measured[name]),
            mae_std=float(np.std(mae, ddof=1)) if repeats > 1 else None,
            mae_by_subset=mae,
            strengths=[f[name].strength for f in fitted],
            notes=counted if repeats > 1 else notes,
        )
    differences = [scorer.compare(main, n, measured) for n in measured if n != main and main in measured]
    result = FractionResult(
        target,
        fraction,
        reason,
        repeats=len(subsets),
        train_segments=[len(s.rows) for s in subsets],
        train_participants=[s.participants for s in subsets],
        train_labelled=len(train.target),
        validation_segments=validation_segments,
        raised=any(s.raised for s in subsets),
        strength_chosen_on=chosen_on,
        **counts,
        probes=probes,
        differences=differences,
    )
    return result if reason else dataclasses.replace(result, notes=_notes(result, minimum))


def _notes(result: FractionResult, minimum: int) -> list[str]:
    notes = []
    if result.raised:
        notes.append(
            f"{100 * result.fraction:g} % of {result.train_labelled} labelled train segments are fewer than "
            f"{minimum}: {minimum} were used"
        )
    for how in dict.fromkeys(result.strength_chosen_on):
        if how.startswith("cross-validation"):
            count = result.strength_chosen_on.count(how)
            notes.append(f"too few validation labels: strength by {how} ({count} of {result.repeats} subsets)")
    if result.test_participants < FEW_PARTICIPANTS:
        notes.append(f"only {result.test_participants} test participants: the intervals are rough")
    return notes


def _rows(split: ProbeSplit, rows: np.ndarray) -> ProbeSplit:
    features = {name: x[rows] for name, x in split.features.items()}
    return ProbeSplit(features, split.target[rows], split.participant[rows])
