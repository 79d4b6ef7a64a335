"""Layouts of the optimiser's state: whole on every device, or split over the devices.

Both give the same numbers up to rounding. Both exchange the state in the same form (arrays of the parameters' shapes, on the
host), so a checkpoint of one layout continues with the other, on any number of devices.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import PartitionSpec

from accdistill_jax.config.schema import TrainConfig
from accdistill_jax.runtime.parallel import AXIS, SPLIT, WHOLE, Parallel
from accdistill_jax.training.optimizer import DeviceSplit, Optimizer, global_norm, make_optimizer


class Updated(NamedTuple):
    """Result of an update: parameters, the optimiser's state, the norm [] of the averaged gradient."""

    params: Any
    opt_state: Any
    gradient_norm: jax.Array


class Replicated:
    """The optimiser's state whole on every device; gradients are averaged by one all-reduce.

    Attributes:
        schedule: learning rate by step.
        spec: layout of the state, for `Parallel.map`.
    """

    spec = WHOLE

    def __init__(self, optimizer: Optimizer):
        self._transform, self.schedule = optimizer.transform, optimizer.schedule

    def init(self, params: Any) -> Any:
        """The state before the first update, on the host."""
        return self._transform.init(params)

    def place(self, opt_state: Any, parallel: Parallel) -> Any:
        """Puts a state from the host onto the devices."""
        return parallel.replicate(opt_state)

    def fetch(self, opt_state: Any, parallel: Parallel) -> Any:
        """Returns the state to the host; all processes must call it together."""
        return parallel.fetch(opt_state)

    def update(self, gradient: Any, opt_state: Any, params: Any) -> Updated:
        """One update inside the mapped step, from this device's gradient."""
        gradient = jax.lax.pmean(gradient, AXIS)
        updates, opt_state = self._transform.update(gradient, opt_state, params)
        return Updated(optax.apply_updates(params, updates), opt_state, global_norm(gradient))


class Sharded:
    """Each device keeps and updates 1/D of the state: gradients are reduced and scattered, the new parameters gathered.

    The traffic is that of `Replicated`; the memory of the state is divided by the number of devices. See `DeviceSplit`.

    Attributes:
        schedule: learning rate by step.
        spec: layout of the state, for `Parallel.map`.

    Source: Rajbhandari et al. 2020, "ZeRO", stage 1.
    """

    def __init__(self, optimizer: Optimizer, params: Any, parts: DeviceSplit):
        """Lays the state out.

        Args:
            optimizer: made with the same `parts`.
            params: parameters, or their shapes.
            parts: the split over the devices.
        """
        self._transform, self.schedule, self._parts = optimizer.transform, optimizer.schedule, parts
        shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(np.shape(p), p.dtype), params)
        self._shapes = jax.eval_shape(self._transform.init, shapes)
        initable: Any = self._transform
        self.spec = optax.tree.map_params(
            initable, lambda leaf: SPLIT, self._shapes, transform_non_params=lambda leaf: WHOLE
        )

    def init(self, params: Any) -> Any:
        """The state before the first update, on the host."""
        return self._transform.init(params)

    def place(self, opt_state: Any, parallel: Parallel) -> Any:
        """Puts a state from the host onto the devices."""

        def put(spec: PartitionSpec, leaf: Any) -> Any:
            return parallel.split(self._parts.flat(np.asarray(leaf), np)) if spec == SPLIT else parallel.replicate(leaf)

        return jax.tree.map(put, self.spec, opt_state, is_leaf=_is_spec)

    def fetch(self, opt_state: Any, parallel: Parallel) -> Any:
        """Returns the state to the host; all processes must call it together."""

        def get(spec: PartitionSpec, leaf: Any, like: jax.ShapeDtypeStruct) -> Any:
            if spec == SPLIT:
                return parallel.gather(leaf)[: like.size].reshape(like.shape)
            return parallel.fetch(leaf)

        return jax.tree.map(get, self.spec, opt_state, self._shapes, is_leaf=_is_spec)

    def update(self, gradient: Any, opt_state: Any, params: Any) -> Updated:
        """One update inside the mapped step, from this device's gradient."""
        parts = self._parts
        gradient = jax.tree.map(
            lambda g: jax.lax.psum_scatter(parts.flat(g), parts.axis_name, tiled=True) / parts.count, gradient
        )
        mine = jax.tree.map(parts.take, params)
        updates, opt_state = self._transform.update(gradient, opt_state, mine)
        mine = optax.apply_updates(mine, updates)
        return Updated(
            jax.tree.map(parts.gather, mine, params), opt_state, global_norm(gradient, axis_name=parts.axis_name)
        )


def make_layout(
    train_config: TrainConfig, params: Any, *, total_steps: int, num_segments: int, shards: int = 0
) -> Replicated | Sharded:
    """The optimiser of a stage, and where its state lives.

    Args:
        train_config: see `make_optimizer`.
        params: parameters, or their shapes.
        total_steps: number of updates of the whole stage.
        num_segments: distinct segments of one epoch.
        shards: number of devices that the state is split over; 0: every device holds it whole.
    """
    parts = DeviceSplit(AXIS, shards) if shards else None
    optimizer = make_optimizer(train_config, params, total_steps=total_steps, num_segments=num_segments, parts=parts)
    return Replicated(optimizer) if parts is None else Sharded(optimizer, params, parts)


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, PartitionSpec)
