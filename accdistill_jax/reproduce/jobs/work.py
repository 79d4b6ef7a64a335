"""Does one job of the grid: generates data, or trains an encoder (with run.py) and embeds all segments with it.

Besides the files of a training run, a job leaves in its folder:

    embeddings.npz   arrays "<split>/<kind>". The splits are "train", "validation" and "test"; for a job that embeds unseen
                     stores with another job's encoder they are "unseen-<store>". The kinds are embedding [N, D],
                     projection [N, P], teacher_projection [N, P] (retrieval compares it with projection) and prediction [N]
                     (supervised training only). Except for unseen stores there is also train_rows [N]: positions of the
                     embedded training segments among all training segments.
    facts.json       parameters, multiply-accumulates, seconds of training, versions of the software
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from accdistill_jax.config import record as config_record
from accdistill_jax.config.convert import changed, parse_config
from accdistill_jax.config.schema import Config, InputSettings
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.files import write_atomically
from accdistill_jax.reproduce.jobs.classical_work import embed_classical, match_classically
from accdistill_jax.reproduce.jobs.opened_stores import OpenedStores, StoreRows

if TYPE_CHECKING:  # these import jax
    from accdistill_jax.objectives.base import Branch
    from accdistill_jax.stages.context import Run

EMBEDDINGS, FACTS = "embeddings.npz", "facts.json"


def do_work(order: Mapping[str, Any], folder: Path, needs: Mapping[str, Path]) -> None:
    """Does one job of the grid (see reproduce/plan/grid.py). The same call continues a job that was stopped.

    Args:
        order: kind, config and data of the job, and further values that depend on the kind.
        folder: folder of the job.
        needs: name -> folder, of the jobs that this job needs.

    Raises:
        UserError: the user can mend it, for example a missing store.
        Interrupted: stopped by a signal; finished work is kept.
    """
    if order["kind"] == "data":
        return generate_store(order, folder)
    from accdistill_jax.runtime.interrupt import Interruption

    unseen = {Path(path).name: Store.open(path) for path in order["unseen"]}
    with Interruption(at_once=True):
        opened, trained_on = (
            OpenedStores(tuple(map(Store.open, _stores(order, needs, data))), unseen)
            for data in (order["data"], order["trained_on"])
        )
        if order["kind"] == "classical":
            arrays, facts = embed_classical(opened, unseen=bool(order["unseen"])), {}
        elif order["kind"] == "matcher":
            arrays, facts = match_classically(opened, trained_on), {}
        else:
            arrays, facts = train_and_embed(order, folder, needs, opened, trained_on=trained_on)
        _save(folder, arrays, facts | {"environment": config_record.environment()})


def _stores(order: Mapping[str, Any], needs: Mapping[str, Path], data: str) -> tuple[str, ...]:
    """Paths of the stores that a job reads: prepared ones, or the one of the job `data` that generates people."""
    return tuple(order["stores"]) or (str(needs[data] / "store"),)


def generate_store(order: Mapping[str, Any], folder: Path) -> None:
    """Writes the synthetic store of a plan."""
    from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, shared_store

    settings = dict(order["synthetic"])
    workers = settings.pop("workers")
    split = SplitRule(fractions=tuple(order["fractions"])) if order["fractions"] else None
    shared_store(folder / "store", SyntheticSettings(**settings), workers=workers, split=split, say=print)


def train_and_embed(
    order: Mapping[str, Any],
    folder: Path,
    needs: Mapping[str, Path],
    opened: OpenedStores,
    *,
    trained_on: OpenedStores,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Trains the encoder, if the kind of the job asks for it, and embeds.

    Args:
        order: the job.
        folder: folder of the job.
        needs: name -> folder, of the jobs that this job needs.
        opened: stores to embed.
        trained_on: stores that the encoder is trained on; others than `opened` if it embeds another population.

    Returns:
        Arrays and facts, see the docstring of the module.
    """
    import jax

    from accdistill_jax.run import run
    from accdistill_jax.runtime.compilation_cache import use_compilation_cache
    from accdistill_jax.runtime.parallel import Parallel
    from accdistill_jax.runtime.peers.peers import Peers
    from accdistill_jax.stages.context import Run

    changes: dict[str, Any] = {"data.stores": tuple(store.path for store in trained_on.stores)}
    if order["teacher"]:
        changes["teacher.path"] = str(needs[order["teacher"]] / "teacher" / "export")
    config = changed(parse_config(order["config"]), changes)
    if order["kind"] in ("teacher", "student") and not order["of"]:
        run(config, str(folder))
    use_compilation_cache(config.runtime.compilation_cache)
    source = needs[order["of"]] if order["of"] else folder
    trained = Run(config, source, trained_on.stores, Parallel(config.runtime.mapping), Peers.alone(), print)
    encoder = load_encoder(order, trained)
    if order["unseen"]:
        arrays = embed_all(trained, opened.unseen_splits(), encoder)
    else:
        limit = {"all": None, "some": config.evaluation.train_segments, "none": 0}[order["rows"]]
        positions = opened.train_positions(limit)
        arrays = {"train_rows": positions} | embed_all(trained, opened.all_splits(train=positions), encoder)
    if order["compared"] and encoder.project_teacher is not None:
        arrays |= _teacher_projections(needs[order["compared"]] / EMBEDDINGS, encoder.project_teacher)
    facts = facts_of(folder, config, encoder, opened.stores[0])
    jax.clear_caches()  # a worker does many jobs, and each job compiles other programs
    return arrays, facts


