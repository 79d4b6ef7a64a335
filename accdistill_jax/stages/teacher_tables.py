"""Teachers whose embeddings come from tables (`config.teacher.source`): minutes that have them, batches, statistics."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from accdistill_jax.config.schema import Config
from accdistill_jax.data.embeddings.alignment import align
from accdistill_jax.data.embeddings.table import EmbeddingTable, read_embedding_table
from accdistill_jax.data.pipeline import Reader
from accdistill_jax.data.store.separation import SAME_PERSON
from accdistill_jax.data.store.store import Store
from accdistill_jax.encoder import Teacher
from accdistill_jax.errors import UserError
from accdistill_jax.objectives.given import GIVEN, given_branch
from accdistill_jax.stages.build_objective import needs_teacher, objective_of
from accdistill_jax.stages.context import Run, training_rows
from accdistill_jax.stages.sources import Source

MIN_SHARE = 0.1  # of the minutes; a table that covers less is taken for a mistake


@dataclasses.dataclass(frozen=True)
class StoreEmbeddings:
    """The embeddings of one store's segments, read by rows as a store is.

    Attributes:
        tables: the tables.
        rows: for each table [segments] int64, row of the table; -1 for a segment without an embedding.
    """

    tables: tuple[EmbeddingTable, ...]
    rows: tuple[np.ndarray, ...]

    @property
    def known(self) -> np.ndarray:
        """[segments] bool, True where every table has an embedding."""
        return np.logical_and.reduce([rows >= 0 for rows in self.rows])

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The vectors of segments, all known: "given_0" [b, D] float32, and so on for further tables."""
        chosen = [rows[indices] for rows in self.rows]
        if any((rows < 0).any() for rows in chosen):
            raise ValueError("a segment without an embedding is read")
        return {
            f"{GIVEN}_{number}": table.embedding[rows]
            for number, (table, rows) in enumerate(zip(self.tables, chosen, strict=True))
        }


