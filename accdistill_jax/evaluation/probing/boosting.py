"""Gradient boosting as a probe: trees on hand-made features, in the same tables as the ridge probes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from accdistill_jax.evaluation.probing.probes import Fitted, ProbeSplit, choose

LOSSES = ("absolute_error", "squared_error")
ITERATIONS, LEARNING_RATE, LEAVES = 200, 0.06, 15
FEW_SEGMENTS = 10000


def gradient_boosting(features: str, train: ProbeSplit, validation: ProbeSplit, test: ProbeSplit, seed: int) -> Fitted:
    """A `probes.Regressor`: trees for the loss that does better on validation participants.

    Squared and absolute error are tried with all else fixed, and the mean absolute error on `validation` decides (cross-validated
    as the ridge's strength where it has too few labels). A leaf holds at least 20 segments, or a tenth of few segments.

    Args:
        features: name of the features to read.
        train, validation: labelled splits.
        test: whose features are predicted; its labels are not looked at.
        seed: of the trees and folds.

    Returns:
        Predictions, and in the note the loss that was chosen.

    Source: Friedman, "Greedy function approximation: a gradient boosting machine", Annals of Statistics 29, 2001; histograms
    as in Ke et al., "LightGBM", 2017 (scikit-learn's HistGradientBoostingRegressor).
    """

    def fit(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        models = [_model(loss, len(y), seed).fit(x, y) for loss in LOSSES]
        return lambda new: np.stack([model.predict(new) for model in models], axis=1)

    # On few segments more threads gain nothing, and on a busy machine their waiting for one another costs a hundred times the work.
    with threadpool_limits(1 if len(train.target) < FEW_SEGMENTS else None):
        predict = fit(train.features[features], train.target)
        index = choose(features, predict, fit, train=train, validation=validation, seed=seed)
        prediction = predict(test.features[features])[:, index]
    return Fitted(prediction, note=f"loss: {LOSSES[index].replace('_', ' ')}")


def _model(loss: str, segments: int, seed: int) -> HistGradientBoostingRegressor:
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
