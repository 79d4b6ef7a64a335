"""Layouts of the optimiser's state: whole on every device, or split over the devices.

Both give the same numbers up to rounding. Both exchange the state in the same form (arrays of the parameters' shapes, on the
host), so a checkpoint of one layout continues with the other, on any number of devices.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from accdistill_jax.runtime.parallel import AXIS, SPLIT, WHOLE, Parallel
from accdistill_jax.training.optimizer import Optimizer, global_norm


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

    The traffic is that of `Replicated`; the memory of the moments is divided by the number of devices. Every leaf is laid
    flat and padded to a multiple of the devices.

    Args:
        optimizer: made with `axis_name=AXIS` and `decayed` as a tree, since a part of a matrix has lost its shape.
        params: parameters, or their shapes.
        num_devices: D.

    Source: Rajbhandari et al. 2020, "ZeRO", stage 1.
    """

    def __init__(self, optimizer: Optimizer, params: Any, num_devices: int):
        self._transform, self.schedule, self._devices = optimizer.transform, optimizer.schedule, num_devices
        self._params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(np.shape(p), p.dtype), params)
        shapes = jax.eval_shape(self._transform.init, self._params)
        self.spec = optax.tree.map_params(
            self._transform, lambda leaf: SPLIT, shapes, transform_non_params=lambda leaf: WHOLE
        )

    def init(self, params: Any) -> Any:
        """The state before the first update, on the host."""
        return self._transform.init(params)

    def place(self, opt_state: Any, parallel: Parallel) -> Any:
        """Puts a state from the host onto the devices."""
        return optax.tree.map_params(
            self._transform,
            lambda leaf: parallel.split(self._flat(np.asarray(leaf), np)),
            opt_state,
            transform_non_params=parallel.replicate,
        )

    def fetch(self, opt_state: Any, parallel: Parallel) -> Any:
        """Returns the state to the host; all processes must call it together."""
        return optax.tree.map_params(
            self._transform,
            lambda leaf, like: parallel.gather(leaf)[: like.size].reshape(like.shape),
            opt_state,
            self._params,
            transform_non_params=parallel.fetch,
        )

    def update(self, gradient: Any, opt_state: Any, params: Any) -> Updated:
        """One update inside the mapped step, from this device's gradient."""
        gradient = jax.tree.map(
            lambda g: jax.lax.psum_scatter(self._flat(g, jnp), AXIS, tiled=True) / self._devices, gradient
        )
        part = jax.tree.map(self._own, params)
        updates, opt_state = self._transform.update(gradient, opt_state, part)
        part = optax.apply_updates(part, updates)
        params = jax.tree.map(
            lambda p, whole: jax.lax.all_gather(p, AXIS, tiled=True)[: whole.size].reshape(whole.shape), part, params
        )
        return Updated(params, opt_state, global_norm(gradient, axis_name=AXIS))

    def _flat(self, leaf: Any, xp: Any) -> Any:
        return xp.pad(leaf.reshape(-1), (0, -leaf.size % self._devices))

    def _own(self, leaf: jax.Array) -> jax.Array:
        flat = self._flat(leaf, jnp)
        size = flat.size // self._devices
        return jax.lax.dynamic_slice(flat, (jax.lax.axis_index(AXIS) * size,), (size,))
