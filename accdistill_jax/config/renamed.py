"""Renamed config keys: the old names stay valid in config files, on the command line, in work directories and exports."""

import fnmatch
from collections.abc import Mapping
from typing import Any

from accdistill_jax.errors import UserError

# Pattern of the old key -> last part of the current key.
RENAMED = {
    "inputs.*.rate_share": "simulated_rate_fraction",
    "inputs.*.step": "simulated_step",
    "inputs.*.axes": "simulated_axes",
}


def current_key(key: str) -> str:
    """The current name of a dotted key."""
    for pattern, name in RENAMED.items():
        if fnmatch.fnmatchcase(key, pattern):
            return f"{key.rpartition('.')[0]}.{name}"
    return key


def first_key(key: str) -> str:
    """The first name of a dotted key, which hashes of configs use: a renamed key changes none."""
    section, _, name = key.rpartition(".")
    for pattern, current in RENAMED.items():
        former = f"{section}.{pattern.rpartition('.')[2]}"
        if name == current and fnmatch.fnmatchcase(former, pattern):
            return former
    return key


def with_first_keys(section: Mapping[str, Any], *, at: str) -> dict[str, Any]:
    """The values of a section by the first names of their keys; `at` is the section's dotted key."""
    return {first_key(f"{at}.{name}").rpartition(".")[2]: value for name, value in section.items()}


def with_current_keys(flat: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Flat values by their current keys.

    A file that starts from a listing of all defaults and sets a key by its old name gives both names; the listed default
    then gives way.

    Args:
        flat: values by dotted key, old or current.
        defaults: default of every current key.

    Raises:
        UserError: both names of a key are given, with values that differ.
    """
    renamed: dict[str, Any] = {}
    for key, value in flat.items():
        current = current_key(key)
        if current != key and current in flat and flat[current] not in (value, defaults[current]):
            raise UserError(f"config.{key} is the old name of config.{current}: give one of them")
        if current == key and key in renamed:
            continue
        renamed[current] = value
    return renamed
