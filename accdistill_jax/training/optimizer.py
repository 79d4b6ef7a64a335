"""The optimiser of a stage: clipping, a direction, weight decay and a learning rate with warm-up and cosine decay.

The direction is what optimisers differ in. A new one is a function `(train_config, options, leaves) ->
optax.GradientTransformation`, registered in `registered.py` with its options; everything else here is common to all.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from accdistill_jax.config.duration import duration_steps
from accdistill_jax.config.registry import OPTIMIZERS
from accdistill_jax.config.schema import TrainConfig
from accdistill_jax.errors import UserError

# A parameter whose path contains one of these words does not decay, whatever its number of axes.
UNDECAYED_WORDS = (
    "bias",
    "scale",
    "norm",
    "position",
    "pos_embed",
    "mask_token",
    "token_type",
    "temperature",
)


class Optimizer(NamedTuple):
    """An optimiser and the learning rate it uses.

    Attributes:
        transform: the gradient transformation; `init(params)` and `update(grads, state, params)`.
        schedule: learning rate as a function of the step (0 for the first update).
    """

    transform: optax.GradientTransformation
    schedule: optax.Schedule


class DeviceSplit(NamedTuple):
    """A split of arrays over the devices of a mapped axis: each laid flat, padded, and cut into equal parts.

    Attributes:
        axis_name: the mapped axis.
        count: number of devices.
    """

    axis_name: str
    count: int

    def flat(self, whole: Any, xp: Any = jnp) -> Any:
        """An array laid flat and padded to a multiple of the devices; `xp` is numpy or jax.numpy."""
        return xp.pad(whole.reshape(-1), (0, -whole.size % self.count))

    def take(self, whole: jax.Array) -> jax.Array:
        """This device's part [size / count] of an array; inside the mapped step."""
        flat = self.flat(whole)
        size = flat.size // self.count
        return jax.lax.dynamic_slice(flat, (jax.lax.axis_index(self.axis_name) * size,), (size,))

    def gather(self, part: jax.Array, like: Any) -> jax.Array:
        """The whole array, of the shape of `like`, from every device's part; inside the mapped step."""
        flat = jax.lax.all_gather(part, self.axis_name, tiled=True)
        return flat[: like.size].reshape(like.shape)


class Leaves(NamedTuple):
    """The parameters as an optimiser must know them.

    Attributes:
        shapes: tree of `jax.ShapeDtypeStruct`, of the whole arrays.
        decayed: tree of bools: weight decay applies to these.
        parts: how gradients and state are split over the devices; None: every device holds them whole.
    """

    shapes: Any
    decayed: Any
    parts: DeviceSplit | None


def decay_mask(params: Any) -> Any:
    """Selects the parameters that decay: matrices and kernels only.

    Args:
        params: pytree of arrays.

    Returns:
        A pytree of the same structure with True for leaves that decay: those with two or more axes whose path names
        no bias, normalisation, position or mask token (`UNDECAYED_WORDS`).
    """

    def decayed(path: tuple, leaf: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/").lower()
        return leaf.ndim >= 2 and not any(word in name for word in UNDECAYED_WORDS)

    return jax.tree_util.tree_map_with_path(decayed, params)


def make_schedule(
    *, learning_rate: float, warmup_steps: int, total_steps: int, final_learning_rate_fraction: float
) -> optax.Schedule:
    """Linear warm-up from zero to `learning_rate`, then half a cosine to a constant floor.

    Args:
        learning_rate: the peak, reached at step `warmup_steps`.
        warmup_steps: number of warm-up steps; less than `total_steps`.
        total_steps: step at which the floor is reached.
        final_learning_rate_fraction: floor as a fraction of the peak.

    Returns:
        A function from the step (int or int array) to the learning rate (float32).

    Raises:
        UserError: the warm-up takes the whole run or more.
    """
    if not 0 <= warmup_steps < total_steps:
        raise UserError(
            f"warmup of {warmup_steps} steps does not fit a training of {total_steps} steps; shorten train.warmup"
        )
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup_steps else learning_rate,
        peak_value=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=total_steps,
        end_value=learning_rate * final_learning_rate_fraction,
    )


def clip_by_global_norm(max_norm: float, *, axis_name: str | None = None) -> optax.GradientTransformation:
    """Scales gradients down to `max_norm` where their joint norm is larger.

    Args:
        max_norm: above 0.
        axis_name: mapped axis over which the gradients are split, each device holding a part; None: they are whole.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        norm = global_norm(updates, axis_name=axis_name)
        scale = max_norm / jnp.maximum(norm, max_norm)
        return jax.tree.map(lambda u: u * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def global_norm(tree: Any, *, axis_name: str | None = None) -> jax.Array:
    """Euclidean norm [] of all leaves together, which may be split over the devices of a mapped axis."""
    squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))
    return jnp.sqrt(squares if axis_name is None else jax.lax.psum(squares, axis_name))


def adam(train_config: TrainConfig, options: None, leaves: Leaves) -> optax.GradientTransformation:
    """The direction of Adam; with the common weight decay it is AdamW.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.
    """
    del options, leaves
    return optax.scale_by_adam(b1=train_config.b1, b2=train_config.b2)


def make_optimizer(
    train_config: TrainConfig,
    params: Any,
    *,
    total_steps: int,
    num_segments: int | None = None,
    parts: DeviceSplit | None = None,
) -> Optimizer:
    """Builds the optimiser of one training stage.

    Args:
        train_config: the stage's `train` section: optimizer and its own section, batch_size, learning_rate, warmup (a
            duration, see `duration.duration_steps`), final_learning_rate_fraction, weight_decay, b1, b2, clip_norm (0: no
            clipping).
        params: parameters, or their shapes.
        total_steps: number of updates of the whole stage.
        num_segments: distinct segments of one epoch; needed only for a warm-up in epochs.
        parts: how gradients and state are split over the devices; None: every device holds them whole.

    Returns:
        The transformation and its schedule. Its state has the dtype of the parameters (float32).

    Raises:
        UserError: the warm-up does not fit into the training, or there is no such optimiser.
    """
    warmup_steps = duration_steps(train_config.warmup, batch_size=train_config.batch_size, num_segments=num_segments)
    schedule = make_schedule(
        learning_rate=train_config.learning_rate,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        final_learning_rate_fraction=train_config.final_learning_rate_fraction,
    )
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype), params)
    leaves = Leaves(shapes, decay_mask(shapes), parts)
    entry = OPTIMIZERS.entry(train_config.optimizer)
    options = train_config.optimizers[entry.section] if entry.options is not None else None
    update = optax.chain(
        OPTIMIZERS.get(train_config.optimizer)(train_config, options, leaves),
        optax.add_decayed_weights(train_config.weight_decay, leaves.decayed),
        optax.scale_by_learning_rate(schedule),
    )
    clip_norm = train_config.clip_norm
    axis_name = parts.axis_name if parts is not None else None
    clip = clip_by_global_norm(clip_norm, axis_name=axis_name) if clip_norm else optax.identity()
    return Optimizer(optax.chain(clip, update), schedule)
