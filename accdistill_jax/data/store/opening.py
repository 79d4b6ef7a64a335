"""Opens the stores of a run: by config key, with checks that they fit together."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from accdistill_jax.config.nearest import nearest
from accdistill_jax.config.schema import DataConfig
from accdistill_jax.data.preprocessing.sensors import sensor_rows
from accdistill_jax.data.store.separation import names_among
from accdistill_jax.data.store.store import RemoteReading, Store
from accdistill_jax.data.store.trained_on import with_held_out
from accdistill_jax.errors import UserError
from accdistill_jax.labels import LABELS
from accdistill_jax.text import plain_id
from accdistill_jax.user_paths import expanded

QUALITIES = ("motion_g", "ppg_quality")  # columns that describe the recording, not the wearer
_PPG_CHANNELS = "PPG channels"
_SIGNALS = ("rate", "samples per segment", _PPG_CHANNELS)  # in words


def open_configured_store(path: str, *, key: str, data: DataConfig) -> Store:
    """Opens the store that a config key names, with the reading settings of the config's section `data`.

    Raises:
        UserError: there is no such folder (the message suggests the nearest name), or an error of `Store.open`.
    """
    folder = os.path.abspath(expanded(path))
    if "://" not in path and not os.path.exists(folder) and not os.path.exists(folder + ".partial"):
        parent, name = os.path.split(folder)
        near = nearest(name, sorted(os.listdir(parent))) if os.path.isdir(parent) else None
        hint = f"; did you mean {os.path.join(os.path.dirname(path), near)}?" if near else ""
        raise UserError(f"config.{key}: there is no folder {path}{hint}")
    return Store.open(path, remote=RemoteReading(concurrency=data.read_concurrency, cache_mb=data.cache_mb))


def hold_out(stores: Sequence[Store], participants: Sequence[str]) -> tuple[Store, ...]:
    """The stores with other splits: `participants` are the test split, and all other test participants are trained on.

    It serves to leave out people of a small store in turn. The validation split keeps its other participants. A store whose
    splits change gets another fingerprint, so that nothing made with the former splits is mistaken for its own; it names the
    test participants by `trained_on.held_out_mark`.

    Args:
        stores: the stores of a run.
        participants: names, of which outer white space does not count; none leaves the stores as they are. A name that several
            stores have is held out in each.

    Raises:
        UserError: no store has a participant of this name, or nobody is left to train on.
    """
    if not participants:
        return tuple(stores)
    tables = [
        dict(zip(*(store.participants[key].to_pylist() for key in ("participant", "split")), strict=True))
        for store in stores
    ]
    known = sorted({plain_id(name) for table in tables for name in table})
    held, changed = {plain_id(name) for name in participants}, []
    for name in sorted(held):
        if name not in known:
            near = nearest(name, known)
            hint = f"; did you mean {near!r}?" if near else f"; there are {', '.join(known[:6])}"
            raise UserError(f"config.data.held_out: no store has a participant {name!r}{hint}")
    for store, table in zip(stores, tables, strict=True):
        splits = {
            name: "test" if plain_id(name) in held else "train" if split == "test" else split
            for name, split in table.items()
        }
        if splits == table:
            changed.append(store)
            continue
        tested = (name for name, split in splits.items() if split == "test")
        changed.append(store.with_splits(splits, fingerprint=with_held_out(store.fingerprint, tested)))
    if not any(len(store.indices("train")) for store in changed):
        raise UserError("config.data.held_out: nobody is left in the training split")
    return tuple(changed)


def choose_rows(stores: tuple[Store, ...], split: str, limit: int | None, *, seed: int) -> list[np.ndarray]:
    """Sorted rows of a split for each store: all, or `limit` rows over all stores that the seed chooses."""
    return limit_rows([store.indices(split) for store in stores], limit, seed=seed)


def limit_rows(rows: Sequence[np.ndarray], limit: int | None, *, seed: int) -> list[np.ndarray]:
    """Sorted rows of each store: all of those given, sorted too, or `limit` of them over all stores that the seed chooses."""
    total = sum(map(len, rows))
    if limit is None or total <= limit:
        return list(rows)
    chosen = np.sort(np.random.default_rng([17, seed]).choice(total, limit, replace=False))
    ends = np.cumsum([len(of_store) for of_store in rows])
    starts = ends - [len(of_store) for of_store in rows]
    return [
        of_store[chosen[(chosen >= start) & (chosen < end)] - start]
        for of_store, start, end in zip(rows, starts, ends, strict=True)
    ]


def has_test_segments(stores: Sequence[Store]) -> bool:
    """True if a store has test segments."""
    return any(len(store.indices("test")) for store in stores)


class Signals(NamedTuple):
    """Properties that all segments of one encoder must share; `whose` names their origin in messages."""

    whose: str
    rate_hz: float
    samples: int
    ppg_channels: int

    @classmethod
    def of(cls, store: Store) -> "Signals":
        """Properties of a store's segments."""
        return cls(store.path, store.rate_hz, store.samples, len(store.channels["ppg"]))


