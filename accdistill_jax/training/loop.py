"""The one training loop, for every objective, on any number of devices and processes.

Order of a step, on which exact resume rests:

1. The step is dispatched on the batch of position `step`, which is on the device already.
2. The next batch is read and starts its way to the device.
3. The metrics of the previous step are fetched, checked and written, so that the device never waits for the host.
4. Where they are due, validation and checkpoint follow, after the metrics of this very step were checked.

The data position is the step, and all randomness is folded from (seed, step, row of the global batch). So a checkpoint needs
nothing else: a batch that was read and not used is read again.

The loop waits for the device nowhere else, moves nothing between host and device implicitly, compiles nothing after its first
step but the first validation, and keeps one copy of the state (donated buffers). The step is traced once; a second trace is
an error.

All processes take the same decisions because they decide by the same numbers: a request to stop travels with the next batch,
and comes back to all of them with the metrics of that step. Process 0 alone writes.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import chex
import jax
import numpy as np

from accdistill_jax.errors import UserError
from accdistill_jax.objectives.base import Objective
from accdistill_jax.runtime.interrupt import Interruption
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.runtime.peers.peers import Peers
from accdistill_jax.runtime.progress import ProgressLine
from accdistill_jax.runtime.watchdog import HangWatch
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.training.optimizer_state import Replicated, Sharded
from accdistill_jax.training.step import LoopSettings, TrainState, kept_params, make_step, make_validation, state_spec
from accdistill_jax.training.throughput import Throughput
from accdistill_jax.training.writer import MetricsWriter


@dataclasses.dataclass(frozen=True)
class Task:
    """The trained parts of a stage.

    Attributes:
        objective: the loss and the parts it is made of.
        frozen: arrays that the objective uses and that are never trained, on the host.
        layout: the optimiser, and where its state lives.
        settings: durations and the like.
    """

    objective: Objective
    frozen: Any
    layout: Replicated | Sharded
    settings: LoopSettings


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of a stage.

    Attributes:
        batches: this process's rows of each global batch, from the state's step on.
        validation: this process's rows of the validation batches, the same at every validation; [] for none.
        batch_size: segments of a global batch.
    """

    batches: Iterable[dict[str, np.ndarray]]
    validation: Sequence[dict[str, np.ndarray]]
    batch_size: int


