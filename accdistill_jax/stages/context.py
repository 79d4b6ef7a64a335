"""What every stage of a run is given."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from accdistill_jax.config import nearest
from accdistill_jax.data.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.inputs import InputSettings
from accdistill_jax.parallel import Parallel


@dataclasses.dataclass(frozen=True)
class Run:
    """Context of a run.

    Attributes:
        config: validated and locked.
        workdir: where results go.
        stores: the stores that are trained and evaluated on.
        parallel: the devices.
        say: prints one line of progress (on process 0).
    """

    config: Any
    workdir: Path
    stores: tuple[Store, ...]
    parallel: Parallel
    say: Callable[[str], None]

    @property
    def data_fingerprint(self) -> str:
        """Content hashes of the stores, joined."""
        return "+".join(store.fingerprint for store in self.stores)

    @property
    def samples(self) -> int:
        """Samples per segment."""
        return self.stores[0].samples

    def inputs(self, modality: str) -> InputSettings:
        """How `modality` ("ppg" or "accel") is presented to its encoder."""
        return InputSettings(**self.config.inputs[modality])

    def signal_meta(self, modality: str) -> dict:
        """What an exported encoder says of the signal it reads: modality, rate, samples, channels, input settings."""
        store = self.stores[0]
        return {
            "modality": modality,
            "rate_hz": store.rate_hz,
            "samples": store.samples,
            "channels": len(store.channels[modality]),
            "inputs": self.inputs(modality)._asdict(),
        }


def open_store(path: str, *, key: str) -> Store:
    """Opens the store that a config key names.

    Raises:
        UserError: no folder there, naming the key and the nearest one, or what `Store.open` raises.
    """
    folder = os.path.abspath(os.path.expanduser(path))
    if "://" not in path and not os.path.exists(folder) and not os.path.exists(folder + ".partial"):
        parent, name = os.path.split(folder)
        near = nearest(name, sorted(os.listdir(parent))) if os.path.isdir(parent) else None
        hint = f"; did you mean {os.path.join(os.path.dirname(path), near)}?" if near else ""
        raise UserError(f"config.{key}: there is no folder {path}{hint}")
    return Store.open(path)


def plain(section: Any) -> Any:
    """A config section as nested dictionaries and lists for JSON."""
    if hasattr(section, "items"):
        return {key: plain(value) for key, value in section.items()}
    return [plain(value) for value in section] if isinstance(section, (tuple, list)) else section


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
