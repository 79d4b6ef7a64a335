"""Predicts properties of a person from the person's mean embedding: age, sex, body mass index, and every yes/no answer.

Ridge regression on standardised mean embeddings, for numbers and, on labels of -1 and 1, for yes/no targets. This is the
protocol of arXiv 2312.05409. Ridge rather than logistic regression because there are often more dimensions than people,
and classes that a plane separates: it has a closed form for all strengths and all targets at once, nothing that may fail
to converge, and the ROC curve looks at nothing but the ranking. Fitted on train participants, strength chosen on
validation participants, scored on test participants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.evaluate import SPLITS, STUDENT
from accdistill_jax.evaluation.people.participant_scores import MeanAuc, ParticipantScorer, ParticipantTarget
from accdistill_jax.evaluation.people.participant_targets import (
    NUMBER,
    Target,
    about,
    enough_to_choose,
    participant_targets,
)

STRENGTHS = tuple(10.0 ** (k / 2) for k in range(-8, 7))
FOLDS = 5


class Embedded(NamedTuple):
    """One encoder's embeddings of one split."""

    embedding: np.ndarray  # [N, D] float32
    participant: np.ndarray  # [N] str


class _Rows(Protocol):
    """`Embedded`, or `evaluate.SplitEmbeddings`."""

    embedding: np.ndarray
    participant: np.ndarray


@dataclasses.dataclass(frozen=True)
class ParticipantEvaluation:
    """Predictions for test participants from mean embeddings.

    Attributes:
        encoders: names, in the order given.
        main: the encoder that is compared with the others.
        participants: split -> number of people.
        targets: name -> result.
        mean_auc: over yes/no targets; None without any.
        settings: seed, draws, strengths.
    """

    encoders: list[str]
    main: str
    participants: dict[str, int]
    targets: dict[str, ParticipantTarget]
    mean_auc: MeanAuc | None
    settings: dict


def evaluate_participants(
    encoders: Mapping[str, Mapping[str, _Rows]],
    participants: pa.Table,
    *,
    main: str | None = None,
    ceilings: Mapping[str, float | None] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    draws: int = 2000,
    seed: int = 0,
) -> ParticipantEvaluation:
    """Probes every encoder's mean embedding for everything the table knows about people.

    Args:
        encoders: name -> split -> `Embedded` (or `evaluate.SplitEmbeddings`) for "train", "validation" and "test"; the same
            rows for every encoder.
        participants: as in `participant_targets`.
        main: encoder to compare with every other one; None: "student", or the first one without it.
        ceilings: target -> highest AUC that can be reached, for example `ceilings.expected_ceilings`.
        strengths: candidates, penalty per participant on standardised features.
        draws: bootstrap draws of test participants.
        seed: seed of the draws and folds.

    Returns:
        The numbers; a target with too few people comes back with its reason.

    Raises:
        UserError: embeddings that are not finite, or a person in two splits.
        ValueError: no encoder, an unknown `main`, encoders whose rows differ, or a person who is not in the table.
    """
    main = main or (STUDENT if STUDENT in encoders else next(iter(encoders), None))
    if main not in encoders:
        raise ValueError(f"main encoder {main!r} is none of {', '.join(encoders) or 'no encoders'}")
    targets = participant_targets(participants)
    with threadpool_limits(1):  # the matrices are small: more threads cost more than they save
        people, means = _mean_embeddings(encoders, set(participants["participant"].to_pylist()))
        scorer = ParticipantScorer(people["test"], main=main, draws=draws, seed=seed)
        results = {}
        for group in _alike(targets, people["train"]):
            results |= _probe_group(group, people, means, scorer, ceilings or {}, tuple(strengths), seed)
        return ParticipantEvaluation(
            encoders=list(encoders),
            main=main,
            participants={split: len(names) for split, names in people.items()},
            targets={target.name: results[target.name] for target in targets},
            mean_auc=scorer.mean_auc(),
            settings={"seed": seed, "interval_draws": draws, "ridge_strengths": [float(s) for s in strengths]},
        )


