"""Ways of training: what is computed from each segment, and the loss over the global batch.

An objective has three parts, so that one step can work through a batch in pieces and still see all of it in its loss:

    inputs(frozen, batch, keys, training=...)   what never has a gradient: normalisation, augmentation, the frozen teacher
    rows(params, inputs)                        what is trained, each segment by itself
    reduce(rows, axis_name, training=...)       (loss, metrics) over the global batch

`params` are differentiated, `frozen` (a teacher) never is; `batch` is this device's part as it comes from the pipeline;
`keys` are this step's random keys, one per segment; `axis_name` is the mapped axis for collectives (None: one device).
Metrics are scalars, averaged over devices.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from accdistill_jax.objectives import losses

TARGET = "target"  # of frozen: the average of the parameters, where an objective has a momentum branch


class Objective(NamedTuple):
    """Functions that the training loop calls; see the module's docstring.

    Attributes:
        init: `init(key, batch) -> params` for a batch of the pipeline's form.
        inputs: `inputs(frozen, batch, keys, *, training) -> tree of [b, ...]`; augments only in training.
        rows: `rows(params, inputs) -> tree of [b, ...]`, differentiable.
        reduce: `reduce(rows, axis_name, *, training) -> (loss [], metrics)`.
        momentum: decay per step of an average of the parameters that `frozen` then holds as `TARGET`; 0: none.
    """

    init: Callable[[jax.Array, Mapping[str, jax.Array]], Any]
    inputs: Callable[..., Any]
    rows: Callable[[Any, Any], Any]
    reduce: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    momentum: float = 0.0

    def loss(self, params, frozen, batch, keys, axis_name):
        """The training loss of this device's part of the batch: (loss [] float32, metrics)."""
        rows = self.rows(params, self.inputs(frozen, batch, keys, training=True))
        return self.reduce(rows, axis_name, training=True)

    def evaluate(self, params, frozen, batch, keys, axis_name):
        """The same without augmentation, for validation."""
        rows = self.rows(params, self.inputs(frozen, batch, keys, training=False))
        return self.reduce(rows, axis_name, training=False)


def embedding_health(z: jax.Array, axis_name: str | None, *, spectrum: bool) -> dict[str, jax.Array]:
    """Learning-health metrics of embeddings [b, D] over the global batch: spread, and effective rank if asked for."""
    z = jax.lax.stop_gradient(z.astype(jnp.float32))

    def mean(rows: jax.Array) -> jax.Array:
        own = jnp.mean(rows, axis=0)
        return own if axis_name is None else jax.lax.pmean(own, axis_name)

    health = {"embedding_std": jnp.mean(jnp.sqrt(mean(jnp.square(z - mean(z)[None]))))}
    if spectrum:  # all rows in one place and an eigendecomposition: not in every training step
        rows = z if axis_name is None else jax.lax.all_gather(z, axis_name, axis=0, tiled=True)
        health["effective_rank"] = losses.effective_rank(rows)
    return health
