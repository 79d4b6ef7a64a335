"""Conversion to the typed config: strict, once, where a config enters the package."""

import ast
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from accdistill_jax.config import tree
from accdistill_jax.config.renamed import current_key, with_current_keys
from accdistill_jax.config.schema import Config
from accdistill_jax.config.validate import check_together, check_value, unknown_key, unread_keys
from accdistill_jax.errors import UserError

_T = TypeVar("_T")


def parse_config(given: Mapping[str, Any] | ConfigDict) -> Config:
    """The typed config of nested values.

    Args:
        given: nested values by key; keys that are not given have their defaults, old names of keys are accepted.

    Raises:
        UserError: one line that names the first key at fault, the value that it must have and the nearest valid key or value.
    """
    config = parse_section(Config, given)
    check_together(config)
    return config


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """A checked copy of a config with some values changed.

    Args:
        config: the config.
        changes: values by dotted key.

    Raises:
        UserError: an unknown key, or a value that the config refuses.
    """
    copy = with_changes(config, changes)
    check_together(copy)
    return copy


def for_objective(config: Config, *, keep: Collection[str] = ()) -> Config:
    """A copy in which values that the student's objective does not read have no effect, so that they are not refused.

    Args:
        config: the config.
        keep: dotted keys that stay as they are.
    """
    return with_changes(config, {key: value for key, value in unread_keys(config).items() if key not in keep})


def parse_section(kind: type[_T], given: Mapping[str, Any] | ConfigDict, *, at: str = "") -> _T:
    """A section of the config, or the whole of it, from nested values; each value is checked by itself.

    Args:
        kind: class of the section.
        given: nested values, for example a section that an export keeps.
        at: dotted key of the section, for messages and old names of keys.

    Raises:
        UserError: as `parse_config`.
    """
    return with_changes(kind(), tree.flatten_section(given), at=at)


def with_changes(section: _T, changes: Mapping[str, Any], *, at: str = "") -> _T:
    """A copy of a section with values changed by dotted key; each value is checked by itself; raises UserError as `parse_config`."""
    prefix = f"{at}." if at else ""
    known = tree.keys(section, prefix)
    values: dict[str, Any] = {}
    given = {f"{prefix}{key}": value for key, value in changes.items()}
    for key, value in with_current_keys(given, {key: each.default for key, each in known.items()}).items():
        if key in known:
            check_value(key, value, known[key].setting.current_rule())
            values[key.removeprefix(prefix)] = value
        elif any(name.startswith(f"{key}.") for name in known):
            if not (hasattr(value, "items") and not len(value)):
                raise UserError(
                    f"config.{key} = {value!r} must be a section of keys; `python -m accdistill_jax.config {key}` lists them"
                )
        else:
            raise unknown_key(key, known)
    return tree.with_values(section, tree.nest_keys(values))


def known_keys() -> dict[str, tree.Key]:
    """Every key of a config by its dotted name."""
    return tree.keys(Config())


def value_of(key: str, text: str) -> Any:
    """The value that a text on the command line gives to a key; the text itself where it has another type.

    Raises:
        UserError: unknown key.
    """
    known = known_keys()
    current = current_key(key)
    if current not in known:
        raise unknown_key(key, known)
    return _PARSERS[type(known[current].default)](text)


def as_config_dict(section: Any) -> ConfigDict:
    """All values of a section, or of the whole config, as a ConfigDict that a config file changes."""
    return ConfigDict(tree.nest_keys(tree.flatten_section(section)))


def _whole(text: str) -> Any:
    try:
        return int(text, 0)
    except ValueError:
        return text


def _real(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _tuple(text: str) -> Any:
    """A tuple from its Python form, as "('a', 'b')" or "[1, 2]"; any other text is a single item."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _text(text: str) -> Any:
    """The text itself, without quotes around it."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    return value if isinstance(value, str) else text


_PARSERS: Mapping[type, Callable[[str], Any]] = {int: _whole, float: _real, str: _text, tuple: _tuple}
