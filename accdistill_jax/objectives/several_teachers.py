"""Distillation of several frozen teachers into a student: the weighted mean of a distillation of each."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from accdistill_jax.objectives.base import PROGRESS, Batch, Metrics, Objective, ObjectiveParts, Segments, StepFlops
from accdistill_jax.objectives.distillation import Distillation
from accdistill_jax.objectives.given import GivenBranch
from accdistill_jax.objectives.teacher_reading import TEACHER, TeacherReading

TEACHERS = "teachers"  # key of `frozen`: the frozen arrays of each teacher
_HEALTH = ("embedding_std", "effective_rank")  # metrics of the student alone


@dataclasses.dataclass(frozen=True)
class SeveralTeachers(Objective):
    """The weighted mean of several distillations of one student.

    `frozen` is {`TEACHERS`: a tuple with the frozen arrays of each distillation}. The student's encoder runs once. Each teacher
    has its own pair of heads: the first under the names of a single distillation, so that exports and retrieval work as with
    that teacher alone, the others under "source_1", "source_2", ...

    Attributes:
        members: a distillation for each teacher, with the same student branch.
        weights: weight of each, positive, summing to 1.

    Our addition; the paper has one teacher.
    """

    members: tuple[Distillation, ...]
    weights: tuple[float, ...]

    @classmethod
    def from_config(cls, section: Any, parts: ObjectiveParts) -> "SeveralTeachers":
        """See `Objective.from_config`."""
        members = tuple(Distillation.from_config(section, one) for one in parts.by_teacher)
        weights = parts.weights or (1.0,) * len(members)
        return cls(members, tuple(weight / sum(weights) for weight in weights))

    @property
    def teacher_reading(self) -> TeacherReading:
        """See `Objective.teacher_reading`: of the first teacher, the only one that may have an encoder."""
        return self.members[0].teacher_reading

    @property
    def batches(self) -> Segments:
        """See `Objective.batches`."""
        return self.members[0].batches

    def init(self, key: jax.Array, batch: Batch) -> Any:
        """See `Objective.init`."""
        params = self.members[0].init(key, batch)
        for number, member in enumerate(self.members[1:], 1):
            heads = member.init(jax.random.fold_in(key, 100 + number), batch)
            params[_name(number)] = {name: value for name, value in heads.items() if name != "encoder"}
        return params

    def inputs(self, frozen: Any, batch: Batch, keys: jax.Array, *, training: bool) -> dict[str, Any]:
        """See `Objective.inputs`: of each member, by its number."""
        inputs = {}
        for number, (member, arrays) in enumerate(zip(self.members, frozen[TEACHERS], strict=True)):
            seen = batch
            if isinstance(member.teacher, GivenBranch):  # cached views belong to the PPG teacher
                seen = {name: values for name, values in batch.items() if name != TEACHER}
            arrays = arrays | {PROGRESS: frozen[PROGRESS]}
            inputs[str(number)] = member.inputs(arrays, seen, keys, training=training)
        return inputs

    def rows(self, params: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """See `Objective.rows`: of each member, by its number."""
        encoded = self.members[0].encode_student(params, inputs["0"])
        return {
            str(number): member.rows_of(_params_of(params, number), inputs[str(number)], encoded)
            for number, member in enumerate(self.members)
        }

    def reduce(self, rows: Mapping[str, Any], axis_name: str | None, *, training: bool) -> tuple[jax.Array, Metrics]:
        """See `Objective.reduce`; metrics of the members are numbered, as "loss_1"."""
        total, metrics = jnp.float32(0), {}
        for number, (member, weight) in enumerate(zip(self.members, self.weights, strict=True)):
            value, own = member.reduce(rows[str(number)], axis_name, training=training)
            total = total + weight * value
            metrics |= {name if name in _HEALTH else f"{name}_{number}": value for name, value in own.items()}
        return total, {"loss": total, **metrics}

    def constrained(self, params: Any) -> dict[str, Any]:
        """See `Objective.constrained`."""
        result = self.members[0].constrained(params)
        for number, member in enumerate(self.members[1:], 1):
            result[_name(number)] = member.constrained(params[_name(number)])
        return result

    def exported(self, params: Any, frozen: Any) -> dict[str, Any]:
        """See `Objective.exported`."""
        return self.members[0].exported(params, frozen[TEACHERS][0])

    def flops(self, *, samples: int, channels: Mapping[str, int], cached: bool) -> StepFlops | None:
        """See `Objective.flops`; not counted."""
        return None


def _name(number: int) -> str:
    return f"source_{number}"


def _params_of(params: Any, number: int) -> Any:
    return params if number == 0 else params[_name(number)]
