"""Jobs without a neural network: hand-made features, and the curves of the classical matcher."""

import numpy as np

from accdistill_jax.reproduce.jobs.opened_stores import OpenedStores, StoreRows

_BLOCK = 256  # segments read at a time


def embed_classical(opened: OpenedStores, *, unseen: bool) -> dict[str, np.ndarray]:
    """Computes hand-made features in place of embeddings, of all segments or (`unseen`) of those of unseen stores."""
    from accdistill_jax.evaluation.classical.classical import classical_features

    arrays = {} if unseen else {"train_rows": opened.train_positions(None)}
    for split, (stores, rows) in (opened.unseen_splits() if unseen else opened.all_splits()).items():
        parts = []
        for store, store_rows in zip(stores, rows, strict=True):
            for start in range(0, len(store_rows), _BLOCK):
                batch = store.read(store_rows[start : start + _BLOCK])
                accel = batch["accel"] * batch["accel_scale"][:, None] + batch["accel_offset"][:, None]
                parts.append(classical_features(accel, rate_hz=store.rate_hz))
        if parts:
            arrays[f"{split}/embedding"] = np.concatenate(parts).astype(np.float32)
    return arrays


def match_classically(opened: OpenedStores, fitted_on: OpenedStores) -> dict[str, np.ndarray]:
    """Curves of the classical matcher in place of projections, of the minutes that are not for training.

    Its lag is that of validation people of `fitted_on`.
    """
    from accdistill_jax.evaluation.classical.matcher import accel_curves, best_lag, ppg_curves

    def curves(split: StoreRows) -> tuple[np.ndarray, np.ndarray]:
        accel, ppg = [], []
        for store, store_rows in zip(*split, strict=True):
            for start in range(0, len(store_rows), _BLOCK):
                batch = store.read(store_rows[start : start + _BLOCK])
                signals = (
                    batch[name] * batch[f"{name}_scale"][:, None] + batch[f"{name}_offset"][:, None]
                    for name in ("accel", "ppg")
                )
                accel.append(accel_curves(next(signals), rate_hz=store.rate_hz))
                ppg.append(ppg_curves(next(signals), rate_hz=store.rate_hz))
        return np.concatenate(accel), np.concatenate(ppg)

    lag = best_lag(*curves((fitted_on.stores, fitted_on.rows()["validation"])))
    arrays = {}
    for split in ("validation", "test"):
        rows = opened.rows()[split]
        if sum(map(len, rows)):
            accel, ppg = curves((opened.stores, rows))
            arrays |= {f"{split}/projection": np.roll(accel, lag, axis=1), f"{split}/teacher_projection": ppg}
    return arrays
