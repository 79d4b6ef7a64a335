"""Health of embeddings (rank, spread, collapse), alignment and uniformity of projections, similarity of two encoders."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

MAX_ROWS = 5000
_MAX_PAIRED_ROWS = 2000  # of uniformity, which compares all pairs
CONSTANT_VARIANCE_SHARE = 1e-6
COLLAPSED_RANK = 2.0


@dataclasses.dataclass(frozen=True)
class Health:
    """Measures of an encoder's use of its embedding space, over the segments of a split.

    Attributes:
        width: dimensions of the embedding.
        effective_rank: smooth effective rank (RankMe) of the embeddings.
        effective_rank_centred: the same after their mean is removed. A large common offset lowers the plain rank only.
        std: mean over dimensions of the standard deviation over segments.
        variance_share: variance over segments divided by mean squared norm; 0 for a constant output.
        dead_dimensions: dimensions that do not vary.
        uniformity: log mean Gaussian potential of the projections (lower is more spread), None without projections.
        alarm: the problem in plain words, or "".
    """

    width: int
    effective_rank: float
    effective_rank_centred: float
    std: float
    variance_share: float
    dead_dimensions: int
    uniformity: float | None
    alarm: str


class Similarity(NamedTuple):
    """Linear centred kernel alignment (CKA) of two embeddings of the same segments.

    Attributes:
        cka: 0 to 1. It is 1 if the embeddings differ by rotation, reflection, scale and offset alone. It is biased upwards:
            unrelated embeddings of widths D1 and D2 get about sqrt(D1 * D2) / N. None if an embedding does not vary.
        debiased: the same from unbiased estimates of the dependence. Unrelated embeddings get about 0 for any N, sometimes
            slightly less. None with fewer than four segments, or if an embedding does not vary.
        segments: number of segments, N.
    """

    cka: float | None
    debiased: float | None
    segments: int


def linear_cka(first: np.ndarray, second: np.ndarray, *, block: int = 16384) -> Similarity:
    """Similarity of two embeddings of the same segments. Rotations of either embedding do not change it.

    It is computed from the [D1, D2] products of the features, not from N x N kernels.

    Args:
        first: [N, D1] float.
        second: [N, D2] float; row i is the same segment as row i of `first`.
        block: rows that are converted to float64 at a time.

    Raises:
        ValueError: different numbers of rows, or fewer than two.

    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", 2019, from equation 4; debiased: the
    estimate of Song et al., "Feature Selection via Dependence Maximization", 2012, equation 5, as in Nguyen et al., "Do
    Wide and Deep Networks Learn the Same Things?", 2021.
    """
    n = len(first)
    if len(second) != n or n < 2:
        raise ValueError(f"CKA needs two embeddings of the same segments, at least two, got {n} and {len(second)} rows")
    means = [np.mean(x, axis=0, dtype=np.float64) for x in (first, second)]
    # CKA is a ratio, so both embeddings are scaled to unit size, which avoids overflow. Variation by rounding is no variation.
    sizes = []
    for x, mean in zip((first, second), means, strict=True):
        spread = np.sqrt(sum(np.sum((x[i : i + block] - mean) ** 2) for i in range(0, n, block)) / n)
        sizes.append(spread if spread > 1e-7 * np.linalg.norm(mean) else 0.0)
    if 0.0 in sizes:
        return Similarity(None, None, n)
    widths = (first.shape[1], second.shape[1])
    products = {(a, b): np.zeros((widths[a], widths[b])) for a, b in ((0, 0), (0, 1), (1, 1))}
    row_norms = np.empty((2, n))  # squared
    for start in range(0, n, block):
        rows = slice(start, start + block)
        part = [(x[rows] - mean) / size for x, mean, size in zip((first, second), means, sizes, strict=True)]
        row_norms[:, rows] = [np.sum(x**2, axis=1) for x in part]
        for a, b in products:
            products[a, b] += part[a].T @ part[b]
    squares = {pair: float(np.sum(product**2)) for pair, product in products.items()}
    totals = row_norms.sum(axis=1)
    cka = squares[0, 1] / np.sqrt(squares[0, 0] * squares[1, 1])
    debiased = None
    if n >= 4:

        def unbiased(a: int, b: int) -> float:
            # Kernels of centred features without their diagonals have row sums -row_norms and the total -totals.
            diagonal = row_norms[a] @ row_norms[b]
            total = totals[a] * totals[b] / ((n - 1) * (n - 2))
            return squares[a, b] - diagonal + total - 2 / (n - 2) * diagonal

        self_similarity = unbiased(0, 0) * unbiased(1, 1)
        debiased = float(unbiased(0, 1) / np.sqrt(self_similarity)) if self_similarity > 0 else None
    return Similarity(float(cka), debiased, n)


def singular_value_rank(embedding: np.ndarray, *, centred: bool = False) -> float:
    """Smooth effective rank (RankMe): exp of the entropy of the normalised singular values.

    Args:
        embedding: [N, D] float.
        centred: if True, the mean embedding is removed first.

    Returns:
        1 (all segments on a line) to min(N, D); 0 if all entries are zero.

    Source: Garrido et al., "RankMe", 2023, equation 1; Roy and Vetterli, "The effective rank", 2007.
    """
    x = np.asarray(embedding, np.float64)
    scale = np.sqrt(np.mean(x**2)) if x.size else 0.0
    if centred:
        x = x - x.mean(axis=0)
    singular = np.linalg.svd(x, compute_uv=False)
    # Singular values at the level of float32 rounding are noise.
    singular = singular[singular > 1e-7 * scale * np.sqrt(x.size)]
    if singular.size == 0:
        return 0.0
    p = singular / singular.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def alignment(accel: np.ndarray, ppg: np.ndarray) -> float:
    """Mean squared distance of paired unit vectors [N, P]: 0 for identical pairs, 2 for unrelated ones.

    Source: Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity", 2020.
    """
    difference = np.asarray(accel, np.float64) - np.asarray(ppg, np.float64)
    return float(np.mean(np.sum(difference**2, axis=1)))


def uniformity(projection: np.ndarray) -> float:
    """Log of the mean Gaussian potential exp(-2 d^2) over pairs of unit vectors [N, P]: 0 if all are equal, -4 if spread out.

    Source: Wang and Isola, 2020.
    """
    z = np.asarray(projection, np.float64)
    n = len(z)
    if n < 2:
        return float("nan")
    squared = np.maximum(np.sum(z**2, 1)[:, None] + np.sum(z**2, 1)[None] - 2 * z @ z.T, 0)
    potential = np.exp(-2 * squared)
    return float(np.log((potential.sum() - np.trace(potential)) / (n * (n - 1))))


def health_of(embedding: np.ndarray, projection: np.ndarray | None = None, *, seed: int = 0) -> Health:
    """Health of one encoder on one split. At most `MAX_ROWS` randomly chosen segments are used.

    Args:
        embedding: [N, D] float.
        projection: [N, P] float unit vectors, or None.
        seed: seed of that choice.
    """
    n = len(embedding)
    rows = np.arange(n)
    if n > MAX_ROWS:
        rows = np.sort(np.random.default_rng([seed, 31]).choice(n, MAX_ROWS, replace=False))
    few = rows  # the rows of a person stand together, so the first ones would be of some people only
    if len(few) > _MAX_PAIRED_ROWS:
        few = np.random.default_rng([seed, 37]).choice(rows, _MAX_PAIRED_ROWS, replace=False)
    x = np.asarray(embedding, np.float64)[rows]
    std = x.std(axis=0)
    energy = float(np.mean(np.sum(x**2, axis=1))) if n else 0.0
    share = float(np.sum(std**2) / energy) if energy > 0 else 0.0
    centred = singular_value_rank(x, centred=True)
    alarm = ""
    if n >= 2 and share < CONSTANT_VARIANCE_SHARE:
        alarm = "constant output: every segment gets the same embedding"
    elif n > COLLAPSED_RANK and centred < COLLAPSED_RANK:
        alarm = f"collapsed: the embeddings vary along {centred:.1f} effective dimensions of {x.shape[1]}"
    return Health(
        width=int(x.shape[1]),
        effective_rank=singular_value_rank(x),
        effective_rank_centred=centred,
        std=float(std.mean()),
        variance_share=share,
        dead_dimensions=int(np.sum(std <= 1e-7 * np.sqrt(energy / max(x.shape[1], 1)))),
        uniformity=None if projection is None else uniformity(projection[few]),
        alarm=alarm,
    )
