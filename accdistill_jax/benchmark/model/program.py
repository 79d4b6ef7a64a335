"""The training step of a config with shapes in place of arrays, which can be counted and compiled without data."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.benchmark.model import flops, traffic
from accdistill_jax.config.schema import Config
from accdistill_jax.data.synthetic.waveforms import SAMPLES
from accdistill_jax.errors import UserError
from accdistill_jax.inputs import present
from accdistill_jax.models.build import build_encoder, compute_dtype
from accdistill_jax.objectives.base import PROGRESS, Branch, Objective
from accdistill_jax.objectives.teacher_reading import TEACHER
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.stages.build_objective import build_objective, needs_teacher
from accdistill_jax.training.optimizer_state import Replicated, Sharded, make_layout
from accdistill_jax.training.step import LoopSettings, TrainState, initial_state, make_step, state_spec

ACCEL_CHANNELS = 3
Stage = Literal["student", "teacher"]
STAGES: tuple[Stage, ...] = ("student", "teacher")


class Work(NamedTuple):
    """A training stage of a config.

    Attributes:
        config: the config.
        stage: "student" (distillation) or "teacher" (reconstruction).
        objective: objective of the stage.
        params: shapes of the trained parameters.
        frozen: shapes of the frozen teacher.
        trained_flops: FLOP of the matrix products of the trained parts, forward pass, per segment.
        frozen_flops: the same for the frozen teacher.
        projection: width of the projections of the contrastive loss; 0: no such loss.
        embedding: width of the embedding whose spread is a metric.
        cached_embedding: width of the teacher's embedding if the step reads it in place of the PPG; 0: the teacher runs.
        segment_activation_bytes: bytes per segment that reverse-mode differentiation keeps in the traced program. Fusion and
            recomputation by the compiler reduce them; its temporary arrays are extra.
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
        """True if each device updates only a part of the parameters."""
        return self.config.runtime.optimizer_state == "sharded"

    @property
    def segment_bytes(self) -> int:
        """Bytes of a segment on its way from the store to the device."""
        return tree_bytes(self.batch_shapes(1))

    def batch_shapes(self, count: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a batch of `count` segments, as the stage reads it."""
        return batch_shapes(self.config, count, embedding=self.cached_embedding)

    def step_flops(self, *, batch: int, global_batch: int) -> int:
        """FLOP of the matrix products of a training step, per device with `batch` segments of `global_batch`."""
        again = (
            1 if self.settings.micro_batches > 1 else 0
        )  # the forward pass of each micro-batch runs again for its gradient
        per_segment = (flops.TRAINED + again) * self.trained_flops + self.frozen_flops
        logits = flops.logits_flops(batch=batch, global_batch=global_batch, width=self.projection)
        return batch * per_segment + flops.TRAINED * logits

    def collectives(self, *, devices: int, global_batch: int, metrics: int = 8) -> list[traffic.Collective]:
        """Collectives of a training step, by formula."""
        arrays = jax.tree.leaves(self.params)
        parts = devices if self.sharded else 1  # parts of a sharded array are padded to the same size
        return traffic.expected_collectives(
            parameters=sum(math.ceil(leaf.size / parts) * parts for leaf in arrays),
            global_batch=global_batch,
            projection=self.projection,
            embedding=self.embedding,
            metrics=metrics,
            sharded_arrays=len(arrays) if self.sharded else 0,
        )

    def state_bytes(self, *, devices: int, sharded: bool) -> dict[str, float]:
        """Bytes per device of all arrays whose size does not depend on the batch."""
        trained = tree_bytes(self.params)
        sizes = {
            "parameters": trained,
            "gradients": trained,
            "Adam moments": 2 * trained / (devices if sharded else 1),
            "average of parameters": trained if self.settings.ema_decay else 0,
            "frozen teacher": tree_bytes(self.frozen),
        }
        return {name: size for name, size in sizes.items() if size}

    def activation_bytes(self, *, batch: int) -> float:
        """Bytes kept for the backward pass of a device's `batch` segments; the frozen teacher keeps nothing."""
        return self.segment_activation_bytes * batch / self.settings.micro_batches


def describe_work(config: Config, stage: Stage) -> Work:
    """The work of a training stage; the teacher is that of `config.teacher`.

    Raises:
        UserError: the work of the stage's objective or optimiser is not counted.
    """
    inputs = {name: config.inputs.of(name) for name in ("ppg", "accel")}
    channels = {name: _channels(config)[name] * present.band_groups(inputs[name]) for name in ("ppg", "accel")}
    frozen, cached, teacher = {}, 0, None
    signal = jax.ShapeDtypeStruct((1, SAMPLES, channels["ppg"]), jnp.float32)
    if stage == "student" and needs_teacher(config):
        module = build_encoder(config.teacher.encoder, dtype=compute_dtype(config.runtime.compute_dtype))
        teacher = Branch("ppg", module, inputs["ppg"])
        statistic = jax.ShapeDtypeStruct((module.embedding_width,), jnp.float32)
        teacher_params = jax.eval_shape(module.init, jax.random.key(0), signal)["params"]
        frozen = {"params": teacher_params, "mean": statistic, "std": statistic}
    objective = build_objective(config, stage, samples=SAMPLES, teacher=teacher)
    if teacher is not None:
        reading = objective.teacher_reading
        if config.teacher.cached_views:
            cached = reading.width(teacher.encoder, frozen, signal)
        if reading.reads_tokens:
            of_tokens = jax.ShapeDtypeStruct((teacher.encoder.token_width,), jnp.float32)
            frozen |= {"token_mean": of_tokens, "token_std": of_tokens}
    if config.stage(stage).train.optimizer != "adamw":
        raise UserError(
            f"config.{stage}.train.optimizer = {config.stage(stage).train.optimizer!r}: its work is not counted here; set adamw"
        )
    counted = objective.flops(samples=SAMPLES, channels=channels, cached=bool(cached))
    if counted is None:
        raise UserError(
            f"config.{stage}.objective = {config.stage(stage).objective!r}: its work is not counted, only that of masked autoencoding "
            "and of distillation; that of a regression onto tokens with a Transformer as the teacher"
        )
    params = _init(objective, config)
    batches = [batch_shapes(config, segments, embedding=cached) for segments in (1, 3)]
    kept = [tree_bytes(_kept(objective, params, frozen, batch)) for batch in batches]
    return Work(config, stage, objective, params, frozen, *counted, cached, (kept[1] - kept[0]) / 2)


def _kept(objective: Objective, params: Any, frozen: Any, batch: dict[str, jax.ShapeDtypeStruct]) -> Any:
    """Shapes of the arrays that differentiation of the trained part keeps, parameters included."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch["position"].shape[0]))

    def residuals(params, frozen, batch, keys):
        inputs = objective.inputs(frozen | {PROGRESS: jnp.float32(0)}, batch, keys, training=True)
        return jax.vjp(lambda params: objective.rows(params, inputs), params)[1]

    return jax.eval_shape(residuals, params, frozen, batch, keys)


def batch_shapes(config: Config, count: int, *, embedding: int = 0) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch as the pipeline returns it.

    Args:
        config: the config.
        count: number of segments.
        embedding: width of the teacher's embedding, which replaces the PPG; 0: the batch has the PPG.
    """
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
    """Bytes of all arrays (or shapes of arrays) of a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class Program(NamedTuple):
    """The mapped training step `(state, frozen, batch) -> (state, metrics)` and the layout of its state.

    Attributes:
        step: the step, for placed arrays.
        layout: layout of the optimiser's state.
        loop: settings of the training loop.
    """

    step: Any
    layout: Replicated | Sharded
    loop: LoopSettings

    def start(self, params: Any, parallel: Parallel) -> TrainState:
        """Places the state of step 0 on the devices.

        Args:
            params: parameters on the host.
            parallel: the devices.
        """
        state = initial_state(params, self.layout, self.loop)
        placed = TrainState(*map(parallel.replicate, state))
        return placed._replace(opt_state=self.layout.place(state.opt_state, parallel))


def build_program(work: Work, parallel: Parallel) -> Program:
    """Builds the step of `work` over the devices of `parallel`, as a training run does."""
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
    step = parallel.map(make_step(work.objective, layout, loop), donate=True, state=state_spec(layout))
    return Program(step, layout, loop)


COUNT_BATCH = 2  # segments per device of the compiled step; collectives of other sizes follow by formula


def count_collectives(work: Work, parallel: Parallel) -> tuple[list[traffic.Collective], list[traffic.Collective]]:
    """Collectives of the compiled step, and those of the formula, for `COUNT_BATCH` segments per device and micro-batch."""
    batch = COUNT_BATCH * work.settings.micro_batches * parallel.num_devices
    built = build_program(work, parallel)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), work.params)
    lowered = built.step.lower(built.start(zeros, parallel), work.frozen, work.batch_shapes(batch))
    metrics = len(lowered.out_info[1])
    expected = work.collectives(devices=parallel.num_devices, global_batch=batch, metrics=metrics)
    return traffic.counted_collectives(lowered.compile().as_text()), expected
