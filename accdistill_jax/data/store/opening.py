"""Stores as a run opens them: by config key, with their rows, columns and what they must have in common."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from accdistill_jax.config.nearest import nearest
from accdistill_jax.config.schema import DataConfig
from accdistill_jax.data.store.separation import names_among
from accdistill_jax.data.store.store import RemoteReading, Store
from accdistill_jax.errors import UserError
from accdistill_jax.labels import LABELS
from accdistill_jax.user_paths import expanded

QUALITIES = ("motion_g", "ppg_quality")  # columns that describe the recording, not the wearer
_SIGNALS = ("rate", "samples per segment", "PPG channels")  # in words


def open_store(path: str, *, key: str, data: DataConfig) -> Store:
    """Opens the store that a config key names, to be read as the config's section `data` says.

    Raises:
        UserError: no folder there, naming the key and the nearest one, or what `Store.open` raises.
    """
    folder = os.path.abspath(expanded(path))
    if "://" not in path and not os.path.exists(folder) and not os.path.exists(folder + ".partial"):
        parent, name = os.path.split(folder)
        near = nearest(name, sorted(os.listdir(parent))) if os.path.isdir(parent) else None
        hint = f"; did you mean {os.path.join(os.path.dirname(path), near)}?" if near else ""
        raise UserError(f"config.{key}: there is no folder {path}{hint}")
    return Store.open(path, remote=RemoteReading(concurrency=data.read_concurrency, cache_mb=data.cache_mb))


def choose_rows(stores: tuple[Store, ...], split: str, limit: int | None, *, seed: int) -> list[np.ndarray]:
    """Per store, sorted rows of a split; at most `limit` over all stores, chosen by the seed (None: all)."""
    rows = [store.indices(split) for store in stores]
    total = sum(map(len, rows))
    if limit is None or total <= limit:
        return rows
    chosen = np.sort(np.random.default_rng([17, seed]).choice(total, limit, replace=False))
    ends = np.cumsum([len(own) for own in rows])
    starts = ends - [len(own) for own in rows]
    return [
        own[chosen[(chosen >= start) & (chosen < end)] - start]
        for own, start, end in zip(rows, starts, ends, strict=True)
    ]


def has_test_segments(stores: Sequence[Store]) -> bool:
    return any(len(store.indices("test")) for store in stores)


class Signals(NamedTuple):
    """Properties that all segments of one encoder must share; `whose` they are is for messages."""

    whose: str
    rate_hz: float
    samples: int
    ppg_channels: int

    @classmethod
    def of(cls, store: Store) -> "Signals":
        """Those of a store."""
        return cls(store.path, store.rate_hz, store.samples, len(store.channels["ppg"]))


def unseen_by_name(unseen: Sequence[Store], stores: Sequence[Store], *, alike: Signals, key: str) -> dict[str, Store]:
    """Stores that nothing is trained on by folder name.

    Args:
        unseen: these.
        stores: those that are trained on; none where they are not made yet.
        alike: the segments that are trained on.
        key: what named the unseen ones, for messages.

    Raises:
        UserError: one that does not fit the training stores or is one of them, or two of one name.
    """
    found: dict[str, Store] = {}
    for store in unseen:
        path, name = store.path, Path(store.path.rstrip("/")).name
        if name in found:
            raise UserError(f"{key} names two stores called {name!r}; rename one folder")
        found[name] = store
        if store.fingerprint in {own.fingerprint for own in stores}:
            raise UserError(f"{key}: {path} is one of the stores trained on")
        for what, own, other in zip(_SIGNALS, alike[1:], Signals.of(store)[1:], strict=True):
            if own != other:
                raise UserError(f"{key}: {path} has {what} {other}, {alike.whose} has {own}")
    return found


def label_values(store: Store, name: str) -> np.ndarray:
    """A column of a store: [N] float, NaN where unknown; all NaN in a store prepared before the label was added."""
    values = store.segments.get(name)
    return np.full(store.num_segments, np.nan, np.float32) if values is None else values


def segment_columns(stores: Sequence[Store], rows: Sequence[np.ndarray], *, same_names: str) -> dict[str, np.ndarray]:
    """Columns of the segment tables; participants are named as `names_among` says, so that intervals count each person once."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([label_values(store, name)[own] for store, own in zip(stores, rows, strict=True)])

    among = names_among(stores, same_names=same_names)
    people = [
        np.array([names[person] for person in store.segments["participant"][own]], dtype=str)
        for store, own, names in zip(stores, rows, among, strict=True)
    ]
    numbers = {name: joined(name).astype(np.float32) for name in (*LABELS, *QUALITIES)}
    return {"participant": np.concatenate(people), **numbers}
