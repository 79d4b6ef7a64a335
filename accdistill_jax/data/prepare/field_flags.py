"""Command-line flags made from the fields of a dataclass or the keyword arguments of a function."""

import argparse
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection
from typing import Any, NamedTuple


class Field(NamedTuple):
    """Name, default and type of a setting, and its help text."""

    name: str
    default: Any
    kind: Any
    help: str


def dataclass_fields(cls: type) -> list[Field]:
    """The fields of a dataclass; the help comes from the "Attributes:" section of its docstring."""
    hints, helps = typing.get_type_hints(cls), _documented(cls, "Attributes")
    return [Field(f.name, _default(f), hints[f.name], helps.get(f.name, "")) for f in dataclasses.fields(cls)]


def function_fields(function: Callable) -> list[Field]:
    """The keyword-only arguments of a function; the help comes from the "Args:" section of its docstring."""
    hints, helps = typing.get_type_hints(function), _documented(function, "Args")
    parameters = inspect.signature(function).parameters.values()
    return [
        Field(p.name, p.default, hints.get(p.name, str), helps.get(p.name, ""))
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
    ]


def add_flags(
    parser: argparse._ArgumentGroup | argparse.ArgumentParser, fields: list[Field], *, taken: Collection[str] = ()
) -> None:
    """Adds --the-name for every field `the_name`; --file-the-name for a name that is `taken` by another field."""
    for field in fields:
        name = _destination(field, taken)
        flag = "--" + name.replace("_", "-")
        kind = _without_none(field.kind)
        if kind is bool and field.default is False:
            parser.add_argument(flag, action="store_true", help=_escaped(field.help), dest=name)
            continue
        text = " ".join(filter(None, (field.help, _shown(field.default))))
        options: dict[str, Any] = {"default": field.default, "help": _escaped(text), "dest": name}
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


def chosen_fields(args: argparse.Namespace, fields: list[Field], *, taken: Collection[str] = ()) -> dict[str, Any]:
    """The values of the fields on the command line, as keyword arguments; `taken` as in `add_flags`."""
    values = {field.name: getattr(args, _destination(field, taken)) for field in fields}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _destination(field: Field, taken: Collection[str]) -> str:
    return f"file_{field.name}" if field.name in taken else field.name


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(member for member in typing.get_args(kind) if member is not type(None))
    return kind


def _shown(default: Any) -> str:
    """The default for the help; "" if it is empty, because the help then says what happens without the flag."""
    if default is None or default in ("", ()):
        return ""
    return f"(default: {' '.join(map(str, default)) if isinstance(default, tuple) else default})"


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _documented(item: type | Callable, section: str) -> dict[str, str]:
    """Name -> text of the entries in a section of a docstring."""
    _, _, after = (inspect.getdoc(item) or "").partition(f"{section}:\n")
    entries = re.split(r"\n\n(?=\S)", after)[0]
    return {
        name: " ".join(text.split())
        for name, text in re.findall(r"^ {2,4}(\w+): (.*(?:\n {5,}.*)*)", entries, flags=re.MULTILINE)
    }
