"""The frozen teachers of a run: the PPG encoder, tables of embeddings, or both."""

from typing import Any, NamedTuple

from accdistill_jax.encoder import Teacher
from accdistill_jax.errors import UserError
from accdistill_jax.objectives.several_teachers import TEACHERS
from accdistill_jax.stages import teacher as ppg_teacher
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.teacher_tables import TeacherTables, tables_of


class Teachers(NamedTuple):
    """The frozen teachers of a run, in the order of `config.teacher.source`.

    Attributes:
        ppg: the PPG encoder, or None.
        given: a teacher for each table.
        tables: the tables, or None.
    """

    ppg: Teacher | None
    given: tuple[Teacher, ...]
    tables: TeacherTables | None

    @property
    def each(self) -> tuple[Teacher, ...]:
        """All of them."""
        return (*((self.ppg,) if self.ppg is not None else ()), *self.given)

    @property
    def first(self) -> Teacher:
        """The teacher that evaluation and retrieval are about."""
        return self.each[0]

    @property
    def fingerprint(self) -> str:
        """Content hashes of all of them, joined."""
        return "+".join(teacher.fingerprint for teacher in self.each)

    def frozen(self, of_ppg: dict[str, Any]) -> dict[str, Any]:
        """The frozen arrays of the student's objective.

        Args:
            of_ppg: additional arrays of the PPG encoder.
        """
        arrays = [teacher.frozen for teacher in self.each]
        if self.ppg is not None:
            arrays[0] = arrays[0] | of_ppg
        return arrays[0] if len(arrays) == 1 else {TEACHERS: tuple(arrays)}


def load_teachers(run: Run) -> Teachers:
    """The teachers of a run.

    Raises:
        UserError: as `teacher.load_teacher` and `teacher_tables.tables_of`; or a table is not the one that
            `config.teacher.fingerprint` asks for.
    """
    config = run.config.teacher
    tables = tables_of(run)
    given = tables.teachers(run.config.evaluation.representation) if tables is not None else ()
    ppg = ppg_teacher.load_teacher(run) if config.has_encoder else None
    wanted = config.fingerprint
    if ppg is None and wanted and not given[0].fingerprint.startswith(wanted):
        raise UserError(
            f"the table {config.tables[0]} has fingerprint {given[0].fingerprint}, config.teacher.fingerprint asks for {wanted}"
        )
    return Teachers(ppg, given, tables)


def run_stage(run: Run) -> None:
    """Pretrains or loads the PPG encoder, and says what is used of the tables."""
    if run.config.teacher.has_encoder:
        ppg_teacher.run_stage(run)
    if run.config.teacher.tables:
        tables = load_teachers(run).tables
        for line in tables.lines() if tables is not None else ():
            run.say(line)
