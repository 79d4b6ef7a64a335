"""The optimiser: AdamW with warm-up, cosine decay, clipping by global norm and a decay mask."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from accdistill_jax.config.duration import duration_steps
from accdistill_jax.errors import UserError

# A parameter whose path contains one of these words is not decayed, whatever its number of axes.
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


def decay_mask(params: Any) -> Any:
    """Says which parameters weight decay applies to: matrices and kernels only.

    Args:
        params: pytree of arrays.

    Returns:
        A pytree of the same structure with True for decayed leaves: those with two or more axes whose path names
        no bias, normalisation, position or mask token (`UNDECAYED_WORDS`).
    """

    def decayed(path: tuple, leaf: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/").lower()
        return leaf.ndim >= 2 and not any(word in name for word in UNDECAYED_WORDS)

    return jax.tree_util.tree_map_with_path(decayed, params)


def make_schedule(
    *, learning_rate: float, warmup_steps: int, total_steps: int, final_learning_rate_fraction: float
) -> optax.Schedule:
    """Linear warm-up from zero to `learning_rate`, then half a cosine to a floor that is held afterwards.

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


def make_optimizer(
    train_config: Mapping,
    *,
    total_steps: int,
    num_segments: int | None = None,
    decayed: Any = decay_mask,
    axis_name: str | None = None,
) -> Optimizer:
    """Builds the optimiser of one training stage.

    Args:
        train_config: the stage's `train` block with batch_size, learning_rate, warmup (a duration, see
            `duration.duration_steps`), final_learning_rate_fraction, weight_decay, b1, b2, clip_norm (0: no clipping).
        total_steps: number of updates of the whole stage.
        num_segments: distinct segments of one epoch; needed only where the warm-up is given in epochs.
        decayed: which leaves decay: a tree of bools, or a function of the parameters.
        axis_name: mapped axis over which gradients and moments are split; None: every device holds them whole.

    Returns:
        The transformation and its schedule. Moments have the dtype of the parameters (float32).

    Raises:
        UserError: the warm-up does not fit into the training.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.
    """
    warmup_steps = duration_steps(
        train_config["warmup"], batch_size=train_config["batch_size"], num_segments=num_segments
    )
    schedule = make_schedule(
        learning_rate=train_config["learning_rate"],
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        final_learning_rate_fraction=train_config["final_learning_rate_fraction"],
    )
    adamw = optax.adamw(
        schedule,
        b1=train_config["b1"],
        b2=train_config["b2"],
        weight_decay=train_config["weight_decay"],
        mask=decayed,
    )
    clip_norm = train_config["clip_norm"]
    clip = clip_by_global_norm(clip_norm, axis_name=axis_name) if clip_norm else optax.identity()
    return Optimizer(optax.chain(clip, adamw), schedule)