class JobEncoder(NamedTuple):
    """The encoder that a job embeds with.

    Attributes:
        module: the encoder, [batch, time, C] -> [batch, D].
        modality: "ppg" or "accel".
        inputs: how the signal is presented to the encoder.
        params: parameters of the encoder alone.
        represent: per-device function (all_params, batch) -> {kind: [b, ...]}.
        all_params: parameters for `represent`.
        project_teacher: the frozen teacher's embeddings [N, D] -> the projections that retrieval compares; None without a
            frozen teacher, or if the embeddings do not suffice: `represent` then returns the projections.
    """

    module: Any
    modality: str
    inputs: InputSettings
    params: Any
    represent: Callable
    all_params: Any
    project_teacher: Callable[[np.ndarray], np.ndarray] | None = None


def load_encoder(order: Mapping[str, Any], run: Run) -> JobEncoder:
    """Loads the encoder of a job, or initialises one that is not trained."""
    kind = order["of_kind"] or order["kind"]
    if kind == "teacher":
        return _teacher_encoder(run)
    if kind == "untrained":
        return _untrained_encoder(run, seed=order["seed"])
    return _student_encoder(order, run)


def _teacher_encoder(run: Run) -> JobEncoder:
    from accdistill_jax.stages.teacher import load_teacher

    teacher = load_teacher(run)
    params = teacher.frozen["params"]
    return JobEncoder(
        teacher.branch.encoder, "ppg", teacher.branch.inputs, params, _embedding_of(teacher.branch), params
    )


def _untrained_encoder(run: Run, *, seed: int) -> JobEncoder:
    import jax

    from accdistill_jax.inputs.prepare import prepare_inputs
    from accdistill_jax.models.build import build_encoder, compute_dtype
    from accdistill_jax.objectives.base import Branch

    inputs = run.inputs("accel")
    module = build_encoder(run.config.student.encoder, dtype=compute_dtype(run.config.runtime.compute_dtype))
    segment: dict[str, Any] = run.stores[0].read(np.zeros(1, np.int64))
    x = prepare_inputs(segment, "accel", inputs)
    branch = Branch("accel", module, inputs, representation=run.config.evaluation.representation)
    params = jax.device_get(jax.jit(module.init)(jax.random.fold_in(jax.random.key(20), seed), x)["params"])
    return JobEncoder(module, "accel", inputs, params, _embedding_of(branch), params)


def _embedding_of(branch: Branch) -> Callable:
    """Makes the per-device function (encoder's params, batch) -> {"embedding": [b, D]}."""

    def represent(params, batch):
        return {"embedding": branch.represent(branch.encode(params, branch.prepare(batch)))}

    return represent


