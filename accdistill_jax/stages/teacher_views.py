"""A teacher that runs once: its embeddings of augmented views of the training segments, kept beside the store.

    <store>/teacher_views/<key>/     <key> is a hash of everything that the embeddings depend on (`described`)
        part-00000, part-00001, ...  records of some thousand segments each: of every segment its views, one behind the other
        views.json                   what they are, and the sizes of the parts; written last

A store that cannot be written to (in an object store, or read-only) has them in <workdir>/data/teacher_views/<key>/.

A record is an embedding in float32 (float16 would save half of 2 % of the paper's store per view, and cost the equality with
a teacher that runs in every step), the checksum of the segment's PPG as stored, with which the acceleration can be checked
without reading the PPG, and a checksum over the record and its place. All of them are verified whenever they are read.

Every process of a run needs all of them, for the rows of its part of a batch are any, and keeps them beside its own store:
all devices compute together, each process writes what is not there yet.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from accdistill_jax.config.record import plain
from accdistill_jax.data.pipeline import chosen_rows
from accdistill_jax.data.store.store import Store, signal_crc
from accdistill_jax.encoder import Teacher
from accdistill_jax.errors import UserError
from accdistill_jax.files import open_regular, read_regular, remove_leftovers, sealed, write_atomically
from accdistill_jax.inputs.augment import Augmentation, augmentations
from accdistill_jax.inputs.present import present
from accdistill_jax.objectives import TEACHER, standard_embedding
from accdistill_jax.runtime.progress import ProgressLine
from accdistill_jax.stages.context import Run
from accdistill_jax.storage.arrays import Damaged, read_json
from accdistill_jax.storage.folder import no_space_message, open_folder
from accdistill_jax.storage.locking import file_lock

FORMAT = 1
RECORD = "views.json"
PART_BYTES = 16 * 2**20
_CHOICE, _STREAM = 31, 4  # of the view that a step takes; of the views' augmentations


class Plan(NamedTuple):
    """The views of one store.

    Attributes:
        store: whose segments.
        rows: [n] int64, which of them, ascending.
        views: of each.
        width: of an embedding.
        part_rows: segments of a part.
        described: everything that the embeddings depend on.
    """

    store: Store
    rows: np.ndarray
    views: int
    width: int
    part_rows: int
    described: dict[str, Any]

    @property
    def key(self) -> str:
        """Hash of `described`: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.described, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def record(self) -> np.dtype:
        """Of one view of one segment, little endian."""
        return np.dtype([("embedding", "<f4", (self.width,)), ("ppg_crc", "<u4"), ("crc", "<u4")])

    @property
    def total_bytes(self) -> int:
        """Of all parts."""
        return len(self.rows) * self.views * self.record.itemsize

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-len(self.rows) // self.part_rows)

    def places(self, part: int) -> slice:
        """Which of `rows` a part holds."""
        return slice(part * self.part_rows, min((part + 1) * self.part_rows, len(self.rows)))

    def part_bytes(self, part: int) -> int:
        """Size of a part."""
        places = self.places(part)
        return (places.stop - places.start) * self.views * self.record.itemsize


def part_name(part: int) -> str:
    return f"part-{part:05d}"


