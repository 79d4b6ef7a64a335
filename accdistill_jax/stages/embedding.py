"""Embeddings of stored segments by the run's encoders, kept in `embeddings/`."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from accdistill_jax.config.schema import Config
from accdistill_jax.data.store.opening import (
    Signals,
    choose_rows,
    has_test_segments,
    open_configured_store,
    segment_columns,
    unseen_by_name,
)
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.evaluate import SPLITS, STUDENT, TEACHER, UNTRAINED
from accdistill_jax.evaluation.retrieval.ranks import unit_rows
from accdistill_jax.evaluation.retrieval.retrieval import ACCEL_TO_PPG, PPG_TO_ACCEL
from accdistill_jax.evaluation.retrieval.search import paired_ranks_on_devices
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings
from accdistill_jax.files import open_regular, write_atomically
from accdistill_jax.labels import LABELS
from accdistill_jax.objectives.registered import PPG
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.runtime.progress import ProgressLine
from accdistill_jax.stages import student as student_stage
from accdistill_jax.stages import teacher as teacher_stage
from accdistill_jax.stages.build_objective import needs_teacher, objective_of
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.evaluated_encoders import Encoders, EvaluatedEncoder, teacher_encoder
from accdistill_jax.stages.map_segments import RowReader, embed
from accdistill_jax.stages.student import load_student
from accdistill_jax.stages.teachers import load_teachers
from accdistill_jax.storage.checked_npz import DamagedNpz, encode_npz, read_npz, verify_npz


def load_encoders(run: Run) -> Encoders:
    """Teacher, student and an untrained encoder of the student's shape; those that the run has.

    A PPG encoder that was trained together with the student takes the teacher's place.
    """
    has_student = _has_student(run)
    trains_ppg = has_student and objective_of(run.config.student).ppg is PPG.TRAINED
    teachers = None
    if not has_student or needs_teacher(run.config) or (not trains_ppg and has_teacher(run)):
        teachers = load_teachers(run)
    teacher = teachers.first if teachers else None
    student = load_student(run, teachers.fingerprint if teachers else "") if has_student else None
    encoders = []
    channels = {modality: len(names) for modality, names in run.stores[0].channels.items()}
    if teachers is not None and teacher is not None:
        of_teacher = teacher_encoder(teacher, student, channels=channels["ppg"])
        encoders.append(of_teacher._replace(tables=teachers.tables if teachers.ppg is None else None))
    elif student is not None and student.ppg is not None:
        encoders.append(EvaluatedEncoder(TEACHER, student.represent_ppg, student.params, "ppg", channels["ppg"]))
    if student is not None:
        branch = student.branch

        def embed_untrained(params, batch):
            return {"embedding": branch.represent(branch.encode(params, branch.prepare(batch)))}

        segment = run.stores[0].read(np.zeros(1, np.int64))
        of_student = {STUDENT: (student.represent, student.params)}
        of_student[UNTRAINED] = (embed_untrained, student.initial(segment))
        encoders += [EvaluatedEncoder(name, *parts, "accel", channels["accel"]) for name, parts in of_student.items()]
    c = run.config.evaluation
    described = [run.data_fingerprint, teachers.fingerprint if teachers else "", student.fingerprint if student else ""]
    described += [c.train_segments, run.config.seed, str(run.config.runtime.compute_dtype)]
    if c.representation != "mean":
        described.append(c.representation)
    return Encoders(teacher, student, encoders, hash_of(described))


def _has_student(run: Run) -> bool:
    """True if the run has a student; all processes ask together, as process 0 alone may have the work directory."""
    return "student" in run.config.stages or run.exists(student_stage.export_path(run) / "export.json")


def has_teacher(run: Run) -> bool:
    """True if the run has a frozen teacher, even if its student does not learn from it."""
    if not run.config.teacher.has_encoder:
        return "teacher" in run.config.stages
    return "teacher" in run.config.stages or run.exists(teacher_stage.export_path(run) / "export.json")


def hash_of(described: object) -> str:
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


class Embedded(NamedTuple):
    """Embeddings of the encoders of a run.

    Attributes:
        main: encoder -> split -> embeddings of the stores that are trained on; {} on other processes than the first.
        unseen: name -> store, and the same of it, whose only split is "test".
    """

    encoders: Encoders
    main: Mapping[str, Mapping[str, SplitEmbeddings]]
    unseen: Mapping[str, tuple[Store, Mapping[str, Mapping[str, SplitEmbeddings]]]]


def embed_splits(run: Run) -> Embedded:
    """Embeds the segments of every split (training: at most `train_segments`) and of the unseen stores."""
    encoders = load_encoders(run)
    if any(encoder.tables is not None and not encoder.fits(run.stores) for encoder in encoders.all):
        run.say("evaluation: too few minutes of the stores are in the teacher's table, so the teacher is not evaluated")
    main, unseen = embeddings(run, encoders, "main", run.stores, main_rows(run, encoders)), {}
    for name, store in unseen_stores(run).items():
        if lacking := [encoder for encoder in encoders.all if not encoder.fits([store])]:
            has = "too few minutes in the teacher's table" if lacking[0].tables is not None else _ppg_of(store)
            names = " and the ".join(encoder.name for encoder in lacking)
            run.say(f"evaluation: {store.path} has {has}, so the {names} is not evaluated on it")
        embedded = embeddings(run, encoders, f"unseen-{name}", (store,), unseen_rows(encoders, store))
        unseen[name] = (store, embedded or {})
    return Embedded(encoders, main or {}, unseen)


def _ppg_of(store: Store) -> str:
    """The PPG of a store, in words."""
    return f"{len(store.channels['ppg'])} PPG channels" if store.channels["ppg"] else "no PPG"


def check_stores(run: Run) -> None:
    """Raises UserError if there is nothing to evaluate on, or if the unseen stores differ between processes.

    It is cheap, so it runs before training.
    """
    unseen = unseen_stores(run)
    facts = {f"fingerprint of the unseen store {name}": store.fingerprint for name, store in unseen.items()}
    run.peers.agree({"order of data.unseen_stores": list(unseen)} | facts)
    if not unseen and not has_test_segments(run.stores):
        raise UserError(
            "no participant of config.data.stores is in the test split, and config.data.unseen_stores is empty: nothing "
            "to evaluate on; prepare with more participants, another --split-seed or a --split-file"
        )


def unseen_stores(run: Run) -> dict[str, Store]:
    """The stores of `config.data.unseen_stores` by folder name.

    Raises:
        UserError: a store does not fit the training stores, or two have the same name.
    """
    return open_unseen(run.config, run.stores, run.config.data.unseen_stores, reads_ppg=not _has_student(run))


def open_unseen(
    config: Config, stores: Sequence[Store], paths: Sequence[str], *, reads_ppg: bool = False
) -> dict[str, Store]:
    """Stores at paths of `config.data.unseen_stores` by folder name; with `reads_ppg` their PPG channels must fit, too.

    Raises:
        UserError: as `unseen_stores`.
    """
    opened = [open_configured_store(path, key="data.unseen_stores", data=config.data) for path in paths]
    alike = Signals.of(stores[0])
    return unseen_by_name(opened, stores, alike=alike, key="config.data.unseen_stores", reads_ppg=reads_ppg)


def main_rows(run: Run, encoders: Encoders) -> dict[str, list[np.ndarray]]:
    """Split -> rows of each store to embed (training: at most `train_segments`)."""
    limits = {"train": run.config.evaluation.train_segments, "validation": None, "test": None}
    chosen = {split: choose_rows(run.stores, split, limits[split], seed=run.config.seed) for split in SPLITS}
    return {split: encoders.rows(run.stores, rows) for split, rows in chosen.items()}


def unseen_rows(encoders: Encoders, store: Store) -> dict[str, list[np.ndarray]]:
    """The rows of an unseen store to embed."""
    return {"test": encoders.rows([store], [np.arange(store.num_segments)])}


def embeddings(
    run: Run,
    encoders: Encoders,
    name: str,
    stores: Sequence[Store],
    rows: Mapping[str, list[np.ndarray]],
    *,
    reads: Callable[[EvaluatedEncoder, Store], RowReader] = EvaluatedEncoder.reads,
) -> dict[str, dict[str, SplitEmbeddings]] | None:
    """Encoder -> split -> embeddings; read from `embeddings/` if the file there is of the same encoders.

    All processes take part in computing them; process 0 keeps them, the others get None. `reads` gives the reader of a store's
    rows for an encoder.
    """
    encoders = encoders.fitting(stores)
    path = run.workdir / "embeddings" / f"{name}.npz"
    key = hash_of([encoders.key, [store.fingerprint for store in stores]])
    arrays = None
    if run.peers.first:
        counts = {split: sum(map(len, store_rows)) for split, store_rows in rows.items()}
        arrays = load_embeddings(
            path, key, encoders=[encoder.name for encoder in encoders.all], counts=counts, say=run.say
        )
    if not run.peers.share(f"embeddings {name}", arrays is not None):
        arrays = _compute(run, encoders, name, rows, lambda encoder: [reads(encoder, store) for store in stores])
        if run.peers.first:
            save_embeddings(path, key, arrays)
    if not run.peers.first or arrays is None:
        return None
    return _by_encoder(run, encoders, arrays, stores, rows)


def _by_encoder(
    run: Run,
    encoders: Encoders,
    arrays: Mapping[str, np.ndarray],
    stores: Sequence[Store],
    rows: Mapping[str, list[np.ndarray]],
) -> dict[str, dict[str, SplitEmbeddings]]:
    columns = {
        split: segment_columns(stores, store_rows, same_names=run.config.data.same_names)
        for split, store_rows in rows.items()
    }
    return {
        encoder.name: {
            split: SplitEmbeddings(
                embedding=arrays[f"{encoder.name}/{split}/embedding"],
                projection=arrays.get(f"{encoder.name}/{split}/projection"),
                participant=columns[split]["participant"],
                labels={label: columns[split][label] for label in LABELS},
                motion_g=columns[split]["motion_g"],
                ppg_quality=columns[split]["ppg_quality"],
                device=columns[split]["device"],
                ranks={
                    direction: arrays[f"{encoder.name}/{split}/rank/{direction}"]
                    for direction in (ACCEL_TO_PPG, PPG_TO_ACCEL)
                    if f"{encoder.name}/{split}/rank/{direction}" in arrays
                },
            )
            for split in rows
        }
        for encoder in encoders.all
    }


def save_embeddings(path: Path, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a file of embeddings.

    Args:
        path: the file.
        key: identifies the encoders and stores that the arrays come from.
        arrays: "encoder/split/content" -> array.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, encode_npz({"key": np.array(key), **arrays}))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def load_embeddings(
    path: Path, key: str, *, encoders: Sequence[str], counts: Mapping[str, int], say: Callable[[str], None]
) -> dict[str, np.ndarray] | None:
    """The arrays of a file that `save_embeddings` wrote; None if it is absent, of another key, or damaged, and they must be computed.

    Args:
        path: the file.
        key: that it must have.
        encoders: whose embeddings it must hold.
        counts: split -> segments of it.
        say: prints a line about damage.
    """
    try:
        with open_regular(path) as file:
            verify_npz(file)
            arrays = read_npz(file)
        if str(arrays.pop("key", None)) != key:
            return None
        _check(arrays, encoders, counts)
    except FileNotFoundError:
        return None
    except (OSError, DamagedNpz) as error:
        say(
            f"evaluation: {path} is damaged ({error.strerror if isinstance(error, OSError) else error}): embedded again"
        )
        return None
    return arrays


def _check(arrays: Mapping[str, np.ndarray], encoders: Sequence[str], counts: Mapping[str, int]) -> None:
    """Raises DamagedNpz unless these are the arrays of these encoders and splits."""
    expected = {f"{encoder}/{split}": count for encoder in encoders for split, count in counts.items()}
    if missing := [name for name in expected if f"{name}/embedding" not in arrays]:
        raise DamagedNpz(f"{missing[0]}/embedding is missing")
    for name, values in arrays.items():
        encoder_split, _, what = name.partition("/rank/")
        owner, _, what = (encoder_split, "", "rank") if what else name.rpartition("/")
        whole = what == "rank" and values.dtype.kind == "i" and values.ndim == 1
        whole |= what in ("embedding", "projection") and values.dtype.kind == "f" and values.ndim == 2
        if not whole or expected.get(owner) != len(values):
            raise DamagedNpz(f"{name} is {values.dtype.name} {values.shape}")


def _compute(
    run: Run,
    encoders: Encoders,
    name: str,
    rows: Mapping[str, list[np.ndarray]],
    readers: Callable[[EvaluatedEncoder], Sequence[RowReader]],
) -> dict[str, np.ndarray]:
    """Arrays by "encoder/split/quantity", with the ranks of the test segments in the pool of all of them."""
    total = len(encoders.all) * sum(len(r) for store_rows in rows.values() for r in store_rows)
    done, arrays = 0, {}
    with (
        ProgressLine(f"embedding {name}", total, enabled=run.peers.first, stream=sys.stderr) as progress,
        run.peers.progress("embedding", within_s=run.config.runtime.hang_timeout_s) as pulse,
    ):

        def advance(count: int) -> None:
            nonlocal done
            done += count
            pulse.beat(done)
            progress.update(done)

        for encoder in encoders.all:
            for split, store_rows in rows.items():
                if not sum(map(len, store_rows)):
                    arrays |= _empty(arrays, encoder.name, split)
                    continue
                values = embed(
                    encoder.apply,
                    encoder.params,
                    zip(readers(encoder), store_rows, strict=True),
                    batch_size=run.config.evaluation.batch_size,
                    parallel=run.parallel,
                    on_batch=advance,
                )
                arrays |= {f"{encoder.name}/{split}/{what}": value for what, value in values.items()}
    student, teacher = (arrays.get(f"{encoder}/test/projection") for encoder in (STUDENT, TEACHER))
    if student is not None and teacher is not None and student.shape == teacher.shape and len(student) > 1:
        with run.peers.waiting("the pool search"):
            found_ranks = search_pool(student, teacher, run.parallel)
        arrays |= {
            f"{STUDENT}/test/rank/{direction}": ranks
            for direction, ranks in zip((ACCEL_TO_PPG, PPG_TO_ACCEL), found_ranks, strict=True)
        }
    return arrays


def search_pool(query: np.ndarray, gallery: np.ndarray, parallel: Parallel) -> tuple[np.ndarray, np.ndarray]:
    """Ranks in the pool of all rows, both ways, searched by all devices of the run: [N, P] twice -> int64 [N] twice.

    All processes call it together, with the same rows.
    """
    count = -(-len(query) // parallel.num_devices) * parallel.num_devices

    def part_here(rows: np.ndarray) -> np.ndarray:
        padded = np.concatenate([rows, np.zeros((count - len(rows), *rows.shape[1:]), rows.dtype)])
        return np.split(padded, parallel.num_processes)[parallel.process]

    valid = part_here(np.ones(len(query), bool))
    sides = part_here(unit_rows(query)), part_here(unit_rows(gallery))
    ranks = paired_ranks_on_devices(*sides, parallel=parallel, valid=valid)
    placed = parallel.place({str(way): of_way.astype(np.int32) for way, of_way in enumerate(ranks)})
    forth, back = (parallel.gather(placed[str(way)])[: len(query)].astype(np.int64) for way in range(2))
    return forth, back


def _empty(arrays: dict[str, np.ndarray], encoder: str, split: str) -> dict[str, np.ndarray]:
    """Arrays without rows, of the widths that the encoder has on the training split, which is never empty."""
    first = f"{encoder}/train/"
    return {
        f"{encoder}/{split}/{key.removeprefix(first)}": np.zeros((0, *value.shape[1:]), np.float32)
        for key, value in arrays.items()
        if key.startswith(first)
    }
