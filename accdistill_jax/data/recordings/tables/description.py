"""Reads descriptions of recordings, in YAML or JSON; names keep the text of the file.

YAML reads `010` as 8, `1.10` as 1.1 and `no` as false. Here the name of a participant, device, file or column stays the text of
the file. Numbers are decimal: `064` in place of a number is an error, not 52.
"""

import datetime
import difflib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar, overload

import yaml

from accdistill_jax.data.recording import named
from accdistill_jax.errors import UserError
from accdistill_jax.files import read_regular

_TEXT_KEYS = (
    "participant",
    "id",
    "sex",
    "device",
    "file",
    "unit",
    "interval_unit",
    "time_unit",
    "polarity",
    "delimiter",
    "decimal",
)
_COLUMN_KEYS = ("columns", "time", "interval", "hr")  # a name, or a column number from 0
_MOST_BYTES = 2**18  # size of a description
_MOST_VALUES = 10_000  # values in a description
_TAG = "tag:yaml.org,2002:"
_TEXT = _TAG + "str"
_NULL = _TAG + "null"
Choice = TypeVar("Choice", bound=str)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without octal, hexadecimal and sexagesimal numbers; names stay text, and a repeated key is an error."""

    yaml_implicit_resolvers = {}

    def construct_document(self, node: yaml.Node) -> object:
        if _expanded(node, {}) > _MOST_VALUES:
            raise UserError(f"its aliases expand to more than {_MOST_VALUES} values; write it without aliases")
        _keep_names(node, set())
        return super().construct_document(node)


for _tag, _pattern, _first in (
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (
        "timestamp",
        r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?"
        r"(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::?[0-9]{2})?))?)?",
        "0123456789",
    ),
):
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(f"^(?:{_pattern})$"), list(_first))


def _expanded(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Number of values in a node after aliases are expanded; an alias inside its own node is not expanded."""
    if id(node) not in sizes:
        sizes[id(node)] = 1
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for pair in inner for part in pair] if isinstance(node, yaml.MappingNode) else inner
        sizes[id(node)] = 1 + sum(_expanded(part, sizes) for part in parts)
    return sizes[id(node)]


def _keep_names(node: yaml.Node, seen: set[int]) -> None:
    """Marks keys and names as text, before YAML converts them."""
    if id(node) in seen:  # an alias, possibly inside its own node
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _keep_names(item, seen)
    elif isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _TAG + "merge":
                if key.value in keys:
                    raise UserError(
                        f"line {key.start_mark.line + 1}: the key {key.value!r} occurs twice; remove one of the two"
                    )
                keys.add(key.value)
                key.tag = _TEXT
                if key.value in (*_TEXT_KEYS, *_COLUMN_KEYS):
                    for item in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                        _keep_text(item, numbered=key.value in _COLUMN_KEYS)
            _keep_names(value, seen)


def _keep_text(node: yaml.Node, *, numbered: bool) -> None:
    plain = isinstance(node, yaml.ScalarNode) and node.style is None and node.tag != _NULL
    if plain and not (numbered and re.fullmatch(r"-?(?:0|[1-9]\d*)", node.value)):
        node.tag = _TEXT


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; a repeated key is an error."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise UserError(
            f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice; remove one of the two"
        )
    return values


def read(path: Path) -> Mapping:
    """Reads a description: a mapping whose keys are text.

    Raises:
        UserError: the file cannot be read, does not hold a mapping, or repeats a key; the message names the file.
    """
    with named(path):
        try:
            text = read_regular(path, limit_bytes=_MOST_BYTES).decode("utf-8-sig")
            content = (
                json.loads(text, object_pairs_hook=_distinct)
                if path.suffix.lower() == ".json"
                else yaml.load(text, _Loader)
            )  # a SafeLoader
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UserError(f"cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(content, Mapping):
            raise UserError("must be a mapping with the keys 'participant' and 'streams'")
    return content


def check_keys(values: Mapping, known: Iterable[str], where: str) -> None:
    """Raises UserError for a key that is not among `known`; the message suggests the closest name."""
    known = list(known)
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
            raise UserError(f"unknown key {where + '.' if where else ''}{key}; {hint}")


def mapping(values: Mapping, key: str, known: Iterable[str] | None = None, where: str | None = None) -> Mapping:
    """The mapping at `key`; its keys must be among `known`, if that is given."""
    inner = values.get(key)
    if not isinstance(inner, Mapping):
        raise UserError(f"{where or key} must be a mapping of keys, got {inner!r}")
    if known is not None:
        check_keys(inner, known, where or key)
    return inner


@overload
def number_at(values: Mapping, key: str, where: str, default: float) -> float: ...


@overload
def number_at(values: Mapping, key: str, where: str, default: None = None) -> float | None: ...


def number_at(values: Mapping, key: str, where: str, default: float | None = None) -> float | None:
    """The finite number at `key`, or `default` if the key is missing."""
    value, place = values.get(key), f"{where}.{key}" if where else key
    if value is None:
        return default
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:
        raise UserError(f"{place} must be a number of at most 300 digits") from None
    raise UserError(f"{place} must be a number, got {value!r}")


def choice_at(values: Mapping, key: str, where: str, allowed: Collection[Choice], default: str) -> Choice:
    """The text at `key`, which must be among `allowed`, or `default` if the key is missing."""
    value = values.get(key, default)
    for known in allowed:
        if value == known:
            return known
    raise UserError(f"{where}.{key} must be one of {', '.join(allowed)}, got {value!r}")


def utc_offset_s(value: object) -> float | None:
    """Seconds that a date's clock is ahead of UTC; None for a date without a time zone, and for other values."""
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            return None
    offset = value.utcoffset() if isinstance(value, datetime.datetime) else None
    return None if offset is None else offset.total_seconds()


def moment(value: object, where: str) -> float:
    """Unix seconds of an ISO 8601 date (UTC unless it has an offset) or of a number.

    Raises:
        UserError: the value is neither, or is a whole number that looks like a date without hyphens.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, int) and re.fullmatch(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", str(value)):
            text = str(value)
            raise UserError(
                f"{where} is {text}, a day of 1970 if it is unix seconds; write a date as {text[:4]}-{text[4:6]}-{text[6:]}"
            )
        parent, _, key = where.rpartition(".")
        return number_at({key: value}, key, parent, math.nan)
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = value.isoformat()
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            pass
    if not isinstance(value, datetime.datetime):
        raise UserError(f"{where} must be a date such as 2024-05-01T10:00:00Z or unix seconds, got {value!r}")
    return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