def ridge_paths(
    features: np.ndarray, targets: np.ndarray, strengths: Sequence[float], *others: np.ndarray
) -> list[np.ndarray]:
    """Predictions of ridge regressions for many targets and strengths, from one singular value decomposition.

    Minimises mean((y - x w - b)^2) + strength * |w|^2 over standardised features. Features that do not vary get weight 0.

    Args:
        features: [N, D] float, of those who are fitted.
        targets: [N, K] float.
        strengths: [S] positive numbers.
        *others: [M, D] float, for whom predictions are made.

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


def _mean_embeddings(
    encoders: Mapping[str, Mapping[str, _Rows]], known: set[str]
) -> tuple[dict[str, list[str]], dict[str, dict[str, np.ndarray]]]:
    """Split -> people, and encoder -> split -> [people, D] float64."""
    people: dict[str, list[str]] = {}
    means: dict[str, dict[str, np.ndarray]] = {name: {} for name in encoders}
    reference = next(iter(encoders.values()))
    side: dict[str, str] = {}
    for split in SPLITS:
        rows = np.asarray(reference[split].participant).astype(str)
        names, code = np.unique(rows, return_inverse=True)
        people[split] = names.tolist()
        for name in people[split]:
            if side.setdefault(name, split) != split:
                raise UserError(f"participant {name} is in the splits {side[name]} and {split}: split by participant")
            if name not in known:
                raise ValueError(f"participant {name} of split {split} is not in the table of participants")
        for encoder, splits in encoders.items():
            if not np.array_equal(np.asarray(splits[split].participant).astype(str), rows):
                raise ValueError(f"encoder {encoder}, split {split}: rows are not the same segments as the others'")
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
    return people, means


def _alike(targets: Sequence[Target], train: Sequence[str]) -> list[list[Target]]:
    """Targets that are known of the same train participants, together: they share their decompositions."""
    groups: dict[bytes, list[Target]] = {}
    for target in targets:
        groups.setdefault(np.isfinite(target.of(train)).tobytes(), []).append(target)
    return list(groups.values())


def _probe_group(
    group: Sequence[Target],
    people: Mapping[str, Sequence[str]],
    means: Mapping[str, Mapping[str, np.ndarray]],
    scorer: ParticipantScorer,
    ceilings: Mapping[str, float | None],
    strengths: tuple[float, ...],
    seed: int,
) -> dict[str, ParticipantTarget]:
    values = {t.name: {split: t.of(people[split]) for split in SPLITS} for t in group}
    counts = {t.name: about(t, values[t.name], ceilings.get(t.name)) for t in group}
    results = {name: ParticipantTarget(**found) for name, found in counts.items() if found["reason"]}
    group = [t for t in group if not counts[t.name]["reason"]]
    if not group:
        return results
    fitted = np.isfinite(values[group[0].name]["train"])
    y = np.stack([_regressed(t, values[t.name]["train"][fitted]) for t in group], axis=1)
    validated = [enough_to_choose(t, values[t.name]["validation"]) for t in group]
    fold = np.random.default_rng([seed, 31]).permutation(len(y)) % FOLDS
    scores: dict[str, dict] = {t.name: {} for t in group}
    for encoder, x in means.items():
        train = x["train"][fitted]
        on_validation, on_test = ridge_paths(train, y, strengths, x["validation"], x["test"])
        out_of_fold = None if all(validated) else _out_of_fold(train, y, strengths, fold)
        for k, target in enumerate(group):
            if validated[k]:
                predicted, truth = on_validation[:, :, k], _regressed(target, values[target.name]["validation"])
            else:
                predicted, truth = out_of_fold[:, :, k], y[:, k]
            index = _choose(target, predicted, truth)
            strongest = len(strengths) > 1 and index == len(strengths) - 1
            scores[target.name][encoder] = (
                strengths[index],
                on_test[:, index, k],
                "the strongest penalty was chosen" if strongest else "",
            )
    for k, target in enumerate(group):
        count = int(np.isfinite(values[target.name]["validation"]).sum())
        chosen_on = f"{count} validation participants"
        if not validated[k]:
            chosen_on = f"cross-validation over {len(y)} train participants"
        found = counts[target.name] | {"strength_chosen_on": chosen_on}
        results[target.name] = scorer.score(target, found, scores[target.name], values[target.name], y[:, k])
    return results


def _regressed(target: Target, values: np.ndarray) -> np.ndarray:
    """Values that ridge regression fits: numbers as they are, no and yes as -1 and 1."""
    return values if target.kind == NUMBER else 2.0 * values - 1.0


def _out_of_fold(x: np.ndarray, y: np.ndarray, strengths: tuple[float, ...], fold: np.ndarray) -> np.ndarray:
    """[N, S, K] predictions for each participant from a fit on the other folds."""
    result = np.empty((len(y), len(strengths), y.shape[1]))
    for k in range(FOLDS):
        held = fold == k
        (result[held],) = ridge_paths(x[~held], y[~held], strengths, x[held])
    return result


def _choose(target: Target, predicted: np.ndarray, truth: np.ndarray) -> int:
    """Index of the best strength, the stronger of equals; predicted [N, S], truth [N].

    By absolute error for numbers. By squared error for answers: with a handful of positives it moves smoothly with the
    strength where the AUC jumps.
    """
    known = np.isfinite(truth)
    error = np.abs(predicted[known] - truth[known, None])
    loss = (error if target.kind == NUMBER else error**2).mean(axis=0)
    return len(loss) - 1 - int(np.argmin(loss[::-1]))
