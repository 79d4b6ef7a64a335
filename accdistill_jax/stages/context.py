"""Arguments that every stage of a run gets."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from accdistill_jax.config.schema import Config, InputSettings
from accdistill_jax.config.tree import plain
from accdistill_jax.data.pipeline import empty_split
from accdistill_jax.data.preprocessing.settings import PpgFilter
from accdistill_jax.data.store.caps import capped_rows
from accdistill_jax.data.store.store import Store
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.runtime.peers.peers import Peers
from accdistill_jax.storage.arrays import flatten_arrays, nest_arrays
from accdistill_jax.storage.copies import Copies
from accdistill_jax.storage.export import Restored, load_params, save_params


def training_rows(config: Config, store: Store, among: np.ndarray | None = None) -> np.ndarray:
    """Sorted rows of a store that training uses: those that the caps of `config.data` choose, or all without caps.

    Args:
        config: of the run.
        store: one of the run's stores.
        among: sorted training rows to choose from; None: all of the training split.

    Raises:
        UserError: the training split has no segment, and `among` is None.
    """
    data, rows = config.data, store.indices("train") if among is None else among
    if among is None and not len(rows):
        raise empty_split(store, "train")
    return capped_rows(store, rows, participant_cap=data.participant_cap, store_cap=data.store_cap, seed=config.seed)


@dataclasses.dataclass(frozen=True)
class Run:
    """Context of a run.

    Attributes:
        config: the run's config.
        workdir: where results go.
        stores: the stores that are trained and evaluated on.
        parallel: the devices.
        peers: the processes. Process 0 alone reads and writes the work directory.
        say: prints one line of progress (on process 0).
        copies: of the work directory (made by process 0).
        separation: what came of comparing the stores' people and segments (data/store/separation.py).
    """

    config: Config
    workdir: Path
    stores: tuple[Store, ...]
    parallel: Parallel
    peers: Peers
    say: Callable[[str], None]
    copies: Copies = Copies()
    separation: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def data_fingerprint(self) -> str:
        """Content hashes of the stores, joined."""
        return "+".join(store.fingerprint for store in self.stores)

    def training_rows(self, store: Store, among: np.ndarray | None = None) -> np.ndarray:
        """`training_rows` of the run's config."""
        return training_rows(self.config, store, among)

    def exists(self, path: Path) -> bool:
        """True if a file of the work directory exists, as process 0 sees it."""
        return self.peers.from_first(f"exists {path.name}", path.exists)

    def load_params(self, path: Path) -> Restored:
        """`export.load_params` by process 0, for all processes.

        Raises:
            UserError: on every process.
        """
        return self.restore_from_first(f"load {path.name}", lambda: load_params(path))

    def save_params(self, path: Path, params: Any, meta: dict) -> None:
        """`export.save_params` by process 0; returns everywhere when the export is complete.

        Raises:
            UserError: on every process.
        """
        self.peers.from_first(f"save {path.name}", lambda: save_params(path, params, meta) and None)

    def restore_from_first(self, name: str, read: Callable[[], Restored]) -> Restored:
        """Arrays and metadata that `read` gives on process 0, on every process, bit for bit.

        Args:
            name: of what is read, for messages.
            read: called on process 0 only.

        Raises:
            UserError: that `read` raised; on every process.
        """
        if self.peers.count == 1:
            return read()
        on_first: dict[str, Restored] = {}

        def describe() -> dict:
            on_first["content"] = restored = read()
            flat = flatten_arrays(restored.state)
            return {
                "arrays": [[name, leaf.dtype.name, list(leaf.shape)] for name, leaf in flat.items()],
                "meta": restored.meta,
            }

        content = self.peers.from_first(name, describe)
        data = None
        if self.peers.first:
            data = b"".join(
                np.ascontiguousarray(leaf).tobytes() for leaf in flatten_arrays(on_first["content"].state).values()
            )
        sizes = [np.dtype(dtype).itemsize * math.prod(shape) for _, dtype, shape in content["arrays"]]
        with self.peers.waiting(f"the broadcast ({name!r})"):
            data = self.parallel.broadcast(data, sum(sizes))
        flat, start = {}, 0
        for (leaf, dtype, shape), size in zip(content["arrays"], sizes, strict=True):
            flat[leaf] = np.frombuffer(data[start : start + size], dtype).reshape(shape)
            start += size
        return Restored(nest_arrays(flat), content["meta"])

    @property
    def samples(self) -> int:
        """Samples per segment."""
        return self.stores[0].samples

    def inputs(self, modality: str) -> InputSettings:
        """Input settings of `modality` ("ppg" or "accel")."""
        return self.config.inputs.of(modality)

    def signal_meta(self, modality: str) -> dict:
        """Description of the signal that an exported encoder reads: modality, rate, samples, channels, input settings, PPG filter."""
        store = self.stores[0]
        filtered = PpgFilter.named_in(store.manifest["preprocess"]).as_settings() if modality == "ppg" else {}
        return {
            "modality": modality,
            "rate_hz": store.rate_hz,
            "samples": store.samples,
            "channels": len(store.channels[modality]),
            "inputs": plain(self.inputs(modality)),
            **{name: list(value) if isinstance(value, tuple) else value for name, value in filtered.items()},
        }
