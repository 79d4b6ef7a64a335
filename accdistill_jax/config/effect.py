"""Overrides of a command line that change nothing: a result would be taken for theirs, so they are refused.

Files and records of runs may hold such values: those of the choices that were not made.
"""

from collections.abc import Collection, Mapping
from typing import Any

from accdistill_jax.config import tree
from accdistill_jax.config.convert import known_keys
from accdistill_jax.config.registry import ENCODERS, OBJECTIVES
from accdistill_jax.config.schema import Config
from accdistill_jax.errors import UserError

# Keys that count only while another key is not as it is here.
_COUNT_WITHOUT = {
    "student.regression": ("student.regression_weight", 0.0),
    "student.token_schedule": ("student.token_weight", 0.0),
    "student.head.weighting": ("student.head.windows", 1),
}
_REGRESSION = ("student.contrastive_weight", "student.regression_weight", "student.regression")
_CONTRAST = ("student.temperature", "student.teacher_to_student_weight")
_HEAD = ("student.head.hidden", "student.head.output")


def refuse_without_effect(config: Config, overridden: Collection[str]) -> None:
    """Checks the overrides of a command line.

    Args:
        config: the config with them.
        overridden: their dotted keys, by the current names.

    Raises:
        UserError: one changes a key that nothing reads with the config's other values.
    """
    flat, known = tree.flatten_section(config), known_keys()
    for key in sorted(overridden):
        if flat[key] != known[key].default and (reason := _reason(config, key, flat=flat, known=known)):
            raise UserError(f"config.{key} = {flat[key]!r} has no effect: {reason}")


def _reason(config: Config, key: str, *, flat: Mapping[str, Any], known: Mapping[str, tree.Key]) -> str:
    """The reason why a key counts for nothing; "" if it counts."""
    only_with = known[key].only_with or _architecture(key)
    if only_with is not None and flat[only_with[0]] != only_with[1]:
        return f"it counts only with config.{only_with[0]} = {only_with[1]!r}, which is {flat[only_with[0]]!r}"
    other, idle = _COUNT_WITHOUT.get(key, ("", None))
    if other and flat[other] == idle:
        return f"config.{other} is {idle!r}"
    if key == "teacher.source_weights" and len(config.teacher.source) == 1:
        return "config.teacher.source names a single teacher"
    objective = OBJECTIVES.get(config.student.objective)
    read = {
        _REGRESSION: objective.needs_teacher,
        _CONTRAST: objective.has_ppg_encoder,
        _HEAD: objective.student_head,
    }
    if "student" in config.stages and any(key in keys and not reads for keys, reads in read.items()):
        return f"config.student.objective = {config.student.objective!r} does not read it"
    return ""


def _architecture(key: str) -> tuple[str, str] | None:
    """The choice of an encoder that a key of an encoder's section counts with."""
    stage, encoder, section, *_ = [*key.split("."), "", ""]
    names = [name for name in ENCODERS.names() if ENCODERS.entry(name).section == section]
    return (f"{stage}.encoder.architecture", names[0]) if encoder == "encoder" and names else None
