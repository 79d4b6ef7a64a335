"""Two-dimensional map of the embeddings, coloured by heart rate."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from accdistill_jax.evaluation.evaluate import Evaluation
from accdistill_jax.evaluation.report.style import GREY, capital, display, panels, styled
from accdistill_jax.labels import HEART_RATE

MAP_POINTS = 700
ITERATIONS = 400
COMPONENTS = 30


@styled
def embedding_map(evaluation: Evaluation, *, seed: int = 0) -> Figure | None:
    """t-SNE of standardised embeddings reduced to 30 principal components, coloured by heart rate; None with few segments."""
    first = next(iter(evaluation.test.values()))
    rate = np.asarray(first.labels.get(HEART_RATE, np.full(len(first), np.nan)), np.float64)
    if len(rate) < 10:
        return None
    rows = np.arange(len(rate))
    known = rows[np.isfinite(rate)]
    rows = known if len(known) >= 10 else rows
    if len(rows) > MAP_POINTS:
        rows = np.sort(np.random.default_rng([seed, 41]).choice(rows, MAP_POINTS, replace=False))
    coloured = np.isfinite(rate[rows]).all()
    figure, axes = panels(len(evaluation.test), width=3.7, height=3.7)
    mesh = None
    for axis, (name, split) in zip(axes, evaluation.test.items(), strict=True):
        xy, components = _flatten(split.embedding[rows], seed)
        mesh = axis.scatter(xy[:, 0], xy[:, 1], s=10, alpha=0.85, lw=0, color=None if coloured else GREY)
        if coloured:
            mesh.set(array=rate[rows], cmap="viridis", clim=np.quantile(rate[rows], [0.02, 0.98]))
        axis.set(xticks=[], yticks=[])
        title = capital(display(name))
        if coloured:
            neighbours, any_two = _neighbour_difference(components, rate[rows])
            title += f"\nneighbours differ by {neighbours:.1f} bpm, any two by {any_two:.1f}"
        axis.set_title(title, fontsize=10)
        for side in axis.spines.values():
            side.set_visible(False)
    if coloured and mesh is not None:
        bar = figure.colorbar(mesh, ax=axes, fraction=0.03, pad=0.01)
        bar.set_label("heart rate (bpm)")
        bar.outline.set_visible(False)
    return figure


def _neighbour_difference(components: np.ndarray, rate: np.ndarray) -> tuple[float, float]:
    """Mean difference in heart rate between nearest neighbours, and between any two segments."""
    squared = np.sum(components**2, axis=1)
    distance = squared[:, None] + squared[None, :] - 2 * components @ components.T
    np.fill_diagonal(distance, np.inf)
    difference = np.abs(rate[:, None] - rate[None, :])
    nearest = difference[np.arange(len(rate)), distance.argmin(axis=1)].mean()
    return float(nearest), float(difference.sum() / (len(rate) * (len(rate) - 1)))


def _flatten(embedding: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Map [N, 2] and principal components [N, <= 30]. The map is the first two components for few or constant embeddings."""
    x = np.asarray(embedding, np.float64)
    std = x.std(axis=0)
    keep = std > 1e-6 * np.abs(x.mean(axis=0)) + 1e-12
    x = (x[:, keep] - x[:, keep].mean(axis=0)) / std[keep]
    if x.shape[1] < 2:
        x = np.concatenate([x, np.zeros((len(x), 2 - x.shape[1]))], axis=1)
    # Many threads on few busy cores make t-SNE ten times slower. One thread is enough for some hundred points.
    with threadpool_limits(1):
        basis, scale, _ = np.linalg.svd(x, full_matrices=False)
        x = basis[:, :COMPONENTS] * scale[:COMPONENTS]
        if len(x) < 40 or np.ptp(x) == 0:
            return x[:, :2], x
        model = TSNE(init=1e-4 * x[:, :2] / x[:, 0].std(), random_state=seed, max_iter=ITERATIONS, angle=0.6)
        return model.fit_transform(x.astype(np.float32)), x
