"""Command-line flags made from the fields of a dataclass or the parameters of a function."""

import argparse
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple


class Field(NamedTuple):
    """name, default and type of a setting, and a line of help."""

    name: str
    default: Any
    kind: Any
    help: str


def dataclass_fields(cls: type) -> list[Field]:
    """The settings of a dataclass; help comes from the "Attributes:" of its docstring."""
    hints, helps = typing.get_type_hints(cls), _attribute_help(cls)
    return [Field(f.name, f.default, hints[f.name], helps.get(f.name, "")) for f in dataclasses.fields(cls)]


def parameter_fields(parameters: Mapping[str, inspect.Parameter]) -> list[Field]:
    """The settings of a function, from its keyword parameters with defaults."""
    return [Field(p.name, p.default, p.annotation, "") for p in parameters.values()]


def add_flags(parser: argparse._ArgumentGroup | argparse.ArgumentParser, fields: list[Field]) -> None:
    """Adds --the-name for every field `the_name`."""
    for field in fields:
        flag = "--" + field.name.replace("_", "-")
        text = (field.help + " " if field.help else "") + f"(default: {_shown(field.default)})"
        options: dict[str, Any] = {"default": field.default, "help": text.replace("%", "%%"), "dest": field.name}
        kind = _without_none(field.kind)
        origin = typing.get_origin(kind)
        if origin is typing.Literal:
            options["choices"] = typing.get_args(kind)
        elif kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif origin is tuple and typing.get_args(kind)[-1] is Ellipsis:
            options |= {"type": _names, "metavar": "NAME[,NAME]"}
        elif origin is tuple:
            kinds = typing.get_args(kind)
            options |= {"nargs": len(kinds), "type": kinds[0], "metavar": field.name.upper()}
        else:
            options |= {"type": kind if kind in (int, float) else str, "metavar": field.name.upper()}
        parser.add_argument(flag, **options)


def chosen(args: argparse.Namespace, fields: list[Field]) -> dict[str, Any]:
    """The values of the fields, by name, as keyword arguments."""
    values = {field.name: getattr(args, field.name) for field in fields}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(one for one in typing.get_args(kind) if one is not type(None))
    return kind


def _shown(default: Any) -> str:
    return " ".join(map(str, default)) or "none" if isinstance(default, tuple) else str(default)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _attribute_help(cls: type) -> dict[str, str]:
    _, _, attributes = inspect.getdoc(cls).partition("Attributes:\n")
    found: dict[str, str] = {}
    for name, text in re.findall(r"^ {2,4}(\w+): (.*(?:\n {5,}.*)*)", attributes, flags=re.MULTILINE):
        found[name] = " ".join(text.split())
    return found
