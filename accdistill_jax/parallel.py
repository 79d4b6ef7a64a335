"""Devices: maps a per-device step over all of them and places batches and parameters.

One mesh of all devices of all processes, one axis, `AXIS`. Parameters are replicated, batches split along their first axis:
data parallelism, which is enough as long as parameters, gradients and the optimiser's moments fit one device (up to some
hundred million parameters on 16 GB; `python -m accdistill_jax.scaling` computes it). What may be split besides is the
optimiser's state, see optim.py. The per-device step may use collectives over `AXIS`. `shard_map` is the default; `pmap`
gives the same numbers for code that expects it.

Devices are ordered by process, so that the rows of process h are block h of the global batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from accdistill_jax.errors import UserError

AXIS = "data"
MAPPINGS = ("shard_map", "pmap")
WHOLE, SPLIT = PartitionSpec(), PartitionSpec(AXIS)


class Parallel:
    """All devices as one data-parallel axis.

    Args:
        mapping: "shard_map" or "pmap".
        devices: the devices to use; None is all of the job.

    Attributes:
        num_devices: devices in the job.
        num_local: devices of this process.
        num_processes, process: how many processes the devices belong to, and the number of this one among them.
    """

    def __init__(self, mapping: str = "shard_map", *, devices=None):
        self.mapping = mapping
        found = devices if devices is not None else jax.devices()
        self.devices = sorted(found, key=lambda device: (device.process_index, device.id)) if devices is None else list(found)
        processes = sorted({device.process_index for device in self.devices})
        self.num_devices = len(self.devices)
        self.num_local = sum(d.process_index == jax.process_index() for d in self.devices)
        self.num_processes, self.process = len(processes), processes.index(jax.process_index())
        self.mesh = Mesh(np.asarray(self.devices), (AXIS,), axis_types=(AxisType.Auto,))

    def meet(self) -> None:
        """Connects the devices of all processes, which call it together.

        Left to the first step, the connection would fail on CPU where one process compiles half a minute longer.
        """
        self.gather(self.place({"nothing": np.zeros(self.num_local, np.float32)})["nothing"])

    def check_batch(self, batch_size: int, *, key: str, micro_batches: int = 1) -> None:
        """Raises UserError unless `batch_size` (config key `key`) divides over the devices and their micro-batches."""
        parts = self.num_devices * micro_batches
        if batch_size % parts:
            pieces = f"{self.num_devices} devices" + (f" of {micro_batches} micro-batches" if micro_batches > 1 else "")
            raise UserError(f"config.{key} = {batch_size} does not divide over {pieces}: choose a multiple of {parts}")

    def map(self, step: Callable, *, donate: bool = False, state: Any = WHOLE) -> Callable:
        """Maps `step(state, frozen, batch) -> (state or None, outputs)` over the devices.

        Args:
            step: per-device function; frozen and outputs are replicated, batch is split.
            donate: reuse the state's buffers for the new state.
            state: what of the state is `WHOLE` (replicated) and what `SPLIT` along its first axis: a tree, or a prefix
                of one, of these two.

        Returns:
            The same function over placed arrays (see `replicate`, `split`, `place`).
        """
        donated = (0,) if donate else ()
        if self.mapping == "pmap":
            return jax.pmap(step, AXIS, donate_argnums=donated, devices=self.devices)
        mapped = jax.shard_map(
            step, mesh=self.mesh, in_specs=(state, WHOLE, SPLIT), out_specs=(state, WHOLE), check_vma=False
        )
        return jax.jit(mapped, donate_argnums=donated)

    def map_rows(self, fn: Callable) -> Callable:
        """Maps `fn(params, batch) -> rows` over the devices; the result's rows are split like the batch's."""
        if self.mapping == "pmap":
            return jax.pmap(fn, AXIS, devices=self.devices)
        return jax.jit(
            jax.shard_map(fn, mesh=self.mesh, in_specs=(WHOLE, SPLIT), out_specs=SPLIT, check_vma=False)
        )

    def replicate(self, tree: Any) -> Any:
        """Copies host arrays, the same on every process, to every device."""
        return self._put(tree, WHOLE)

    def split(self, tree: Any) -> Any:
        """Splits host arrays, the same on every process, along their first axis over the devices."""
        return self._put(tree, SPLIT)

    def _put(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.mapping == "pmap":
            # committed, as what comes out of a step: the second step would otherwise be compiled anew
            stacked = jax.tree.map(lambda array: self._stack(np.asarray(array), spec), tree)
            return jax.device_put(stacked, self._own_devices())
        sharding = NamedSharding(self.mesh, spec)
        if self.num_processes == 1:
            return jax.device_put(tree, sharding)

        def put(array):
            array = np.asarray(array)
            return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

        return jax.tree.map(put, tree)

    def _own_devices(self) -> NamedSharding:
        """Splits the first axis of a local array over this process's devices."""
        own = [device for device in self.devices if device.process_index == jax.process_index()]
        return NamedSharding(Mesh(np.asarray(own), (AXIS,), axis_types=(AxisType.Auto,)), SPLIT)

    def _stack(self, array: np.ndarray, spec: PartitionSpec) -> np.ndarray:
        if spec == WHOLE:
            return np.broadcast_to(array, (self.num_local, *array.shape))
        first = self.process * self.num_local
        return array.reshape(self.num_devices, -1, *array.shape[1:])[first : first + self.num_local]

    def place(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Splits this host's rows [b, ...] of the global batch over its devices, without blocking."""
        if self.mapping == "pmap":
            stacked = {k: v.reshape(self.num_local, -1, *v.shape[1:]) for k, v in batch.items()}
            return jax.device_put(stacked, self._own_devices())
        split = NamedSharding(self.mesh, SPLIT)
        if self.num_processes == 1:
            return jax.device_put(batch, split)
        return {k: jax.make_array_from_process_local_data(split, v) for k, v in batch.items()}

    def fetch(self, tree: Any) -> Any:
        """Replicated arrays back as host arrays of their own, so that the originals may be donated; waits for them."""
        if self.mapping != "pmap":
            return jax.tree.map(np.array, jax.device_get(tree))
        one = jax.device_get(jax.tree.map(lambda array: array.addressable_data(0), tree))
        return jax.tree.map(lambda found, array: np.array(found).reshape(array.shape[1:]), one, tree)

    def gather(self, tree: Any) -> Any:
        """Arrays split along their first axis back as whole host arrays on every process.

        All processes must call it together; it waits for the arrays.
        """
        if not jax.tree.leaves(tree):
            return tree
        if self.num_processes == 1:
            joined = jax.tree.map(np.array, jax.device_get(tree))
        elif self.mapping == "pmap":
            everywhere = jax.pmap(lambda a: jax.lax.all_gather(a, AXIS), AXIS, devices=self.devices)(tree)
            joined = self.fetch(everywhere)
        else:
            joined = jax.tree.map(np.array, jax.jit(lambda a: a, out_shardings=NamedSharding(self.mesh, WHOLE))(tree))
        if self.mapping != "pmap":
            return joined
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), joined)

    def broadcast(self, data: bytes | None, size: int) -> bytes:
        """`data` of process 0, `size` bytes long, on every process (`data` counts there only), by way of the devices."""
        if self.num_processes == 1:
            return data
        content = np.frombuffer(data, np.uint8) if data is not None else np.zeros(size, np.uint8)
        return np.asarray(multihost_utils.broadcast_one_to_all(content)).tobytes()
