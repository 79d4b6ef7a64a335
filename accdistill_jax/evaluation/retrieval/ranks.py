"""Ranks of right pairs by cosine similarity, among all pairs or among drawn ones."""

from collections.abc import Iterator

import numpy as np

TIE = 1e-6


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """L2-normalises rows [N, P] in float32. A zero row stays zero, so it ties with every candidate."""
    vectors = np.asarray(vectors, np.float32)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norm > 0, norm, 1)


def thresholds(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Score from which a wrong candidate ranks before the right one: float32 [N], from rows [N, P] of right pairs."""
    return np.einsum("np,np->n", query, gallery) - np.float32(TIE)


def paired_ranks(query: np.ndarray, gallery: np.ndarray, *, block: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of row i of the gallery for query row i, and of query row i for row i of the gallery.

    The similarity matrix is computed in blocks of `block` x `block`, and each block serves both directions. The memory does
    not grow with N squared.

    Args:
        query: [N, P] float32, L2-normalised.
        gallery: [N, P] float32, L2-normalised; row i belongs to row i of `query`.
        block: rows and columns per block.

    Returns:
        (query -> gallery, gallery -> query): int64 [N] each; 1 is best, N is worst, ties count against the query.
    """
    forward, backward = np.zeros(len(query), np.int64), np.zeros(len(query), np.int64)
    for rows, columns, ahead, ahead_back in _compared(query, gallery, block):
        forward[rows] += np.count_nonzero(ahead, axis=1)
        backward[columns] += np.count_nonzero(ahead_back, axis=0)
    return forward, backward


def _compared(
    query: np.ndarray, gallery: np.ndarray, block: int
) -> Iterator[tuple[slice, slice, np.ndarray, np.ndarray]]:
    """Blocks (rows, columns, forward, backward) of `paired_ranks`, the latter two bool [rows, columns].

    Forward: the column is the row's match, or ranks before or with it. Backward: the same for the row as a candidate of the column.
    """
    n = len(query)
    threshold = thresholds(query, gallery)
    for i in range(0, n, block):
        rows = slice(i, min(i + block, n))
        for j in range(0, n, block):
            columns = slice(j, min(j + block, n))
            score = query[rows] @ gallery[columns].T
            if i == j:
                np.fill_diagonal(score, np.inf)
            yield rows, columns, score >= threshold[rows, None], score >= threshold[None, columns]


class ComparedPairs:
    """All comparisons of `paired_ranks`, kept as bits, for ranks in many pools that are drawn from the same pairs.

    The similarities are computed once. Memory: N**2 / 4 bytes.

    Args:
        query: [N, P] float32, L2-normalised.
        gallery: [N, P] float32, L2-normalised; row i belongs to row i of `query`.
    """

    _BLOCK = 4096  # a multiple of 8

    def __init__(self, query: np.ndarray, gallery: np.ndarray):
        n = len(query)
        self._forward, self._backward = (np.zeros((n, -(-n // 8)), np.uint8) for _ in range(2))
        for rows, columns, ahead, ahead_back in _compared(query, gallery, self._BLOCK):
            for bits, of, over, blocks in (
                (self._forward, rows, columns, ahead),
                (self._backward, columns, rows, ahead_back.T),
            ):
                bits[of, over.start // 8 : -(-over.stop // 8)] = np.packbits(blocks, axis=1)

    def ranks(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`paired_ranks` of distinct rows [M] among each other: (query -> gallery, gallery -> query), int64 [M] each."""
        drawn = np.zeros(len(self._forward), bool)
        drawn[rows] = True
        mask = np.packbits(drawn)
        counted = [
            np.bitwise_count(bits[rows] & mask).sum(axis=1, dtype=np.int64) for bits in (self._forward, self._backward)
        ]
        return counted[0], counted[1]
