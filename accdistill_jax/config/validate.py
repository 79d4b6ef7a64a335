"""Checks of a config's values: each by its rule, then those that must fit together."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from accdistill_jax.config.contrast import ContrastConfig
from accdistill_jax.config.duration import parse_duration
from accdistill_jax.config.fields import Rule
from accdistill_jax.config.nearest import nearest
from accdistill_jax.config.registry import ENCODERS, OBJECTIVES
from accdistill_jax.config.schema import (
    PPG_SOURCE,
    STAGES,
    Config,
    EncoderConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
)
from accdistill_jax.errors import UserError, refuse_password

_INTERVALS = ("validate_every", "checkpoint_every", "log_every")
# Keys that only some of the student's objectives read: the value that has no effect, and the fact about an objective that reads it.
_OF_OBJECTIVES: dict[str, tuple[Any, str]] = {
    "student.drop_fraction": (0.0, "drops_tokens"),
    "teacher.cached_views": (0, "needs_teacher"),
    "student.token_weight": (0.0, "regresses_tokens"),
    "student.token_schedule": ("constant", "regresses_tokens"),
    "student.head.windows": (1, "student_head"),
    "student.head.weighting": ("equal", "student_head"),
    "student.contrast.loss": ("infonce", "contrasts_sensors"),
    "student.contrast.temperature_bounds": ((), "contrasts_sensors"),
    "student.contrast.same_person": (1, "contrasts_sensors"),
    "student.contrast.same_rate": (1, "contrasts_sensors"),
    "student.contrast.bias": (ContrastConfig().bias, "contrasts_sensors"),
}


def check_value(key: str, value: Any, rule: Rule) -> None:
    """Raises UserError unless a value keeps its rule; names the nearest valid value."""
    items = value if isinstance(value, (tuple, list)) else (value,)
    for text in items:
        if isinstance(text, str):
            refuse_password(text)
    if not rule.accepts(value):
        odd = next((item for item in items if item not in rule.literals), value)
        near = nearest(str(odd), rule.literals)
        hint = f"; did you mean {near}?" if near else ""
        raise UserError(f"config.{key} = {value!r} must be {rule.wanted}{hint}")


def unknown_key(key: str, known: Iterable[str]) -> UserError:
    """The error for a key that no config has; names the nearest valid key."""
    near = nearest(key, known)
    return UserError(f"unknown key config.{key}" + (f"; did you mean config.{near}?" if near else ""))


def check_together(config: Config) -> None:
    """Checks the values that must fit together.

    Raises:
        UserError: one line that names the keys and says what to do.
    """
    weights, stores = config.data.weights, config.data.stores
    if weights and len(weights) != len(stores):
        raise UserError(
            f"config.data.weights has {len(weights)} items and config.data.stores {len(stores)}: give one each"
        )
    if list(config.stages) != [stage for stage in STAGES if stage in config.stages]:
        raise UserError(
            f"config.stages = {config.stages!r} must be in the order {', '.join(STAGES)}, each at most once"
        )
    for name in ("teacher", "student"):
        stage = config.stage(name)
        _check_durations(stage.train, f"{name}.train")
        _check_encoders(stage.encoder, f"{name}.encoder")
        _check_averages(stage, name)
    _check_sources(config)
    if "student" in config.stages:
        _check_student(config)


def unread_keys(config: Config) -> dict[str, Any]:
    """Keys that the student's objective does not read: key -> the value that has no effect."""
    objective = OBJECTIVES.get(config.student.objective)
    return {key: neutral for key, (neutral, fact) in _OF_OBJECTIVES.items() if not getattr(objective, fact)}


def _check_durations(train: TrainConfig, key: str) -> None:
    total = parse_duration(train.duration)
    for name in ("duration", *_INTERVALS):
        text = getattr(train, name)
        if parse_duration(text).amount == 0:
            raise UserError(f"config.{key}.{name} = {text!r} must be longer than zero")
    warmup = parse_duration(train.warmup)
    if warmup.unit == total.unit and warmup.amount >= total.amount:
        raise UserError(
            f"config.{key}.warmup = {train.warmup!r} must be shorter than config.{key}.duration = {train.duration!r}"
        )


