"""The trainings of leave-one-wearer-out: for each wearer, students trained on the other wearers."""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from accdistill_jax.config.convert import changed
from accdistill_jax.config.record import load_record
from accdistill_jax.config.schema import Config
from accdistill_jax.data.store.opening import hold_out, open_configured_store
from accdistill_jax.data.store.split import SPLITS
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.evaluate import STUDENT, TEACHER
from accdistill_jax.files import open_regular
from accdistill_jax.objectives.registered import PPG
from accdistill_jax.run import run
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.runtime.peers.peers import Peers
from accdistill_jax.stages.build_objective import objective_of
from accdistill_jax.stages.clock_errors import ClockError, project_with_clock_errors
from accdistill_jax.stages.context import Run
from accdistill_jax.storage.checked_npz import read_npz
from accdistill_jax.storage.export import load_params

FINE_TUNED, ALONE = "fine-tuned", "alone"
VARIANTS = (FINE_TUNED, ALONE)
MIN_MINUTES = 5
LAGS_S = (-0.06, -0.03, 0.0, 0.03, 0.06, 0.09, 0.12)
"""Delays of a wearer's PPG beyond those of the people that the start was trained on; its sensor and filter decide."""
_EVERY = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class WearerTraining:
    """Length and rate of the training of every wearer's students.

    Attributes:
        steps: steps of a student trained on the other wearers.
        learning_rate: of a fine-tuned student; None: a tenth of the start's.
        batch_size: segments; fewer if the other wearers have fewer.
        variants: some of `VARIANTS`.
    """

    steps: int = 300
    learning_rate: float | None = None
    batch_size: int = 64
    variants: Sequence[str] = VARIANTS


class WearerEmbeddings(NamedTuple):
    """Embeddings of all N minutes of a store by one student and by the teacher that it learned from.

    Attributes:
        embedding: [N, D] float32, of the student.
        teacher_embedding: [N, D] float32, of the teacher.
        projection: [N, P] float32, of acceleration, for the search.
        teacher_projection: [N, P] float32, of PPG.
    """

    embedding: np.ndarray
    teacher_embedding: np.ndarray
    projection: np.ndarray
    teacher_projection: np.ndarray


class WearerStart(NamedTuple):
    """Common basis of all trainings.

    Attributes:
        folder: work directory of the run that the students start from.
        config: config of that run.
        store: all wearers.
    """

    folder: Path
    config: Config
    store: Store

    @property
    def teacher(self) -> str:
        """Path of the teacher's parameters."""
        return str((self.folder / "teacher" / "export").absolute())

    @property
    def training_stores(self) -> tuple[str, ...]:
        """Paths of the stores that the run was trained on."""
        return self.config.data.stores or (str((self.folder / "data" / "synthetic").absolute()),)


def open_start(folder: Path, store: Path) -> WearerStart:
    """Opens the run that the students start from, and the store of the wearers.

    Raises:
        UserError: no finished run of distillation, or a store that does not fit it.
    """
    config = finished_distillation(folder)
    start = WearerStart(folder, config, open_configured_store(str(store), key="data.stores", data=config.data))
    reads, has = load_params(start.teacher).meta["signal"]["channels"], len(start.store.channels["ppg"])
    if reads != has:
        raise UserError(
            f"{store} has {has} PPG channels, and the teacher of {folder} reads {reads}; prepare the store with as many "
            "(--ppg-channels), or start from a run with such a teacher (--config.data.synthetic.ppg_channels)"
        )
    return start


def finished_distillation(folder: Path) -> Config:
    """The config of a finished run whose student learned from a frozen teacher.

    Raises:
        UserError: the folder holds no such run.
    """
    for part in ("teacher", "student"):
        if not (folder / part / "export" / "export.json").is_file():
            raise UserError(f"{folder}: no {part}/export; give the work directory of a finished run of distillation")
    config = load_record(folder)
    if objective_of(config.student).ppg is not PPG.FROZEN:
        raise UserError(f"{folder}: its student ({config.student.objective}) did not learn from a frozen teacher")
    return config


def wearers_of(store: Store) -> list[str]:
    """Names of the wearers with at least `MIN_MINUTES` minutes, in order.

    Raises:
        UserError: fewer than three.
    """
    names, counts = np.unique(store.segments["participant"], return_counts=True)
    wearers = [str(name) for name, count in zip(names, counts, strict=True) if count >= MIN_MINUTES]
    if len(wearers) < 3:
        raise UserError(
            f"{store.path}: {len(wearers)} participants with at least {MIN_MINUTES} minutes; leaving each out needs three"
        )
    return wearers