class TeacherTables:
    """The tables of a run, aligned with its stores; other stores are aligned when they are asked for.

    Args:
        config: the run's config.
        stores: the stores that are trained on.

    Raises:
        UserError: a table cannot be read, or it does not fit the stores.
    """

    def __init__(self, config: Config, stores: Sequence[Store]):
        self.tables = tuple(read_embedding_table(path) for path in config.teacher.tables)
        self._config, self._stores = config, tuple(stores)
        same_people = config.data.same_names == SAME_PERSON
        aligned = [align(table, stores, same_people=same_people) for table in self.tables]
        self.unused = [alignment.unused for alignment in aligned]
        self._by_store = {
            store.fingerprint: StoreEmbeddings(self.tables, tuple(alignment.rows[number] for alignment in aligned))
            for number, store in enumerate(stores)
        }

    @property
    def fingerprint(self) -> str:
        """Content hashes of the tables, joined."""
        return "+".join(table.fingerprint for table in self.tables)

    def of(self, store: Store) -> StoreEmbeddings:
        """The embeddings of a store; none are known where the tables do not fit it."""
        if store.fingerprint not in self._by_store:
            rows = []
            for table in self.tables:
                try:
                    rows += align(table, [store]).rows
                except UserError:  # the tables need not cover a store that is only tested on
                    rows.append(np.full(store.num_segments, -1, np.int64))
            self._by_store[store.fingerprint] = StoreEmbeddings(self.tables, tuple(rows))
        return self._by_store[store.fingerprint]

    def rows(self, split: str) -> list[np.ndarray]:
        """For each store that is trained on, the sorted rows of a split that have embeddings; in training within the caps."""
        known = self._known(split)
        if split != "train":
            return known
        return [training_rows(self._config, store, rows) for store, rows in zip(self._stores, known, strict=True)]

    def _known(self, split: str) -> list[np.ndarray]:
        return [self.among(store, store.indices(split)) for store in self._stores]

    def among(self, store: Store, rows: np.ndarray) -> np.ndarray:
        """Those of a store's rows that have embeddings."""
        return rows[self.of(store).known[rows]]

    def covers(self, stores: Sequence[Store]) -> bool:
        """True if enough minutes of stores have embeddings for an evaluation: a tenth, and two of the test split if it has any."""
        minutes = sum(store.num_segments for store in stores)
        known = sum(int(np.count_nonzero(self.of(store).known)) for store in stores)
        tests = [store.indices("test") for store in stores]
        known_tests = sum(len(self.among(store, rows)) for store, rows in zip(stores, tests, strict=True))
        return known >= max(2, MIN_SHARE * minutes) and (not any(map(len, tests)) or known_tests >= 2)

    def check(self, config: Config) -> None:
        """Checks that there are enough minutes to train on, if the student learns from the tables.

        Raises:
            UserError: too few training minutes have embeddings.
        """
        if "student" not in config.stages or not needs_teacher(config):
            return
        known = self._known("train")
        minutes, total = sum(map(len, known)), sum(len(store.indices("train")) for store in self._stores)
        least = max(config.student.train.batch_size, int(np.ceil(MIN_SHARE * total)))
        if minutes < min(least, total):
            raise UserError(
                f"config.teacher.source: {minutes} of {total} training minutes have an embedding in {self._names()}; at least "
                f"{least} are needed (a batch, and {MIN_SHARE:.0%}): embed more minutes, or lower config.student.train.batch_size"
            )
        for store, rows in zip(self._stores, known, strict=True):
            if config.data.weights and not len(rows):
                raise UserError(
                    f"config.data.weights gives {store.path} a share of each batch, but {self._names()} has no embedding of its "
                    "training minutes; embed them, or leave the store out"
                )

    def lines(self) -> list[str]:
        """Lines that say what is used of each table."""
        lines = []
        for number, table in enumerate(self.tables):
            known = sum(int(np.count_nonzero(self.of(store).rows[number] >= 0)) for store in self._stores)
            total = sum(store.num_segments for store in self._stores)
            lines.append(
                f"teacher: {table.path}, fingerprint {table.fingerprint[:12]}, {table.width} numbers: {known} of {total} minutes have "
                f"an embedding, {total - known} are left out; {self.unused[number]} of {len(table.embedding)} rows belong to no minute"
            )
        return lines

    def teachers(self, representation: str) -> tuple[Teacher, ...]:
        """A teacher for each table, standardised over the training minutes with embeddings."""
        made = []
        for number, table in enumerate(self.tables):
            chosen = [
                self.of(store).rows[number][rows] for store, rows in zip(self._stores, self.rows("train"), strict=True)
            ]
            values = table.embedding[np.concatenate(chosen)]
            if not len(values):
                raise UserError(f"{table.path}: it has no embedding of a training minute; embed these too")
            mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64) + 1e-6
            frozen = {"params": {}, "mean": mean.astype(np.float32), "std": std.astype(np.float32)}
            branch = dataclasses.replace(given_branch(number, table.width), representation=representation)
            made.append(Teacher(branch, frozen, table.fingerprint, None, ""))
        return tuple(made)

    def source(self, before: Source, *, signals: Sequence[str]) -> Source:
        """The source of batches with the tables' vectors, of minutes that have them.

        Args:
            before: reads the other arrays of a batch.
            signals: what is read where `before` has no reader.
        """

        def reader(split: str) -> Reader:
            inner = before.reader(split) if before.reader else None

            def read(number: int, rows: np.ndarray, step: int, position: np.ndarray) -> dict[str, np.ndarray]:
                store = self._stores[number]
                if inner is not None:
                    batch: Mapping[str, np.ndarray] = inner(number, rows, step, position)
                else:
                    both = store.read(rows)
                    batch = {name: values for name, values in both.items() if name.partition("_")[0] in signals}
                return {**batch, **self.of(store).read(rows)}

            return read

        return Source(reader, self.rows)

    def _names(self) -> str:
        return " and ".join(table.path for table in self.tables)


def tables_of(run: Run) -> TeacherTables | None:
    """The tables of a run, the same in all processes; None if it has none.

    Raises:
        UserError: as `TeacherTables`, or too few training minutes have embeddings.
    """
    if not run.config.teacher.tables:
        return None
    tables = TeacherTables(run.config, run.stores)
    run.peers.agree({"fingerprint of the tables of config.teacher.source": tables.fingerprint})
    tables.check(run.config)
    return tables


def checked_fingerprint(config: Config, stores: Sequence[Store]) -> str:
    """Content hashes of the tables, after the checks that are possible: with stores, all of `tables_of`."""
    if not stores:
        return "+".join(read_embedding_table(path).fingerprint for path in config.teacher.tables)
    tables = TeacherTables(config, stores)
    tables.check(config)
    return tables.fingerprint


def used_tables(config: Config) -> bool:
    """True if the stages of a config read the tables of `teacher.source`."""
    stages = set(config.stages)
    learns = bool(stages & {"student", "evaluation", "report"}) and objective_of(config.student).needs_teacher
    return bool(config.teacher.tables) and ("teacher" in stages or learns)
