"""Runs a training stage: data, optimiser, checkpoints, resume and result, around the loop."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import numpy as np

from accdistill_jax.config import record
from accdistill_jax.config.duration import duration_steps
from accdistill_jax.config.schema import TrainConfig
from accdistill_jax.data.pipeline import Pipeline, Sampling
from accdistill_jax.data.store.manifest import SIGNALS
from accdistill_jax.objectives.base import Objective, Segments
from accdistill_jax.runtime.interrupt import Interruption
from accdistill_jax.runtime.progress import ProgressLine
from accdistill_jax.stages.build_objective import student_reads_ppg
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.sources import Source
from accdistill_jax.storage.arrays import flatten_arrays, unflatten
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.storage.export import Restored, refuse_other
from accdistill_jax.training.loop import Data, Host, Outputs, Task, train
from accdistill_jax.training.optimizer_state import make_layout
from accdistill_jax.training.step import LoopSettings, TrainState, initial_state, kept_params
from accdistill_jax.training.writer import MetricsWriter, Writers, open_writers


@dataclasses.dataclass(frozen=True)
class StageTraining:
    """The training of a stage.

    Attributes:
        objective: what is minimised.
        frozen: arrays for the objective that are not trained.
        fingerprints: content hashes of the data and the teacher; a checkpoint made with others is refused.
        source: reads the batches.
        start: changes the objective's initial parameters, for example to those of an earlier training; None: no change.
    """

    objective: Objective
    frozen: Any
    fingerprints: dict[str, str]
    source: Source = Source()
    start: Callable[[dict[str, Any]], dict[str, Any]] | None = None


def train_stage(run: Run, name: str, training: StageTraining) -> Any:
    """Trains as `config.<name>.train` says, from the last good checkpoint if there is one.

    Args:
        run: the run's context.
        name: "teacher" or "student"; also the name of the stage's folder.
        training: objective and what belongs to it.

    Returns:
        The resulting parameters on the host: the last, or the best by validation loss, as `keep` says.

    Raises:
        UserError: no segments, a checkpoint of other data or another teacher, or a loss that is not finite.
        Interrupted: stopped by a signal, after saving.
    """
    config, settings = run.config, run.config.stage(name).train
    objective, fingerprints, source = training.objective, training.fingerprints, training.source
    pipeline = Pipeline(
        run.stores,
        Sampling(
            split="train",
            seed=config.seed,
            weights=config.data.weights or None,
            rows=source.rows("train") if source.rows else [run.training_rows(store) for store in run.stores],
            signals=stage_signals(run, name),
            **(dataclasses.asdict(batches) if isinstance(batches := objective.batches, Segments) else {}),
        ),
        batch_size=settings.batch_size,
        host=run.peers.rank,
        hosts=run.peers.count,
        reader=source.reader("train") if source.reader else None,
    )
    loop = loop_settings(run, settings, num_segments=pipeline.num_segments)
    example = {key: value[:1] for key, value in pipeline.batch(0).items()}
    params = jax.device_get(jax.jit(objective.init)(jax.random.key(config.seed), example))
    if training.start is not None:
        params = training.start(params)
    chex.assert_tree_all_finite(params)
    layout = make_layout(
        settings,
        params,
        total_steps=loop.total_steps,
        num_segments=pipeline.num_segments,
        shards=run.parallel.num_devices if config.runtime.optimizer_state == "sharded" else 0,
    )
    state = initial_state(params, layout, loop, momentum=objective.momentum)
    validation = validation_batches(run, name, source)
    if settings.keep == "best" and not validation:
        run.say(
            f"warning: {name}: config.{name}.train.keep = 'best' has no effect without validation "
            f"(config.{name}.train.validation_batches = {settings.validation_batches}): the last parameters are kept"
        )
    where = f"{run.workdir / name}"
    with contextlib.ExitStack() as stack:
        checkpointer = None
        if run.peers.first:
            folder = run.workdir / name / "checkpoints"
            checkpointer = stack.enter_context(
                Checkpointer(folder, keep_last=settings.checkpoints_kept, on_saved=run.copies.later)
            )
        newest = run.peers.from_first(f"{name} checkpoint", lambda: checkpointer and checkpointer.latest_valid_step())
        if newest is not None:
            state = restore(run, checkpointer, newest, state, fingerprints, where=where)
        first = int(state.step)
        run.say(
            f"{name}: {loop.total_steps} steps of {settings.batch_size} segments from {pipeline.num_segments}"
            + (f", continuing from step {first}" if first else "")
        )
        if repeats := _repeats(pipeline):
            run.say(
                f"{name}: {repeats} of {settings.batch_size} segments of a batch are copies of others in it, which a contrastive loss "
                f"takes for different minutes: lower config.{name}.train.batch_size, or the small stores' config.data.weights"
            )
        with (
            stage_writer(run, name, resume_step=first) as writer,
            ProgressLine(name, loop.total_steps, start_step=first, enabled=run.peers.first) as progress,
            Interruption() as interruption,
        ):
            batches = pipeline.iterate(
                first,
                loop.total_steps - first,
                threads=config.runtime.reader_threads,
                prefetch=config.runtime.prefetch_batches,
            )
            meta = {"fingerprints": fingerprints, "config_hash": record.config_hash(config)}
            state = train(
                state,
                task=Task(objective, training.frozen, layout, loop),
                data=Data(batches, validation, settings.batch_size),
                host=Host(run.parallel, run.peers, interruption, before_stop=run.copies.stopping),
                outputs=Outputs(writer, progress, checkpointer, meta),
            )
            # a signal during the last step finds nothing left to stop
            interruption.raise_if_requested(f"step {loop.total_steps}, the last, is saved")
        best = None
        if settings.keep == "best":
            best = run.peers.from_first(f"{name} best step", lambda: checkpointer and checkpointer.best_step())
        if best is not None:
            run.say(f"{name}: keeping the parameters of step {best}, the best by validation loss")
            state = restore(run, checkpointer, best, state, fingerprints, where=where)
    return kept_params(state, loop)


def _repeats(pipeline: Pipeline) -> int:
    """Segments of the first global batch that are in it already; at the border of two epochs there can be a few more."""
    rows = np.stack(pipeline.global_indices(0), axis=1)
    return len(rows) - len(np.unique(rows, axis=0))


def loop_settings(run: Run, settings: TrainConfig, *, num_segments: int) -> LoopSettings:
    """The `train` section of a stage in steps; an epoch has `num_segments` segments."""

    def steps(text: str) -> int:
        return duration_steps(text, batch_size=settings.batch_size, num_segments=num_segments)

    return LoopSettings(
        total_steps=steps(settings.duration),
        validate_every=steps(settings.validate_every),
        checkpoint_every=steps(settings.checkpoint_every),
        log_every=steps(settings.log_every),
        ema_decay=settings.ema_decay,
        seed=run.config.seed,
        micro_batches=settings.micro_batches,
        hang_timeout_s=run.config.runtime.hang_timeout_s,
    )


def stage_writer(run: Run, name: str, *, resume_step: int) -> MetricsWriter:
    """The writer of a stage's metrics; in processes other than 0 it does nothing."""
    if not run.peers.first:
        return Writers([])
    return open_writers(
        run.config.runtime.metrics, run.workdir, name, resume_step=resume_step, config=record.flatten_json(run.config)
    )