@dataclasses.dataclass(frozen=True)
class Host:
    """Where a stage runs.

    Attributes:
        parallel: maps the step over the devices.
        peers: the processes of the run.
        interruption: the loop asks it after every step. When it is set in any process, all processes stop: process 0
            writes a checkpoint, and each raises `Interrupted`.
        before_stop: called when that checkpoint is complete, before any process ends.
    """

    parallel: Parallel
    peers: Peers
    interruption: Interruption
    before_stop: Callable[[], None] = lambda: None


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Where a stage reports to.

    Attributes:
        writer: takes the metrics; does nothing in processes other than 0.
        progress: the line on the terminal; shows nothing in processes other than 0.
        checkpointer: saves checkpoints; None in processes other than 0.
        meta: what a checkpoint holds besides state, step and metric.
    """

    writer: MetricsWriter
    progress: ProgressLine
    checkpointer: Checkpointer | None
    meta: Mapping[str, Any]


def train(state: TrainState, *, task: Task, data: Data, host: Host, outputs: Outputs) -> TrainState:
    """Trains from `state` to `task.settings.total_steps`.

    Args:
        state: the start, on the host; its step is the data position.
        task: what is trained.
        data: what it is trained on.
        host: devices and processes.
        outputs: where metrics and checkpoints go.

    Returns:
        The final state, on the host.

    Raises:
        UserError: a loss or gradient that is not finite.
        Interrupted: on Ctrl-C or SIGTERM, after the checkpoint is complete.
    """
    settings, layout, parallel = task.settings, task.layout, host.parallel
    chex.clear_trace_counter()  # chex counts by call stack, which is the same for the trainings of one process
    step_fn = parallel.map(
        chex.assert_max_traces(make_step(task.objective, layout, settings), n=1),
        donate=True,
        state=state_spec(layout),
    )
    validate_fn = parallel.map(make_validation(task.objective, settings.seed))
    first = int(state.step)
    state = TrainState(*map(parallel.replicate, state))._replace(opt_state=layout.place(state.opt_state, parallel))
    frozen = parallel.replicate(task.frozen)

    def on_host() -> TrainState:
        fetched = TrainState(*map(parallel.fetch, state._replace(opt_state=None)))
        return fetched._replace(opt_state=layout.fetch(state.opt_state, parallel))

    with host.peers.progress("training", within_s=settings.hang_timeout_s) as pulse:
        feed = _Feed(data, host)
        metrics = _Metrics(settings, host, outputs, feed.throughput, pulse)
        batch = feed.take() if first < settings.total_steps else None
        for step in range(first + 1, settings.total_steps + 1):
            last = step == settings.total_steps
            state, step_metrics = step_fn(state, frozen, batch)
            batch = None if last else feed.take()
            metrics.flush()
            metrics.add(step, step_metrics)
            validation_loss = None  # a checkpoint is judged by the validation of its own step or not at all
            if data.validation and (step % settings.validate_every == 0 or last):
                metrics.flush()
                params = kept_params(state, settings)
                with pulse.pause():
                    measured = [
                        parallel.fetch(validate_fn(params, frozen, parallel.place(rows))[1]) for rows in data.validation
                    ]
                validation_loss = metrics.add_validation(step, measured)
            metrics.look_for_stop()
            due = validation_loss is not None or step % settings.checkpoint_every == 0 or last
            if due or metrics.stop_signal:
                metrics.flush()
                with pulse.pause():
                    saved = on_host()
                    if outputs.checkpointer is not None:
                        outputs.checkpointer.save(step, saved, metric=validation_loss, meta=outputs.meta)
            if metrics.stop_signal and not last:
                with pulse.pause():
                    _prepare_to_stop(host, outputs)
                host.interruption.raise_for(metrics.stop_signal, f"step {step} is saved")
        with pulse.pause():
            final = on_host()
    if outputs.checkpointer is not None:
        outputs.checkpointer.wait()
    outputs.writer.flush()
    return final


class _Feed:
    """Reads batches one ahead of the step and starts their way to the device."""

    def __init__(self, data: Data, host: Host):
        self._batches, self._host = iter(data.batches), host
        self.throughput = Throughput(data.batch_size)

    def take(self) -> dict[str, jax.Array]:
        """The next batch, on its way to the device."""
        started = time.monotonic()
        batch = next(self._batches)
        self.throughput.input_waited(time.monotonic() - started)
        if self._host.peers.count > 1:
            rows = len(batch["position"])
            batch = batch | {"stop": np.full(rows, self._host.interruption.signal_number or 0, np.int32)}
        return self._host.parallel.place(batch)


class _Metrics:
    """Holds the metrics of the step dispatched last, until `flush` fetches, checks and writes them.

    Attributes:
        stop_signal: number of the signal that asks all processes to stop, or 0.
    """

    def __init__(self, settings: LoopSettings, host: Host, outputs: Outputs, throughput: Throughput, pulse: HangWatch):
        self._settings, self._host, self._outputs = settings, host, outputs
        self._throughput, self._pulse = throughput, pulse
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self.stop_signal = 0

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Keeps the metrics of a dispatched step."""
        self._pending = step, metrics

    def flush(self) -> None:
        """Waits for the step dispatched last, then checks and writes its metrics; does nothing the second time."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in self._host.parallel.fetch(metrics).items()}
        self.stop_signal = max(self.stop_signal, int(values.pop("stop", 0)))
        check_finite(values, step, self._outputs.checkpointer)
        self._pulse.beat(step)
        self._throughput.step_done()
        if step % self._settings.log_every == 0 or step == self._settings.total_steps:
            self._outputs.writer.write(step, "train", values, timing=self._throughput.snapshot())
        self._outputs.progress.update(step, loss=values["loss"], segments_per_s=self._throughput.segments_per_s)

    def add_validation(self, step: int, measured: Sequence[Mapping[str, np.ndarray]]) -> float:
        """Checks and writes the mean metrics of the validation batches; returns the loss."""
        values = {name: float(np.mean([metrics[name] for metrics in measured])) for name in measured[0]}
        check_finite(values, step, self._outputs.checkpointer)
        self._outputs.writer.write(step, "validation", values)
        return values["loss"]

    def look_for_stop(self) -> None:
        """Reads the stop signal of the only process; several processes get it with their metrics, all at the same step."""
        if self._host.peers.count == 1:
            self.stop_signal = self._host.interruption.signal_number or 0


def _prepare_to_stop(host: Host, outputs: Outputs) -> None:
    """Completes what was written; no process leaves before process 0 is done, as the others would be ended for it."""
    if outputs.checkpointer is not None:
        outputs.checkpointer.wait()
    outputs.writer.flush()
    host.before_stop()
    host.peers.barrier("stopped")
    host.peers.set_stop_handler(lambda reason, status: None)  # this process stops by itself, as the others do


def check_finite(metrics: Mapping[str, float], step: int, checkpointer: Checkpointer | None) -> None:
    """Raises UserError that names step and cause when a metric of `step` is not finite."""
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not bad:
        return
    kept = "checkpoints are kept"  # process 0 knows which ones and says so
    if checkpointer is not None:
        last = checkpointer.latest_valid_step()
        kept = "no checkpoint was written yet" if last is None else f"the checkpoint of step {last} is kept"
    shown = ", ".join(f"{name} = {value:.4g}" for name, value in metrics.items())
    raise UserError(
        f"training stopped at step {step}: {', '.join(bad)} not finite ({shown}); {kept}. Lower "
        "train.learning_rate or train.clip_norm, and check the store with `python -m accdistill_jax.data.prepare verify`"
    )
