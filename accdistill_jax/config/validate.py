"""The one validation of a config."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_collections

from accdistill_jax.config.duration import parse_duration
from accdistill_jax.config.nearest import nearest
from accdistill_jax.config.schema import (
    RULES,
    STAGES,
    find_rule,
    matches,
    required_keys,
)
from accdistill_jax.errors import UserError, refuse_password


def flatten(config: Mapping) -> dict[str, Any]:
    """Lists a nested config as {"a.b.c": value}, in order."""
    return dict(_leaves(config, ""))


def _leaves(config: Mapping, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every key of a config once, before anything runs.

    Args:
        config: the config as the command line left it.

    Raises:
        UserError: one line that names the first key at fault, what it must be and the nearest valid key or value.
    """
    flat = flatten(config)
    for key, value in flat.items():
        for text in value if _is_listing(value) else (value,):
            if isinstance(text, str):
                refuse_password(text)
        rule = find_rule(key)
        if rule is None:
            raise unknown_key(
                key,
                [pattern for pattern, _ in RULES if "*" not in pattern] + [k for k in flat if find_rule(k)],
            )
        if not rule.accepts(value):
            odd = next((item for item in value if item not in rule.literals), value) if _is_listing(value) else value
            near = nearest(str(odd), map(str, rule.literals))
            hint = f"; did you mean {near}?" if near else ""
            raise UserError(f"config.{key} = {value!r} must be {rule.wanted}{hint}")
    for key in required_keys(flat):
        if key not in flat:
            raise UserError(f"config.{key} is missing; begin with a copy of configs/distill.py, which lists all keys")
    _validate_together(flat)


def _is_listing(value: Any) -> bool:
    return isinstance(value, (tuple, list))


def _validate_together(flat: Mapping[str, Any]) -> None:
    weights, stores = flat.get("data.weights", ()), flat.get("data.stores", ())
    if weights and len(weights) != len(stores):
        raise UserError(
            f"config.data.weights has {len(weights)} items and config.data.stores {len(stores)}: give one each"
        )
    stages = list(flat.get("stages", ()))
    if stages != [stage for stage in STAGES if stage in stages]:
        raise UserError(
            f"config.stages = {tuple(stages)!r} must be in the order {', '.join(STAGES)}, each at most once"
        )
    for key, value in flat.items():
        block, _, name = key.rpartition(".")
        duration_key = f"{block}.duration"
        if duration_key not in flat:
            continue
        total = parse_duration(flat[duration_key])
        if (name == "duration" or name.endswith("_every")) and parse_duration(value).amount == 0:
            raise UserError(f"config.{key} = {value!r} must be longer than zero")
        if name == "warmup":
            warmup = parse_duration(value)
            if warmup.unit == total.unit and warmup.amount >= total.amount:
                raise UserError(
                    f"config.{key} = {value!r} must be shorter than config.{duration_key} = {flat[duration_key]!r}"
                )
    _validate_savings(flat)
    _validate_objectives(flat)
    for block in sorted(key.rsplit(".", 1)[0] for key in flat if key.endswith(".transformer.tokenizer")):
        sizes = [samples for samples, _ in flat[f"{block}.tokenizer"]] + [flat[f"{block}.patch"]]
        if any(larger % smaller for smaller, larger in itertools.pairwise(sizes)):
            raise UserError(
                f"config.{block}.tokenizer = {flat[f'{block}.tokenizer']!r}: the samples of each level must divide those of the "
                f"next, and the last config.{block}.patch = {sizes[-1]}"
            )
    for block in {key.rsplit(".", 1)[0] for key in flat if key.endswith(".transformer.heads")}:
        width, heads = flat[f"{block}.width"], flat[f"{block}.heads"]
        if width % heads:
            raise UserError(f"config.{block}.width = {width} must be a multiple of config.{block}.heads = {heads}")


def _validate_savings(flat: Mapping[str, Any]) -> None:
    """Checks the settings that save work in the student's stage: there must be something to leave out."""
    if "student" not in flat.get("stages", ()):
        return
    if flat["student.drop_fraction"] and flat["student.encoder.architecture"] != "transformer":
        raise UserError(
            f"config.student.drop_fraction = {flat['student.drop_fraction']!r} needs tokens to drop, and "
            f"config.student.encoder.architecture = {flat['student.encoder.architecture']!r} has none: set it to 0.0, or the "
            "architecture to 'transformer'"
        )
    if flat.get("student.objective", "distillation") != "distillation":
        return
    augmented = any(flat[key] for key in flat if matches(key, "student.augment.ppg.*.probability"))
    if flat["teacher.cached_views"] > 1 and not augmented:
        raise UserError(
            f"config.teacher.cached_views = {flat['teacher.cached_views']}: without an augmentation in "
            "config.student.augment.ppg all views are equal; set it to 1"
        )


def _validate_objectives(flat: Mapping[str, Any]) -> None:
    """Checks for settings that an objective cannot be combined with."""
    for block in ("teacher", "student"):
        if flat.get(f"{block}.objective") == "contrastive" and flat[f"{block}.train.ema_decay"]:
            raise UserError(
                f"config.{block}.train.ema_decay = {flat[f'{block}.train.ema_decay']!r}: the contrastive objective keeps an average "
                f"of its own (config.{block}.contrastive.momentum); set it to 0.0"
            )
    if "student" not in flat.get("stages", ()):
        return
    objective = flat["student.objective"]
    if objective == "distillation" and not (flat["student.contrastive_weight"] or flat["student.regression_weight"]):
        raise UserError(
            "config.student.contrastive_weight and config.student.regression_weight are both 0: nothing would be learned"
        )
    for key in ("student.drop_fraction", "teacher.cached_views"):
        if objective != "distillation" and flat[key]:
            raise UserError(
                f"config.{key} = {flat[key]!r} is for distillation alone; set it to 0 with config.student.objective = {objective!r}"
            )


def unknown_key(key: str, known: Iterable[str]) -> UserError:
    """The error for a key that no config has, with the nearest of the known ones."""
    near = nearest(key, known)
    return UserError(f"unknown key config.{key}" + (f"; did you mean config.{near}?" if near else ""))
