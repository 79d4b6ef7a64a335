"""The real training step of a config, ready to run on made-up segments; as a program, one of the contenders."""

from typing import Any

import jax
import numpy as np

from accdistill_jax.benchmark.model import program
from accdistill_jax.benchmark.model.program import Work
from accdistill_jax.config.convert import section
from accdistill_jax.config.schema import Config
from accdistill_jax.data.synthetic.waveforms import SAMPLES
from accdistill_jax.models.attention import chosen
from accdistill_jax.models.build import compute_dtype
from accdistill_jax.models.registered import TransformerOptions
from accdistill_jax.runtime import host_memory
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.storage.arrays import flatten
from accdistill_jax.training.step import TrainState

FOLLOWED = "followed.npz"  # the parameters after the steps that a peer follows


class Training:
    """A training stage at its first step, its batch on the host.

    Args:
        work: what is computed.
        batch: segments per device.
        parallel: the devices.
        several: whether this process is one of several, which then tell each other of stops.

    Attributes:
        params, frozen: on the host, as at the start.
        batch: this process's rows.
        metrics: of the last finished step.
    """

    def __init__(self, work: Work, *, batch: int, parallel: Parallel, several: bool = False):
        self._parallel = parallel
        built, rows = program.build(work, parallel), batch * parallel.num_local
        self.batch = made_up_batch(work, rows, first=rows * parallel.process)
        if several:
            self.batch["stop"] = np.zeros(len(self.batch["position"]), np.int32)
        one = {name: value[:1] for name, value in self.batch.items()}
        self.params = jax.device_get(jax.jit(work.objective.init)(jax.random.key(0), one))
        self.frozen = made_up_teacher(work.frozen)
        self._step, self._placed = built.step, parallel.replicate(self.frozen)
        self._state: TrainState = built.start(self.params, parallel)
        self.metrics: dict[str, float] = {}

    def traced(self) -> Any:
        """The step as a jaxpr, before it is compiled."""
        return jax.make_jaxpr(self._step)(self._state, self._placed, self._parallel.place(self.batch)).jaxpr

    def trained(self) -> Any:
        """The parameters now, on the host."""
        return self._parallel.fetch(self._state.params)

    def run(self, steps: int) -> None:
        """Runs steps as the training loop does: a step's metrics are fetched after the next step is dispatched."""
        pending = None
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._placed, self._parallel.place(self.batch))
            if pending is not None:
                self._parallel.fetch(pending)
            pending = metrics
        self.metrics = {name: float(value) for name, value in self._parallel.fetch(pending).items()}
        if not np.isfinite(self.metrics["loss"]):
            raise FloatingPointError("the loss is not finite: what was measured is not training")
        jax.block_until_ready(self._state)


def made_up_batch(work: Work, rows: int, *, first: int = 0) -> dict[str, np.ndarray]:
    """A batch as the pipeline gives it, of white noise; the same numbers for the same place in the global batch."""
    batch = {}
    for name, shape in work.batch_shapes(rows).items():
        rng = np.random.default_rng([first, len(name)])
        noise = shape.dtype == np.int16
        batch[name] = (
            (rng.normal(size=shape.shape) * 3000).astype(np.int16) if noise else np.ones(shape.shape, shape.dtype)
        )
    batch["position"] = np.arange(first, first + rows, dtype=np.int32)
    return batch


def made_up_teacher(shapes: Any) -> Any:
    """Parameters of a teacher that was not trained, with statistics that change nothing; {} for {}."""
    frozen = made_up_params(shapes, seed=1)
    if frozen:
        frozen["mean"], frozen["std"] = np.zeros_like(frozen["mean"]), np.ones_like(frozen["std"])
    return frozen


def made_up_params(shapes: Any, *, seed: int) -> Any:
    """Small random numbers for every parameter, scales of norms about 1: nothing has to be compiled for them."""
    rng = np.random.default_rng(seed)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (0.05 * rng.normal(size=leaf.shape) + ("scale" in str(path[-1]))).astype(leaf.dtype), shapes
    )


def attention_form(config: Config) -> str:
    """The way that the student's attention is computed here, and why not faster; "" for an encoder without."""
    sizes = config.student.encoder.chosen
    if not isinstance(sizes, TransformerOptions):
        return ""
    form, why = chosen(
        SAMPLES // sizes.patch,
        sizes.width // sizes.heads,
        compute_dtype(config.runtime.compute_dtype),
        relative="relative" in sizes.positions,
    )
    return f"{form} ({why})" if why else form


def prepare(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """A contender: `order` has config, stage, batch (per device), share (a folder for `peer_pytorch`, or None)."""
    host_memory.keep_freed()  # as the command does
    config = section(Config, order["config"])
    work, batch = program.describe(config, order["stage"]), order["batch"]
    training = Training(work, batch=batch, parallel=Parallel(config.runtime.mapping))
    if order["share"]:
        arrays = {f"params/{name}": value for name, value in flatten(training.params).items()}
        arrays |= {f"frozen/{name}": value for name, value in flatten(training.frozen).items()}
        arrays |= {f"batch/{name}": value for name, value in training.batch.items()}
        np.savez(f"{order['share']}/start.npz", **arrays)
    followed = []
    for _ in range(order["follow_steps"]):
        training.run(1)
        followed.append({name: training.metrics[name] for name in ("loss", "gradient_norm")})
    if order["share"]:
        np.savez(f"{order['share']}/{FOLLOWED}", **flatten(training.trained()))
    used = jax.local_devices()[0].memory_stats() or {}  # CPUs keep none
    facts = {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "flops_per_segment": work.step_flops(batch=batch, global_batch=batch * jax.device_count()) / batch,
        "first_steps": followed,
        "attention": attention_form(config),
        "device_peak_bytes": used.get("peak_bytes_in_use"),
    }
    return facts, training.run


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare)
