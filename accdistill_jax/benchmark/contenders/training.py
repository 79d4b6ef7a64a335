"""The real training step of a config, ready to run on generated segments. Run as a program, it is a contender."""

from typing import Any

import jax
import numpy as np

from accdistill_jax.benchmark.model import program
from accdistill_jax.benchmark.model.program import Work
from accdistill_jax.config.convert import parse_section
from accdistill_jax.config.schema import Config
from accdistill_jax.data.synthetic.waveforms import SAMPLES
from accdistill_jax.models.attention import chosen_form
from accdistill_jax.models.build import compute_dtype
from accdistill_jax.models.registered import TransformerOptions
from accdistill_jax.runtime import host_memory
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.storage.arrays import flatten_arrays
from accdistill_jax.training.step import TrainState

START = "start.npz"  # weights and batch that a peer starts from
FOLLOWED = "followed.npz"  # parameters after the steps that a peer follows


class Training:
    """A training stage at its first step, with its batch on the host.

    Args:
        work: the training stage.
        batch: segments per device.
        parallel: the devices.
        several: several processes train together; they then exchange stop requests in every step.

    Attributes:
        params: trained parameters at the start, on the host.
        frozen: frozen teacher, on the host.
        batch: this process's rows of the global batch.
        metrics: metrics of the last finished step.
    """

    def __init__(self, work: Work, *, batch: int, parallel: Parallel, several: bool = False):
        self._parallel = parallel
        built, rows = program.build_program(work, parallel), batch * parallel.num_local
        self.batch = made_up_batch(work, rows, first=rows * parallel.process)
        if several:
            self.batch["stop"] = np.zeros(len(self.batch["position"]), np.int32)
        segment = {name: value[:1] for name, value in self.batch.items()}
        self.params = jax.device_get(jax.jit(work.objective.init)(jax.random.key(0), segment))
        self.frozen = made_up_teacher(work.frozen)
        self._step, self._placed = built.step, parallel.replicate(self.frozen)
        self._state: TrainState = built.start(self.params, parallel)
        self.metrics: dict[str, float] = {}

    def traced(self) -> Any:
        """The step as a jaxpr, before it is compiled."""
        return jax.make_jaxpr(self._step)(self._state, self._placed, self._parallel.place(self.batch)).jaxpr

    def trained(self) -> Any:
        """The current parameters, on the host."""
        return self._parallel.fetch(self._state.params)

    def run(self, steps: int) -> None:
        """Runs steps as the training loop does: a step's metrics are fetched after the next step is dispatched.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        pending = None
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._placed, self._parallel.place(self.batch))
            if pending is not None:
                self._parallel.fetch(pending)
            pending = metrics
        self.metrics = {name: float(value) for name, value in self._parallel.fetch(pending).items()}
        if not np.isfinite(self.metrics["loss"]):
            raise FloatingPointError("the loss is not finite, so the measured steps do not train")
        jax.block_until_ready(self._state)


def made_up_batch(work: Work, rows: int, *, first: int = 0) -> dict[str, np.ndarray]:
    """A batch of white noise in the pipeline's format.

    Args:
        work: the training stage.
        rows: number of segments.
        first: position of the first row in the global batch; it seeds the noise.
    """
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
    """Parameters of an untrained teacher with mean 0 and standard deviation 1; {} for {}."""
    frozen = made_up_params(shapes, seed=1)
    for name in set(frozen) - {"params"}:
        frozen[name] = np.ones_like(frozen[name]) if name.endswith("std") else np.zeros_like(frozen[name])
    return frozen


def made_up_params(shapes: Any, *, seed: int) -> Any:
    """Small random numbers for every parameter, about 1 for scales of norms. Made with numpy, without compilation."""
    rng = np.random.default_rng(seed)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (0.05 * rng.normal(size=leaf.shape) + ("scale" in str(path[-1]))).astype(leaf.dtype), shapes
    )


def write_start(share: str, *, params: Any, frozen: Any, batch: dict[str, np.ndarray]) -> None:
    """Writes the weights and the batch that a peer starts from."""
    arrays: dict[str, Any] = {f"params/{name}": value for name, value in flatten_arrays(params).items()}
    arrays |= {f"frozen/{name}": value for name, value in flatten_arrays(frozen).items()}
    arrays |= {f"batch/{name}": value for name, value in batch.items()}
    np.savez(f"{share}/{START}", **arrays)


def write_followed(share: str, params: Any) -> None:
    """Writes the parameters after the steps that a peer follows."""
    arrays: dict[str, Any] = flatten_arrays(params)
    np.savez(f"{share}/{FOLLOWED}", **arrays)


def attention_form(config: Config) -> str:
    """The way that the student's attention is computed here, and why not faster; "" for an encoder without."""
    sizes = config.student.encoder.chosen
    if not isinstance(sizes, TransformerOptions):
        return ""
    form, why = chosen_form(
        SAMPLES // sizes.patch,
        sizes.width // sizes.heads,
        compute_dtype(config.runtime.compute_dtype),
        heads=sizes.heads,
        relative="relative" in sizes.positions,
    )
    return f"{form} ({why})" if why else form


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Prepares the training and runs its first steps.

    Args:
        order: "config"; "stage"; "batch", segments per device; "share", folder for the weights that `peer_pytorch` reads, or None;
            "follow_steps", number of first steps.
    """
    host_memory.keep_freed()  # as the command does
    config = parse_section(Config, order["config"])
    work, batch = program.describe_work(config, order["stage"]), order["batch"]
    training = Training(work, batch=batch, parallel=Parallel(config.runtime.mapping))
    if order["share"]:
        write_start(order["share"], params=training.params, frozen=training.frozen, batch=training.batch)

    followed = []
    for _ in range(order["follow_steps"]):
        training.run(1)
        followed.append({name: training.metrics[name] for name in ("loss", "gradient_norm")})
    if order["share"]:
        write_followed(order["share"], training.trained())
    used = jax.local_devices()[0].memory_stats() or {}  # CPUs report none
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

    serve(prepare_contender)
