"""The one training loop, for every objective, on any number of devices and processes.

Order of a step, on which exact resume rests: (1) the step is dispatched on the batch of position `step`, which is on the
device by then, (2) the next batch is taken and put on its way to the device, (3) the metrics of the step before are fetched
and written, so that the device never waits for the host, (4) validation and checkpoint where they are due, after the metrics
of this very step were checked to be finite. The data position is the step, all randomness is folded from (seed, step, row of
the global batch); nothing else needs saving: a batch that was taken and not used is taken again.

The loop waits for the device nowhere else, moves nothing to or from it that is not said to be moved, compiles nothing after
its first step but the first validation, and keeps one copy of the state (donated buffers).

Processes take the same decisions because they decide by the same numbers: a request to stop travels with the batch that is
taken after it, and comes back to all of them with the metrics of that step. Process 0 alone writes.
"""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import optax

from accdistill_jax.errors import UserError
from accdistill_jax.objectives.base import Objective
from accdistill_jax.runtime.interrupt import Interruption
from accdistill_jax.runtime.parallel import WHOLE, Parallel
from accdistill_jax.runtime.peers.peers import Peers
from accdistill_jax.runtime.progress import ProgressLine
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.training.metrics import MetricsWriter
from accdistill_jax.training.optimizer_state import Replicated, Sharded
from accdistill_jax.training.step import LoopSettings, TrainState, kept_params, make_step, make_validation
from accdistill_jax.training.throughput import Throughput


def check_finite(metrics: dict[str, float], step: int, checkpointer: Checkpointer | None) -> None:
    """Raises UserError that names step and cause when a metric of `step` is not finite."""
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        kept = "checkpoints are kept"  # which, process 0 knows and says
        if checkpointer is not None:
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
    layout: Replicated | Sharded,
    schedule: optax.Schedule,
    batches: Iterable[dict[str, np.ndarray]],
    validation: list[dict[str, np.ndarray]],
    batch_size: int,
    settings: LoopSettings,
    parallel: Parallel,
    peers: Peers,
    checkpointer: Checkpointer | None,
    writer: MetricsWriter,
    progress: ProgressLine,
    interruption: Interruption,
    meta: dict,
    settle: Callable[[], None] = lambda: None,
) -> TrainState:
    """Trains from `state` to `settings.total_steps` and returns the final state on the host.

    Args:
        objective: what is minimised.
        state: where to start, on the host (its step is the data position).
        frozen: arrays that the objective uses and that are never trained.
        layout: the optimiser and where its state lives.
        schedule: learning rate by step, for the metrics.
        batches: this host's batches from position `state.step` on.
        validation: this host's validation batches, the same at every validation.
        batch_size: global.
        settings: see `LoopSettings`.
        parallel: maps the step over the devices.
        peers: the processes of the run.
        checkpointer: where checkpoints go; None on processes other than 0.
        writer, progress: where metrics go; disabled on processes other than 0.
        interruption: asked after every step; when set on any process, a checkpoint is written and `Interrupted` raised
            on all.
        meta: what a checkpoint says of itself besides step and metric.
        settle: called when the checkpoint of a stop is complete, before any process ends.

    Raises:
        UserError: a loss or gradient that is not finite.
        Interrupted: on Ctrl-C or SIGTERM, after the checkpoint is complete.
    """
    spec = TrainState(WHOLE, WHOLE, layout.spec, WHOLE)
    step_fn = parallel.map(make_step(objective, layout, settings, schedule), donate=True, state=spec)
    validate_fn = parallel.map(make_validation(objective, settings.seed))
    first = int(state.step)
    state = TrainState(*map(parallel.replicate, state))._replace(opt_state=layout.place(state.opt_state, parallel))
    frozen = parallel.replicate(frozen)
    throughput = Throughput(batch_size)
    pending: tuple[int, Any] | None = None
    stop_signal = 0

    def flush() -> None:
        """Fetches, checks and writes the metrics of the last dispatched step."""
        nonlocal pending, stop_signal
        if pending is None:
            return
        step, metrics = pending
        pending = None
        values = {name: float(value) for name, value in parallel.fetch(metrics).items()}
        stop_signal = max(stop_signal, int(values.pop("stop", 0)))
        check_finite(values, step, checkpointer)
        pulse.beat(step)
        throughput.step_done()
        if step % settings.log_every == 0 or step == settings.total_steps:
            writer.write(step, "train", values, timing=throughput.snapshot())
        progress.update(step, loss=values["loss"], segments_per_s=throughput.segments_per_s)

    def on_host() -> TrainState:
        fetched = TrainState(*map(parallel.fetch, state._replace(opt_state=None)))
        return fetched._replace(opt_state=layout.fetch(state.opt_state, parallel))

    def take() -> dict[str, jax.Array]:
        """The next batch, on its way to the device."""
        waited = time.monotonic()
        batch = next(iterator)
        throughput.input_waited(time.monotonic() - waited)
        if peers.count > 1:
            rows = len(batch["position"])
            batch = batch | {"stop": np.full(rows, interruption.signal_number or 0, np.int32)}
        return parallel.place(batch)

    iterator = iter(batches)
    with peers.progress("training", within_s=settings.hang_timeout_s) as pulse:
        ahead = take() if first < settings.total_steps else None
        for step in range(first + 1, settings.total_steps + 1):
            last = step == settings.total_steps
            state, metrics = step_fn(state, frozen, ahead)
            ahead = None if last else take()
            flush()
            pending = (step, metrics)
            metric = None  # a checkpoint is judged by the validation of its own step or not at all
            if validation and (step % settings.validate_every == 0 or last):
                flush()
                params = kept_params(state, settings)
                with pulse.pause():
                    fetched = [parallel.fetch(validate_fn(params, frozen, parallel.place(b))[1]) for b in validation]
                values = {name: float(np.mean([f[name] for f in fetched])) for name in fetched[0]}
                check_finite(values, step, checkpointer)
                writer.write(step, "validation", values)
                metric = values["loss"]
            if peers.count == 1:
                stop_signal = interruption.signal_number or 0
            if metric is not None or step % settings.checkpoint_every == 0 or last or stop_signal:
                flush()
                with pulse.pause():
                    saved = on_host()
                    if checkpointer is not None:
                        checkpointer.save(step, saved, metric=metric, meta=meta)
            if stop_signal and not last:
                with pulse.pause():
                    if checkpointer is not None:
                        checkpointer.wait()
                    writer.flush()
                    settle()
                    # no process ends, and has the others ended for it, before the write is complete
                    peers.barrier("stopped")
                    peers.set_stop_handler(lambda reason, status: None)  # this one stops by itself, as the others do
                interruption.raise_for(stop_signal, f"step {step} is saved")
        with pulse.pause():
            final = on_host()
    if checkpointer is not None:
        checkpointer.wait()
    writer.flush()
    return final
