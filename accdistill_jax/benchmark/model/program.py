"""The training step of a config, with shapes in place of arrays, so that it is counted and compiled without any data."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.benchmark.model import flops, traffic
from accdistill_jax.config.schema import Config
from accdistill_jax.data.synthetic.waveforms import SAMPLES
from accdistill_jax.errors import UserError
from accdistill_jax.inputs import present
from accdistill_jax.models.build import build_encoder, compute_dtype
from accdistill_jax.objectives.base import Branch, Objective
from accdistill_jax.objectives.distillation import TEACHER
from accdistill_jax.runtime.parallel import WHOLE, Parallel
from accdistill_jax.stages.build_objective import build_objective, needs_teacher
from accdistill_jax.training.optimizer_state import Replicated, Sharded, make_layout
from accdistill_jax.training.step import LoopSettings, TrainState, initial_state, make_step

ACCEL_CHANNELS = 3
STAGES = ("student", "teacher")


class Work(NamedTuple):
    """A training stage of a config: "student" distils, "teacher" reconstructs.

    Attributes:
        config, stage: what this was made from.
        objective: as the stage trains it.
        params, frozen: shapes of what is trained and what is not.
        trained_flops, frozen_flops: matrix products of a forward pass, per segment.
        projection: width that the contrastive loss compares; 0: no such loss.
        embedding: width of the embedding whose spread is a metric.
        cached_embedding: width of the teacher's embedding where it is read in place of the PPG; 0: the teacher runs.
        segment_activation_bytes: what reverse-mode differentiation keeps of a segment, counted in the traced program: what
            the compiler fuses or computes again is less, its own temporary arrays come on top.
    """

    config: Config
    stage: str
    objective: Objective
    params: Any
    frozen: Any
    trained_flops: int
    frozen_flops: int
    projection: int
    embedding: int
    cached_embedding: int
    segment_activation_bytes: float

    @property
    def settings(self) -> Any:
        """The stage's `train` section."""
        return self.config.stage(self.stage).train

    @property
    def sharded(self) -> bool:
        """True if each device updates a part of the parameters only."""
        return self.config.runtime.optimizer_state == "sharded"

    @property
    def segment_bytes(self) -> int:
        """Bytes of a segment on its way from the store to the device."""
        return tree_bytes(self.batch_shapes(1))

    def batch_shapes(self, count: int) -> dict[str, jax.ShapeDtypeStruct]:
        """A batch of `count` segments as the stage reads it."""
        return batch_shapes(self.config, count, embedding=self.cached_embedding)

    def step_flops(self, *, batch: int, global_batch: int) -> int:
        """Matrix products of a training step, per device with `batch` segments of `global_batch`."""
        again = 1 if self.settings.micro_batches > 1 else 0  # each piece is run once more for its gradient
        per_segment = (flops.TRAINED + again) * self.trained_flops + self.frozen_flops
        logits = flops.logits_flops(batch=batch, global_batch=global_batch, width=self.projection)
        return batch * per_segment + flops.TRAINED * logits

    def collectives(self, *, devices: int, global_batch: int, metrics: int = 8) -> list[traffic.Collective]:
        """Collectives of a training step, by formula."""
        arrays = jax.tree.leaves(self.params)
        parts = devices if self.sharded else 1  # parts of a sharded array are padded to the same size
        return traffic.expected(
            parameters=sum(math.ceil(leaf.size / parts) * parts for leaf in arrays),
            global_batch=global_batch,
            projection=self.projection,
            embedding=self.embedding,
            metrics=metrics,
            sharded_arrays=len(arrays) if self.sharded else 0,
        )

    def state_bytes(self, *, devices: int, sharded: bool) -> dict[str, float]:
        """Bytes per device of everything that does not depend on the batch."""
        trained = tree_bytes(self.params)
        found = {
            "parameters": trained,
            "gradients": trained,
            "Adam moments": 2 * trained / (devices if sharded else 1),
            "average of parameters": trained if self.settings.ema_decay else 0,
            "frozen teacher": tree_bytes(self.frozen),
        }
        return {name: size for name, size in found.items() if size}

    def activation_bytes(self, *, batch: int) -> float:
        """Bytes kept for the backward pass of a device's `batch` segments; the frozen teacher keeps nothing."""
        return self.segment_activation_bytes * batch / self.settings.micro_batches


