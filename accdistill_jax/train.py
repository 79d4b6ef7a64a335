"""The one training loop, for every objective.

Order of a step, on which exact resume rests: (1) the batch of position `step` is placed, (2) the step is dispatched,
(3) the metrics of the step before are fetched and written, so that the device never waits for the host, (4) validation and
checkpoint where they are due, after the metrics of this very step were checked to be finite. The data position is the
step, all randomness is folded from (seed, step, row of the global batch); nothing else needs saving.
"""

import math
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from accdistill_jax.checkpoint import Checkpointer
from accdistill_jax.errors import UserError
from accdistill_jax.interrupt import Interruption
from accdistill_jax.metrics import MetricsWriter, ProgressLine, Throughput
from accdistill_jax.objectives import Objective
from accdistill_jax.parallel import AXIS, Parallel


class TrainState(NamedTuple):
    """All that changes in training. step [] int32; ema is None unless an average of the parameters is kept."""

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any


class LoopSettings(NamedTuple):
    """Durations in steps; see `configs/common.py: train`."""

    total_steps: int
    validate_every: int
    checkpoint_every: int
    log_every: int
    ema_decay: float
    seed: int


def batch_keys(seed: int, step: jax.Array, position: jax.Array) -> jax.Array:
    """One key per segment from (seed, step, row in the global batch): position [b] int32 -> [b] keys."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(position)


def make_step(objective: Objective, optimizer: optax.GradientTransformation, settings: LoopSettings):
    """The per-device training step `(state, frozen, batch) -> (state, metrics)` with collectives over `AXIS`."""

    def step(state: TrainState, frozen: Any, batch: dict[str, jax.Array]):
        keys = batch_keys(settings.seed, state.step, batch["position"])
        gradient_of = jax.value_and_grad(objective.loss, has_aux=True)
        (_, metrics), gradient = gradient_of(state.params, frozen, batch, keys, AXIS)
        gradient, metrics = jax.lax.pmean((gradient, metrics), AXIS)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if settings.ema_decay:
            # a short average at first, so that early parameters do not linger
            decay = jnp.minimum(settings.ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, ema, params)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        metrics["parameter_norm"] = optax.tree.norm(params)
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return step


def make_validation(objective: Objective, seed: int):
    """The per-device validation step `(params, frozen, batch) -> (params, metrics)`; masks are the same every time."""

    def step(params: Any, frozen: Any, batch: dict[str, jax.Array]):
        keys = batch_keys(seed, jnp.int32(-1), batch["position"])
        _, metrics = objective.evaluate(params, frozen, batch, keys, AXIS)
        return params, jax.lax.pmean(metrics, AXIS)

    return step


def initial_state(params: Any, optimizer: optax.GradientTransformation, settings: LoopSettings) -> TrainState:
    """State at step 0 on the host."""
    ema = jax.tree.map(jnp.array, params) if settings.ema_decay else None
    return TrainState(jnp.int32(0), params, optimizer.init(params), ema)


def kept_params(state: TrainState) -> Any:
    """The parameters that leave the stage: the average where one is kept."""
    return state.params if state.ema is None else state.ema


def check_finite(metrics: dict[str, float], step: int, checkpointer: Checkpointer) -> None:
    """Raises UserError that names step and cause when a metric of `step` is not finite."""
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        last = checkpointer.latest_valid_step()
        kept = "no checkpoint was written yet" if last is None else f"the checkpoint of step {last} is kept"
        shown = ", ".join(f"{name} = {value:.4g}" for name, value in metrics.items())
        raise UserError(
            f"training stopped at step {step}: {', '.join(bad)} not finite ({shown}); {kept}. Lower "
            "train.learning_rate or train.clip_norm, and check the store with `python -m accdistill_jax.data.prepare verify`"
        )


def train(
    objective: Objective,
    *,
    state: TrainState,
    frozen: Any,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    batches: Iterable[dict[str, np.ndarray]],
    validation: list[dict[str, np.ndarray]],
    batch_size: int,
    settings: LoopSettings,
    parallel: Parallel,
    checkpointer: Checkpointer,
    writer: MetricsWriter,
    progress: ProgressLine,
    interruption: Interruption,
    meta: dict,
) -> TrainState:
    """Trains from `state` to `settings.total_steps` and returns the final state on the host.

    Args:
        objective: what is minimised.
        state: where to start (its step is the data position).
        frozen: arrays that the objective uses and that are never trained.
        optimizer, schedule: as from `optim.make_optimizer`.
        batches: this host's batches from position `state.step` on.
        validation: this host's validation batches, the same at every validation.
        batch_size: global.
        settings: see `LoopSettings`.
        parallel: maps the step over the devices.
        checkpointer, writer, progress: where results go.
        interruption: asked after every step; when set, a checkpoint is written and `Interrupted` raised.
        meta: what a checkpoint says of itself besides step and metric.

    Raises:
        UserError: a loss or gradient that is not finite.
        Interrupted: on Ctrl-C or SIGTERM, after the checkpoint is complete.
    """
    step_fn = parallel.map(make_step(objective, optimizer, settings), donate=True)
    validate_fn = parallel.map(make_validation(objective, settings.seed))
    first = int(state.step)
    state, frozen = parallel.replicate(state), parallel.replicate(frozen)
    throughput = Throughput(batch_size)
    pending: tuple[int, Any] | None = None

    def flush() -> None:
        """Fetches, checks and writes the metrics of the last dispatched step."""
        nonlocal pending
        if pending is None:
            return
        step, metrics = pending
        pending = None
        values = {name: float(value) for name, value in parallel.fetch(metrics).items()}
        check_finite(values, step, checkpointer)
        throughput.step_done()
        if step % settings.log_every == 0 or step == settings.total_steps:
            values["learning_rate"] = float(schedule(step - 1))
            writer.write(step, "train", values, timing=throughput.snapshot())
        progress.update(step, loss=values["loss"], segments_per_s=throughput.segments_per_s)

    iterator = iter(batches)
    for step in range(first + 1, settings.total_steps + 1):
        waited = time.monotonic()
        batch = next(iterator)
        throughput.input_waited(time.monotonic() - waited)
        state, metrics = step_fn(state, frozen, parallel.place(batch))
        flush()
        pending = (step, metrics)
        last = step == settings.total_steps
        stop = interruption.requested
        metric = None  # a checkpoint is judged by the validation of its own step or not at all
        if validation and (step % settings.validate_every == 0 or last):
            flush()
            params = kept_params(state)
            fetched = [parallel.fetch(validate_fn(params, frozen, parallel.place(b))[1]) for b in validation]
            values = {name: float(np.mean([f[name] for f in fetched])) for name in fetched[0]}
            check_finite(values, step, checkpointer)
            writer.write(step, "validation", values)
            metric = values["loss"]
        if metric is not None or step % settings.checkpoint_every == 0 or last or stop:
            flush()
            checkpointer.save(step, parallel.fetch(state), metric=metric, meta=meta)
        if stop and not last:
            checkpointer.wait()
            writer.flush()
            interruption.raise_if_requested(f"step {step} is saved")
    checkpointer.wait()
    writer.flush()
    return parallel.fetch(state)
