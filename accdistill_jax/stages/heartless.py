"""Embeddings of minutes without a heart, on which the read-outs learn from which embeddings they say nothing."""

from collections.abc import Mapping

import numpy as np

from accdistill_jax.data.store.opening import choose_rows
from accdistill_jax.data.store.store import Store
from accdistill_jax.evaluation.evaluate import UNTRAINED
from accdistill_jax.evaluation.heartless import HEARTLESS_VERSION, heartless_minute
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.embedding import embeddings, hash_of
from accdistill_jax.stages.evaluated_encoders import Encoders

_MOST_MINUTES = 1024  # of each split


class _HeartlessMinutes:
    """Reads a store's minutes of one sensor with the heart taken out; the noise depends on seed and row alone."""

    def __init__(self, store: Store, modality: str, *, seed: int):
        self._store, self._modality, self._seed = store, modality, seed

    def read(self, indices: np.ndarray, /) -> dict[str, np.ndarray]:
        """The store's arrays [b, ...] of the rows `indices` [b]; the sensor has float32 values, scale 1 and offset 0."""
        name, batch = self._modality, self._store.read(indices)
        signals = self._store.read_signals(indices)[name]
        made = [
            heartless_minute(
                signal, rate_hz=self._store.rate_hz, rng=np.random.default_rng([29, self._seed, int(index)])
            )
            for signal, index in zip(signals, indices, strict=True)
        ]
        ones = np.ones((len(indices), signals.shape[2]), np.float32)
        return {**batch, name: np.stack(made), f"{name}_scale": ones, f"{name}_offset": np.zeros_like(ones)}


def heartless_embeddings(run: Run, encoders: Encoders) -> Mapping[str, Mapping[str, SplitEmbeddings]]:
    """Encoder -> "train" and "validation" -> embeddings of minutes without a heart; {} on other processes than the first.

    All processes call it together. An encoder whose embeddings come from a table is left out.
    """
    trained = [encoder for encoder in encoders.all if encoder.name != UNTRAINED and encoder.tables is None]
    key = hash_of([encoders.key, "heartless", HEARTLESS_VERSION])
    rows = {
        split: choose_rows(run.stores, split, _MOST_MINUTES, seed=run.config.seed) for split in ("train", "validation")
    }
    of_trained = encoders._replace(all=trained, key=key).fitting(run.stores)
    if not of_trained.all:
        return {}
    return (
        embeddings(
            run,
            of_trained,
            "heartless",
            run.stores,
            rows,
            reads=lambda encoder, store: _HeartlessMinutes(store, encoder.modality, seed=run.config.seed),
        )
        or {}
    )
