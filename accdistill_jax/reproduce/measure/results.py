"""Gives the measuring modules access to the results of finished jobs."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from accdistill_jax.data.store.opening import segment_columns
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings
from accdistill_jax.labels import LABELS
from accdistill_jax.reproduce.jobs.jobs import Job, JobOutcome
from accdistill_jax.reproduce.jobs.work import EMBEDDINGS, FACTS, OpenedStores
from accdistill_jax.reproduce.plan.grid import GridPlan
from accdistill_jax.reproduce.plan.job_builder import DATA, data_job, unseen_job
from accdistill_jax.reproduce.plan.variants import EncoderVariant
from accdistill_jax.reproduce.report.document import Claim, Number, Section

DONE = ("finished", "cached")


class ReportPart(NamedTuple):
    """The part of the report from one experiment; names of its numbers start with "<id of the section>/"."""

    section: Section
    numbers: dict[str, Number] = {}
    claims: tuple[Claim, ...] = ()


class Columns(NamedTuple):
    """Columns of a split's segments, in the order of its embeddings.

    Attributes:
        participant: [N] str.
        labels: column -> [N] float32, NaN where unknown.
        motion_g, ppg_quality: [N] float32.
    """

    participant: np.ndarray
    labels: dict[str, np.ndarray]
    motion_g: np.ndarray
    ppg_quality: np.ndarray


class ProbedEmbeddings(Protocol):
    """Labels of minutes and embeddings of the same minutes, for probes."""

    def columns(self, split: str) -> Columns:
        """Columns of all segments of "train", "validation" or "test"."""
        ...

    def splits(self, name: str, seed: int, *, some: bool = False) -> dict[str, SplitEmbeddings]:
        """An encoder's embeddings by split; with `some` only training segments that every encoder has embedded."""
        ...


