"""Does one job: generates the data, or trains an encoder (in the one loop, by run.py) and embeds all segments with it.

A job leaves in its folder what a run leaves, and

    embeddings.npz   "<split>/<what>" for the splits "train", "validation" and "test", or, of a job that embeds unseen
                     stores with another one's encoder, "unseen-<store>"; what is embedding [N, D], projection [N, P],
                     teacher_projection [N, P] (what it is compared with in retrieval), prediction [N] (of supervised
                     training); and, except of unseen stores, train_rows [N], places among all training segments
    facts.json       parameters, multiply-accumulates, seconds of training, and what it was made with
"""

import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accdistill_jax.config import record as config_record
from accdistill_jax.config.convert import changed, parse
from accdistill_jax.config.schema import Config
from accdistill_jax.data.store.store import Store
from accdistill_jax.files import write_atomically

EMBEDDINGS, FACTS = "embeddings.npz", "facts.json"
SPLITS = ("train", "validation", "test")
_SOME, _BLOCK = 51, 256


def do_work(order: Mapping[str, Any], folder: Path, needs: Mapping[str, Path]) -> None:
    """Does one job of the grid (see reproduce/plan/grid.py); the same call continues one that was stopped.

    Args:
        order: kind, config, data and what else the kind needs.
        folder: of the job.
        needs: folders of the jobs that it builds on, by name.

    Raises:
        UserError: something the user can put right.
        Interrupted: stopped by a signal, what is done being kept.
    """
    if order["kind"] == "data":
        return generate_store(order, folder)
    from accdistill_jax.runtime.interrupt import Interruption

    stores = tuple(order["stores"]) or (str(needs["data"] / "store"),)
    with Interruption(at_once=True):
        opened = OpenedStores(
            tuple(map(Store.open, stores)), {Path(path).name: Store.open(path) for path in order["unseen"]}
        )
        if order["kind"] == "classical":
            arrays, facts = embed_classical(opened, elsewhere=bool(order["unseen"])), {}
        else:
            arrays, facts = learned(order, folder, needs, opened)
        _save(folder, arrays, facts | {"environment": config_record.environment()})


class OpenedStores(NamedTuple):
    """Stores of a job: those trained on, and those that nothing is trained on by name."""

    stores: tuple[Store, ...]
    unseen: dict[str, Store]

    def rows(self, *, train: np.ndarray | None = None) -> dict[str, list[np.ndarray]]:
        """By split, per store, the rows that are embedded; `train`: places among all training rows (None: all)."""
        found = {split: [store.indices(split) for store in self.stores] for split in SPLITS}
        if train is not None:
            ends = np.cumsum([len(own) for own in found["train"]])
            starts = ends - [len(own) for own in found["train"]]
            found["train"] = [
                own[train[(train >= start) & (train < end)] - start]
                for own, start, end in zip(found["train"], starts, ends, strict=True)
            ]
        return found

    def everything(self, *, train: np.ndarray | None = None) -> dict[str, tuple[tuple[Store, ...], list[np.ndarray]]]:
        """By split, unseen stores among them: the stores and their rows."""
        return {split: (self.stores, rows) for split, rows in self.rows(train=train).items()} | self.elsewhere()

    def elsewhere(self) -> dict[str, tuple[tuple[Store, ...], list[np.ndarray]]]:
        """The same of the unseen stores alone."""
        return {f"unseen-{n}": ((store,), [np.arange(store.num_segments)]) for n, store in self.unseen.items()}

    def train_places(self, limit: int | None) -> np.ndarray:
        """Places of the training segments that are embedded among all; `limit` of them, the same for every encoder."""
        total = sum(len(store.indices("train")) for store in self.stores)
        if limit is None or total <= limit:
            return np.arange(total)
        return np.sort(np.random.default_rng(_SOME).choice(total, limit, replace=False))


def generate_store(order: Mapping[str, Any], folder: Path) -> None:
    """Writes the synthetic store of a plan."""
    from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, shared_store

    c = dict(order["synthetic"])
    workers = c.pop("workers")
    shared_store(folder / "store", SyntheticSettings(**c), workers=workers, say=print)