def describe(config: Config, stage: str) -> Work:
    """The work of one training stage of a validated config; the teacher is built as `config.teacher` says.

    Raises:
        UserError: the stage is trained by an objective, or with a regression, that is not counted here.
    """
    inputs = {name: config.inputs.of(name) for name in ("ppg", "accel")}
    channels = {name: _channels(config)[name] * present.band_groups(inputs[name]) for name in ("ppg", "accel")}
    frozen, cached, teacher = {}, 0, None
    if stage == "student" and needs_teacher(config):
        module = build_encoder(config.teacher.encoder, dtype=compute_dtype(config.runtime.compute_dtype))
        teacher = Branch("ppg", module, inputs["ppg"])
        cached = module.embedding_width if config.teacher.cached_views else 0
        statistic = jax.ShapeDtypeStruct((module.embedding_width,), jnp.float32)
        signal = jax.ShapeDtypeStruct((1, SAMPLES, channels["ppg"]), jnp.float32)
        teacher_params = jax.eval_shape(module.init, jax.random.key(0), signal)["params"]
        frozen = {"params": teacher_params, "mean": statistic, "std": statistic}
    objective = build_objective(config, stage, samples=SAMPLES, teacher=teacher)
    if config.stage(stage).train.optimizer != "adamw":
        raise UserError(
            f"config.{stage}.train.optimizer = {config.stage(stage).train.optimizer!r}: its work is not counted, only that of adamw"
        )
    counted = objective.flops(samples=SAMPLES, channels=channels, cached=bool(cached))
    if counted is None:
        raise UserError(
            f"config.{stage}.objective = {config.stage(stage).objective!r}: its work is not counted, only that of masked autoencoding "
            "and of distillation with config.student.regression_weight = 0.0"
        )
    params = _init(objective, config)
    batches = [batch_shapes(config, segments, embedding=cached) for segments in (1, 3)]
    kept = [tree_bytes(_kept(objective, params, frozen, batch)) for batch in batches]
    return Work(config, stage, objective, params, frozen, *counted, cached, (kept[1] - kept[0]) / 2)


def _kept(objective: Objective, params: Any, frozen: Any, batch: dict[str, jax.ShapeDtypeStruct]) -> Any:
    """Shapes of what differentiating the trained part keeps, parameters included."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch["position"].shape[0]))

    def residuals(params, frozen, batch, keys):
        inputs = objective.inputs(frozen, batch, keys, training=True)
        return jax.vjp(lambda params: objective.rows(params, inputs), params)[1]

    return jax.eval_shape(residuals, params, frozen, batch, keys)


def batch_shapes(config: Config, count: int, *, embedding: int = 0) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of `count` segments as the pipeline gives it; with the teacher's embedding of a width in place of the PPG."""
    shapes = {"position": jax.ShapeDtypeStruct((count,), jnp.int32)}
    if embedding:
        shapes[TEACHER] = jax.ShapeDtypeStruct((count, embedding), jnp.float32)
    for name, channels in _channels(config).items():
        if embedding and name == "ppg":
            continue
        shapes[name] = jax.ShapeDtypeStruct((count, SAMPLES, channels), jnp.int16)
        for statistic in ("scale", "offset"):
            shapes[f"{name}_{statistic}"] = jax.ShapeDtypeStruct((count, channels), jnp.float32)
    return shapes


def _channels(config: Config) -> dict[str, int]:
    return {"ppg": config.data.synthetic.ppg_channels, "accel": ACCEL_CHANNELS}


def _init(objective: Objective, config: Config) -> Any:
    return jax.eval_shape(objective.init, jax.random.key(0), batch_shapes(config, 1))


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, or of their shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class Program(NamedTuple):
    """The mapped training step `(state, frozen, batch) -> (state, metrics)` and how its state is laid out.

    Attributes:
        step: over placed arrays.
        layout: of the optimiser's state.
        loop: the settings it was made with.
    """

    step: Any
    layout: Replicated | Sharded
    loop: LoopSettings

    def start(self, params: Any, parallel: Parallel) -> TrainState:
        """The state at step 0 on the devices, from parameters on the host."""
        state = initial_state(params, self.layout, self.loop)
        placed = TrainState(*map(parallel.replicate, state))
        return placed._replace(opt_state=self.layout.place(state.opt_state, parallel))


def build(work: Work, parallel: Parallel) -> Program:
    """The step of `work` over the devices of `parallel`, made as a run makes it."""
    loop = LoopSettings(
        total_steps=1_000_000,
        validate_every=1,
        checkpoint_every=1,
        log_every=1,
        ema_decay=work.settings.ema_decay,
        seed=work.config.seed,
        micro_batches=work.settings.micro_batches,
    )
    layout = make_layout(
        work.settings,
        work.params,
        total_steps=loop.total_steps,
        num_segments=1_000_000,
        shards=parallel.num_devices if work.sharded else 0,
    )
    spec = TrainState(WHOLE, WHOLE, layout.spec, WHOLE)
    step = parallel.map(make_step(work.objective, layout, loop), donate=True, state=spec)
    return Program(step, layout, loop)


COUNT_BATCH = 2  # segments per device of the compiled step; its collectives scale by formula


def count(work: Work, parallel: Parallel) -> tuple[list[traffic.Collective], list[traffic.Collective]]:
    """Collectives of the compiled step, and those of the formula, for `COUNT_BATCH` segments per device and piece."""
    batch = COUNT_BATCH * work.settings.micro_batches * parallel.num_devices
    built = build(work, parallel)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), work.params)
    lowered = built.step.lower(built.start(zeros, parallel), work.frozen, work.batch_shapes(batch))
    metrics = len(lowered.out_info[1])
    expected = work.collectives(devices=parallel.num_devices, global_batch=batch, metrics=metrics)
    return traffic.counted(lowered.compile().as_text()), expected