def restore(
    run: Run, checkpointer: Checkpointer | None, step: int, template: TrainState, fingerprints: dict, *, where: str
) -> TrainState:
    """The state of a checkpoint, on every process; process 0 reads it.

    Raises:
        UserError: the checkpoint is damaged, or was made from other data or another teacher.
    """

    def read() -> Restored:
        assert checkpointer is not None, "process 0 has it"
        restored = checkpointer.restore(step, template)
        refuse_other(restored.meta["fingerprints"], fingerprints, where=f"{where}: checkpoint of step {step}")
        return restored

    state = run.restore_from_first(f"checkpoint {step}", read).state
    return unflatten(flatten_arrays(state), template, where=where)


def stage_signals(run: Run, name: str) -> tuple[str, ...]:
    """The signals that a stage's batches hold: acceleration alone for a student without a PPG encoder beside it."""
    if name == "student" and not student_reads_ppg(run.config):
        return ("accel",)
    return SIGNALS


def validation_batches(run: Run, name: str, source: Source) -> list[dict[str, np.ndarray]]:
    """This process's rows of the validation batches: fixed global batches of validation participants; [] for none.

    No segment comes twice, so that no contrastive loss counts a segment's copy as another one. With fewer segments than a batch of
    training has, the batches are smaller; see `validation_batch_size`.
    """
    settings = run.config.stage(name).train
    if not settings.validation_batches:
        return []
    rows = source.rows("validation") if source.rows else [store.indices("validation") for store in run.stores]
    segments = sum(map(len, rows))
    if not segments:
        run.say(f"{name}: no validation segments in any store, so no validation")
        return []
    size = validation_batch_size(settings.batch_size, segments=segments, devices=run.parallel.num_devices)
    if segments < size:
        run.say(f"{name}: {segments} validation segments for {size} devices, so segments repeat in validation")
    pipeline = Pipeline(
        run.stores,
        Sampling(split="validation", seed=run.config.seed, rows=rows, signals=stage_signals(run, name)),
        batch_size=size,
        host=run.peers.rank,
        hosts=run.peers.count,
        reader=source.reader("validation") if source.reader else None,
    )
    distinct = max(1, segments // size)
    return [pipeline.batch(k) for k in range(min(settings.validation_batches, distinct))]


def validation_batch_size(batch_size: int, *, segments: int, devices: int) -> int:
    """Segments of a validation batch: the largest divisor of `batch_size` up to `segments` that divides over the devices.

    A divisor, so that the batches are the same for any number of devices that divides it. If there are fewer segments than devices, it
    is the number of devices.
    """
    sizes = [size for size in range(devices, batch_size + 1, devices) if batch_size % size == 0 and size <= segments]
    return max(sizes, default=devices)