def _check_encoders(encoder: EncoderConfig, key: str) -> None:
    for name in ENCODERS.names():
        section, check = ENCODERS.entry(name).section, ENCODERS.get(name).check
        if check and section in encoder.options:
            check(encoder.options[section], f"{key}.{section}")


def _check_averages(stage: TeacherConfig | StudentConfig, name: str) -> None:
    if OBJECTIVES.get(stage.objective).own_average and stage.train.ema_decay:
        raise UserError(
            f"config.{name}.train.ema_decay = {stage.train.ema_decay!r}: the {stage.objective} objective keeps an average "
            f"of its own (config.{name}.{OBJECTIVES.entry(stage.objective).section}.momentum); set it to 0.0"
        )


def _check_sources(config: Config) -> None:
    """Checks `teacher.source` and the keys that mean nothing for tables of embeddings."""
    teacher, student = config.teacher, config.student
    sources = f"config.teacher.source = {teacher.source!r}"
    if PPG_SOURCE in teacher.source[1:]:
        raise UserError(f"{sources}: name {PPG_SOURCE!r} once, as the first")
    if len(set(teacher.source)) < len(teacher.source):
        raise UserError(f"{sources}: a table is named twice")
    if teacher.source_weights and len(teacher.source_weights) != len(teacher.source):
        raise UserError(
            f"config.teacher.source_weights has {len(teacher.source_weights)} items and config.teacher.source "
            f"{len(teacher.source)}: give one each"
        )
    if teacher.tables and teacher.cached_views and (config.data.participant_cap or config.data.store_cap):
        raise UserError(
            f"config.teacher.cached_views = {teacher.cached_views}: views are kept of other minutes than those that a cap chooses among "
            "the minutes of a table; set it to 0, or config.data.participant_cap and config.data.store_cap to 0"
        )
    if teacher.has_encoder:
        return
    for key, value, empty in (("path", teacher.path, "''"), ("cached_views", teacher.cached_views, "0")):
        if value:
            raise UserError(
                f"config.teacher.{key} = {value!r} is for a PPG encoder, and {sources} names none: set it to {empty}, or add "
                f"{PPG_SOURCE!r} to the sources"
            )
    objective = OBJECTIVES.get(student.objective)
    if "student" in config.stages and objective.needs_teacher and (student.head.windows > 1 or student.token_weight):
        raise UserError(
            f"{sources} gives one vector for a minute, so the student cannot learn windows and tokens: take a preset without them, "
            "such as --config=distill:mean, or set --config.student.head.windows=1 --config.student.token_weight=0.0"
        )


def _check_student(config: Config) -> None:
    student, views = config.student, config.teacher.cached_views
    objective = OBJECTIVES.get(student.objective)
    if student.drop_fraction and not ENCODERS.get(student.encoder.architecture).drops_tokens:
        able = [repr(name) for name in ENCODERS.names() if ENCODERS.get(name).drops_tokens]
        raise UserError(
            f"config.student.drop_fraction = {student.drop_fraction!r} needs tokens to drop, and "
            f"config.student.encoder.architecture = {student.encoder.architecture!r} has none: set it to 0.0, or the "
            f"architecture to {' or '.join(able)}"
        )
    if objective.check:
        objective.check(student)
    for key, neutral in unread_keys(config).items():
        value = attrgetter(key)(config)
        if value != neutral:
            _, fact = _OF_OBJECTIVES[key]
            able = [name for name in OBJECTIVES.names("student") if getattr(OBJECTIVES.get(name), fact)]
            raise UserError(
                f"config.{key} = {value!r} is for {' and '.join(able)} alone; set it to {neutral!r} with "
                f"config.student.objective = {student.objective!r}"
            )
    if views and student.augment.shared_shift:
        raise UserError(
            f"config.teacher.cached_views = {views}: the views of the teacher would not have the student's shift "
            f"(config.student.augment.shared_shift = {student.augment.shared_shift}); set one of them to 0"
        )
    if views > 1 and not any(options.probability for options in student.augment.ppg.values()):
        raise UserError(
            f"config.teacher.cached_views = {views}: without an augmentation in config.student.augment.ppg all views are "
            "equal; set it to 1"
        )
