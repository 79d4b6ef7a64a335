"""Limits on the segments that training uses of a person and of a store."""

import numpy as np

from accdistill_jax.data.store.store import Store

_PERSON, _STORE = 2, 3  # tell the draws of the two limits, and those of the pipeline's order, from one another


def capped_rows(store: Store, rows: np.ndarray, *, participant_cap: int, store_cap: int, seed: int) -> np.ndarray:
    """Some of a store's rows, chosen at random: first at most so many of each participant, then at most so many in all.

    Args:
        store: the store.
        rows: [n] int64, sorted rows to choose from.
        participant_cap: maximum number of rows of a participant; 0: no limit.
        store_cap: maximum number of rows in all; 0: no limit.
        seed: chooses the rows. The same seed gives the same rows.

    Returns:
        [m] int64, sorted.
    """
    if participant_cap and len(rows):
        rows = _of_each_participant(store, rows, cap=participant_cap, seed=seed)
    if not store_cap or len(rows) <= store_cap:
        return rows
    return np.sort(np.random.default_rng([_STORE, seed]).choice(rows, store_cap, replace=False))


def _of_each_participant(store: Store, rows: np.ndarray, *, cap: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([_PERSON, seed])
    shuffled = rows[rng.permutation(len(rows))]
    _, participant = np.unique(store.segments.codes("participant")[1][shuffled], return_inverse=True)
    by_participant = np.argsort(participant, kind="stable")
    counts = np.bincount(participant)
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(shuffled[by_participant[rank < cap]])
