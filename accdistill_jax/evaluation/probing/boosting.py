"""Gradient boosting as a probe: decision trees on hand-made features, in the same tables as the ridge probes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from accdistill_jax.evaluation.probing.probes import Fitted, ProbeSplits, best_candidate

Loss = Literal["absolute_error", "squared_error"]
LOSSES: tuple[Loss, ...] = ("absolute_error", "squared_error")
ITERATIONS, LEARNING_RATE, LEAVES = 200, 0.06, 15
FEW_SEGMENTS = 10000


def gradient_boosting(features: str, splits: ProbeSplits, seed: int) -> Fitted:
    """Boosted trees as a `probes.Regressor`; the loss is chosen by validation participants.

    Squared and absolute error are tried with all other settings fixed. The lower mean absolute error on the validation split
    wins, or in cross-validation as for the ridge strength if validation has too few labels. A leaf holds at least 20
    segments, or a tenth of the segments if they are few.

    Args:
        features: name of the features to read.
        splits: labelled splits; the test labels are not used.
        seed: seed of the trees and folds.

    Returns:
        Predictions for the test segments, with a note that names the chosen loss.

    Source: Friedman, "Greedy function approximation: a gradient boosting machine", Annals of Statistics 29, 2001; histograms
    as in Ke et al., "LightGBM", 2017 (scikit-learn's HistGradientBoostingRegressor).
    """
    train, validation, test = splits

    def fit(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        models = [_model(loss, len(y), seed).fit(x, y) for loss in LOSSES]
        return lambda new: np.stack([model.predict(new) for model in models], axis=1)

    # With few segments more threads gain nothing, and on a busy machine waiting for one another costs a hundred times the work.
    with threadpool_limits(1 if len(train.target) < FEW_SEGMENTS else None):
        predict = fit(train.features[features], train.target)
        index = best_candidate(features, predict, fit, train=train, validation=validation, seed=seed)
        prediction = predict(test.features[features])[:, index]
    return Fitted(prediction, note=f"loss: {LOSSES[index].replace('_', ' ')}")


def _model(loss: Loss, segments: int, seed: int) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(
        loss=loss,
        learning_rate=LEARNING_RATE,
        max_iter=ITERATIONS,
        max_leaf_nodes=LEAVES,
        min_samples_leaf=max(2, min(20, segments // 10)),
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
