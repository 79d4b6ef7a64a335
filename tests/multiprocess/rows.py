"""Prints as JSON the rows of one process in every global batch, and hashes of the training step's inputs.

On the real control plane and devices of a run; the step is `train.make_step`, mapped as in training. Also a step of the global InfoNCE and its gradient. Started by tests/multiprocess/test_equivalence.py.
"""

import argparse
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.config.registry import AUGMENTATIONS
from accdistill_jax.config.schema import TrainConfig
from accdistill_jax.data.pipeline import Pipeline, Sampling
from accdistill_jax.data.store.store import Store
from accdistill_jax.inputs.augment import order
from accdistill_jax.inputs.prepare import InputSettings
from accdistill_jax.models.heads import ProjectionHead
from accdistill_jax.models.transformer import TransformerEncoder
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.base import Branch
from accdistill_jax.objectives.contrast import CrossModalContrast
from accdistill_jax.objectives.distillation import Distillation, DistillationLoss
from accdistill_jax.runtime import distributed
from accdistill_jax.runtime.parallel import AXIS, Parallel
from accdistill_jax.training.optimizer import make_optimizer
from accdistill_jax.training.optimizer_state import Replicated
from accdistill_jax.training.step import LoopSettings, initial_state, make_step

STRENGTH = {
    "cut_out": 0.1,
    "magnitude_warp": 0.1,
    "gaussian_noise": 0.05,
    "channel_permute": 1.0,
    "time_warp": 0.005,
    "clock_offset": 2.0,
}
SPECS = {name: AUGMENTATIONS.entry(name).options(probability=0.5, strength=STRENGTH[name], knots=6) for name in order()}
SEED, TEMPERATURE = 3, 0.1


def digest(arrays) -> str:
    content = hashlib.sha256()
    for array in arrays:
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def bits_of_rows(rows: jax.Array) -> jax.Array:
    """Two sums over all bits of each row, in the step itself: [b, ...] float32 -> [b, 4] float32, whole numbers below 2^16.

    Whole numbers as small as these survive the average over devices that the step takes of its metrics.
    """
    bits = jax.lax.bitcast_convert_type(rows.reshape(rows.shape[0], -1), jnp.uint32)
    place = jnp.arange(bits.shape[1], dtype=jnp.uint32)[None]
    sums = jnp.stack(
        [
            jnp.sum(bits * (2 * place + 1), axis=1),
            jnp.sum((bits ^ (bits >> 13)) * (place * jnp.uint32(0x9E3779B1) | 1), axis=1),
        ]
    )
    pieces = jnp.concatenate([sums & 0xFFFF, sums >> 16]).T
    return jax.lax.stop_gradient(pieces.astype(jnp.float32))


class WithBits(Distillation):
    """A distillation whose metrics hash its inputs."""

    def rows(self, params, inputs):
        rows = super().rows(params, inputs)
        return rows | {"bits": {name: bits_of_rows(inputs[name]) for name in ("accel", "teacher")}}

    def reduce(self, rows, axis_name, *, training):
        loss, metrics = super().reduce(rows, axis_name, training=training)
        return loss, metrics | jax.lax.all_gather(rows["bits"], axis_name, tiled=True)


def objective() -> WithBits:
    """A distillation from a teacher that returns its input."""
    head = ProjectionHead(hidden=4, output=4)
    student = TransformerEncoder(patch=128, width=8, depth=1, heads=1, mlp=8)
    teacher = SimpleNamespace(
        embedding_width=3840 * 2,  # two PPG channels
        apply=lambda variables, x: x.reshape(x.shape[0], -1),
        init_with_output=lambda key, x: (x.reshape(x.shape[0], -1), {}),
    )
    return WithBits(
        Branch("accel", student, InputSettings(bands="low+high", limit=4.0), head, SPECS),
        Branch("ppg", teacher, InputSettings(), head, SPECS),
        DistillationLoss(CrossModalContrast(TEMPERATURE, 0.5)),
    )