def embed_classical(opened: OpenedStores, *, elsewhere: bool) -> dict[str, np.ndarray]:
    """Hand-made features of all segments, or of those of unseen stores, in place of an embedding."""
    from accdistill_jax.evaluation.classical.classical import classical_features

    arrays = {} if elsewhere else {"train_rows": opened.train_places(None)}
    for split, (stores, rows) in (opened.elsewhere() if elsewhere else opened.everything()).items():
        parts = [np.zeros((0, 0), np.float32)]
        for store, own in zip(stores, rows, strict=True):
            for start in range(0, len(own), _BLOCK):
                batch = store.read(own[start : start + _BLOCK])
                accel = batch["accel"] * batch["accel_scale"][:, None] + batch["accel_offset"][:, None]
                parts.append(classical_features(accel, rate_hz=store.rate_hz))
        if len(parts) > 1:
            arrays[f"{split}/embedding"] = np.concatenate(parts[1:]).astype(np.float32)
    return arrays


def learned(
    order: Mapping[str, Any], folder: Path, needs: Mapping[str, Path], opened: OpenedStores
) -> tuple[dict, dict]:
    """Trains (unless the kind says otherwise) and embeds: arrays and facts as the module's docstring says."""
    import jax

    from accdistill_jax.run import run
    from accdistill_jax.runtime.compilation_cache import use_compilation_cache
    from accdistill_jax.runtime.parallel import Parallel
    from accdistill_jax.runtime.peers.peers import Peers
    from accdistill_jax.stages.context import Run

    changes: dict[str, Any] = {"data.stores": tuple(store.path for store in opened.stores)}
    if order["teacher"]:
        changes["teacher.path"] = str(needs[order["teacher"]] / "teacher" / "export")
    config = changed(parse(order["config"]), changes)
    if order["kind"] in ("teacher", "student") and not order["of"]:
        run(config, str(folder))
    use_compilation_cache(config.runtime.compilation_cache)
    source = needs[order["of"]] if order["of"] else folder
    this = Run(config, source, opened.stores, Parallel(config.runtime.mapping), Peers.alone(), print)
    encoder = encoder_of(order, this)
    if order["unseen"]:
        arrays = embed_all(this, opened.elsewhere(), encoder)
    else:
        limit = {"all": None, "some": config.evaluation.train_segments, "none": 0}[order["rows"]]
        places = opened.train_places(limit)
        arrays = {"train_rows": places} | embed_all(this, opened.everything(train=places), encoder)
    if order["compared"] and encoder.project_teacher is not None:
        arrays |= _teacher_projections(needs[order["compared"]] / EMBEDDINGS, encoder)
    facts = facts_of(folder, config, encoder, opened.stores[0])
    jax.clear_caches()  # a worker lives for many jobs, and each compiles programs of its own
    return arrays, facts


class JobEncoder(NamedTuple):
    """Encoders that a job embeds with.

    Attributes:
        module: the encoder, [batch, time, C] -> [batch, D].
        modality: "ppg" or "accel".
        inputs: how the signal is presented to it.
        params: of the encoder alone.
        represent: per-device function (all params, batch) -> {name: [b, ...]}.
        all_params: for `represent`.
        project_teacher: the frozen teacher's embedding [N, D] -> what retrieval compares, or None.
    """

    module: Any
    modality: str
    inputs: Any
    params: Any
    represent: Callable
    all_params: Any
    project_teacher: Callable[[np.ndarray], np.ndarray] | None = None


