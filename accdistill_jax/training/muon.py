"""Muon: momentum whose update of each matrix is orthogonalised; Adam for all other parameters."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from accdistill_jax.config.schema import TrainConfig
from accdistill_jax.training.optimizer import DeviceSplit, Leaves, adam
from accdistill_jax.training.registered import MuonOptions

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration; the published ones
_RMS = 0.2  # root mean square of an update's entries, about that of AdamW, so that its learning rates carry over
_EPSILON = 1e-8


def muon(train_config: TrainConfig, options: MuonOptions, leaves: Leaves) -> optax.GradientTransformation:
    """The direction of Muon, before weight decay and learning rate.

    Matrices are the decayed leaves with two axes, except depthwise filters, whose rows and columns are no vector spaces.
    An orthogonalised update needs its whole matrix: where the state is split over the devices, each device gathers the
    averaged gradient (as many bytes as the parameters), orthogonalises it, and keeps its own part.

    Args:
        train_config: section `train`: b1 and b2 of Adam.
        options: see `MuonOptions`.
        leaves: the parameters.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale of an update is that
    of Liu et al. 2025, arXiv 2502.16982.
    """

    def kind(path: tuple, leaf: jax.ShapeDtypeStruct, decayed: bool) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/").lower()
        return "matrix" if decayed and len(leaf.shape) == 2 and "depthwise" not in name else "other"

    kinds = jax.tree_util.tree_map_with_path(kind, leaves.shapes, leaves.decayed)
    matrices = jax.tree.map(
        lambda leaf, of_kind: leaf if of_kind == "matrix" else optax.MaskedNode(), leaves.shapes, kinds
    )
    return optax.partition(
        {
            "matrix": orthogonal_momentum(options, matrices, leaves.parts),
            "other": adam(train_config, None, leaves),
        },
        kinds,
    )


class MuonState(NamedTuple):
    """Average of the gradient, like the parameters."""

    momentum: Any


def orthogonal_momentum(options: MuonOptions, shapes: Any, parts: DeviceSplit | None) -> optax.GradientTransformation:
    """Momentum of Nesterov's form, orthogonalised and scaled.

    Args:
        options: see `MuonOptions`.
        shapes: of the whole matrices.
        parts: how gradients and state are split over the devices; None: every device holds them whole.
    """

    def init(params: Any) -> MuonState:
        return MuonState(jax.tree.map(jnp.zeros_like, params))

    def direction(ahead: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
        matrix = ahead if parts is None else parts.gather(ahead, like)
        scaled = orthogonalise(matrix, steps=options.newton_schulz_steps) * (_RMS * math.sqrt(max(like.shape)))
        return scaled if parts is None else parts.take(scaled)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, MuonState]:
        del params
        decay = options.momentum
        momentum = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, state.momentum, updates)
        ahead = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, momentum, updates)
        return jax.tree.map(direction, ahead, shapes), MuonState(momentum)

    return optax.GradientTransformation(init, update)


def orthogonalise(matrix: jax.Array, *, steps: int) -> jax.Array:
    """Moves all singular values of a matrix [m, n] towards 1 (to about 0.7 to 1.2) by the Newton-Schulz iteration."""
    a, b, c = _COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (jnp.linalg.norm(wide) + _EPSILON)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T
