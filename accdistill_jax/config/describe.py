"""Documentation of the config's keys, made from the schema."""

import textwrap
from collections.abc import Mapping
from typing import Any

from accdistill_jax.config import tree
from accdistill_jax.config.convert import known_keys
from accdistill_jax.config.nearest import nearest
from accdistill_jax.config.schema import Config
from accdistill_jax.errors import UserError

_INDENT = "    "


def describe(prefix: str = "", *, config: Config | None = None, width: int = 100) -> str:
    """The keys below a prefix, each with its default, rule, unit and documentation.

    Args:
        prefix: a key, or the section to print, for example "student.train"; empty for all.
        config: prints the values of this config too, where they differ from the defaults.
        width: longest line.

    Raises:
        UserError: no key begins so.
    """
    known = known_keys()
    values = tree.flatten_section(config) if config is not None else {}
    chosen = {key: each for key, each in known.items() if not prefix or f"{key}.".startswith(f"{prefix}.")}
    if not chosen:
        sections = {".".join(key.split(".")[:depth]) for key in known for depth in range(1, key.count(".") + 1)}
        near = nearest(prefix, [*sections, *known])
        raise UserError(f"no config key {prefix}" + (f"; did you mean {near}?" if near else ""))
    return "\n".join(_entry(key, each, values, width) for key, each in chosen.items())


def _entry(key: str, described: tree.Key, values: Mapping[str, Any], width: int) -> str:
    setting, rule = described.setting, described.setting.current_rule()
    lines = [f"{key} = {described.default!r}" + (f"  [{setting.unit}]" if setting.unit else "")]
    if key in values and values[key] != described.default:
        lines.append(f"{_INDENT}here: {values[key]!r}")
    sentences = [f"{setting.doc[0].upper()}{setting.doc[1:]}.", f"Must be {rule.wanted}."]
    if described.only_with is not None:
        decisive, value = described.only_with
        sentences.append(f"Counts only with {decisive} = {value!r}.")
    if setting.free:
        sentences.append("May change when a run continues.")
    text = textwrap.wrap(
        " ".join(sentences), width, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False
    )
    return "\n".join(lines + text)
