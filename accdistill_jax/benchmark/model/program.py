"""The training step of a config with shapes in place of arrays, which can be counted and compiled without data."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.benchmark.model import flops, traffic
from accdistill_jax.benchmark.model.segments import channels_of, segment_shapes
from accdistill_jax.config.schema import Config
from accdistill_jax.data.embeddings.table import read_embedding_table
from accdistill_jax.data.synthetic.waveforms import SAMPLES
from accdistill_jax.errors import UserError
from accdistill_jax.inputs import present
from accdistill_jax.models.build import build_encoder, compute_dtype
from accdistill_jax.objectives.base import PROGRESS, TARGET, Branch, Labelled, Objective, StepFlops
from accdistill_jax.objectives.given import given_branch
from accdistill_jax.objectives.several_teachers import TEACHERS
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.stages.build_objective import build_objective, needs_teacher
from accdistill_jax.training.optimizer_state import Replicated, Sharded, make_layout
from accdistill_jax.training.step import LoopSettings, TrainState, initial_state, make_step, state_spec

Stage = Literal["student", "teacher"]
TOTAL_STEPS = 1_000_000
STAGES: tuple[Stage, ...] = ("student", "teacher")


class Work(NamedTuple):
    """A training stage of a config.

    Attributes:
        config: the config.
        stage: "student" or "teacher".
        objective: objective of the stage.
        params: shapes of the trained parameters.
        frozen: shapes of the frozen teacher.
        trained_flops: FLOP of the matrix products of the trained parts, forward pass, per segment.
        frozen_flops: the same for the frozen teacher.
        projection: width of the projections of the contrastive loss; 0: no such loss.
        embedding: width of the embedding whose spread is a metric.
        cached_embedding: width of the teacher's embedding if the step reads it in place of the PPG; 0: the teacher runs.
        segment: shapes of a batch of one segment, as the stage reads it.
        uncounted: reason why there is no formula for the FLOP and the collectives of the stage; "": there is. Without a formula,
            `trained_flops`, `frozen_flops`, `projection` and `embedding` are 0.
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
    segment: Mapping[str, jax.ShapeDtypeStruct]
    uncounted: str
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
        return batch_shapes(self.segment, count)

    def step_flops(self, *, batch: int, global_batch: int) -> int:
        """FLOP of the matrix products of a training step, per device with `batch` segments of `global_batch`, by formula.

        Raises:
            ValueError: there is no formula.
        """
        self._check_formula()
        again = (
            1 if self.settings.micro_batches > 1 else 0
        )  # the forward pass of each micro-batch runs again for its gradient
        per_segment = (flops.TRAINED + again) * self.trained_flops + self.frozen_flops
        logits = flops.logits_flops(batch=batch, global_batch=global_batch, width=self.projection)
        return batch * per_segment + flops.TRAINED * logits

    def _check_formula(self) -> None:
        if self.uncounted:
            raise ValueError(self.uncounted)

    def collectives(self, *, devices: int, global_batch: int, metrics: int = 8) -> list[traffic.Collective]:
        """Collectives of a training step, by formula.

        Raises:
            ValueError: there is no formula.
        """
        self._check_formula()
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
        moments, size = "Adam moments", 2 * trained
        if self.settings.optimizer != "adamw":
            moments = f"state of {self.settings.optimizer}"
            size = tree_bytes(jax.eval_shape(_layout(self).init, self.params))
        sizes = {
            "parameters": trained,
            "gradients": trained,
            moments: size / (devices if sharded else 1),
            "average of parameters": trained if self.settings.ema_decay or self.objective.momentum else 0,
            "frozen teacher": tree_bytes(self.frozen),
        }
        return {name: size for name, size in sizes.items() if size}

    def activation_bytes(self, *, batch: int) -> float:
        """Bytes kept for the backward pass of a device's `batch` segments; the frozen teacher keeps nothing."""
        return self.segment_activation_bytes * batch / self.settings.micro_batches


