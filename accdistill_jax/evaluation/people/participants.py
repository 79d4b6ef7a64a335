"""Predicts properties of a person from the person's mean embedding: age, sex, body mass index, and every yes/no answer.

The probe is ridge regression on standardised mean embeddings; for yes/no targets its labels are -1 and 1. This is the protocol
of arXiv 2312.05409. There are often more dimensions than people, and classes that a plane separates. Ridge regression then has
a closed form for all strengths and all targets at once, while logistic regression may not converge, and the ROC curve depends
on the ranking only. Train participants fit the probe, validation participants choose the strength, test participants give the
scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.evaluate import SPLITS, STUDENT, Encoders
from accdistill_jax.evaluation.people.participant_scores import MeanAuc, ParticipantScorer, ParticipantTarget, unscored
from accdistill_jax.evaluation.people.participant_targets import (
    NUMBER,
    Target,
    enough_to_choose,
    participant_targets,
)
from accdistill_jax.evaluation.probing.probes import Fitted

STRENGTHS = tuple(10.0 ** (k / 2) for k in range(-8, 7))
FOLDS = 5


@dataclasses.dataclass(frozen=True)
class ParticipantEvaluation:
    """Scores of predictions for test participants from mean embeddings.

    Attributes:
        encoders: names, in the order given.
        main: the encoder that is compared with the others.
        participants: split -> number of people.
        targets: name -> result.
        mean_auc: mean over the yes/no targets; None without any.
        settings: seed, draws, strengths.
    """

    encoders: list[str]
    main: str
    participants: dict[str, int]
    targets: dict[str, ParticipantTarget]
    mean_auc: MeanAuc | None
    settings: dict


class _MeanEmbeddings(NamedTuple):
    """Names of the people and their mean embeddings.

    Attributes:
        people: split -> [P] names.
        embedding: encoder -> split -> [P, D] float64.
    """

    people: dict[str, list[str]]
    embedding: dict[str, dict[str, np.ndarray]]


def evaluate_participants(
    encoders: Encoders,
    participants: pa.Table,
    *,
    main: str | None = None,
    ceilings: Mapping[str, float | None] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> ParticipantEvaluation:
    """Probes every encoder's mean embedding for all targets in the table of participants.

    Args:
        encoders: name -> split -> embeddings for "train", "validation" and "test"; the same rows for every encoder.
        participants: table as in `participant_targets`.
        main: encoder to compare with every other one. None is "student", or the first encoder if there is no student.
        ceilings: target -> highest AUC that any predictor can reach, for example from `ceilings.drawn_ceilings`.
        draws: bootstrap draws of test participants.
        seed: seed of the draws and folds.

    Returns:
        The numbers. A target with too few people has a reason and no scores.

    Raises:
        UserError: embeddings that are not finite, or a person in two splits.
        ValueError: no encoder, an unknown `main`, encoders whose rows differ, or a person who is not in the table.
    """
    main = main or (STUDENT if STUDENT in encoders else next(iter(encoders), None))
    if main not in encoders:
        raise ValueError(f"main encoder {main!r} is none of {', '.join(encoders) or 'no encoders'}")
    targets = participant_targets(participants)
    with threadpool_limits(1):  # more threads cost more than they gain on small matrices
        means = _mean_embeddings(encoders, set(participants["participant"].to_pylist()))
        scorer = ParticipantScorer(means.people["test"], main=main, draws=draws, seed=seed)
        results = {}
        for group in _known_alike(targets, means.people["train"]):
            results |= _probe_group(group, means, scorer, ceilings=ceilings or {}, seed=seed)
        return ParticipantEvaluation(
            encoders=list(encoders),
            main=main,
            participants={split: len(names) for split, names in means.people.items()},
            targets={target.name: results[target.name] for target in targets},
            mean_auc=scorer.mean_auc(),
            settings={"seed": seed, "interval_draws": draws, "ridge_strengths": list(STRENGTHS)},
        )


def ridge_paths(
    features: np.ndarray, targets: np.ndarray, strengths: Sequence[float], *others: np.ndarray
) -> list[np.ndarray]:
    """Predictions of ridge regressions for many targets and strengths, from one singular value decomposition.

    Each regression minimises mean((y - x w - b)^2) + strength * |w|^2 over standardised features. Features that do not vary get weight 0.

    Args:
        features: [N, D] float, of the people to fit on.
        targets: [N, K] float.
        strengths: [S] positive numbers.
        *others: [M, D] float, of the people to predict.

    Returns:
        [M, S, K] float64 for each of `others`.
    """
    x, y = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    mean, offset = x.mean(axis=0), y.mean(axis=0)
    std = x.std(axis=0)
    varies = std > 1e-6 * np.abs(mean) + 1e-12
    scale = np.where(varies, 1.0 / np.where(varies, std, 1.0), 0.0)
    left, size, right = np.linalg.svd((x - mean) * scale, full_matrices=False)
    shrunk = size[:, None] / (size[:, None] ** 2 + len(x) * np.asarray(strengths)[None, :])
    weights = shrunk[:, :, None] * (left.T @ (y - offset))[:, None, :]  # [rank, S, K]
    return [np.tensordot(((np.asarray(o, np.float64) - mean) * scale) @ right.T, weights, 1) + offset for o in others]


def _mean_embeddings(encoders: Encoders, known: set[str]) -> _MeanEmbeddings:
    """Averages the embeddings of each person; all people must be among the `known` ones."""
    people: dict[str, list[str]] = {}
    means: dict[str, dict[str, np.ndarray]] = {name: {} for name in encoders}
    reference = next(iter(encoders.values()))
    split_of: dict[str, str] = {}
    for split in SPLITS:
        rows = np.asarray(reference[split].participant).astype(str)
        names, code = np.unique(rows, return_inverse=True)
        people[split] = names.tolist()
        for name in people[split]:
            if split_of.setdefault(name, split) != split:
                both = f"{split_of[name]} and {split}"
                raise UserError(f"participant {name} is in the splits {both}: split the store by participant")
            if name not in known:
                raise ValueError(f"participant {name} of split {split} is not in the table of participants")
        for encoder, splits in encoders.items():
            if not np.array_equal(np.asarray(splits[split].participant).astype(str), rows):
                raise ValueError(
                    f"encoder {encoder}, split {split}: rows are not the same segments as the other encoders'"
                )
            x = np.asarray(splits[split].embedding)
            bad = np.count_nonzero(~np.isfinite(x).all(axis=1))
            if bad:
                raise UserError(
                    f"encoder {encoder}, split {split}: {bad} of {len(x)} embeddings are not finite; "
                    "the parameters have diverged, train again with a lower learning rate"
                )
            order = np.argsort(code, kind="stable")
            starts = np.searchsorted(code[order], np.arange(len(names)))
            sums = np.add.reduceat(x[order], starts, dtype=np.float64) if len(names) else np.empty(x.shape)
            means[encoder][split] = sums / np.bincount(code, minlength=len(names))[:, None]
    return _MeanEmbeddings(people, means)


def _known_alike(targets: Sequence[Target], train: Sequence[str]) -> list[list[Target]]:
    """Groups of targets with known values for the same train participants: a group shares its decompositions."""
    groups: dict[bytes, list[Target]] = {}
    for target in targets:
        groups.setdefault(np.isfinite(target.of(train)).tobytes(), []).append(target)
    return list(groups.values())


def _probe_group(
    group: Sequence[Target],
    means: _MeanEmbeddings,
    scorer: ParticipantScorer,
    *,
    ceilings: Mapping[str, float | None],
    seed: int,
) -> dict[str, ParticipantTarget]:
    """Results of targets with known values for the same train participants."""
    values = {t.name: {split: t.of(means.people[split]) for split in SPLITS} for t in group}
    results = {t.name: unscored(t, values[t.name], ceilings.get(t.name)) for t in group}
    group = [t for t in group if not results[t.name].reason]
    if not group:
        return results
    fitted = np.isfinite(values[group[0].name]["train"])
    y = np.stack([_regressed(t, values[t.name]["train"][fitted]) for t in group], axis=1)
    validated = [enough_to_choose(t, values[t.name]["validation"]) for t in group]
    fold = np.random.default_rng([seed, 31]).permutation(len(y)) % FOLDS
    predictions: dict[str, dict[str, Fitted]] = {t.name: {} for t in group}
    for encoder, x in means.embedding.items():
        train = x["train"][fitted]
        on_validation, on_test = ridge_paths(train, y, STRENGTHS, x["validation"], x["test"])
        out_of_fold = np.empty(0) if all(validated) else _out_of_fold(train, y, fold)
        for k, target in enumerate(group):
            if validated[k]:
                predicted, truth = on_validation[:, :, k], _regressed(target, values[target.name]["validation"])
            else:
                predicted, truth = out_of_fold[:, :, k], y[:, k]
            index = _best_strength(target, predicted, truth)
            note = "the strongest penalty was chosen" if index == len(STRENGTHS) - 1 else ""
            predictions[target.name][encoder] = Fitted(on_test[:, index, k], STRENGTHS[index], note)
    for k, target in enumerate(group):
        count = int(np.isfinite(values[target.name]["validation"]).sum())
        chosen_on = f"{count} validation participants"
        if not validated[k]:
            chosen_on = f"cross-validation over {len(y)} train participants"
        described = dataclasses.replace(results[target.name], strength_chosen_on=chosen_on)
        test = values[target.name]["test"]
        results[target.name] = scorer.score(described, predictions[target.name], test, y[:, k])
    return results


def _regressed(target: Target, values: np.ndarray) -> np.ndarray:
    """Values for ridge regression: numbers unchanged, no and yes as -1 and 1."""
    return values if target.kind == NUMBER else 2.0 * values - 1.0


def _out_of_fold(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """[N, S, K] predictions for each participant from a fit on the other folds."""
    result = np.empty((len(y), len(STRENGTHS), y.shape[1]))
    for k in range(FOLDS):
        held_out = fold == k
        (result[held_out],) = ridge_paths(x[~held_out], y[~held_out], STRENGTHS, x[held_out])
    return result


def _best_strength(target: Target, predicted: np.ndarray, truth: np.ndarray) -> int:
    """Index of the best strength, the stronger one of equals; predicted [N, S], truth [N].

    The criterion is the absolute error for numbers, and the squared error for answers: with few positives it changes
    smoothly with the strength, while the AUC jumps.
    """
    known = np.isfinite(truth)
    error = np.abs(predicted[known] - truth[known, None])
    loss = (error if target.kind == NUMBER else error**2).mean(axis=0)
    return len(loss) - 1 - int(np.argmin(loss[::-1]))
