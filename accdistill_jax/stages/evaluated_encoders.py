"""The encoders that an evaluation embeds with, and the segments that they can embed."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.data.store.store import Store
from accdistill_jax.encoder import Student, Teacher
from accdistill_jax.evaluation.evaluate import TEACHER
from accdistill_jax.objectives.distillation import TOKEN_STATISTICS
from accdistill_jax.stages.map_segments import RowReader
from accdistill_jax.stages.teacher_tables import TeacherTables


class EvaluatedEncoder(NamedTuple):
    """An encoder to evaluate: `apply(params, batch) -> {"embedding": [b, D], maybe "projection": [b, P]}`.

    `channels` is the number of channels that it reads of `modality`. With `tables` it reads their vectors instead.
    """

    name: str
    apply: Callable
    params: object
    modality: str
    channels: int
    tables: TeacherTables | None = None

    def fits(self, stores: Sequence[Store]) -> bool:
        """True if stores have the channels that the encoder reads, or enough minutes in its tables."""
        if self.tables is not None:
            return self.tables.covers(stores)
        return all(len(store.channels[self.modality]) == self.channels for store in stores)

    def reads(self, store: Store) -> RowReader:
        """The reader of a store's rows for this encoder."""
        return store if self.tables is None else self.tables.of(store)


class Encoders(NamedTuple):
    """The encoders of a run, and the key under which their embeddings are kept."""

    teacher: Teacher | None
    student: Student | None
    all: list[EvaluatedEncoder]
    key: str

    def fitting(self, stores: Sequence[Store]) -> "Encoders":
        """Those that read signals which all stores have: a student reads stores without PPG, or with any number of channels."""
        return self._replace(all=[encoder for encoder in self.all if encoder.fits(stores)])

    def rows(self, stores: Sequence[Store], rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Those of the rows of each store that all encoders can embed: a teacher's tables may lack some."""
        tables = next((encoder.tables for encoder in self.fitting(stores).all if encoder.tables is not None), None)
        if tables is None:
            return list(rows)
        return [tables.among(store, of_store) for store, of_store in zip(stores, rows, strict=True)]


def teacher_encoder(teacher: Teacher, student: Student | None, *, channels: int) -> EvaluatedEncoder:
    """The frozen teacher of PPG with so many channels, with the projection that the student's retrieval compares with, if any."""
    branch = teacher.branch

    def embed_ppg(params, batch):
        encoded = branch.encode(params["teacher"]["params"], branch.prepare(batch))
        out = {"embedding": branch.represent(encoded)}
        if student is None:
            return out
        standard = student.read_teacher(params["student"], params["teacher"], encoded)
        projection = student.project_teacher(params["student"], standard)
        return out if projection is None else out | {"projection": projection}

    heads = {}
    if student is not None:
        heads = {name: value for name, value in student.params.items() if name in ("teacher_head", TOKEN_STATISTICS)}
    return EvaluatedEncoder(TEACHER, embed_ppg, {"teacher": teacher.frozen, "student": heads}, "ppg", channels)
