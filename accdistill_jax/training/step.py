"""One step of training and of validation, as each device runs it, and the state it changes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from accdistill_jax.objectives.base import PROGRESS, TARGET, Objective
from accdistill_jax.runtime.parallel import AXIS, WHOLE
from accdistill_jax.training.optimizer_state import Replicated, Sharded


class TrainState(NamedTuple):
    """Everything that training changes.

    Attributes:
        step: [] int32, finished steps.
        params: trained parameters.
        opt_state: state of the optimiser.
        ema: average of the parameters; None unless it is kept or the objective needs it.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any


class LoopSettings(NamedTuple):
    """Settings of the loop, durations in steps.

    Attributes:
        total_steps: steps of the whole stage.
        validate_every: steps between validations.
        checkpoint_every: steps between checkpoints.
        log_every: steps between records of metrics.
        ema_decay: decay per step of the average of the parameters that leaves the stage; 0 for none.
        seed: seed of all randomness.
        micro_batches: pieces in which a device works through its part of the batch.
        hang_timeout_s: a step that takes longer counts as a hang (`Peers.progress`).
    """

    total_steps: int
    validate_every: int
    checkpoint_every: int
    log_every: int
    ema_decay: float
    seed: int
    micro_batches: int = 1
    hang_timeout_s: float = 600.0


def batch_keys(seed: int, step: jax.Array, position: jax.Array) -> jax.Array:
    """One key per segment from (seed, step, row in the global batch): position [b] int32 -> [b] keys."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(position)


def loss_gradient(
    objective: Objective, params: Any, frozen: Any, batch: dict, keys: jax.Array, *, pieces: int
) -> tuple[Any, dict[str, jax.Array]]:
    """Gradient and metrics of this device's loss, before averaging over devices.

    With `pieces` above 1, only one piece of the rows is in the encoder's backward pass at a time, and the loss still sees
    the whole global batch. The rows' outputs are computed piece by piece and kept, the loss is differentiated by them, and
    each piece then runs again to carry its part of that gradient to the parameters. The gradient is that of the unsplit
    batch, at the cost of one more forward pass. Inputs, such as the frozen teacher's embedding, are computed once.

    Args:
        objective: see `Objective`.
        params: see `Objective`.
        frozen: see `Objective`.
        batch: [b, ...] arrays; b is a multiple of `pieces`.
        keys: [b] keys.
        pieces: number of micro-batches.

    Returns:
        (gradient like params, metrics).

    Source: Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup" (gradient caching).
    """
    if pieces == 1:
        (_, metrics), gradient = jax.value_and_grad(objective.loss, has_aux=True)(params, frozen, batch, keys, AXIS)
        return gradient, metrics

    def split(tree: Any) -> Any:
        return jax.tree.map(lambda a: a.reshape(pieces, a.shape[0] // pieces, *a.shape[1:]), tree)

    def forward(_, piece):
        inputs = objective.inputs(frozen, *piece, training=True)
        return None, (inputs, objective.rows(params, inputs))

    def backward(total, piece):
        inputs, cotangent = piece
        (gradient,) = jax.vjp(lambda p: objective.rows(p, inputs), params)[1](cotangent)
        return jax.tree.map(jnp.add, total, gradient), None

    _, (inputs, rows) = jax.lax.scan(forward, None, split((batch, keys)))
    rows = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), rows)
    reduce = jax.value_and_grad(lambda rows: objective.reduce(rows, AXIS, training=True), has_aux=True)
    (_, metrics), cotangent = reduce(rows)
    gradient, _ = jax.lax.scan(backward, jax.tree.map(jnp.zeros_like, params), (inputs, split(cotangent)))
    return gradient, metrics


def make_step(objective: Objective, layout: Replicated | Sharded, settings: LoopSettings) -> Callable:
    """The per-device training step `(state, frozen, batch) -> (state, metrics)` with collectives over `AXIS`.

    The learning rate is one of the metrics: a computation of its own would queue behind the running step, and the host would
    wait. A batch may hold "stop" [b] int32: number of the signal that asked its process to stop, or 0; the largest of all
    devices is returned as the metric "stop".
    """

    def step(state: TrainState, frozen: Any, batch: dict[str, jax.Array]):
        batch = dict(batch)
        stop = batch.pop("stop", None)
        keys = batch_keys(settings.seed, state.step, batch["position"])
        frozen = frozen | {PROGRESS: state.step.astype(jnp.float32) / settings.total_steps}
        frozen = frozen | {TARGET: state.ema} if objective.momentum else frozen
        gradient, metrics = loss_gradient(objective, state.params, frozen, batch, keys, pieces=settings.micro_batches)
        metrics = jax.lax.pmean(metrics, AXIS)
        params, opt_state, gradient_norm = layout.update(gradient, state.opt_state, state.params)
        params = objective.constrained(params)
        ema = state.ema
        if ema is not None:
            # the average is short at first, so that early parameters do not linger
            decay = objective.momentum or jnp.minimum(settings.ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, ema, params)
        metrics["gradient_norm"] = gradient_norm
        metrics["parameter_norm"] = optax.tree.norm(params)
        metrics["learning_rate"] = jnp.asarray(layout.schedule(state.step), jnp.float32)
        if stop is not None:
            metrics["stop"] = jax.lax.pmax(jnp.max(stop), AXIS)
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return step


def make_validation(objective: Objective, seed: int) -> Callable:
    """The per-device validation step `(params, frozen, batch) -> (params, metrics)`, with the same masks every time."""

    def step(params: Any, frozen: Any, batch: dict[str, jax.Array]):
        keys = batch_keys(seed, jnp.int32(-1), batch["position"])
        frozen = frozen | {PROGRESS: jnp.float32(1)}  # as at the end of training, so that validations compare
        frozen = frozen | {TARGET: params} if objective.momentum else frozen
        _, metrics = objective.evaluate(params, frozen, batch, keys, AXIS)
        return params, jax.lax.pmean(metrics, AXIS)

    return step


def state_spec(layout: Replicated | Sharded) -> TrainState:
    """Layout of each part of the state over the devices, for `Parallel.map`."""
    whole: Any = WHOLE
    return TrainState(whole, whole, layout.spec, whole)


def initial_state(
    params: Any, layout: Replicated | Sharded, settings: LoopSettings, *, momentum: float = 0.0
) -> TrainState:
    """State at step 0 on the host; `momentum` is the objective's."""
    ema = jax.tree.map(jnp.array, params) if settings.ema_decay or momentum else None
    return TrainState(jnp.int32(0), params, layout.init(params), ema)


def kept_params(state: TrainState, settings: LoopSettings) -> Any:
    """The parameters that leave the stage: the average if `ema_decay` asks for it (not that of a momentum branch)."""
    return state.ema if settings.ema_decay else state.params