def encoder_of(order: Mapping[str, Any], this: Any) -> JobEncoder:
    """The encoder of a job, trained or not."""
    import jax

    from accdistill_jax.inputs.prepare import prepare
    from accdistill_jax.models.build import build_encoder, compute_dtype
    from accdistill_jax.objectives.base import Branch
    from accdistill_jax.stages.student import load_student
    from accdistill_jax.stages.teacher import load_teacher

    if order["kind"] == "teacher":
        teacher = load_teacher(this)

        def of_ppg(params, batch):
            encoded = teacher.branch.encode(params, teacher.branch.prepare(batch))
            return {"embedding": teacher.branch.represent(encoded)}

        params = teacher.frozen["params"]
        return JobEncoder(teacher.branch.encoder, "ppg", teacher.branch.inputs, params, of_ppg, params)
    inputs = this.inputs("accel")
    if order["kind"] == "untrained":
        module = build_encoder(this.config.student.encoder, dtype=compute_dtype(this.config.runtime.compute_dtype))

        branch = Branch("accel", module, inputs)

        def of_accel(params, batch):
            return {"embedding": branch.represent(branch.encode(params, branch.prepare(batch)))}

        x = prepare(this.stores[0].read(np.zeros(1, np.int64)), "accel", inputs)
        params = jax.device_get(
            jax.jit(module.init)(jax.random.fold_in(jax.random.key(20), order["seed"]), x)["params"]
        )
        return JobEncoder(module, "accel", inputs, params, of_accel, params)
    teacher = load_teacher(this) if order["teacher"] else None
    student = load_student(this, teacher)
    student = dataclasses.replace(student, branch=dataclasses.replace(student.branch, inputs=inputs))

    def represent(params, batch):
        found = student.represent(params, batch)
        if student.ppg is not None:
            found["teacher_projection"] = student.represent_ppg(params, batch)["projection"]
        return found

    project = None
    if teacher is not None:
        mean, std = teacher.frozen["mean"], teacher.frozen["std"]
        compare = jax.jit(student.project_teacher)
        project = lambda z: jax.device_get(compare(student.params, (z - mean) / std))
    module, params = student.branch.encoder, student.params
    return JobEncoder(module, "accel", inputs, params["encoder"], represent, params, project)


def embed_all(this: Any, rows: Mapping[str, tuple], encoder: JobEncoder) -> dict[str, np.ndarray]:
    """`<split>/<what>` of all rows, progress on standard error; splits without segments are left out."""
    from accdistill_jax.runtime.progress import ProgressLine
    from accdistill_jax.stages.map_segments import embed

    total = sum(len(own) for _, parts in rows.values() for own in parts)
    done, arrays = 0, {}
    with ProgressLine("embedding", total) as progress:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress.update(done)

        for split, (stores, parts) in rows.items():
            if sum(map(len, parts)):
                found = embed(
                    encoder.represent,
                    encoder.all_params,
                    stores,
                    parts,
                    batch_size=this.config.evaluation.batch_size,
                    parallel=this.parallel,
                    on_batch=advance,
                )
                arrays |= {f"{split}/{name}": values for name, values in found.items()}
    return arrays


def _teacher_projections(path: Path, encoder: JobEncoder) -> dict[str, np.ndarray]:
    """Projections that retrieval compares the student's with: of every split but training."""
    with np.load(path) as saved:
        return {
            f"{name.removesuffix('/embedding')}/teacher_projection": encoder.project_teacher(saved[name])
            for name in saved.files
            if name.endswith("/embedding") and not name.startswith("train/")
        }


def facts_of(folder: Path, config: Config, encoder: JobEncoder, store: Store) -> dict[str, Any]:
    """Size of an encoder, its work on one segment, and the time that its training took.

    Returns:
        parameters, multiply_accumulates (of a minute's segment, matrix products only), steps, batch_size and train_s (without
        compilation).
    """
    from accdistill_jax.inputs.prepare import prepare
    from accdistill_jax.models.build import parameter_count
    from accdistill_jax.training.metrics import read_metrics

    one = store.read(np.zeros(1, np.int64))
    x = prepare(one, encoder.modality, encoder.inputs)
    facts = {
        "parameters": parameter_count(encoder.params),
        "multiply_accumulates": encoder.module.flops(samples=x.shape[1], channels=x.shape[2]) // 2,
    }
    stage = "teacher" if encoder.modality == "ppg" else "student"
    timing = read_metrics(folder / "metrics" / f"{stage}.timing.jsonl")
    if timing:
        facts |= {"steps": int(timing[-1]["step"]), "train_s": float(sum(record["seconds"] for record in timing))}
        facts["batch_size"] = config.stage(stage).train.batch_size
    return facts


def _save(folder: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(folder / EMBEDDINGS, content.getvalue())
    write_atomically(folder / FACTS, json.dumps(facts, indent=1) + "\n")