def _student_encoder(order: Mapping[str, Any], run: Run) -> JobEncoder:
    import jax

    from accdistill_jax.stages.student import load_student
    from accdistill_jax.stages.teacher import load_teacher

    inputs, compared = run.inputs("accel"), bool(order["compared"])
    teacher = load_teacher(run) if order["teacher"] else None
    student = load_student(run, teacher.fingerprint if teacher else "")
    # a "sensor" variant presents other signals to the encoder than its training did
    student = dataclasses.replace(student, branch=dataclasses.replace(student.branch, inputs=inputs))

    # the saved embeddings of the teacher are those of the people that it was trained on
    embeddings_suffice = student.reads_embedding and run.config.evaluation.representation == "mean"
    embeddings_suffice = embeddings_suffice and order["data"] == order["trained_on"]

    def represent(params, batch):
        arrays = student.represent(params, batch)
        if student.ppg is not None:
            arrays["teacher_projection"] = student.represent_ppg(params, batch)["projection"]
        if teacher is not None and compared and not embeddings_suffice:
            encoded = teacher.branch.encode(teacher.frozen["params"], teacher.branch.prepare(batch))
            standard = student.read_teacher(params, teacher.frozen, encoded)
            projection = student.project_teacher(params, standard)
            if projection is not None:
                arrays["teacher_projection"] = projection
        return arrays

    project = None
    if teacher is not None and embeddings_suffice:
        mean, std = teacher.frozen["mean"], teacher.frozen["std"]
        project_normalised = jax.jit(student.project_teacher)

        def project(embedding: np.ndarray) -> np.ndarray:
            return jax.device_get(project_normalised(student.params, (embedding - mean) / std))

    module, params = student.branch.encoder, student.params
    return JobEncoder(module, "accel", inputs, params["encoder"], represent, params, project)


def embed_all(run: Run, rows: Mapping[str, StoreRows], encoder: JobEncoder) -> dict[str, np.ndarray]:
    """Embeds rows of stores, with progress on standard error.

    Returns:
        "<split>/<kind>" -> array; splits without segments are left out.
    """
    from accdistill_jax.runtime.progress import ProgressLine
    from accdistill_jax.stages.map_segments import embed

    total = sum(len(store_rows) for _, parts in rows.values() for store_rows in parts)
    done, arrays = 0, {}
    with ProgressLine("embedding", total) as progress:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress.update(done)

        for split, (stores, parts) in rows.items():
            if sum(map(len, parts)):
                embedded = embed(
                    encoder.represent,
                    encoder.all_params,
                    zip(stores, parts, strict=True),
                    batch_size=run.config.evaluation.batch_size,
                    parallel=run.parallel,
                    on_batch=advance,
                )
                arrays |= {f"{split}/{kind}": values for kind, values in embedded.items()}
    return arrays


def _teacher_projections(path: Path, project: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    """Projects the teacher's saved embeddings, for retrieval; of every split except training."""
    with np.load(path) as saved:
        return {
            f"{name.removesuffix('/embedding')}/teacher_projection": project(saved[name])
            for name in saved.files
            if name.endswith("/embedding") and not name.startswith("train/")
        }


def facts_of(folder: Path, config: Config, encoder: JobEncoder, store: Store) -> dict[str, Any]:
    """Collects the size of an encoder, its work for one segment, and the time of its training.

    Returns:
        parameters; multiply_accumulates for a one-minute segment, matrix products only; and, if the job trained, steps,
        batch_size and train_s (seconds without compilation).
    """
    from accdistill_jax.inputs.prepare import prepare_inputs
    from accdistill_jax.models.build import parameter_count
    from accdistill_jax.training.metrics import read_metrics

    segment: dict[str, Any] = store.read(np.zeros(1, np.int64))
    x = prepare_inputs(segment, encoder.modality, encoder.inputs)
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


def _save(folder: Path, arrays: dict[str, Any], facts: Mapping[str, Any]) -> None:
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(folder / EMBEDDINGS, content.getvalue())
    write_atomically(folder / FACTS, json.dumps(facts, indent=1) + "\n")
