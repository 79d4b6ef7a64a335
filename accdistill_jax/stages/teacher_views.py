"""Cached teacher embeddings: the frozen teacher embeds augmented views of the training segments once, beside the store.

`view_files` is their format. Any row may be in a process's part of a batch, so every process keeps all views beside its own
store: all devices compute together, each process writes the parts that it does not have yet.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.config.renamed import with_first_keys
from accdistill_jax.config.tree import plain
from accdistill_jax.data.store.store import Store, signal_crc
from accdistill_jax.encoder import Teacher
from accdistill_jax.files import remove_leftovers
from accdistill_jax.inputs import streams
from accdistill_jax.inputs.augment import augmentations
from accdistill_jax.inputs.registered import Augmentation
from accdistill_jax.objectives.teacher_reading import EMBEDDING_ALONE, TEACHER, TeacherReading
from accdistill_jax.runtime.progress import ProgressLine
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.view_files import (
    Views,
    ViewsPlan,
    encode,
    is_complete,
    part_is_whole,
    part_name,
    write_file,
    write_record,
)
from accdistill_jax.storage.folder import open_folder
from accdistill_jax.storage.locking import file_lock

FORMAT = 1
PART_BYTES = 16 * 2**20
_CHOICE = 31  # seed of the choice of the view that a step takes


def plan_views(run: Run, teacher: Teacher, store: Store, reading: TeacherReading = EMBEDDING_ALONE) -> ViewsPlan:
    """Plan of the views to compute for one of the run's stores; `reading` names the quantities of a view."""
    config = run.config
    rows = run.training_rows(store)
    described = {
        "format": FORMAT,
        "store": store.fingerprint,
        "rows": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest(),
        "teacher": teacher.fingerprint,
        "inputs": with_first_keys(plain(teacher.branch.inputs), at="inputs.ppg"),
        "augment": plain(config.student.augment.ppg),
        "views": config.teacher.cached_views,
        "seed": config.seed,
        "compute_dtype": config.runtime.compute_dtype,
        "dtype": "float32",
    }
    if reading != EMBEDDING_ALONE:
        described["reading"] = dataclasses.asdict(reading)
    width = view_width(teacher, store, reading)
    plan = ViewsPlan(store, rows, config.teacher.cached_views, width, 1, described)
    return plan._replace(part_rows=max(1, PART_BYTES // (plan.views * plan.record.itemsize)))


def view_width(teacher: Teacher, store: Store, reading: TeacherReading) -> int:
    """Numbers of a view of a segment."""
    if not reading.reads_tokens:
        return len(teacher.frozen["mean"])
    ppg = jax.eval_shape(teacher.branch.prepare, store.read(np.zeros(1, np.int64)))
    return reading.width(teacher.branch.encoder, teacher.frozen, ppg)


def prepare_views(run: Run, teacher: Teacher, reading: TeacherReading = EMBEDDING_ALONE) -> "TeacherViews":
    """The views of all stores of the run; computes the missing ones. All processes call it together.

    Args:
        run: the run's context.
        teacher: the frozen teacher.
        reading: the quantities of a view.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    made = []
    for store in run.stores:
        plan = plan_views(run, teacher, store, reading)
        folder = views_folder(plan, run.workdir)

        def complete_everywhere(plan: ViewsPlan = plan, folder: Path = folder) -> bool:
            return all(run.peers.gather("teacher views", is_complete(folder, plan)))

        if not complete_everywhere():
            with _alone(run, folder):
                if not complete_everywhere():
                    make_views(run, teacher, plan, folder)
        made.append(Views(folder, plan))
    return TeacherViews(made, seed=run.config.seed)


def views_folder(plan: ViewsPlan, workdir: Path) -> Path:
    """Folder of the views of a store: beside the store, or in the work directory if the store cannot be written."""
    if open_folder(plan.store.path).is_local:
        beside = Path(plan.store.path) / "teacher_views" / plan.key
        if os.access(plan.store.path, os.W_OK) or is_complete(beside, plan):
            return beside
    return workdir / "data" / "teacher_views" / plan.key


def _alone(run: Run, folder: Path) -> contextlib.AbstractContextManager:
    """Context that keeps other runs on this machine from making the same views."""
    if not run.peers.first:  # process 0 holds the lock for all processes of this run
        return contextlib.nullcontext()
    waiting = functools.partial(run.say, f"student: waiting for another run that computes {folder}")
    return file_lock(folder.with_name(f"{folder.name}.lock"), waiting=waiting)


def make_views(run: Run, teacher: Teacher, plan: ViewsPlan, folder: Path) -> None:
    """Computes the parts that some process lacks, and writes the parts that this process lacks."""
    remove_leftovers(folder)  # of a killed process; no other process writes here now
    lacking = {part for part in range(plan.parts) if not part_is_whole(folder, plan, part)}
    missing = sorted(set().union(*run.peers.gather("missing teacher views", sorted(lacking))))
    run.say(
        f"student: the teacher embeds {plan.views} views of {len(plan.rows)} segments once, {plan.total_bytes / 1e6:.0f} MB in "
        f"{folder}"
        + (f" ({reading_of(plan).words})" if reading_of(plan).reads_tokens else "")
        + (f"; {plan.parts - len(missing)} of {plan.parts} parts are there" if len(missing) < plan.parts else "")
    )
    begin = time.monotonic()
    total = sum(plan.places(part).stop - plan.places(part).start for part in missing)
    with (
        ProgressLine("teacher views", total, enabled=run.peers.first, stream=sys.stderr) as progress,
        run.peers.progress("embedding", within_s=run.config.runtime.hang_timeout_s) as pulse,
    ):
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            pulse.beat(done)
            progress.update(done)

        compute = _computation(run, teacher, plan)
        for part in missing:
            content = encode(plan, part, *compute(plan.rows[plan.places(part)], advance))
            if part in lacking:
                write_file(folder / part_name(part), content)
    write_record(folder, plan, seconds=time.monotonic() - begin)


def reading_of(plan: ViewsPlan) -> TeacherReading:
    """The quantities of a plan's views."""
    return TeacherReading(**plan.described.get("reading", {}))


def _computation(run: Run, teacher: Teacher, plan: ViewsPlan) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """compute(rows [n], advance) -> (embeddings [n, views, D] float32, checksums of the PPG [n] uint32), by all devices."""
    parallel, size = run.parallel, run.config.student.train.batch_size
    specs = augmentations(run.config.student.augment.ppg)
    apply = view_embeddings(teacher, specs, plan, seed=run.config.seed)
    mapped, placed = parallel.map_rows(apply), parallel.replicate(teacher.frozen)

    def dispatched(rows: np.ndarray) -> Iterator[tuple[int, Any]]:
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            padded = np.concatenate(
                [chosen, np.repeat(chosen[-1:], size - len(chosen))]
            )  # a single shape compiles once
            rows_here = np.split(padded, parallel.num_processes)[parallel.process]
            batch = plan.store.read(rows_here)
            crc = np.array([signal_crc(ppg) for ppg in batch["ppg"]], np.uint32)
            batch = {name: values for name, values in batch.items() if name.startswith("ppg")}
            yield len(chosen), mapped(placed, parallel.place(batch | {"row": rows_here.astype(np.int32), "crc": crc}))

    def compute(rows: np.ndarray, advance: Callable[[int], None]) -> tuple[np.ndarray, np.ndarray]:
        embeddings, checksums = [], []
        for count, placed_result in _one_ahead(dispatched(rows)):
            result = parallel.gather(placed_result)
            embeddings.append(result["embedding"][:count])
            checksums.append(result["crc"][:count])
            advance(count)
        return np.concatenate(embeddings), np.concatenate(checksums)

    return compute


def _one_ahead(items: Iterator) -> Iterator:
    """Yields the same items, but starts the next one before it yields: the host reads while the devices compute."""
    before = None
    for item in items:
        if before is not None:
            yield before
        before = item
    if before is not None:
        yield before


def view_embeddings(teacher: Teacher, specs: Mapping[str, Augmentation], plan: ViewsPlan, *, seed: int) -> Callable:
    """apply(frozen, batch) -> {"embedding": [b, views, D], "crc": [b]} of a batch of PPG with "row" [b] and "crc" [b].

    The augmentation of a view is drawn by (seed, store, view, row), independent of the rest of the batch.
    """
    store_number, reading = np.uint32(int(plan.store.fingerprint[:8], 16)), reading_of(plan)
    branch = dataclasses.replace(teacher.branch, augmentations=specs)

    def apply(frozen, batch):
        def embed_view(view: jax.Array) -> jax.Array:
            key = jax.random.key(seed)
            for number in (streams.TEACHER_VIEWS, store_number, view):
                key = jax.random.fold_in(key, number)
            keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(batch["row"])
            return reading.joined(branch.encoder, frozen, branch.present(batch, keys, training=True))

        embeddings = jax.lax.map(embed_view, jnp.arange(plan.views, dtype=jnp.uint32))
        return {"embedding": jnp.swapaxes(embeddings, 0, 1).astype(jnp.float32), "crc": batch["crc"]}

    return apply


class TeacherViews:
    """Reads training batches with the teacher's stored views: a `Reader` of `data.pipeline`.

    Args:
        views: views of each store, in order.
        seed: seed of the choice among a segment's views.
    """

    def __init__(self, views: Sequence[Views], *, seed: int):
        self._views, self._seed = tuple(views), seed

    def __call__(self, number: int, rows: np.ndarray, step: int, position: np.ndarray) -> dict[str, np.ndarray]:
        """The acceleration of rows, and a view of each by the teacher, [b, width] float32, under `TEACHER`."""
        of_store = self._views[number]
        chosen = choose_views(of_store.plan.views, seed=self._seed, step=step, position=position)
        embedding, ppg_crc = of_store.read(rows, chosen)
        return of_store.plan.store.read_accel(rows, ppg_crc=ppg_crc) | {TEACHER: embedding}


def choose_views(views: int, *, seed: int, step: int, position: np.ndarray) -> np.ndarray:
    """Number of the view of each segment in a step: positions in the global batch [b] int32 -> [b] int64, below `views`."""
    drawn = np.random.default_rng([_CHOICE, seed, step]).random(
        int(position.max()) + 1
    )  # the first n are the same for any n
    return (drawn[position] * views).astype(np.int64)
