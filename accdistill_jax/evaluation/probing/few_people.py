"""Probes fitted on the labels of a few people, as in a small study of a user's own recordings."""

from __future__ import annotations

import dataclasses

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.evaluation.probing.probes import MEAN, ProbeSplit, ProbeSplits, fit_probes

MIN_SEGMENTS = 2  # labelled segments of a person whose labels may be used
MIN_TEST_PEOPLE = 2


@dataclasses.dataclass(frozen=True)
class FewPeople:
    """Error of one encoder (or constant) with the labels of a few people, over several random choices of these people.

    Attributes:
        encoder: its name.
        people: number of people whose labels were used in each choice.
        mae: mean absolute error over all choices, with its interval over test participants.
        mae_std: standard deviation over the choices; None with one choice.
        ratio: MAE divided by the MAE of the mean of the same labels.
    """

    encoder: str
    people: int
    mae: Estimate
    mae_std: float | None
    ratio: Estimate


def few_people(
    labelled: ProbeSplit, test: ProbeSplit, *, people: int, repeats: int, seed: int = 0
) -> dict[str, FewPeople]:
    """Probes every encoder with the labels of some participants, chosen `repeats` times at random.

    The strength is cross-validated over the chosen people, or over the minutes of a single chosen person. No other label
    is used.

    Args:
        labelled: people whose labels may be used.
        test: people to test on. A choice's people are left out of its test, so both splits may be the same.
        people: number of people in a choice.
        repeats: number of choices. With the same seed, choice k of fewer people is a subset of choice k of more people.
        seed: seed of the choices and of the bootstrap.

    Returns:
        encoder -> result, including the constants "mean" and "median" of the labels; empty if there are too few people.
    """
    labelled, test = labelled.labelled(), test.labelled()
    owner = np.asarray(labelled.participant).astype(str)
    names, segments = np.unique(owner, return_counts=True)
    names = names[segments >= MIN_SEGMENTS]
    tested_person = np.asarray(test.participant).astype(str)
    errors: dict[str, np.ndarray] = {}  # sums over the choices
    tested = np.zeros(len(tested_person))
    mae: dict[str, list[float]] = {}
    for repeat in range(repeats):
        chosen = np.random.default_rng([seed, 51, repeat]).permutation(names)[:people]
        rows = np.flatnonzero(~np.isin(tested_person, chosen))
        if len(chosen) < people or len(np.unique(tested_person[rows])) < MIN_TEST_PEOPLE:
            return {}
        train = labelled.rows(np.flatnonzero(np.isin(owner, chosen)))
        splits = ProbeSplits(train, train.rows(np.arange(0)), test.rows(rows))
        tested[rows] += 1
        for name, fitted in fit_probes(splits, seed=seed).items():
            error = np.abs(fitted.prediction - splits.test.target)
            errors.setdefault(name, np.zeros(len(tested_person)))[rows] += error
            mae.setdefault(name, []).append(float(error.mean()))
    bootstrap = ParticipantBootstrap(tested_person, seed=[seed, 52])
    columns = list(errors)
    sums = bootstrap.sums(np.stack([*errors.values(), tested], axis=1))
    total, drawn = sums.sum(axis=0), bootstrap.resample(sums)
    mean = columns.index(MEAN)
    result = {}
    for k, name in enumerate(columns):
        with np.errstate(divide="ignore", invalid="ignore"):
            estimates = [
                bootstrap.estimate(np.divide(total[k], total[divisor]), drawn[:, k] / drawn[:, divisor])
                for divisor in (-1, mean)
            ]
        std = float(np.std(mae[name], ddof=1)) if repeats > 1 else None
        result[name] = FewPeople(name, people, estimates[0], std, estimates[1])
    return result
