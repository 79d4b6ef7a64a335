"""The order in which segments are read, and the Grain pipeline that reads them.

The data position is the step: global batch k is rows [k B, (k + 1) B) of an infinite order that depends on the
seed alone, and a host reads its contiguous block of these rows. So the batch at a step is the same array for
any number of hosts, and resuming at a step needs nothing but the step.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np

from accdistill_jax.data.store.manifest import SIGNALS
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError

# reader(number of the store, rows [b] int64, step, places in the global batch [b] int32) -> {name: [b, ...]}
Reader = Callable[[int, np.ndarray, int, np.ndarray], dict[str, np.ndarray]]

_PERIOD = 4096
_ORDER, _CAP = 1, 2


class Pipeline:
    """Batches of segments of one split, from one or several stores.

    Without weights, all segments of all stores form one pool, and the order is an endless row of epochs, each a
    fresh permutation of the pool. With weights, each store is walked through its own epochs, and the stores take
    turns so that any stretch of rows holds each in its share as nearly as whole rows can (shares are rounded to
    1/4096).

    Args:
        stores: of equal rate, segment length and number of channels.
        split: "train", "validation" or "test".
        batch_size: rows of the global batch; a multiple of `hosts`.
        seed: of the order and of the cap's choice.
        weights: share of each store, positive; None pools them.
        participant_cap: at most this many segments of each participant and store, chosen by the seed, the same in
            every epoch.
        host, hosts: this host's number and how many there are.
        reader: how rows are read; None is both signals, by `Store.read`.
        rows: per store, the rows of the split that are used, where it is not all of them; a store may have none.

    Attributes:
        num_segments: distinct segments in an epoch over all stores.
        rate_hz, samples, channels: of the stores; channels names those of the first.

    Raises:
        UserError: stores that do not fit together, an empty split, or arguments out of range, naming them.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        *,
        split: str,
        batch_size: int,
        seed: int,
        weights: Sequence[float] | None = None,
        participant_cap: int | None = None,
        host: int = 0,
        hosts: int = 1,
        reader: Reader | None = None,
        rows: Sequence[np.ndarray] | None = None,
    ):
        self.stores = tuple(stores)
        self._read = reader or (lambda number, rows, step, position: self.stores[number].read(rows))
        _check(self.stores, batch_size=batch_size, weights=weights, cap=participant_cap, host=host, hosts=hosts)
        self.split, self.batch_size, self.seed, self.host, self.hosts = split, batch_size, seed, host, hosts
        self.rate_hz, self.samples = self.stores[0].rate_hz, self.stores[0].samples
        self.channels = self.stores[0].channels
        given = [None] * len(self.stores) if rows is None else rows
        some = rows is not None and weights is None and any(map(len, rows))
        rows = [
            chosen_rows(store, split, cap=participant_cap, seed=seed, among=among)
            for store, among in zip(self.stores, given, strict=True)
        ]
        for store, own in zip(self.stores, rows, strict=True):
            if not len(own) and not some:
                raise UserError(
                    f"{store.path}: split {split!r} has no segment; use another split rule or more participants"
                )
        self.num_segments = sum(map(len, rows))
        ids = [np.full(len(own), number, np.int32) for number, own in enumerate(rows)]
        if weights is None:
            self._pools = [(np.concatenate(ids), np.concatenate(rows))]
            self._turns = np.zeros(1, np.int64)
        else:
            self._pools = list(zip(ids, rows, strict=True))
            self._turns = _turns(np.asarray(weights, float))
        # taken[p, t]: rows of pool p among the first t turns of a period.
        one_hot = self._turns == np.arange(len(self._pools))[:, None]
        self._taken = np.concatenate([np.zeros((len(self._pools), 1), np.int64), np.cumsum(one_hot, axis=1)], axis=1)
        self._lock = threading.Lock()
        self._permutation = functools.lru_cache(maxsize=2 * len(self._pools) + 2)(self._make_permutation)

    def global_indices(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Which segments the global batch at a step holds; a function of the arguments and the step alone.

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
            for one in np.unique(epoch):
                here = epoch == one
                with self._lock:
                    order = self._permutation(number, int(one))
                chosen = order[place[here]]
                store[mine[here]] = ids[chosen]
                row[mine[here]] = rows[chosen]
        return store, row

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This host's block of the global batch at a step.

        Returns:
            ppg [b, samples, channels] int16 with ppg_scale and ppg_offset [b, channels] float32, the same for
            accel, and position [b] int32, the rows' places in the global batch; b = batch_size / hosts. With a reader
            of its own: what that gives, and position.
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
        """Batches of steps start_step, start_step + 1, ..., read ahead by Grain.

        Args:
            start_step: the first step.
            num_steps: how many; None goes on without end.
            threads: reading threads; 0 reads in the caller.
            prefetch: batches read ahead, at least one per thread.
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
            here = np.flatnonzero(store == number)
            for name, values in self._read(int(number), row[here], step, position[here]).items():
                if name not in batch:
                    batch[name] = np.empty((len(row), *values.shape[1:]), values.dtype)
                batch[name][here] = values
        return batch

    def _make_permutation(self, pool: int, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([_ORDER, self.seed, pool, epoch])
        return rng.permutation(len(self._pools[pool][1]))


def chosen_rows(store: Store, split: str, *, cap: int | None, seed: int, among: np.ndarray | None = None) -> np.ndarray:
    """Sorted rows of a split (or those of it that are given, sorted), at most `cap` of each participant."""
    rows = store.indices(split) if among is None else among
    if cap is None or not len(rows):
        return rows
    rng = np.random.default_rng([_CAP, seed])
    shuffled = rows[rng.permutation(len(rows))]
    _, participant = np.unique(store.segments["participant"][shuffled], return_inverse=True)
    by_participant = np.argsort(participant, kind="stable")
    counts = np.bincount(participant)
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(shuffled[by_participant[rank < cap]])


def _turns(weights: np.ndarray) -> np.ndarray:
    """Whose turn it is at each of the 4096 rows of a period: always the store furthest behind its share."""
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
        # Of the stores that may take this row without running ahead, the one whose next row is due first.
        due = np.where(taken * _PERIOD < counts * (number + 1), (taken + 1) / counts, np.inf)
        turns[number] = np.argmin(due)
        taken[turns[number]] += 1
    return turns


def _check(stores: Sequence[Store], *, batch_size, weights, cap, host, hosts) -> None:
    if not stores:
        raise UserError("no store is given; name at least one")
    if hosts < 1 or not 0 <= host < hosts:
        raise UserError(f"host {host} of {hosts}: the host must be one of 0 to {hosts - 1}")
    if batch_size < 1 or batch_size % hosts:
        raise UserError(f"batch size {batch_size} is not a positive multiple of the number of hosts, {hosts}")
    if cap is not None and cap < 1:
        raise UserError(f"participant cap {cap}: at least 1 is needed, or none")
    if weights is not None:
        if len(weights) != len(stores):
            raise UserError(f"{len(weights)} weights are given for {len(stores)} stores; one for each is needed")
        if not (np.isfinite(weights).all() and min(weights) > 0):
            raise UserError(f"store weights {list(weights)} must be positive numbers")
    first = stores[0]
    for other in stores[1:]:
        if other.rate_hz != first.rate_hz or other.samples != first.samples:
            raise UserError(
                f"stores do not fit together: {first.path} has {first.samples} samples at "
                f"{first.rate_hz:g} Hz, {other.path} {other.samples} at {other.rate_hz:g} Hz"
            )
        for name in SIGNALS:
            a, b = first.channels[name], other.channels[name]
            if len(a) != len(b):
                raise UserError(
                    f"stores do not fit together: {first.path} has {len(a)} {name} channels "
                    f"({', '.join(a)}), {other.path} has {len(b)} ({', '.join(b)})"
                )