def describe_work(config: Config, stage: Stage, *, uncounted: bool = False) -> Work:
    """The work of a training stage; the teacher is that of `config.teacher`.

    Args:
        config: the config.
        stage: the stage.
        uncounted: True also describes work that has no formula.

    Raises:
        UserError: there is no formula for the stage's objective or optimiser, or a table of `teacher.source` cannot be read.
    """
    inputs = {name: config.inputs.of(name) for name in ("ppg", "accel")}
    channels = {name: channels_of(config)[name] * present.band_groups(inputs[name]) for name in ("ppg", "accel")}
    cached, teacher, frozen_teachers, widths = 0, None, [], []
    signal = jax.ShapeDtypeStruct((1, SAMPLES, channels["ppg"]), jnp.float32)
    learns = stage == "student" and needs_teacher(config)
    if learns and config.teacher.has_encoder:
        module = build_encoder(config.teacher.encoder, dtype=compute_dtype(config.runtime.compute_dtype))
        teacher = Branch("ppg", module, inputs["ppg"])
        teacher_params = jax.eval_shape(module.init, jax.random.key(0), signal)["params"]
        frozen_teachers.append({"params": teacher_params} | _statistics(module.embedding_width))
    if learns:
        widths = [read_embedding_table(path).embedding.shape[1] for path in config.teacher.tables]
        frozen_teachers += [{"params": {}} | _statistics(width) for width in widths]
    tables = [given_branch(number, width) for number, width in enumerate(widths)]
    objective = build_objective(config, stage, samples=SAMPLES, teacher=teacher, tables=tables)
    if teacher is not None:
        reading = objective.teacher_reading
        if config.teacher.cached_views:
            cached = reading.width(teacher.encoder, frozen_teachers[0], signal)
        if reading.reads_tokens:
            frozen_teachers[0] |= _statistics(teacher.encoder.token_width, prefix="token_")
    frozen = frozen_teachers[0] if len(frozen_teachers) == 1 else {TEACHERS: tuple(frozen_teachers)}
    if not frozen_teachers:
        frozen = _label_statistics(objective)
    counted = objective.flops(samples=SAMPLES, channels=channels, cached=bool(cached))
    reason = "" if uncounted else _no_formula(config, stage, counted)
    if reason:
        raise UserError(reason)
    segment = segment_shapes(config, stage, objective, cached=cached, given=widths)
    params = jax.eval_shape(objective.init, jax.random.key(0), segment)
    batches = [batch_shapes(segment, segments) for segments in (1, 3)]
    kept = [tree_bytes(_kept(objective, params, frozen, batch)) for batch in batches]
    return Work(
        config,
        stage,
        objective,
        params,
        frozen,
        *(counted or (0, 0, 0, 0)),
        cached,
        segment,
        _no_formula(config, stage, counted),
        (kept[1] - kept[0]) / 2,
    )


def _no_formula(config: Config, stage: Stage, counted: StepFlops | None) -> str:
    """The reason why the work of a stage has no formula, "" if it has one."""
    section = config.stage(stage)
    if section.train.optimizer != "adamw":
        return f"config.{stage}.train.optimizer = {section.train.optimizer!r}: its work is not counted here; set adamw"
    if counted is None:
        return (
            f"config.{stage}.objective = {section.objective!r}: its work is not counted, only that of masked autoencoding "
            "and of distillation; that of a regression onto tokens with a Transformer as the teacher"
        )
    return ""


def _statistics(width: int, *, prefix: str = "") -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the mean and the standard deviation of a teacher's outputs."""
    return {f"{prefix}{name}": jax.ShapeDtypeStruct((width,), jnp.float32) for name in ("mean", "std")}


def _label_statistics(objective: Objective) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the mean and the standard deviation of the labels, if the objective learns labels."""
    if not isinstance(objective.batches, Labelled):
        return {}
    return {f"label_{name}": jax.ShapeDtypeStruct((), jnp.float32) for name in ("mean", "std")}


def _kept(objective: Objective, params: Any, frozen: Any, batch: dict[str, jax.ShapeDtypeStruct]) -> Any:
    """Shapes of the arrays that differentiation of the trained part keeps, parameters included."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch["position"].shape[0]))
    frozen = frozen | ({TARGET: params} if objective.momentum else {})

    def residuals(params, frozen, batch, keys):
        inputs = objective.inputs(frozen | {PROGRESS: jnp.float32(0)}, batch, keys, training=True)
        return jax.vjp(lambda params: objective.rows(params, inputs), params)[1]

    return jax.eval_shape(residuals, params, frozen, batch, keys)


def batch_shapes(segment: Mapping[str, jax.ShapeDtypeStruct], count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of `count` segments, from those of a batch of one."""
    return {name: jax.ShapeDtypeStruct((count, *shape.shape[1:]), shape.dtype) for name, shape in segment.items()}


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays (or shapes of arrays) of a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class Program(NamedTuple):
    """The mapped training step `(state, frozen, batch) -> (state, metrics)` and the layout of its state.

    Attributes:
        step: the step, for placed arrays.
        layout: layout of the optimiser's state.
        loop: settings of the training loop.
        momentum: decay of the average of the parameters that the objective keeps; 0: none.
    """

    step: Any
    layout: Replicated | Sharded
    loop: LoopSettings
    momentum: float

    def initial(self, params: Any) -> TrainState:
        """The state of step 0 on the host."""
        return initial_state(params, self.layout, self.loop, momentum=self.momentum)

    def start(self, params: Any, parallel: Parallel) -> TrainState:
        """Places the state of step 0 on the devices.

        Args:
            params: parameters on the host.
            parallel: the devices.
        """
        state = self.initial(params)
        placed = TrainState(*map(parallel.replicate, state))
        return placed._replace(opt_state=self.layout.place(state.opt_state, parallel))


def build_program(work: Work, parallel: Parallel) -> Program:
    """Builds the step of `work` over the devices of `parallel`, as a training run does."""
    loop = LoopSettings(
        total_steps=TOTAL_STEPS,
        validate_every=1,
        checkpoint_every=1,
        log_every=1,
        ema_decay=work.settings.ema_decay,
        seed=work.config.seed,
        micro_batches=work.settings.micro_batches,
    )
    layout = _layout(work, shards=parallel.num_devices if work.sharded else 0)
    step = parallel.map(make_step(work.objective, layout, loop), donate=True, state=state_spec(layout))
    return Program(step, layout, loop, work.objective.momentum)


def _layout(work: Work, *, shards: int = 0) -> Replicated | Sharded:
    return make_layout(work.settings, work.params, total_steps=TOTAL_STEPS, num_segments=1_000_000, shards=shards)


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
