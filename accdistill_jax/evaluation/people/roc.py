"""Area under the ROC curve, whole and at few false positives, for many weightings of the same scores at once."""

from __future__ import annotations

import numpy as np

MAX_FALSE_POSITIVES = 0.1


def roc_areas(
    score: np.ndarray,
    positive: np.ndarray,
    negative: np.ndarray,
    *,
    max_false_positives: float = MAX_FALSE_POSITIVES,
    block: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """ROC AUC and standardised partial AUC. Equal scores count half.

    Args:
        score: [N] float, higher for "yes".
        positive: [M, N] float, weight of each row as a positive: its label for a plain area; label times number of draws
            for a bootstrap.
        negative: [M, N] float, weight of each row as a negative.
        max_false_positives: largest false positive rate of the partial area.
        block: weightings that are computed at a time.

    Returns:
        (auc [M], partial [M]) float64; NaN where a class is empty. The partial area is standardised (McClish): 0.5 is
        chance, 1 is best.

    Source: McClish 1989, Med Decis Making 9; the same as `sklearn.metrics.roc_auc_score` with `max_fpr`.
    """
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    first, last = np.searchsorted(-ranked, -ranked, "left"), np.searchsorted(-ranked, -ranked, "right")
    rows = np.flatnonzero(np.any(positive > 0, axis=0)[order])
    first, last, rows = first[rows], last[rows], order[rows]
    auc, partial = np.empty(len(positive)), np.empty(len(positive))
    least, most = 0.5 * max_false_positives**2, max_false_positives
    for start in range(0, len(positive), block):
        part = slice(start, start + block)
        false = np.zeros((len(positive[part]), len(score) + 1))
        np.cumsum(negative[part][:, order], axis=1, out=false[:, 1:])
        share = positive[part][:, rows]
        total = share.sum(axis=1, keepdims=True)
        unknown = np.where((total[:, 0] > 0) & (false[:, -1] > 0), 0.0, np.nan)
        share = share / np.where(total > 0, total, 1.0)
        false /= np.where(false[:, -1:] > 0, false[:, -1:], 1.0)
        # A positive raises the true positive rate by its share, while the false positive rate goes from `low` to `high`. To the
        # right of that the area under this share extends to the end of the axis.
        low, high = false[:, first], false[:, last]
        auc[part] = 1.0 - 0.5 * np.sum(share * (low + high), axis=1) + unknown
        left, right = np.minimum(low, most), np.minimum(high, most)
        ramp = high - low
        inside = np.where(ramp > 0, (right - left) / np.where(ramp > 0, ramp, 1.0), low < most)
        area = np.sum(share * inside * (most - 0.5 * (left + right)), axis=1)
        partial[part] = 0.5 * (1.0 + (area - least) / (most - least)) + unknown
    return auc, partial