def plan_views(run: Run, teacher: Teacher, store: Store) -> Plan:
    """Plan of the views to compute for one of the run's stores."""
    config = run.config
    rows = chosen_rows(store, "train", cap=config.data.participant_cap or None, seed=config.seed)
    described = {
        "format": FORMAT,
        "store": store.fingerprint,
        "rows": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest(),
        "teacher": teacher.fingerprint,
        "inputs": teacher.inputs._asdict(),
        "augment": plain(config.student.augment.ppg),
        "views": config.teacher.cached_views,
        "seed": config.seed,
        "compute_dtype": config.runtime.compute_dtype,
        "dtype": "float32",
    }
    plan = Plan(store, rows, config.teacher.cached_views, len(teacher.frozen["mean"]), 1, described)
    return plan._replace(part_rows=max(1, PART_BYTES // (plan.views * plan.record.itemsize)))


def prepare_views(run: Run, teacher: Teacher) -> "TeacherViews":
    """The views of all of the run's stores, computed where they are not there; all processes call it together.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    made = []
    for store in run.stores:
        plan = plan_views(run, teacher, store)
        folder = views_folder(plan, run.workdir)

        def complete_everywhere(plan: Plan = plan, folder: Path = folder) -> bool:
            return all(run.peers.gather("teacher views", is_complete(folder, plan)))

        if not complete_everywhere():
            with _alone(run, folder):
                if not complete_everywhere():
                    _make(run, teacher, plan, folder)
        made.append(Views(folder, plan))
    return TeacherViews(made, seed=run.config.seed)


def views_folder(plan: Plan, workdir: Path) -> Path:
    """Where views of a store are kept: beside it, or in the work directory where it cannot be written to."""
    if open_folder(plan.store.path).is_local:
        beside = Path(plan.store.path) / "teacher_views" / plan.key
        if os.access(plan.store.path, os.W_OK) or is_complete(beside, plan):
            return beside
    return workdir / "data" / "teacher_views" / plan.key


def _alone(run: Run, folder: Path) -> contextlib.AbstractContextManager:
    """Context in which no other run of this machine makes the same views."""
    if not run.peers.first:  # it holds the lock for all processes of this run
        return contextlib.nullcontext()
    waiting = functools.partial(run.say, f"student: waiting for another run that computes {folder}")
    return file_lock(folder.with_name(f"{folder.name}.lock"), waiting=waiting)


def is_complete(folder: Path, plan: Plan) -> bool:
    """True if all parts are there; their content is verified when they are read."""
    try:
        record = read_json(epath.Path(folder) / RECORD)
        if record["meta"] != plan.described:
            return False
        return all((folder / name).stat().st_size == size for name, size in record["files"].items())
    except (Damaged, OSError):
        return False


def _make(run: Run, teacher: Teacher, plan: Plan, folder: Path) -> None:
    """Computes the parts that some process does not have, and writes those that this one does not have."""
    remove_leftovers(folder)  # of a process that was killed; no other one is writing here now
    own = {part for part in range(plan.parts) if not part_is_whole(folder, plan, part)}
    missing = sorted(set().union(*run.peers.gather("missing teacher views", sorted(own))))
    run.say(
        f"student: the teacher embeds {plan.views} views of {len(plan.rows)} segments once, {plan.total_bytes / 1e6:.0f} MB in "
        f"{folder}"
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
            if part in own:
                _write(folder / part_name(part), content)
    files = {part_name(part): plan.part_bytes(part) for part in range(plan.parts)}
    record = sealed({"meta": plan.described, "leaves": [], "files": files, "seconds": time.monotonic() - begin})
    _write(folder / RECORD, json.dumps(record, indent=1).encode())


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(no_space_message(str(path), len(content))) from error
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _computation(run: Run, teacher: Teacher, plan: Plan) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """compute(rows [n], advance) -> (embeddings [n, views, D] float32, checksums of the PPG [n] uint32), by all devices."""
    parallel, size = run.parallel, run.config.student.train.batch_size
    specs = augmentations(run.config.student.augment.ppg)
    apply = view_embeddings(teacher, specs, views=plan.views, seed=run.config.seed, store=plan.store)
    mapped, placed = parallel.map_rows(apply), parallel.replicate(teacher.frozen)

    def dispatched(rows: np.ndarray) -> Iterator[tuple[int, Any]]:
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            padded = np.concatenate([chosen, np.repeat(chosen[-1:], size - len(chosen))])  # one shape, one compilation
            own = np.split(padded, parallel.num_processes)[parallel.process]
            batch = plan.store.read(own)
            crc = np.array([signal_crc(ppg) for ppg in batch["ppg"]], np.uint32)
            batch = {name: values for name, values in batch.items() if name.startswith("ppg")}
            yield len(chosen), mapped(placed, parallel.place(batch | {"row": own.astype(np.int32), "crc": crc}))

    def compute(rows: np.ndarray, advance: Callable[[int], None]) -> tuple[np.ndarray, np.ndarray]:
        embeddings, checksums = [], []
        for count, found in _one_ahead(dispatched(rows)):
            found = parallel.gather(found)
            embeddings.append(found["embedding"][:count])
            checksums.append(found["crc"][:count])
            advance(count)
        return np.concatenate(embeddings), np.concatenate(checksums)

    return compute


def _one_ahead(items: Iterator) -> Iterator:
    """The same items, the next one begun before one is handed over: the host reads while the devices compute."""
    before = None
    for item in items:
        if before is not None:
            yield before
        before = item
    if before is not None:
        yield before


def view_embeddings(
    teacher: Teacher, specs: Mapping[str, Augmentation], *, views: int, seed: int, store: Store
) -> Callable:
    """apply(frozen, batch) -> {"embedding": [b, views, D], "crc": [b]} of a batch of PPG with "row" [b] and "crc" [b].

    The augmentation of a view is drawn by (seed, store, view, row), whatever else is in the batch.
    """
    own = np.uint32(int(store.fingerprint[:8], 16))

    def apply(frozen, batch):
        def one(view: jax.Array) -> jax.Array:
            key = jax.random.key(seed)
            for number in (_STREAM, own, view):
                key = jax.random.fold_in(key, number)
            keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(batch["row"])
            ppg = present(batch, keys, "ppg", teacher.inputs, specs, training=True)
            return standard_embedding(teacher.encoder, frozen, ppg)

        found = jax.lax.map(one, jnp.arange(views, dtype=jnp.uint32))
        return {"embedding": jnp.swapaxes(found, 0, 1).astype(jnp.float32), "crc": batch["crc"]}

    return apply


def encode(plan: Plan, part: int, embeddings: np.ndarray, ppg_crc: np.ndarray) -> bytes:
    """The content of a part from [n, views, D] float32 and [n] uint32."""
    records = np.empty(embeddings.shape[0] * plan.views, plan.record)
    records["embedding"] = embeddings.reshape(len(records), -1)
    records["ppg_crc"] = np.repeat(ppg_crc, plan.views)
    records["crc"] = _checksums(plan, *_places(plan, part), records)
    return records.tobytes()


def _places(plan: Plan, part: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and view of each record of a part, in order."""
    rows = plan.rows[plan.places(part)]
    return np.repeat(rows, plan.views), np.tile(np.arange(plan.views), len(rows))


def _checksums(plan: Plan, rows: np.ndarray, views: np.ndarray, records: np.ndarray) -> np.ndarray:
    """Expected checksums [n] uint32 of records [n]; rows and views [n] say whose they are."""
    content = records.view(np.uint8).reshape(len(records), plan.record.itemsize)[:, : plan.record.fields["crc"][1]]
    places = (rows * plan.views + views) & 0xFFFFFFFF  # a record at another one's place is no less wrong
    return np.array([zlib.crc32(*pair) for pair in zip(content, places.tolist(), strict=True)], np.uint32)


def part_is_whole(folder: Path, plan: Plan, part: int) -> bool:
    """True if a part is there and all its records are what was written."""
    try:
        content = read_regular(folder / part_name(part), limit_bytes=plan.part_bytes(part))
    except OSError:
        return False
    if len(content) != plan.part_bytes(part):
        return False
    records = np.frombuffer(content, plan.record)
    return bool(np.array_equal(_checksums(plan, *_places(plan, part), records), records["crc"]))


class Views:
    """The finished views of one store. Thread safe.

    Args:
        folder: where the parts are.
        plan: what they are.
    """

    def __init__(self, folder: Path, plan: Plan):
        self._folder, self.plan = folder, plan

    def read(self, rows: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One view each of segments, in the order asked for.

        Args:
            rows: [batch] int64, rows of the store.
            views: [batch] integers, which view of each.

        Returns:
            embeddings [batch, D] float32, and checksums of the segments' PPG [batch] uint32.

        Raises:
            UserError: a part is missing, unreadable or not what was written, naming it.
        """
        plan, size = self.plan, self.plan.record.itemsize
        places = np.searchsorted(plan.rows, rows)
        parts, inside = np.divmod(places, plan.part_rows)
        found = np.empty((len(rows), size), np.uint8)
        for part in np.unique(parts).tolist():
            mine = np.flatnonzero(parts == part)
            offsets = (inside[mine] * plan.views + views[mine]) * size
            self._read_part(part, found, mine.tolist(), offsets.tolist())
        records = found.view(plan.record)[:, 0]
        wrong = np.flatnonzero(_checksums(plan, rows, views, records) != records["crc"])
        if len(wrong):
            raise self._error(int(parts[wrong[0]]), f"segment {rows[wrong[0]]} is not what was written there")
        return np.ascontiguousarray(records["embedding"]), records["ppg_crc"].copy()

    def _read_part(self, part: int, into: np.ndarray, at: list[int], offsets: list[int]) -> None:
        try:
            with open_regular(self._folder / part_name(part)) as file:
                for place, offset in zip(at, offsets, strict=True):
                    if os.preadv(file.fileno(), [into[place]], offset) != into.shape[1]:
                        raise self._error(part, "too short")
        except OSError as error:
            raise self._error(part, error.strerror) from error

    def _error(self, part: int, what: str) -> UserError:
        return UserError(
            f"{self._folder / part_name(part)}: {what}; delete {self._folder / RECORD} and start again: the teacher then "
            "embeds anew what is damaged"
        )


class TeacherViews:
    """Reads training batches with the teacher's stored views: a `Reader` of `data.pipeline`.

    Args:
        views: of each store, in order.
        seed: of the choice among a segment's views.
    """

    def __init__(self, views: Sequence[Views], *, seed: int):
        self._views, self._seed = tuple(views), seed

    def __call__(self, number: int, rows: np.ndarray, step: int, position: np.ndarray) -> dict[str, np.ndarray]:
        """The acceleration of rows, and the teacher's embedding of one of their views, [b, D] float32, as `TEACHER`."""
        own = self._views[number]
        chosen = choose_views(own.plan.views, seed=self._seed, step=step, position=position)
        embedding, ppg_crc = own.read(rows, chosen)
        return own.plan.store.read_accel(rows, ppg_crc=ppg_crc) | {TEACHER: embedding}


def choose_views(views: int, *, seed: int, step: int, position: np.ndarray) -> np.ndarray:
    """Which view a step takes of the segments at places in the global batch: [b] int32 -> [b] int64, below `views`."""
    drawn = np.random.default_rng([_CHOICE, seed, step]).random(
        int(position.max()) + 1
    )  # the first n are the same for any n
    return (drawn[position] * views).astype(np.int64)