class Bench:
    """The embeddings of all encoders of a plan that have a result, on the same segments.

    Args:
        plan: planned jobs.
        outcomes: job -> its outcome.
        population: name of the people that its columns describe; "" for those of the plan.

    Attributes:
        plan, outcomes: as given.
        opened: the stores.
        synthetic: True for generated data.
    """

    def __init__(self, plan: GridPlan, outcomes: Mapping[str, JobOutcome], population: str = ""):
        self.plan, self.outcomes = plan, outcomes
        self.synthetic = any(job.name == DATA for job in plan.jobs)
        stores = [str(outcomes[data_job(population)].folder / "store")] if self.synthetic else plan.settings["data"]
        unseen = {Path(path).name: Store.open(path) for path in plan.settings["unseen"]}
        self.opened = OpenedStores(tuple(map(Store.open, stores)), unseen)

    @functools.cache  # noqa: B019
    def on(self, population: str) -> "Bench":
        """The bench of variants of another population: their labels, people and minutes.

        Raises:
            UserError: this population was not generated.
        """
        outcome = self.outcomes.get(data_job(population))
        if outcome is None or outcome.status not in DONE:
            raise UserError(
                f"the people {population!r} were not generated: {outcome.reason if outcome else 'not planned'}"
            )
        return Bench(self.plan, self.outcomes, population)

    @property
    def preset(self) -> str:
        return self.plan.settings["preset"]

    def variant(self, name: str) -> EncoderVariant:
        """The variant of this name."""
        return self.plan.variants[name]

    def jobs(self, name: str, *, unseen: bool = False) -> list[Job]:
        """A variant's jobs, one for each seed; with `unseen` those that embed unseen stores with its encoders."""
        jobs = [job for job in self.plan.jobs if job.order.get("variant") == name]
        return [job for job in jobs if bool(job.order.get("unseen")) == unseen]

    def seeds(self, name: str, *, unseen: bool = False) -> list[int]:
        """The seeds for which a variant has a result; with `unseen` those that also have a result on unseen stores. [] if there is none."""
        if name not in self.plan.variants:
            return []
        done = [job.order["seed"] for job in self.jobs(name, unseen=unseen) if self.outcomes[job.name].status in DONE]
        return done if not unseen else [seed for seed in self.seeds(name) if seed in done]

    def folder(self, name: str, seed: int) -> Path:
        """Folder of a variant's job."""
        return self.outcomes[f"{name}-s{seed}"].folder

    def facts(self, name: str, seed: int) -> dict[str, Any]:
        """Facts about an encoder: parameters, work, training; see `work.facts_of`."""
        return json.loads((self.folder(name, seed) / FACTS).read_text())

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def arrays(self, name: str, seed: int) -> dict[str, np.ndarray]:
        """Arrays of a variant's jobs, "<split>/<kind>" -> array; see reproduce/jobs/work.py."""
        folders = [self.folder(name, seed)]
        if seed in self.seeds(name, unseen=True):
            folders.append(self.outcomes[unseen_job(f"{name}-s{seed}")].folder)
        arrays = {}
        for folder in folders:
            with np.load(folder / EMBEDDINGS) as saved:
                arrays |= {key: saved[key] for key in saved.files}
        return arrays

    def splits(self, name: str, seed: int, *, some: bool = False, unseen: str = "") -> dict[str, SplitEmbeddings]:
        """An encoder's embeddings and the labels of their segments, by split "train", "validation" and "test".

        Args:
            name: variant of the encoder.
            seed: of its training.
            some: True keeps only those training segments that every encoder has embedded.
            unseen: name of an unseen store that replaces the test split.

        Returns:
            Splits without segments have no rows. `projection` is the student's; `pair` gives the teacher's too.
        """
        arrays = self.arrays(name, seed)
        width = arrays["test/embedding"].shape[1]
        splits = {}
        for split in ("train", "validation", "test"):
            source = f"unseen-{unseen}" if unseen and split == "test" else split
            embedding = arrays.get(f"{source}/embedding", np.zeros((0, width), np.float32))
            projection, columns = arrays.get(f"{source}/projection"), self.columns(source)
            if split == "train":
                keep = self._keep(arrays["train_rows"], some)
                embedding, projection = embedding[keep], None if projection is None else projection[keep]
                columns = _take(columns, arrays["train_rows"][keep])
            splits[split] = SplitEmbeddings(
                embedding, projection, columns.participant, columns.labels, columns.motion_g, columns.ppg_quality
            )
        return splits

    def _keep(self, places: np.ndarray, some: bool) -> np.ndarray:
        if not some:
            return np.arange(len(places))
        wanted = self.opened.train_positions(self.plan.base.evaluation.train_segments)
        return np.flatnonzero(np.isin(places, wanted))

    def pair(self, name: str, seed: int, *, split: str = "test") -> tuple[np.ndarray, np.ndarray] | None:
        """Pairs for retrieval: the encoder's and its teacher's projections, [N, P] each; None if it lacks either."""
        arrays = self.arrays(name, seed)
        student, teacher = (arrays.get(f"{split}/{kind}") for kind in ("projection", "teacher_projection"))
        return None if student is None or teacher is None else (student, teacher)

    def columns(self, split: str) -> Columns:
        """Columns of all segments of a split, or of "unseen-<store>"."""
        return self._read_columns(split)

    @functools.lru_cache(maxsize=16)  # noqa: B019
    def _read_columns(self, split: str) -> Columns:
        stores, rows = self.opened.all_splits()[split]
        columns = segment_columns(stores, rows, same_names=self.plan.base.data.same_names)
        labels = {name: columns[name] for name in LABELS}
        return Columns(columns["participant"], labels, columns["motion_g"], columns["ppg_quality"])


def _take(columns: Columns, rows: np.ndarray) -> Columns:
    labels = {name: values[rows] for name, values in columns.labels.items()}
    return Columns(columns.participant[rows], labels, columns.motion_g[rows], columns.ppg_quality[rows])


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of a number over training seeds; the latter is 0 for a single seed."""
    array = np.asarray(values, np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0