def unseen_by_name(
    unseen: Sequence[Store], stores: Sequence[Store], *, alike: Signals, key: str, reads_ppg: bool
) -> dict[str, Store]:
    """Unseen stores by folder name.

    Args:
        unseen: stores that are only evaluated on.
        stores: stores that are trained on; empty if they do not exist yet.
        alike: properties of the training segments.
        key: config key of the unseen stores, for messages.
        reads_ppg: True if every report needs the PPG encoder. Without, a store may have other PPG channels, or none.

    Raises:
        UserError: an unseen store does not fit the training stores or is one of them, or two have the same name.
    """
    by_name: dict[str, Store] = {}
    for store in unseen:
        path, name = store.path, Path(store.path.rstrip("/")).name
        if name in by_name:
            raise UserError(f"{key} names two stores called {name!r}; rename one folder")
        by_name[name] = store
        if store.fingerprint in {trained.manifest["fingerprint"] for trained in stores}:
            raise UserError(f"{key}: {path} is one of the stores trained on")
        for noun, expected, actual in zip(_SIGNALS, alike[1:], Signals.of(store)[1:], strict=True):
            if expected != actual and (noun != _PPG_CHANNELS or reads_ppg):
                raise UserError(f"{key}: {path} has {noun} {actual}, {alike.whose} has {expected}")
    return by_name


def label_values(store: Store, name: str) -> np.ndarray:
    """A label of a store: [N] float, NaN where unknown. It is all NaN in a store prepared before the label was added."""
    values = store.segments.get(name)
    return np.full(store.num_segments, np.nan, np.float32) if values is None else values


def people_among(stores: Sequence[Store], rows: Sequence[np.ndarray], *, same_names: str) -> np.ndarray:
    """Participant of each segment, named by `names_among`: [N] str, the chosen rows of the first store first."""
    among = names_among(stores, same_names=same_names)
    people = [
        np.array([names[person] for person in store.segments["participant"][chosen]], dtype=str)
        for store, chosen, names in zip(stores, rows, among, strict=True)
    ]
    return np.concatenate(people)


def segment_columns(stores: Sequence[Store], rows: Sequence[np.ndarray], *, same_names: str) -> dict[str, np.ndarray]:
    """Columns of the segment tables, with participants named by `people_among`, so that intervals count each person once.

    Returns:
        participant and device [N] str, the labels and qualities [N] float32.
    """

    def joined(name: str) -> np.ndarray:
        return np.concatenate([label_values(store, name)[chosen] for store, chosen in zip(stores, rows, strict=True)])

    numbers = {name: joined(name).astype(np.float32) for name in (*LABELS, *QUALITIES)}
    devices = [
        np.asarray(store.segments.get("device", np.full(store.num_segments, "")), str)[chosen]
        for store, chosen in zip(stores, rows, strict=True)
    ]
    people = people_among(stores, rows, same_names=same_names)
    return {"participant": people, "device": np.concatenate(devices), **numbers}


def sensors_of(store: Store) -> dict[str, str]:
    """Device -> its accelerometer in words; {} for a store that does not know its sensors."""
    rows = sensor_rows(unit.get("notes") for unit in store.manifest["prepared"])
    return {row.device: row.words for row in rows if row.signal == "accel"}
