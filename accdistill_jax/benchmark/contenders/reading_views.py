"""Contender: reads the teacher's cached views and the acceleration into host memory, in place of PPG and acceleration."""

from pathlib import Path
from typing import Any

import numpy as np

from accdistill_jax.benchmark.contenders.reading import SEED
from accdistill_jax.data.pipeline import Pipeline, Sampling
from accdistill_jax.data.store.store import Store, signal_crc
from accdistill_jax.stages import teacher_views
from accdistill_jax.stages.teacher_views import TeacherViews
from accdistill_jax.stages.view_files import Views, ViewsPlan, encode, part_name

WIDTH, VIEWS = 256, 2


def write_views(store: Store, folder: Path) -> Views:
    """Writes views of a store's training segments, of random numbers, in the real format."""
    rows = store.indices("train")
    plan = ViewsPlan(store, rows, VIEWS, WIDTH, 1, {})
    plan = plan._replace(part_rows=teacher_views.PART_BYTES // (VIEWS * plan.record.itemsize))
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part in range(plan.parts):
        part_rows = rows[plan.places(part)]
        crc = np.array([signal_crc(ppg) for ppg in store.read(part_rows)["ppg"]], np.uint32)
        embeddings = rng.standard_normal((len(part_rows), VIEWS, WIDTH), np.float32)
        (folder / part_name(part)).write_bytes(encode(plan, part, embeddings, crc))
    return Views(folder, plan)


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Writes the views and opens the pipeline.

    Args:
        order: "store"; "folder" for the views; "batch", segments per batch; "steps", batches per iteration; "threads" and "prefetch"
            of the pipeline.
    """
    store = Store.open(order["store"])
    views = write_views(store, Path(order["folder"]) / "views")
    reader = TeacherViews([views], seed=SEED)
    pipeline, step = Pipeline([store], Sampling(split="train", seed=SEED), batch_size=order["batch"], reader=reader), 0

    def run(count: int) -> None:
        nonlocal step
        for _ in pipeline.iterate(step, count * order["steps"], threads=order["threads"], prefetch=order["prefetch"]):
            pass
        step += count * order["steps"]

    run(1)
    return {"segments": order["batch"] * order["steps"]}, run


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
