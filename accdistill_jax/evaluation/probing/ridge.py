"""Ridge regression with many strengths at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class RidgePath:
    """Closed-form ridge regression with a list of strengths, from one eigendecomposition.

    It minimises mean((y - x w - b)^2) + strength * |w|^2 over standardised features, as
    sklearn.linear_model.Ridge(alpha=strength * N) does after a StandardScaler. Features that do not vary get weight 0.

    Args:
        features: [N, D] float.
        target: [N] float.
        strengths: [S] positive numbers.
        block: rows that are converted to float64 at a time.
    """

    def __init__(self, features: np.ndarray, target: np.ndarray, strengths: Sequence[float], *, block: int = 16384):
        n, width = features.shape
        target = np.asarray(target, np.float64)
        self.strengths, self._block = tuple(float(s) for s in strengths), block
        self.intercept = float(target.mean())
        blocks = [slice(i, i + block) for i in range(0, n, block)]
        total = np.zeros(width)
        for b in blocks:
            total += np.asarray(features[b], np.float64).sum(axis=0)
        self._mean = total / n
        gram, cross = np.zeros((width, width)), np.zeros(width)
        for b in blocks:
            x = np.asarray(features[b], np.float64) - self._mean
            gram += x.T @ x
            cross += x.T @ (target[b] - self.intercept)
        std = np.sqrt(np.diag(gram) / n)
        varies = std > 1e-6 * np.abs(self._mean) + 1e-12
        self._scale = np.where(varies, 1.0 / np.where(varies, std, 1.0), 0.0)
        gram *= self._scale[:, None] * self._scale[None, :] / n
        eigenvalue, basis = np.linalg.eigh(gram)
        rotated = basis.T @ (cross * self._scale / n)
        shrunk = rotated[:, None] / (np.maximum(eigenvalue, 0.0)[:, None] + np.asarray(self.strengths)[None, :])
        self.weights = basis @ shrunk  # [D, S], on standardised features

    def predict(self, features: np.ndarray, index: int | None = None) -> np.ndarray:
        """Predicts from [N, D] features: [N, S] float64 with all strengths, or [N] with strength number `index`.

        Besides the result it needs the memory of one block of rows in float64.
        """
        weights = self.weights if index is None else self.weights[:, index]
        result = np.empty((len(features), *weights.shape[1:]))
        for start in range(0, len(features), self._block):
            rows = slice(start, start + self._block)
            x = (np.asarray(features[rows], np.float64) - self._mean) * self._scale
            result[rows] = x @ weights + self.intercept
        return result

    def linear(self, index: int) -> tuple[np.ndarray, float]:
        """Weights [D] float64 and intercept of strength number `index`, on features that are not standardised."""
        weights = self.weights[:, index] * self._scale
        return weights, self.intercept - float(self._mean @ weights)
