"""What every row of every global batch is, on the real control plane and devices of a run: one process's part, as JSON.

Also a step of the global InfoNCE and its gradient. Started by tests/multiprocess/test_equivalence.py.
"""

import argparse
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax import distributed, losses
from accdistill_jax.augment import ORDER, Augmentation
from accdistill_jax.data.pipeline import Pipeline
from accdistill_jax.data.store import Store
from accdistill_jax.inputs import InputSettings
from accdistill_jax.objectives import distillation
from accdistill_jax.parallel import AXIS, Parallel
from accdistill_jax.train import batch_keys

STRENGTH = {"cut_out": 0.1, "magnitude_warp": 0.1, "gaussian_noise": 0.05, "channel_permute": 1.0, "time_warp": 0.005}
AUGMENTATIONS = {name: Augmentation(0.5, STRENGTH[name], 6) for name in ORDER}
SEED, TEMPERATURE = 3, 0.1


def digest(arrays) -> str:
    content = hashlib.sha256()
    for array in arrays:
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def own_rows(array: jax.Array) -> np.ndarray:
    """This process's rows of a split array, in order: [b, ...]."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    parts = [np.asarray(shard.data) for shard in shards]
    return np.concatenate([part.reshape(-1, *part.shape[array.ndim - 3 + 1 :]) for part in parts])


def objective():
    """The distillation's, with a teacher that hands its input on."""
    teacher = SimpleNamespace(apply=lambda variables, x: x.reshape(x.shape[0], -1))
    return distillation(
        None,
        teacher,
        None,
        None,
        student_inputs=InputSettings(bands="low+high", limit=4.0),
        teacher_inputs=InputSettings(),
        augmentations={"accel": AUGMENTATIONS, "ppg": AUGMENTATIONS},
        temperature=TEMPERATURE,
        teacher_to_student_weight=0.5,
    )


def row_hashes(store: str, parallel: Parallel, peers, *, batch_size: int, steps: int) -> list[dict[str, list[str]]]:
    """By step, by place in the global batch: hashes of the row as read, and of its augmented inputs."""
    pipeline = Pipeline(
        (Store.open(store),), split="train", batch_size=batch_size, seed=SEED, host=peers.rank, hosts=peers.count
    )
    inputs = objective().inputs
    frozen = {"params": {}, "mean": np.zeros(1, np.float32), "std": np.ones(1, np.float32)}

    def views(state, batch):
        found = inputs(state["frozen"], batch, batch_keys(SEED, state["step"], batch["position"]), training=True)
        return {"accel": found["accel"], "ppg": found["teacher"][:, :, None]}

    mapped = parallel.map_rows(views)
    hashes = []
    for step, batch in enumerate(pipeline.iterate(0, steps)):
        state = parallel.replicate({"frozen": frozen, "step": np.int32(step)})
        found = {name: own_rows(array) for name, array in mapped(state, parallel.place(batch)).items()}
        hashes.append(
            {
                str(place): [
                    digest(batch[name][row] for name in sorted(batch)),
                    *(digest([found[name][row]]) for name in ("accel", "ppg")),
                ]
                for row, place in enumerate(batch["position"].tolist())
            }
        )
    return hashes


def contrast(parallel: Parallel, *, batch_size: int) -> dict:
    """Value and gradient of both directions of the global InfoNCE of a linear map, as the training step takes them."""
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
    for name, kind in {"store": str, "mapping": str, "out": str, "coordinator": str, "num_processes": int,
                       "process_id": int, "steps": int, "batch_size": int}.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=kind)
    args = parser.parse_args()
    peers = distributed.start(
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
