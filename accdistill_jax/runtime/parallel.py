"""Devices: maps a per-device step over all of them and places batches and parameters.

One mesh holds all devices of all processes along one axis, `AXIS`. Parameters are replicated and batches are split along their
first axis (data parallelism). That suffices while parameters, gradients and optimiser moments fit on one device: some hundred
million parameters on 16 GB; `python -m accdistill_jax.benchmark scaling` computes it. The optimiser's state may be split as well, see
training/optimizer.py. The per-device step may use collectives over `AXIS`. `shard_map` is the default; `pmap` gives the same numbers.

Devices are ordered by process, so that the rows of process h are block h of the global batch.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from accdistill_jax.errors import UserError

AXIS = "data"
# cuBLASLt products with fused bias and GELU instead of Triton kernels: a few per cent faster on an H200
COMPILER_OPTIONS = {"gpu": {"xla_gpu_enable_triton_gemm": False}}
WHOLE, SPLIT = PartitionSpec(), PartitionSpec(AXIS)


class Parallel:
    """All devices as one data-parallel axis.

    Args:
        mapping: "shard_map" or "pmap".
        devices: the devices to use; None is all of the job.

    Attributes:
        num_devices: number of devices of the job.
        num_local: number of devices of this process.
        num_processes: number of processes that have these devices.
        process: number of this process among them.
    """

    def __init__(self, mapping: str = "shard_map", *, devices=None):
        self.mapping = mapping
        available = devices if devices is not None else jax.devices()
        self.devices = (
            sorted(available, key=lambda device: (device.process_index, device.id))
            if devices is None
            else list(available)
        )
        processes = sorted({device.process_index for device in self.devices})
        self.num_devices = len(self.devices)
        self.num_local = sum(d.process_index == jax.process_index() for d in self.devices)
        self.num_processes, self.process = len(processes), processes.index(jax.process_index())
        self.mesh = Mesh(np.asarray(self.devices), (AXIS,), axis_types=(AxisType.Auto,))

    def meet(self) -> None:
        """Connects the devices of all processes; all processes must call it together.

        If the first step connected them, it would fail on CPU when one process compiles half a minute longer than another.
        """
        self.gather(self.place({"nothing": np.zeros(self.num_local, np.float32)})["nothing"])

    def check_batch(self, batch_size: int, *, key: str, micro_batches: int = 1) -> None:
        """Raises UserError unless `batch_size` (config key `key`) is a multiple of devices times micro-batches."""
        parts = self.num_devices * micro_batches
        if batch_size % parts:
            pieces = f"{self.num_devices} devices" + (f" of {micro_batches} micro-batches" if micro_batches > 1 else "")
            raise UserError(f"config.{key} = {batch_size} does not divide over {pieces}: choose a multiple of {parts}")

    def map(self, step: Callable, *, donate: bool = False, state: Any = WHOLE) -> Callable:
        """Maps `step(state, frozen, batch) -> (state or None, outputs)` over the devices.

        Args:
            step: per-device function; frozen and outputs are replicated, batch is split.
            donate: reuse the state's buffers for the new state.
            state: tree, or prefix of a tree, of `WHOLE` (replicated) and `SPLIT` (split along the first axis) for the state.

        Returns:
            The same function over placed arrays (see `replicate`, `split`, `place`).
        """
        donated = (0,) if donate else ()
        if self.mapping == "pmap":
            return jax.pmap(step, AXIS, donate_argnums=donated, devices=self.devices)
        mapped = jax.shard_map(
            step, mesh=self.mesh, in_specs=(state, WHOLE, SPLIT), out_specs=(state, WHOLE), check_vma=False
        )
        return jax.jit(mapped, donate_argnums=donated, compiler_options=self.compiler_options())

    def compiler_options(self) -> dict[str, Any] | None:
        """Compiler options for these devices, without those that the user sets in XLA_FLAGS; `pmap` takes none."""
        options = COMPILER_OPTIONS.get(self.devices[0].platform, {})
        return {name: value for name, value in options.items() if name not in os.environ.get("XLA_FLAGS", "")} or None

    def map_rows(self, fn: Callable) -> Callable:
        """Maps `fn(params, batch) -> rows` over the devices; the rows of the result are split as those of the batch."""
        if self.mapping == "pmap":
            return jax.pmap(fn, AXIS, devices=self.devices)
        return jax.jit(jax.shard_map(fn, mesh=self.mesh, in_specs=(WHOLE, SPLIT), out_specs=SPLIT, check_vma=False))

    def replicate(self, tree: Any) -> Any:
        """Copies host arrays, equal on every process, to every device."""
        return self._put(tree, WHOLE)

    def split(self, tree: Any) -> Any:
        """Splits host arrays, equal on every process, along their first axis over the devices."""
        return self._put(tree, SPLIT)

    def _put(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.mapping == "pmap":
            # committed, as a step's outputs are; otherwise the second step would be compiled again
            stacked = jax.tree.map(lambda array: self._stack(np.asarray(array), spec), tree)
            return jax.device_put(stacked, self._local_sharding())
        sharding = NamedSharding(self.mesh, spec)
        if self.num_processes == 1:
            return jax.device_put(tree, sharding)

        def put(array):
            array = np.asarray(array)
            return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

        return jax.tree.map(put, tree)

    def _local_sharding(self) -> NamedSharding:
        """Splits the first axis of a local array over this process's devices."""
        local = [device for device in self.devices if device.process_index == jax.process_index()]
        return NamedSharding(Mesh(np.asarray(local), (AXIS,), axis_types=(AxisType.Auto,)), SPLIT)

    def _stack(self, array: np.ndarray, spec: PartitionSpec) -> np.ndarray:
        if spec == WHOLE:
            return np.broadcast_to(array, (self.num_local, *array.shape))
        first = self.process * self.num_local
        return array.reshape(self.num_devices, -1, *array.shape[1:])[first : first + self.num_local]

    def place(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Splits this host's rows [b, ...] of the global batch over its devices, without blocking."""
        if self.mapping == "pmap":
            stacked = {k: v.reshape(self.num_local, -1, *v.shape[1:]) for k, v in batch.items()}
            return jax.device_put(stacked, self._local_sharding())
        split = NamedSharding(self.mesh, SPLIT)
        if self.num_processes == 1:
            return jax.device_put(batch, split)
        return {k: jax.make_array_from_process_local_data(split, v) for k, v in batch.items()}

    def fetch(self, tree: Any) -> Any:
        """Copies replicated arrays to the host, so that the originals may be donated; waits for them."""
        if self.mapping != "pmap":
            return jax.tree.map(np.array, jax.device_get(tree))
        first = jax.device_get(jax.tree.map(lambda array: array.addressable_data(0), tree))
        return jax.tree.map(lambda copy, array: np.array(copy).reshape(array.shape[1:]), first, tree)

    def gather(self, tree: Any) -> Any:
        """Joins arrays that are split along their first axis into whole host arrays on every process.

        All processes must call it together. Waits for the arrays.
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
        """Sends `data` of process 0, `size` bytes, to every process over the devices; other processes pass None."""
        content = np.frombuffer(data, np.uint8) if data is not None else np.zeros(size, np.uint8)
        if self.num_processes > 1:
            content = np.asarray(multihost_utils.broadcast_one_to_all(content))
        return content.tobytes()
