"""The stores of a job, and the rows of each that it embeds."""

from typing import NamedTuple

import numpy as np

from accdistill_jax.data.store.store import Store

SPLITS = ("train", "validation", "test")
_SUBSET_SEED = 51

StoreRows = tuple[tuple[Store, ...], list[np.ndarray]]
"""Stores, and the rows of each that are embedded."""


class OpenedStores(NamedTuple):
    """Stores of a job.

    Attributes:
        stores: stores for training.
        unseen: name -> store, for stores that are used for evaluation only.
    """

    stores: tuple[Store, ...]
    unseen: dict[str, Store]

    def rows(self, *, train: np.ndarray | None = None) -> dict[str, list[np.ndarray]]:
        """Lists the rows to embed.

        Args:
            train: positions among all training segments; None means all.

        Returns:
            Split -> rows in each training store.
        """
        rows = {split: [store.indices(split) for store in self.stores] for split in SPLITS}
        if train is not None:
            ends = np.cumsum([len(store_rows) for store_rows in rows["train"]])
            starts = ends - [len(store_rows) for store_rows in rows["train"]]
            rows["train"] = [
                store_rows[train[(train >= start) & (train < end)] - start]
                for store_rows, start, end in zip(rows["train"], starts, ends, strict=True)
            ]
        return rows

    def all_splits(self, *, train: np.ndarray | None = None) -> dict[str, StoreRows]:
        """Stores and rows of every split, including unseen stores; `train` as in `rows`."""
        return {split: (self.stores, rows) for split, rows in self.rows(train=train).items()} | self.unseen_splits()

    def unseen_splits(self) -> dict[str, StoreRows]:
        """Stores and rows of the unseen stores, by the name of their split."""
        return {f"unseen-{n}": ((store,), [np.arange(store.num_segments)]) for n, store in self.unseen.items()}

    def train_positions(self, limit: int | None) -> np.ndarray:
        """Chooses the training segments to embed, the same for every encoder.

        Args:
            limit: largest number of segments; None means all.

        Returns:
            [N] sorted positions among all training segments.
        """
        total = sum(len(store.indices("train")) for store in self.stores)
        if limit is None or total <= limit:
            return np.arange(total)
        return np.sort(np.random.default_rng(_SUBSET_SEED).choice(total, limit, replace=False))
