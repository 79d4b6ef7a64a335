"""Probes that are fitted on the labels of a few people: what a small study of one's own would give."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.evaluation.probing.probes import MEAN, STRENGTHS, ProbeSplit, fit_probes

MIN_SEGMENTS = 2  # labelled ones of each person whose labels are used
MIN_TEST_PEOPLE = 2


@dataclasses.dataclass(frozen=True)
class FewPeople:
    """One encoder (or constant) after labels of a few people, over several choices of these people.

    Attributes:
        encoder: its name.
        people: whose labels were used, in each choice.
        mae: mean absolute error, over all choices, with its interval over test participants.
        mae_std: standard deviation over the choices; None with one.
        ratio: its MAE divided by that of the mean of the same labels.
    """

    encoder: str
    people: int
    mae: Estimate
    mae_std: float | None
    ratio: Estimate


def few_people(
    labelled: ProbeSplit,
    test: ProbeSplit,
    *,
    people: int,
    repeats: int,
    strengths: Sequence[float] = STRENGTHS,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, FewPeople]:
    """Probes every encoder with the labels of some participants, chosen `repeats` times.

    The strength is cross-validated over these people, over the minutes of one; no other label is looked at.

    Args:
        labelled: those whose labels may be used.
        test: those who are tested; people whose labels are used are left out of it, so it may be the same split.
        people: participants whose labels are used.
        repeats: choices of them; with one seed, choice number k of fewer people is part of that of more.
        strengths, draws: as in `probes.probe_target`.
        seed: of the choices and draws.

    Returns:
        encoder -> its numbers, the constants "mean" and "median" of the labels included; empty where there are too few people.
    """
    labelled, test = labelled.labelled(), test.labelled()
    names, segments = np.unique(np.asarray(labelled.participant).astype(str), return_counts=True)
    names = names[segments >= MIN_SEGMENTS]
    who = np.asarray(test.participant).astype(str)
    error: dict[str, np.ndarray] = {}
    tested = np.zeros(len(who))
    mae: dict[str, list[float]] = {}
    for repeat in range(repeats):
        chosen = np.random.default_rng([seed, 51, repeat]).permutation(names)[:people]
        asked = np.flatnonzero(~np.isin(who, chosen))
        if len(chosen) < people or len(np.unique(who[asked])) < MIN_TEST_PEOPLE:
            return {}
        train = _rows(labelled, np.flatnonzero(np.isin(np.asarray(labelled.participant).astype(str), chosen)))
        nobody, questions = _rows(train, np.arange(0)), _rows(test, asked)
        tested[asked] += 1
        for name, fitted in fit_probes(train, nobody, questions, strengths=strengths, seed=seed).items():
            own = np.abs(fitted.prediction - questions.target)
            error.setdefault(name, np.zeros(len(who)))[asked] += own
            mae.setdefault(name, []).append(float(own.mean()))
    bootstrap = ParticipantBootstrap(who, draws=draws, seed=[seed, 52])
    columns = list(error)
    sums = bootstrap.sums(np.stack([*error.values(), tested], axis=1))
    total, drawn = sums.sum(axis=0), bootstrap.resample(sums)
    mean = columns.index(MEAN)
    result = {}
    for k, name in enumerate(columns):
        with np.errstate(divide="ignore", invalid="ignore"):
            estimates = [
                bootstrap.estimate(np.divide(total[k], total[below]), drawn[:, k] / drawn[:, below])
                for below in (-1, mean)
            ]
        std = float(np.std(mae[name], ddof=1)) if repeats > 1 else None
        result[name] = FewPeople(name, people, estimates[0], std, estimates[1])
    return result


def _rows(split: ProbeSplit, rows: np.ndarray) -> ProbeSplit:
    return ProbeSplit(
        {name: x[rows] for name, x in split.features.items()}, split.target[rows], split.participant[rows]
    )
