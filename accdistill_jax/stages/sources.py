"""Sources of training batches: segments in order, pairs of one participant, labelled segments."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.data.pipeline import Reader
from accdistill_jax.data.store.labels import labelled_subset
from accdistill_jax.data.store.opening import label_values, people_among
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.objectives.base import LABEL, SECOND, Labelled, ParticipantPairs, Segments
from accdistill_jax.stages.context import Run

_PARTNER = 41


class Source(NamedTuple):
    """Source of a training's batches.

    Attributes:
        reader: function from a split's name to the reader of its batches; None (for a split or for all): both signals of each
            segment.
        rows: function from a split's name to the rows to use, per store; None: all rows.
    """

    reader: Callable[[str], Reader | None] | None = None
    rows: Callable[[str], list[np.ndarray]] | None = None


def source_of(run: Run, batches: Segments | ParticipantPairs | Labelled) -> tuple[Source, dict[str, np.ndarray]]:
    """The source of an objective's batches, and the frozen arrays that come with it: the statistics of labels, or nothing."""
    match batches:
        case ParticipantPairs(modality):
            return paired_source(run, modality), {}
        case Labelled(target, fraction, subset):
            return labelled_source(run, target=target, fraction=fraction, subset=subset)
        case _:
            return Source(), {}


def paired_source(run: Run, modality: str) -> Source:
    """Segments of one modality, each with another segment of its participant, or with itself if there is no other.

    The other segment is drawn by (seed, step, position in the global batch). Its names in the batch begin with `SECOND`.
    """

    def reader(split: str) -> Reader:
        rows_of = run.training_rows if split == "train" else lambda store: store.indices(split)
        partners = [_Partners(store, rows_of(store)) for store in run.stores]

        def read(number: int, rows: np.ndarray, step: int, position: np.ndarray) -> dict[str, np.ndarray]:
            draws = np.random.default_rng([_PARTNER, run.config.seed, step]).random(int(position.max()) + 1)[position]
            store = run.stores[number]
            others = partners[number].of(rows, draws)
            both = _only(store.read(np.concatenate([rows, others])), modality)
            first = {name: values[: len(rows)] for name, values in both.items()}
            return first | {SECOND + name: values[len(rows) :] for name, values in both.items()}

        return read

    return Source(reader)


class _Partners:
    """Sorted rows of a store by participant."""

    def __init__(self, store: Store, rows: np.ndarray):
        self._rows = rows
        _, code = np.unique(store.segments["participant"][self._rows], return_inverse=True)
        self._order = np.argsort(code, kind="stable")
        counts = np.bincount(code)
        self._count, self._start = counts[code], (np.cumsum(counts) - counts)[code]
        self._place = np.empty(len(code), np.int64)
        self._place[self._order] = np.arange(len(code))

    def of(self, rows: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """For each of the rows another row of its participant; draws [b] in [0, 1) choose it."""
        index = np.searchsorted(self._rows, rows)
        assert (self._rows[np.minimum(index, len(self._rows) - 1)] == rows).all(), "a row that training does not use"
        start, count, place = self._start[index], self._count[index], self._place[index]
        step = 1 + np.floor(draws * (count - 1)).astype(np.int64)
        return self._rows[self._order[np.where(count > 1, start + (place - start + step) % count, place)]]


def labelled_source(run: Run, *, target: str, fraction: float, subset: int) -> tuple[Source, dict[str, np.ndarray]]:
    """Acceleration with a label: a share of the labelled training segments, and all labelled validation segments.

    Validation labels are not subsampled, which favours the supervised baseline.

    Args:
        run: the run's context.
        target: column of the segment tables.
        fraction: share of the labelled training segments; participants are kept together.
        subset: seed of the choice.

    Returns:
        The source, and {"label_mean", "label_std"} [] float32 of the chosen training labels.

    Raises:
        UserError: no training segment has the label.
    """
    same_names = run.config.data.same_names
    labelled = labelled_rows(
        run.stores, "train", same_names=same_names, target=target, fraction=fraction, subset=subset
    )
    train = [run.training_rows(store, rows) for store, rows in zip(run.stores, labelled, strict=True)]
    if not sum(map(len, train)):
        raise UserError(
            f"config.student.supervised.target = {target!r}: no training segment of config.data.stores has it"
        )

    def rows(split: str) -> list[np.ndarray]:
        return train if split == "train" else labelled_rows(run.stores, split, same_names=same_names, target=target)

    def reader(split: str) -> Reader:
        def read(number: int, rows: np.ndarray, step: int, position: np.ndarray) -> dict[str, np.ndarray]:
            store = run.stores[number]
            return _only(store.read(rows), "accel") | {LABEL: label_values(store, target)[rows].astype(np.float32)}

        return read

    labels = np.concatenate(
        [label_values(store, target)[rows] for store, rows in zip(run.stores, train, strict=True)]
    ).astype(np.float64)
    std = labels.std()
    values = {"label_mean": labels.mean(), "label_std": std if std > 0 else 1.0}
    statistics = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return Source(reader, rows), statistics


def labelled_rows(
    stores: Sequence[Store], split: str, *, same_names: str, target: str, fraction: float = 1.0, subset: int = 0
) -> list[np.ndarray]:
    """Per store, sorted rows of a split with a known label, or a share of them over all stores; participants stay together.

    The share is the one that probes of the same segments get: both draw by `labelled_subset` among the names of `people_among`.
    """
    all_rows = [store.indices(split) for store in stores]
    pairs = list(zip(stores, all_rows, strict=True))
    known = np.concatenate([np.isfinite(label_values(store, target)[rows].astype(np.float64)) for store, rows in pairs])
    if fraction < 1.0:
        names = people_among(stores, all_rows, same_names=same_names)
        chosen = np.zeros(len(known), bool)
        chosen[labelled_subset(names, known, fraction, subset).rows] = True
        known &= chosen
    ends = np.cumsum([len(rows) for rows in all_rows])
    parts = np.split(known, ends[:-1])
    return [rows[part] for rows, part in zip(all_rows, parts, strict=True)]


def _only(batch: dict[str, np.ndarray], modality: str) -> dict[str, np.ndarray]:
    return {name: values for name, values in batch.items() if name.split("_")[0] == modality}
