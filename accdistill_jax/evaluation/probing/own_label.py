"""Fits a read-out of a user's label on embeddings, and measures it on people who are left out of the fit.

All people take part in five-fold cross-validation: every person is in one fold, and the minutes of a person are never in the fit
and in the measurement at once. Inside each fit a second cross-validation over people chooses the strength. The saved read-out is
fitted on all people.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.predictions import LEVEL, domain_of, people_quantile
from accdistill_jax.evaluation.probing.own_label_scores import LeftOut, ProbeMeasure, measure_classes, measure_number
from accdistill_jax.evaluation.probing.probes import STRENGTHS
from accdistill_jax.evaluation.probing.ridge import RidgePath
from accdistill_jax.readouts.label_probe import Kind, LinearScores, Model, Per, TreeScores, probabilities
from accdistill_jax.readouts.readout import Domain

FOLDS = 5
INTERVAL_PEOPLE = 9  # with fewer, `people_quantile` is infinite at LEVEL
TREES, LEARNING_RATE, DEPTH = 200, 0.05, 3
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # weight of the data in logistic regression, from strong to weak penalty
_MOST_CLASSES = 20
_NEVER = -50.0  # log-odds of a class that the fit has not seen


class OwnLabel(NamedTuple):
    """A label and the embeddings that it is read from.

    Attributes:
        kind: "number" or "classes".
        per: "minute" or "person".
        classes: the answers; () for a number.
        embedding: [N, D] float32, of each minute.
        participant: [N] str.
        value: [N] float64: a number, or the index of a class; NaN where unknown.
        motion_g: [N] float32 motion level in g.
        scored: [N] bool, True for minutes of people who may be measured: the encoder was not trained on them.
    """

    kind: Kind
    per: Per
    classes: tuple[str, ...]
    embedding: np.ndarray
    participant: np.ndarray
    value: np.ndarray
    motion_g: np.ndarray
    scored: np.ndarray

    @property
    def outputs(self) -> int:
        """Number of scores of a model: 1 for a number and for two classes."""
        return 1 if len(self.classes) < 3 else len(self.classes)


class FittedLabel(NamedTuple):
    """A read-out of a user's label.

    Attributes:
        model: fitted on all people.
        half_width: half-width of the interval of a number, in its unit; infinite with too few people.
        domain: minutes that it was fitted on.
        measures: on people who were left out, the most important one first.
        people: number of people with the label.
        minutes: number of minutes with the label.
        scored_people: number of people behind the measures.
    """

    model: LinearScores | TreeScores
    half_width: float
    domain: Domain
    measures: list[ProbeMeasure]
    people: int
    minutes: int
    scored_people: int


Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Embeddings [n, D], values [n] and participants [n]."""


def fit_own_label(label: OwnLabel, *, model: Model = "linear", seed: int = 0) -> FittedLabel:
    """Fits and measures a read-out.

    Args:
        label: values and embeddings.
        model: linear (ridge or logistic regression) or boosted (200 trees of depth 3).
        seed: seed of folds, trees and bootstrap draws.

    Raises:
        UserError: no minute has the label, it is constant, one person alone has it, or a class occurs in one person only.
    """
    known = np.isfinite(label.value)
    everyone = np.asarray(label.participant).astype(str)
    _check(label, everyone[known])
    x, y, people = label.embedding[known], label.value[known], everyone[known]
    scored = label.scored[known]
    with threadpool_limits(1 if len(x) < 10_000 else None):
        domain = _domain(x, people, label.motion_g[known], seed)
        if label.per == "person":
            names, first = np.unique(people, return_index=True)
            x = np.stack([x[people == name].mean(axis=0) for name in names])
            y, scored, people = y[first], scored[first], names
        rows = (x, y, people)
        fold = _folds(y, people, seed)
        out = np.empty((len(y), label.outputs))
        constant = np.full(len(y), np.nan)
        for k in range(fold.max() + 1):
            held_out = fold == k
            train = (x[~held_out], y[~held_out], people[~held_out])
            out[held_out] = _fit(train, label, model, seed).scores(x[held_out])
            constant[held_out] = y[~held_out].mean()
        fitted = _fit(rows, label, model, seed)
    if not scored.any():
        scored = np.ones(len(y), bool)
    half_width = np.inf
    if label.kind == "number":  # errors of people whom the encoder was trained on are too small
        judged = scored if len(np.unique(people[scored])) >= INTERVAL_PEOPLE else np.ones(len(y), bool)
        half_width = people_quantile(np.abs(out[judged, 0] - y[judged]), people[judged], LEVEL)
    left_out = LeftOut(out[scored], y[scored], people[scored])
    if label.kind == "number":
        measures = measure_number(left_out, constant[scored], per_minute=label.per == "minute", seed=seed)
    else:
        measures = measure_classes(left_out, classes=len(label.classes), seed=seed)
    return FittedLabel(
        fitted,
        half_width,
        domain,
        measures,
        people=len(np.unique(people)),
        minutes=int(known.sum()),
        scored_people=len(np.unique(people[scored])),
    )


