"""Runs a training stage around the loop: data, optimiser, checkpoints, resume, result."""

import contextlib
from typing import Any

import jax
import numpy as np
from optax import Schedule

from accdistill_jax.config import record
from accdistill_jax.config.duration import duration_steps
from accdistill_jax.data.pipeline import Pipeline
from accdistill_jax.objectives.base import Objective
from accdistill_jax.runtime.interrupt import Interruption
from accdistill_jax.runtime.parallel import AXIS
from accdistill_jax.runtime.progress import ProgressLine
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.sources import Source
from accdistill_jax.storage.arrays import flatten, unflatten
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.storage.export import Restored, refuse_other
from accdistill_jax.training.loop import train
from accdistill_jax.training.metrics import MetricsWriter
from accdistill_jax.training.optimizer import decay_mask, make_optimizer
from accdistill_jax.training.optimizer_state import Replicated, Sharded
from accdistill_jax.training.step import LoopSettings, TrainState, initial_state, kept_params


def train_stage(
    run: Run,
    name: str,
    objective: Objective,
    *,
    frozen: Any,
    fingerprints: dict[str, str],
    source: Source = Source(),  # noqa: B008
) -> Any:
    """Trains `objective` as `config.<name>.train` says, from the last good checkpoint if there is one.

    Args:
        run: the run's context.
        name: "teacher" or "student"; also the name of the stage's folder.
        objective: what is minimised.
        frozen: arrays for the objective that are not trained.
        fingerprints: content hashes the result depends on (data, teacher); a checkpoint made with others is refused.
        source: how batches are read.

    Returns:
        The resulting parameters on the host: the last or the best by validation loss, as `keep` says.

    Raises:
        UserError: no segments, a checkpoint of other data or another teacher, or a loss that is not finite.
        Interrupted: stopped by a signal, after saving.
    """
    config, settings = run.config, run.config[name].train
    pipeline = Pipeline(
        run.stores,
        split="train",
        weights=tuple(config.data.weights) or None,
        batch_size=settings.batch_size,
        seed=config.seed,
        participant_cap=config.data.participant_cap or None,
        host=run.peers.rank,
        hosts=run.peers.count,
        reader=source.reader and source.reader("train"),
        rows=source.rows and source.rows("train"),
    )

    def steps(text: str) -> int:
        return duration_steps(text, batch_size=settings.batch_size, num_segments=pipeline.num_segments)

    loop = LoopSettings(
        total_steps=steps(settings.duration),
        validate_every=steps(settings.validate_every),
        checkpoint_every=steps(settings.checkpoint_every),
        log_every=steps(settings.log_every),
        ema_decay=settings.ema_decay,
        seed=config.seed,
        micro_batches=settings.micro_batches,
        hang_timeout_s=config.runtime.hang_timeout_s,
    )
    one = {key: value[:1] for key, value in pipeline.batch(0).items()}
    params = jax.device_get(jax.jit(objective.init)(jax.random.key(config.seed), one))
    layout, schedule = make_layout(run, settings, params, loop, num_segments=pipeline.num_segments)
    state = initial_state(params, layout, loop, momentum=objective.momentum)
    validation = validation_batches(run, name, source)
    meta = {"fingerprints": fingerprints, "config_hash": record.config_hash(config)}
    with contextlib.ExitStack() as stack:
        checkpointer = None
        if run.peers.first:
            folder = run.workdir / name / "checkpoints"
            kept = settings.checkpoints_kept
            checkpointer = stack.enter_context(Checkpointer(folder, keep_last=kept, on_saved=run.copies.later))
        found = run.peers.from_first(f"{name} checkpoint", lambda: checkpointer.latest_valid_step())
        if found is not None:
            state = restore(run, checkpointer, found, state, fingerprints, where=f"{run.workdir / name}")
        first = int(state.step)
        run.say(
            f"{name}: {loop.total_steps} steps of {settings.batch_size} segments from {pipeline.num_segments}"
            + (f", continuing from step {first}" if first else "")
        )
        with (
            MetricsWriter(run.workdir, name, resume_step=first, enabled=run.peers.first) as writer,
            ProgressLine(name, loop.total_steps, start_step=first, enabled=run.peers.first) as progress,
            Interruption() as interruption,
        ):
            batches = pipeline.iterate(
                first,
                loop.total_steps - first,
                threads=config.runtime.reader_threads,
                prefetch=config.runtime.prefetch_batches,
            )
            state = train(
                objective,
                state=state,
                frozen=frozen,
                layout=layout,
                schedule=schedule,
                batches=batches,
                validation=validation,
                batch_size=settings.batch_size,
                settings=loop,
                parallel=run.parallel,
                peers=run.peers,
                checkpointer=checkpointer,
                writer=writer,
                progress=progress,
                interruption=interruption,
                meta=meta,
                settle=run.copies.stopping,
            )
            # a signal during the last step has found nothing left to stop
            interruption.raise_if_requested(f"step {loop.total_steps}, the last, is saved")
        best = None
        if settings.keep == "best":
            best = run.peers.from_first(f"{name} best step", lambda: checkpointer.best_step())
        if best is not None:
            run.say(f"{name}: keeping the parameters of step {best}, the best by validation loss")
            state = restore(run, checkpointer, best, state, fingerprints, where=f"{run.workdir / name}")
    return kept_params(state, loop)


def make_layout(
    run: Run, settings: Any, params: Any, loop: LoopSettings, *, num_segments: int
) -> tuple[Replicated | Sharded, Schedule]:
    """The optimiser of a stage, laid out over the devices as `config.runtime.optimizer_state` says, and its schedule."""
    sharded = run.config.runtime.optimizer_state == "sharded"
    optimizer = make_optimizer(
        settings,
        total_steps=loop.total_steps,
        num_segments=num_segments,
        decayed=decay_mask(params),
        axis_name=AXIS if sharded else None,
    )
    layout = Sharded(optimizer, params, run.parallel.num_devices) if sharded else Replicated(optimizer)
    return layout, optimizer.schedule


def restore(
    run: Run, checkpointer: Checkpointer | None, step: int, template: TrainState, fingerprints: dict, *, where: str
) -> TrainState:
    """The state of a checkpoint that process 0 has, on every process; refuses one made from other things than these."""

    def read() -> Restored:
        restored = checkpointer.restore(step, template)
        refuse_other(restored.meta["fingerprints"], fingerprints, where=f"{where}: checkpoint of step {step}")
        return restored

    state = run.restore_from_first(f"checkpoint {step}", read).state
    return unflatten(flatten(state), template, where=where)


def validation_batches(run: Run, name: str, source: Source) -> list[dict[str, np.ndarray]]:
    """This host's part of `validation_batches` fixed global batches of validation participants; [] without any."""
    settings = run.config[name].train
    if not settings.validation_batches:
        return []
    rows = source.rows("validation") if source.rows else [store.indices("validation") for store in run.stores]
    if not sum(map(len, rows)):
        run.say(f"{name}: no validation segments in any store, so no validation")
        return []
    pipeline = Pipeline(
        run.stores,
        split="validation",
        rows=rows,
        reader=source.reader and source.reader("validation"),
        batch_size=settings.batch_size,
        seed=run.config.seed,
        host=run.peers.rank,
        hosts=run.peers.count,
    )
    distinct = max(1, pipeline.num_segments // settings.batch_size)
    return [pipeline.batch(k) for k in range(min(settings.validation_batches, distinct))]
