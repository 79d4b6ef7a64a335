"""Devices: maps a per-device step over all of them and places batches and parameters.

Parameters are replicated, batches split along their first axis. The per-device step may use collectives over `AXIS`.
`shard_map` is the default; `pmap` gives the same numbers for code that expects it.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from accdistill_jax.errors import UserError

AXIS = "data"
MAPPINGS = ("shard_map", "pmap")


class Parallel:
    """All devices as one data-parallel axis.

    Args:
        mapping: "shard_map" or "pmap".
        devices: the devices to use; None is all of the job.

    Attributes:
        num_devices: devices in the job.
    """

    def __init__(self, mapping: str = "shard_map", *, devices=None):
        self.mapping = mapping
        self.devices = list(devices if devices is not None else jax.devices())
        self.num_devices = len(self.devices)
        self.num_local = sum(d.process_index == jax.process_index() for d in self.devices)
        self.mesh = jax.make_mesh((self.num_devices,), (AXIS,), axis_types=(AxisType.Auto,), devices=self.devices)
        self._split = NamedSharding(self.mesh, PartitionSpec(AXIS))
        self._whole = NamedSharding(self.mesh, PartitionSpec())

    def check_batch(self, batch_size: int, *, key: str) -> None:
        """Raises UserError unless `batch_size` (config key `key`) divides over the devices."""
        if batch_size % self.num_devices:
            raise UserError(
                f"config.{key} = {batch_size} does not divide over {self.num_devices} devices: "
                f"choose a multiple of {self.num_devices}"
            )

    def map(self, step: Callable, *, donate: bool = False) -> Callable:
        """Maps `step(state, frozen, batch) -> (state or None, outputs)` over the devices.

        Args:
            step: per-device function; state, frozen and the results are replicated, batch is split.
            donate: reuse the state's buffers for the new state.

        Returns:
            The same function over placed arrays (see `replicate`, `place`).
        """
        donated = (0,) if donate else ()
        if self.mapping == "pmap":
            return jax.pmap(step, AXIS, donate_argnums=donated, devices=self.devices)
        whole, split = PartitionSpec(), PartitionSpec(AXIS)
        mapped = jax.shard_map(
            step, mesh=self.mesh, in_specs=(whole, whole, split), out_specs=(whole, whole), check_vma=False
        )
        return jax.jit(mapped, donate_argnums=donated)

    def map_rows(self, fn: Callable) -> Callable:
        """Maps `fn(params, batch) -> rows` over the devices; the result's rows are split like the batch's."""
        if self.mapping == "pmap":
            return jax.pmap(fn, AXIS, devices=self.devices)
        whole, split = PartitionSpec(), PartitionSpec(AXIS)
        return jax.jit(
            jax.shard_map(fn, mesh=self.mesh, in_specs=(whole, split), out_specs=split, check_vma=False)
        )

    def replicate(self, tree: Any) -> Any:
        """Copies host arrays to every device."""
        if self.mapping == "pmap":
            return jax.tree.map(lambda a: np.broadcast_to(a, (self.num_local, *np.shape(a))), tree)
        return jax.device_put(tree, self._whole)

    def place(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Splits this host's rows [b, ...] of the global batch over its devices, without blocking."""
        if self.mapping == "pmap":
            return {k: v.reshape(self.num_local, -1, *v.shape[1:]) for k, v in batch.items()}
        if jax.process_count() == 1:
            return jax.device_put(batch, self._split)
        return {k: jax.make_array_from_process_local_data(self._split, v) for k, v in batch.items()}

    def fetch(self, tree: Any) -> Any:
        """Replicated arrays back as host arrays of their own, so that the originals may be donated; waits for them."""
        if self.mapping == "pmap":
            tree = jax.tree.map(lambda a: a[0], tree)
        return jax.tree.map(np.array, tree)

    def fetch_rows(self, rows: jax.Array) -> np.ndarray:
        """Split rows [B, ...] of one host's devices back as one host array."""
        rows = jax.device_get(rows)
        return rows.reshape(-1, *rows.shape[2:]) if self.mapping == "pmap" else rows