def _check(label: OwnLabel, people: np.ndarray) -> None:
    known = label.value[np.isfinite(label.value)]
    if not len(known):
        raise UserError("no minute has a value; check that the label is given for the people of this store")
    if len(np.unique(people)) < 2:
        raise UserError(
            f"only the person {str(people[0])!r} has a value; a read-out is measured on other people, so it needs at least two"
        )
    if len(np.unique(known)) < 2:
        shown = label.classes[int(known[0])] if label.kind == "classes" else f"{known[0]:g}"
        raise UserError(f"all {len(known)} values are {shown}; there is nothing to predict")
    if label.kind == "classes":
        if len(label.classes) > _MOST_CLASSES:
            raise UserError(
                f"it has {len(label.classes)} classes, at most {_MOST_CLASSES} are allowed; join classes, or give numbers"
            )
        for number, name in enumerate(label.classes):
            who = np.unique(people[known == number])
            if len(who) < 2:
                raise UserError(
                    f"the class {name!r} occurs in {len(who)} person only; each needs at least two people: join it with another "
                    "class, or leave its values empty"
                )


def _domain(x: np.ndarray, people: np.ndarray, motion_g: np.ndarray, seed: int) -> Domain:
    """Region of four fifths of the people, with the limit that the others give."""
    names, code = np.unique(people, return_inverse=True)
    apart = (np.random.default_rng([seed, 41]).permutation(len(names)) % FOLDS == 0)[code]
    domain = domain_of(x[~apart], x[apart], people[apart])
    finite = motion_g[np.isfinite(motion_g)]
    return dataclasses.replace(domain, motion_limit_g=float(finite.max()) if len(finite) else np.inf)


def _folds(y: np.ndarray, people: np.ndarray, seed: int) -> np.ndarray:
    """Fold [n] of each row; people with similar labels are dealt to different folds."""
    names, code = np.unique(people, return_inverse=True)
    mean = np.bincount(code, weights=y) / np.bincount(code)
    order = np.lexsort((np.random.default_rng([seed, 42]).permutation(len(names)), mean))
    fold = np.empty(len(names), int)
    fold[order] = np.arange(len(names)) % min(FOLDS, len(names))
    return fold[code]


def _fit(rows: Rows, label: OwnLabel, model: Model, seed: int) -> LinearScores | TreeScores:
    if model == "boosted":
        return _boosted(rows[0], rows[1], label, seed)
    if label.kind == "number":
        return _ridge(rows, seed)
    return _logistic(rows, label, seed)


def _ridge(rows: Rows, seed: int) -> LinearScores:
    def predict(train: Rows, x: np.ndarray) -> np.ndarray:
        return RidgePath(train[0], train[1], STRENGTHS).predict(x)

    error = _out_of_fold(rows, predict, seed)
    loss = np.abs(error - rows[1][:, None]).mean(axis=0)
    index = len(loss) - 1 - int(np.argmin(loss[::-1]))  # the stronger one of equals
    weights, intercept = RidgePath(rows[0], rows[1], STRENGTHS).linear(index)
    return LinearScores(weights[:, None], np.array([intercept]))


def _logistic(rows: Rows, label: OwnLabel, seed: int) -> LinearScores:
    def log_loss(train: Rows, x: np.ndarray, truth: np.ndarray) -> np.ndarray:
        fits = [_logistic_at(train[0], train[1], label, penalty) for penalty in _PENALTIES]
        chance = np.stack([probabilities(fit.scores(x))[np.arange(len(x)), truth.astype(int)] for fit in fits], axis=1)
        return -np.log(np.maximum(chance, 1e-6))

    x, y, people = rows
    if len(np.unique(people)) < 2:
        return _logistic_at(x, y, label, _PENALTIES[0])
    fold = _folds(y, people, seed)
    loss = np.zeros(len(_PENALTIES))
    for k in range(fold.max() + 1):
        held_out = fold == k
        loss += log_loss((x[~held_out], y[~held_out], people[~held_out]), x[held_out], y[held_out]).sum(axis=0)
    return _logistic_at(x, y, label, _PENALTIES[int(np.argmin(loss))])


