"""The order in which segments are read, and the Grain pipeline that reads them.

The data position is the step. Global batch k is rows [k B, (k + 1) B) of an infinite order that depends on the seed alone,
and each host reads a contiguous block of these rows. So the batch at a step is the same array for any number of hosts, and
training can resume from the step number alone.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grain
import numpy as np

from accdistill_jax.data.preprocessing.settings import PpgFilter
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.labels import HEART_RATE

Reader = Callable[[int, np.ndarray, int, np.ndarray], dict[str, np.ndarray]]
"""Reads rows: (number of the store, rows [b] int64, step, places in the global batch [b] int32) -> {name: [b, ...]}."""

_PERIOD = 4096
_ORDER = 1  # tells these draws from those of `data/store/caps.py`, which have the same seed
_RATE_JITTER_BPM = 1.0


@dataclass(frozen=True)
class Sampling:
    """Choice and order of the segments that a pipeline reads.

    Without weights all segments of all stores form one pool. The order is an endless sequence of epochs, each a new
    permutation of the pool. With weights each store has its own epochs, and the stores take turns. Any stretch of rows then
    has each store's share, as nearly as whole rows allow (shares are rounded to 1/4096).

    With `same_person` above 1, so many segments of one participant follow one another. An epoch is then a permutation of such
    groups, of which one for each participant may be smaller; a group may lie on the border of two batches. With `same_rate` above 1,
    groups have about the same heart rate; it is read from the stores' tables, and jittered so that groups differ between epochs.

    Attributes:
        split: "train", "validation" or "test".
        seed: seed of the order.
        weights: share of each store, positive; None pools the stores.
        rows: for each store the sorted rows of the split to use; None uses all. Without weights a store may have none.
        same_person: segments of one participant and store that follow one another; 1: all segments in random order.
        same_rate: segments of about the same heart rate that follow one another; those of unknown rate form groups too. 1: all
            segments in random order. Not together with `same_person`.
        signals: the signals that all stores must have, with equal numbers of channels; None: those of the first store.
    """

    split: str
    seed: int
    weights: Sequence[float] | None = None
    rows: Sequence[np.ndarray] | None = None
    signals: Sequence[str] | None = None
    same_person: int = 1
    same_rate: int = 1


class Pipeline:
    """Batches of segments of one split, from one or several stores.

    Args:
        stores: stores with equal rate and segment length.
        sampling: choice and order of their segments.
        batch_size: rows of the global batch; a multiple of `hosts`.
        host: number of this host, from 0.
        hosts: number of hosts.
        reader: function that reads rows; None reads the sampling's signals with `Store.read`.

    Attributes:
        num_segments: distinct segments in an epoch over all stores.

    Raises:
        UserError: stores that do not fit together, an empty split, or arguments out of range.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        sampling: Sampling,
        *,
        batch_size: int,
        host: int = 0,
        hosts: int = 1,
        reader: Reader | None = None,
    ):
        self.stores = tuple(stores)
        self.sampling, self.batch_size, self.host, self.hosts = sampling, batch_size, host, hosts
        _check_stores(self.stores, sampling.signals)
        self._signals = self.stores[0].signals if sampling.signals is None else tuple(sampling.signals)
        self._read = reader or self._read_signals
        _check_sampling(sampling, num_stores=len(self.stores))
        _check_batch(batch_size, host=host, hosts=hosts)
        given = [None] * len(self.stores) if sampling.rows is None else sampling.rows
        rows = [
            store.indices(sampling.split) if among is None else among
            for store, among in zip(self.stores, given, strict=True)
        ]
        may_be_empty = sampling.rows is not None and sampling.weights is None and any(map(len, sampling.rows))
        for store, store_rows in zip(self.stores, rows, strict=True):
            if not len(store_rows) and not may_be_empty:
                raise empty_split(store, sampling.split)
        self.num_segments = sum(map(len, rows))
        rows = [_compact(store_rows) for store_rows in rows]
        # A broadcast number takes no memory.
        ids = [np.broadcast_to(np.int32(number), len(store_rows)) for number, store_rows in enumerate(rows)]
        if sampling.weights is None:
            self._pools = [(ids[0], rows[0])] if len(rows) == 1 else [(np.concatenate(ids), np.concatenate(rows))]
            self._turns = np.zeros(1, np.int64)
        else:
            self._pools = list(zip(ids, rows, strict=True))
            self._turns = _turns(np.asarray(sampling.weights, float))
        self._people = [self._participants(*pool) for pool in self._pools] if sampling.same_person > 1 else []
        self._rates = [self._heart_rates(*pool) for pool in self._pools] if sampling.same_rate > 1 else []
        # _taken[p, t]: number of rows of pool p among the first t turns of a period.
        one_hot = self._turns == np.arange(len(self._pools))[:, None]
        self._taken = np.concatenate([np.zeros((len(self._pools), 1), np.int64), np.cumsum(one_hot, axis=1)], axis=1)
        self._lock = threading.Lock()
        self._permutation = functools.lru_cache(maxsize=2 * len(self._pools))(self._make_permutation)

    def global_indices(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Segments of the global batch at a step. They depend on the arguments and the step alone.

        Returns:
            (store [batch_size] int32, row in that store [batch_size] int64).
        """
        if step < 0:
            raise ValueError(f"step must be >= 0, got {step}")
        period = len(self._turns)
        position = step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        turn = self._turns[position % period]
        store = np.empty(self.batch_size, np.int32)
        row = np.empty(self.batch_size, np.int64)
        for number, (ids, rows) in enumerate(self._pools):
            mine = np.flatnonzero(turn == number)
            nth = (position[mine] // period) * self._taken[number, -1] + self._taken[number, position[mine] % period]
            epoch, place = np.divmod(nth, len(rows))
            for number_of_epoch in np.unique(epoch):
                in_epoch = epoch == number_of_epoch
                with self._lock:
                    order = self._permutation(number, int(number_of_epoch))
                chosen = order[place[in_epoch]]
                store[mine[in_epoch]] = ids[chosen]
                row[mine[in_epoch]] = rows[chosen]
        return store, row

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This host's block of the global batch at a step.

        Returns:
            ppg [b, samples, channels] int16 with ppg_scale and ppg_offset [b, channels] float32, the same for accel, and
            position [b] int32, the rows' places in the global batch; b = batch_size / hosts. Other `signals` give their arrays, and
            a `reader` gives its arrays, with position.
        """
        size = self.batch_size // self.hosts
        block = slice(self.host * size, (self.host + 1) * size)
        store, row = (values[block] for values in self.global_indices(step))
        position = np.arange(block.start, block.stop, dtype=np.int32)
        batch = self._gather(store, row, step, position)
        batch["position"] = position
        return batch

    def iterate(
        self, start_step: int = 0, num_steps: int | None = None, *, threads: int = 2, prefetch: int = 4
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches of the steps start_step, start_step + 1, ..., prefetched by Grain.

        Args:
            start_step: the first step.
            num_steps: number of batches; None is endless.
            threads: number of reading threads; 0 reads in the calling thread.
            prefetch: number of prefetched batches, at least one per thread.
        """
        if num_steps is None:
            num_steps = np.iinfo(np.int32).max
        dataset = grain.MapDataset.range(start_step, start_step + num_steps).map(self.batch)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads) if threads else 0)
        return iter(dataset.to_iter_dataset(options))

    def _gather(self, store: np.ndarray, row: np.ndarray, step: int, position: np.ndarray) -> dict[str, np.ndarray]:
        used = np.unique(store)
        if len(used) == 1:
            return self._read(int(used[0]), row, step, position)
        batch: dict[str, np.ndarray] = {}
        for number in used:
            places = np.flatnonzero(store == number)
            for name, values in self._read(int(number), row[places], step, position[places]).items():
                if name not in batch:
                    batch[name] = np.empty((len(row), *values.shape[1:]), values.dtype)
                batch[name][places] = values
        return batch

    def _read_signals(self, number: int, rows: np.ndarray, step: int, position: np.ndarray) -> dict[str, np.ndarray]:
        batch = self.stores[number].read(rows)
        return {name: values for name, values in batch.items() if name.partition("_")[0] in self._signals}

    def _make_permutation(self, pool: int, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([_ORDER, self.sampling.seed, pool, epoch])
        order = rng.permutation(len(self._pools[pool][1]))
        if self._people:
            order = _grouped(order, self._people[pool], size=self.sampling.same_person, rng=rng)
        if self._rates:
            jittered = self._rates[pool] + rng.normal(0, _RATE_JITTER_BPM, len(order))
            order = order[np.argsort(jittered[order], kind="stable")]  # unknown rates come last
            order = _grouped(order, np.zeros(len(order), np.int8), size=self.sampling.same_rate, rng=rng)
        return _compact(order)

    def _participants(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """A number for the participant and store of each segment of a pool."""
        numbers, before = np.empty(len(rows), np.int64), 0
        for number in np.unique(ids):
            mine = ids == number
            names, codes = self.stores[number].segments.codes("participant")
            numbers[mine] = before + codes[rows[mine]]
            before += len(names)
        return numbers

    def _heart_rates(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Heart rate of each segment of a pool in bpm, float32; NaN where unknown."""
        rates = np.full(len(rows), np.nan, np.float32)
        for number in np.unique(ids):
            mine = ids == number
            rates[mine] = self.stores[number].segments[HEART_RATE][rows[mine]]
        if not np.isfinite(rates).any():
            path = self.stores[int(ids[0])].path
            raise UserError(f"{path}: same_rate {self.sampling.same_rate}: no training segment has a heart rate")
        return rates


def empty_split(store: Store, split: str) -> UserError:
    """The error that says that a split of a store has no segment."""
    return UserError(f"{store.path}: split {split!r} has no segment; use another split rule or more participants")


def _grouped(order: np.ndarray, people: np.ndarray, *, size: int, rng: np.random.Generator) -> np.ndarray:
    """A permutation in which up to `size` segments of a participant follow one another.

    Args:
        order: a permutation; segments of a participant keep its order.
        people: participant of each segment.
        size: of a group.
        rng: draws the order of the groups.
    """
    by_person = order[np.argsort(people[order], kind="stable")]
    _, first, counts = np.unique(people[by_person], return_index=True, return_counts=True)
    begins = (np.arange(len(order)) - np.repeat(first, counts)) % size == 0
    group = np.cumsum(begins) - 1
    place = rng.permutation(int(group[-1]) + 1)
    return by_person[np.argsort(place[group], kind="stable")]


def _compact(numbers: np.ndarray) -> np.ndarray:
    """Non-negative integers, sorted or not, in 4 bytes each where they fit: large stores have tens of millions of rows."""
    fits = not len(numbers) or int(numbers.max()) <= np.iinfo(np.int32).max
    return numbers.astype(np.int32) if fits else numbers


def _turns(weights: np.ndarray) -> np.ndarray:
    """Number of the store at each of the 4096 rows of a period."""
    share = weights / weights.sum()
    counts = np.maximum(np.floor(share * _PERIOD).astype(np.int64), 1)
    while counts.sum() != _PERIOD:
        behind = share * _PERIOD - counts
        if counts.sum() < _PERIOD:
            counts[np.argmax(behind)] += 1
        else:
            counts[np.argmin(np.where(counts > 1, behind, np.inf))] -= 1
    taken = np.zeros_like(counts)
    turns = np.empty(_PERIOD, np.int64)
    for number in range(_PERIOD):
        # Of the stores that stay within their share with this row, choose the store with the earliest due row.
        due = np.where(taken * _PERIOD < counts * (number + 1), (taken + 1) / counts, np.inf)
        turns[number] = np.argmin(due)
        taken[turns[number]] += 1
    return turns


def _check_batch(batch_size: int, *, host: int, hosts: int) -> None:
    if hosts < 1 or not 0 <= host < hosts:
        raise UserError(f"host {host} of {hosts}: the host must be one of 0 to {hosts - 1}")
    if batch_size < 1 or batch_size % hosts:
        raise UserError(f"batch size {batch_size} is not a positive multiple of the number of hosts, {hosts}")


def _check_sampling(sampling: Sampling, *, num_stores: int) -> None:
    weights = sampling.weights
    for name in ("same_person", "same_rate"):
        if (size := getattr(sampling, name)) < 1:
            raise UserError(f"{name} {size}: must be at least 1")
    if sampling.same_person > 1 and sampling.same_rate > 1:
        raise UserError(f"same_person {sampling.same_person} and same_rate {sampling.same_rate}: one of them must be 1")
    if weights is not None:
        if len(weights) != num_stores:
            raise UserError(f"{len(weights)} weights are given for {num_stores} stores; give one for each store")
        if not (np.isfinite(weights).all() and min(weights) > 0):
            raise UserError(f"store weights {list(weights)} must be positive numbers")


def _check_stores(stores: Sequence[Store], signals: Sequence[str] | None) -> None:
    if not stores:
        raise UserError("no store is given; name at least one")
    first = stores[0]
    signals = first.signals if signals is None else signals
    for other in stores[1:]:
        if other.rate_hz != first.rate_hz or other.samples != first.samples:
            raise UserError(
                f"stores do not fit together: {first.path} has {first.samples} samples at "
                f"{first.rate_hz:g} Hz, {other.path} {other.samples} at {other.rate_hz:g} Hz"
            )
        for name in signals:
            a, b = first.channels[name], other.channels[name]
            if len(a) != len(b):
                raise UserError(
                    f"stores do not fit together: {first.path} has {len(a)} {name} channels "
                    f"({', '.join(a)}), {other.path} has {len(b)} ({', '.join(b) or 'none'})"
                )
        ours, theirs = (PpgFilter.named_in(store.manifest["preprocess"]) for store in (first, other))
        if "ppg" in signals and ours != theirs:
            raise UserError(
                f"stores do not fit together: the PPG of {first.path} is filtered by {ours.words}, that of {other.path} by {theirs.words}; "
                "prepare one of them again, with --ppg-band-hz and --ppg-filter-order of the other"
            )