def zero_shot(start: WearerStart, folder: Path) -> WearerEmbeddings:
    """Embeddings of the store by the start's own encoders, as of an unseen store.

    Args:
        start: the common basis; nothing is written there.
        folder: work directory of this evaluation. It gets copies of the student's parameters and of the start's embeddings.

    Raises:
        UserError: the folder holds a copy of another student.
    """
    for part in ("student/export", "embeddings"):
        _copy_once(start.folder / part, folder / part)
    ours, copied = (at / "student" / "export" / "export.json" for at in (start.folder, folder))
    if ours.read_bytes() != copied.read_bytes():
        raise UserError(f"{folder} is of another student than {start.folder} has now; choose another --out")
    name = Path(start.store.path.rstrip("/")).name
    changes = {
        "data.stores": start.training_stores,
        "data.unseen_stores": (start.store.path,),
        "teacher.path": start.teacher,
        "teacher.fingerprint": "",
        "stages": ("data", "evaluation"),
    }
    run(changed(start.config, changes), folder)
    arrays = _arrays(folder / "embeddings" / f"unseen-{name}.npz")
    return _embedded(lambda key: arrays[key.format("test")], folder)


def zero_shot_lags(start: WearerStart) -> tuple[np.ndarray, list[np.ndarray]]:
    """Projections of the acceleration [N, P] by the start's student, and those of the PPG at each of `LAGS_S`, [N, P] by its teacher."""
    stores = tuple(
        open_configured_store(path, key="data.stores", data=start.config.data) for path in start.training_stores
    )
    run_of_start = Run(start.config, start.folder, stores, Parallel(start.config.runtime.mapping), Peers.alone(), _mute)
    rows = [(start.store, np.arange(start.store.num_segments))]
    query, galleries = project_with_clock_errors(run_of_start, [ClockError(lag) for lag in LAGS_S], rows)
    return query, list(galleries)


def _mute(line: str) -> None:
    """Says nothing."""


def _copy_once(source: Path, target: Path) -> None:
    """Copies a folder, whole or not at all; keeps a target that exists."""
    if target.exists() or not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as partial:
        os.rename(shutil.copytree(source, Path(partial) / target.name), target)


def trained_on_others(
    wearer: str, variant: str, *, start: WearerStart, training: WearerTraining, folder: Path
) -> WearerEmbeddings:
    """Trains (or continues) a student on the other wearers and embeds the whole store with it.

    Args:
        wearer: participant that is left out.
        variant: `FINE_TUNED` starts from the start's student, `ALONE` from fresh parameters.
        start: the common basis.
        training: length and rate.
        folder: work directory of this training.
    """
    (held,) = hold_out([start.store], (wearer,))
    others = len(held.indices("train"))
    rate = start.config.student.train.learning_rate
    if variant == FINE_TUNED:
        rate = training.learning_rate or rate / 10
    validation = len(held.indices("validation"))
    changes = {
        "data.stores": (start.store.path,),
        "data.unseen_stores": (),
        "data.weights": (),
        "data.held_out": (wearer,),
        "data.participant_cap": 0,
        "data.store_cap": 0,
        "teacher.path": start.teacher,
        "teacher.fingerprint": "",
        "evaluation.train_segments": _EVERY,
        "student.init": str((start.folder / "student" / "export").absolute()) if variant == FINE_TUNED else "",
        "student.train.duration": f"{training.steps} steps",
        "student.train.learning_rate": rate,
        "student.train.warmup": f"{max(training.steps // 10, 1)} steps",
        "student.train.batch_size": min(training.batch_size, _even(others)),
        "student.train.keep": "last",
        "student.train.validation_batches": start.config.student.train.validation_batches if validation else 0,
        "stages": ("data", "teacher", "student", "evaluation"),
    }
    run(changed(start.config, changes), folder)
    arrays = _arrays(folder / "embeddings" / "main.npz")
    rows = {split: held.indices(split) for split in SPLITS}
    order = np.argsort(np.concatenate([rows[split] for split in SPLITS]), kind="stable")

    def whole(key: str) -> np.ndarray:
        return np.concatenate([arrays[key.format(split)] for split in SPLITS if len(rows[split])])[order]

    return _embedded(whole, folder)


def _even(count: int) -> int:
    return max(count - count % 2, 2)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with open_regular(path) as file:
        return read_npz(file)


def _embedded(get: Callable[[str], np.ndarray], folder: Path) -> WearerEmbeddings:
    try:
        embedding, teacher = (get(f"{name}/{{}}/embedding") for name in (STUDENT, TEACHER))
        projection, right = (get(f"{name}/{{}}/projection") for name in (STUDENT, TEACHER))
    except KeyError as missing:
        raise UserError(
            f"{folder}: the embeddings lack {missing}; its student and teacher cannot be compared"
        ) from None
    return WearerEmbeddings(embedding, teacher, projection, right)