def _logistic_at(x: np.ndarray, y: np.ndarray, label: OwnLabel, penalty: float) -> LinearScores:
    seen = np.unique(y).astype(int)
    outputs = label.outputs
    if len(seen) < 2:
        never = np.full(max(len(label.classes), 2), _NEVER)
        never[seen] = 0.0
        intercept = never if outputs > 1 else never[1:] - never[:1]
        return LinearScores(np.zeros((x.shape[1], outputs)), intercept)
    x64 = np.asarray(x, np.float64)
    mean, std = x64.mean(axis=0), x64.std(axis=0)
    scale = np.where(std > 1e-9, 1.0 / np.where(std > 1e-9, std, 1.0), 0.0)
    model = LogisticRegression(C=penalty, max_iter=300).fit((x64 - mean) * scale, y.astype(int))
    weights, intercept = np.zeros((x.shape[1], outputs)), np.full(outputs, _NEVER)
    coefficients, offsets = model.coef_.T * scale[:, None], np.asarray(model.intercept_, np.float64)
    if outputs > 1 and len(seen) == 2:  # scikit-learn gives the log-odds of the second class
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients], axis=1)
        offsets = np.array([0.0, offsets[0]])
    places = seen if outputs > 1 else [0]
    weights[:, places] = coefficients
    intercept[places] = offsets - mean @ coefficients
    return LinearScores(weights, intercept)


def _out_of_fold(rows: Rows, predict: Callable[[Rows, np.ndarray], np.ndarray], seed: int) -> np.ndarray:
    """Predictions [n, S] for people who are left out in turn; of the fit itself with one person."""
    x, y, people = rows
    if len(np.unique(people)) < 2:
        return predict(rows, x)
    fold, parts = _folds(y, people, seed), {}
    for k in range(fold.max() + 1):
        held_out = fold == k
        parts[k] = predict((x[~held_out], y[~held_out], people[~held_out]), x[held_out])
    result = np.empty((len(y), parts[0].shape[1]))
    for k, part in parts.items():
        result[fold == k] = part
    return result


def _boosted(x: np.ndarray, y: np.ndarray, label: OwnLabel, seed: int) -> TreeScores:
    x32, outputs = np.asarray(x, np.float32), label.outputs
    settings: dict[str, Any] = {
        "n_estimators": TREES,
        "learning_rate": LEARNING_RATE,
        "max_depth": DEPTH,
        "subsample": 0.5,
        "max_features": "sqrt",
        "min_samples_leaf": max(1, min(20, len(y) // 20)),
        "init": "zero",
        "random_state": seed,
    }
    intercept = np.zeros(outputs)
    if label.kind == "number":
        intercept[0] = float(y.mean())
        trees, places = GradientBoostingRegressor(**settings).fit(x32, y - intercept[0]).estimators_, [0]
    else:
        seen = np.unique(y).astype(int)
        if len(seen) < 2:
            return _no_trees(_logistic_at(x, y, label, 1.0).intercept)
        trees = GradientBoostingClassifier(**settings).fit(x32, y.astype(int)).estimators_
        if outputs > 1:
            intercept[:] = _NEVER
            intercept[seen] = 0.0
        # of two classes scikit-learn grows the trees of the second one alone
        places = [0] if outputs == 1 else seen[-trees.shape[1] :]
    flat = [(tree.tree_, place) for row in trees for tree, place in zip(row, places, strict=True)]
    size = max(tree.node_count for tree, _ in flat)

    def padded(values: list[np.ndarray], dtype: type) -> np.ndarray:
        result = np.full((len(values), size), -1, dtype)
        for number, row in enumerate(values):
            result[number, : len(row)] = row
        return result

    return TreeScores(
        feature=padded([np.where(t.children_left < 0, -1, t.feature) for t, _ in flat], np.int32),
        threshold=padded([t.threshold for t, _ in flat], np.float64),
        left=padded([t.children_left for t, _ in flat], np.int32),
        right=padded([t.children_right for t, _ in flat], np.int32),
        value=padded([LEARNING_RATE * t.value[:, 0, 0] for t, _ in flat], np.float64),
        output=np.array([place for _, place in flat], np.int32),
        intercept=intercept,
    )


def _no_trees(intercept: np.ndarray) -> TreeScores:
    none, real = np.empty((0, 1), np.int32), np.empty((0, 1))
    return TreeScores(none, real, none, none, real, np.empty(0, np.int32), intercept)