def row_hashes(store: str, parallel: Parallel, peers, *, batch_size: int, steps: int) -> list[dict[str, list[str]]]:
    """By step, by place in the global batch: hashes of the row as read, and of the augmented inputs of the training step."""
    pipeline = Pipeline(
        (Store.open(store),), Sampling("train", SEED), batch_size=batch_size, host=peers.rank, hosts=peers.count
    )
    trained = objective()
    one = {key: value[:1] for key, value in pipeline.batch(0).items()}
    params = jax.device_get(jax.jit(trained.init)(jax.random.key(SEED), one))
    settings = TrainConfig(duration=f"{steps} steps", warmup="1 steps", batch_size=batch_size, learning_rate=1e-3)
    optimizer = make_optimizer(settings, params, total_steps=steps)
    layout = Replicated(optimizer)
    loop = LoopSettings(steps, steps, steps, 1, ema_decay=0.0, seed=SEED)
    step_fn = parallel.map(make_step(trained, layout, loop), donate=True)
    state = parallel.replicate(initial_state(params, layout, loop))
    frozen = parallel.replicate({"params": {}, "mean": np.zeros(1, np.float32), "std": np.ones(1, np.float32)})
    hashes = []
    for batch in pipeline.iterate(0, steps):
        state, metrics = step_fn(state, frozen, parallel.place(batch))
        found = parallel.fetch({name: metrics[name] for name in ("accel", "teacher", "loss")})
        assert np.isfinite(found["loss"])
        hashes.append(
            {
                str(place): [
                    digest(batch[name][row] for name in sorted(batch)),
                    *(digest([found[name][place]]) for name in ("accel", "teacher")),
                ]
                for row, place in enumerate(batch["position"].tolist())
            }
        )
    return hashes


def contrast(parallel: Parallel, *, batch_size: int) -> dict:
    """Value and gradient of both directions of the global InfoNCE of a linear map, computed as in the training step."""
    rng = np.random.default_rng(SEED)
    whole = {name: rng.normal(size=(batch_size, 6)).astype(np.float32) for name in ("x", "y")}
    weights = rng.normal(size=(6, 4)).astype(np.float32)
    mine = {name: np.split(rows, parallel.num_processes)[parallel.process] for name, rows in whole.items()}

    def loss(w, batch):
        x, y = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (batch["x"] @ w, batch["y"] @ w))
        both = (losses.info_nce(a, b, temperature=TEMPERATURE, axis_name=AXIS) for a, b in ((x, y), (y, x)))
        return sum(both) / 2

    def step(w, frozen, batch):
        value, gradient = jax.value_and_grad(loss)(w, batch)
        return w, jax.lax.pmean({"value": value, "gradient": gradient}, AXIS)

    _, found = parallel.map(step)(parallel.replicate(weights), parallel.replicate({}), parallel.place(mine))
    found = parallel.fetch(found)
    return {"value": float(found["value"]), "gradient": found["gradient"].tolist()}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, kind in {
        "store": str,
        "mapping": str,
        "out": str,
        "coordinator": str,
        "num_processes": int,
        "process_id": int,
        "steps": int,
        "batch_size": int,
    }.items():
        parser.add_argument(f"--{name}", type=kind)
    args = parser.parse_args()
    peers = distributed.start_distributed(
        coordinator=args.coordinator, num_processes=args.num_processes, process_id=args.process_id
    )
    parallel = Parallel(args.mapping)
    result = {
        "devices": parallel.num_devices,
        "rows": row_hashes(args.store, parallel, peers, batch_size=args.batch_size, steps=args.steps),
        "contrast": contrast(parallel, batch_size=args.batch_size),
    }
    Path(f"{args.out}.{peers.rank}").write_text(json.dumps(result))
    peers.barrier("written")
    peers.leave(0, "finished")
    peers.close()
    distributed.stop()


if __name__ == "__main__":
    main()
