"""The typed config as a tree: sections of frozen dataclasses, and the dotted keys of their fields.

A section is a frozen dataclass or an `Options`. The leaves are fields made by `fields.setting`; a field made by `section`
holds a nested section; a field made by `registered` holds the sections that a registry's entries bring. Where one entry is
chosen, the dotted keys leave out that field's name: `student.encoder.transformer.width` is
`config.student.encoder.options["transformer"].width`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from accdistill_jax.config.fields import Rule, Setting, one_of, settings_of
from accdistill_jax.config.registry import Registry

_REGISTERED = "registered"
_T = TypeVar("_T")


class Options(Mapping[str, Any]):
    """Config sections by name, one frozen dataclass each; immutable."""

    def __init__(self, sections: Mapping[str, Any]):
        self._sections = dict(sections)

    def __getitem__(self, name: str) -> Any:
        return self._sections[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sections)

    def __len__(self) -> int:
        return len(self._sections)

    def __hash__(self) -> int:
        return hash(tuple(self._sections.items()))

    def __repr__(self) -> str:
        return f"Options({self._sections!r})"

    def of(self, kind: type[_T]) -> _T:
        """The section that is a `kind`; raises KeyError unless there is exactly one."""
        sections = [value for value in self._sections.values() if isinstance(value, kind)]
        if len(sections) != 1:
            raise KeyError(f"{len(sections)} sections are a {kind.__name__}, of {', '.join(self)}")
        return sections[0]


class Registered(NamedTuple):
    """Description of a field that holds registered sections.

    Attributes:
        registry: the registry that names the sections.
        role: name of the part of the config that chooses ("teacher", "student"); empty for any.
        chosen_by: field beside this one that names the chosen entry; empty if all entries are used together. The sections
            of entries to choose from stand beside that field in dotted keys.
        always_bind: sections whose keys decide the result even while another entry is chosen: they are older than this
            distinction, and runs begun then must continue.
    """

    registry: Registry
    role: str
    chosen_by: str
    always_bind: tuple[str, ...]


class Key(NamedTuple):
    """A dotted key of the config.

    Attributes:
        setting: rule, unit and documentation.
        default: value where the config file does not list the key.
        only_with: (dotted key, value): the key counts only while that key has that value; None if it always counts.
    """

    setting: Setting
    default: Any
    only_with: tuple[str, str] | None


def section(kind: type, **defaults: Any) -> Any:
    """A field that holds a nested section.

    Args:
        kind: frozen dataclass of the section.
        **defaults: values that differ here from the dataclass's defaults; nested dictionaries for sections below it.
    """
    return dataclasses.field(default_factory=lambda: with_values(kind(), defaults))


def registered(
    registry: Registry,
    *,
    role: str = "",
    chosen_by: str = "",
    always_bind: tuple[str, ...] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Any:
    """A field that holds the sections of a registry's entries; see `Registered` for the parameters.

    Args:
        registry: names the sections.
        role: part of the config that chooses.
        chosen_by: field that names the chosen entry.
        always_bind: sections that always decide the result.
        defaults: values that differ here from the defaults of the registered dataclasses, nested.
    """

    def make() -> Options:
        options = registry.sections(role)
        return with_values(
            Options({name: kind() if isinstance(kind, type) else kind for name, kind in options.items()}),
            defaults or {},
        )

    described = Registered(registry, role, chosen_by, always_bind)
    return dataclasses.field(default_factory=make, metadata={_REGISTERED: described})


def choice(registry: Registry, role: str = "") -> Callable[[], Rule]:
    """Rule of a key that names an entry of a registry."""
    return lambda: one_of(*registry.names(role))


def is_section(value: Any) -> bool:
    """True for a section of the tree, False for a leaf's value."""
    return isinstance(value, Options) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def children(section: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a section by the names that they have in dotted keys."""
    if isinstance(section, Options):
        yield from section.items()
        return
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if _stands_beside(field):
            yield from value.items()
        else:
            yield field.name, value


def _stands_beside(field: dataclasses.Field) -> bool:
    """True for a field whose registered sections stand beside it in dotted keys."""
    described = field.metadata.get(_REGISTERED)
    return described is not None and bool(described.chosen_by)


def flatten_section(section: Any, prefix: str = "") -> dict[str, Any]:
    """Lists a section, or a nested mapping, as {"a.b.c": value}, in order.

    An empty mapping is listed as a value, so that a misspelled empty section is seen.
    """
    flat: dict[str, Any] = {}
    for name, value in section.items() if _is_mapping(section) else children(section):
        if is_section(value) or (_is_mapping(value) and len(value)):
            flat |= flatten_section(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def plain(section: Any) -> Any:
    """A section, or a value of it, as nested dictionaries and lists for JSON."""
    if is_section(section):
        return {name: plain(value) for name, value in children(section)}
    if _is_mapping(section):
        return {name: plain(value) for name, value in section.items()}
    return [plain(value) for value in section] if isinstance(section, (tuple, list)) else section


def nest_keys(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": value} as nested dictionaries."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        node = nested
        for name in sections:
            node = node.setdefault(name, {})
        node[last] = value
    return nested


def with_values(section: _T, values: Mapping[str, Any]) -> _T:
    """A copy of a section with some values changed.

    Args:
        section: the section.
        values: nested dictionaries; every name must exist.

    Raises:
        KeyError: a name that the section does not have.
    """
    unknown = values.keys() - dict(children(section)).keys()
    if unknown:
        raise KeyError(f"{type(section).__name__} has no {', '.join(sorted(unknown))}")
    if isinstance(section, Options):
        return type(section)({name: _replaced(value, values, name) for name, value in section.items()})
    body: Any = section
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(body):
        value = getattr(section, field.name)
        if _stands_beside(field):
            changes[field.name] = with_values(value, {name: values[name] for name in value if name in values})
        else:
            changes[field.name] = _replaced(value, values, field.name)
    return dataclasses.replace(body, **changes)


def _replaced(value: Any, values: Mapping[str, Any], name: str) -> Any:
    if name not in values:
        return value
    return with_values(value, values[name]) if is_section(value) else _frozen(values[name])


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (tuple, list)) else value


def keys(section: Any, prefix: str = "") -> dict[str, Key]:
    """Every dotted key below a section, with the section's values as defaults."""
    described: dict[str, Key] = {}
    settings = settings_of(type(section))
    for field in dataclasses.fields(section):
        value, name = getattr(section, field.name), f"{prefix}{field.name}"
        if field.name in settings:
            described[name] = Key(settings[field.name], value, None)
        elif _REGISTERED in field.metadata:
            inside = prefix if _stands_beside(field) else f"{name}."
            described |= _registered_keys(value, field.metadata[_REGISTERED], inside)
        else:
            described |= keys(value, f"{name}.")
    return described


def _registered_keys(options: Options, described: Registered, prefix: str) -> dict[str, Key]:
    entries = {described.registry.entry(name).section: name for name in described.registry.names(described.role)}
    out: dict[str, Key] = {}
    for name, value in options.items():
        for key, known in keys(value, f"{prefix}{name}.").items():
            if name in described.always_bind:
                out[key] = known
            elif described.chosen_by:
                out[key] = known._replace(only_with=(f"{prefix}{described.chosen_by}", entries[name]))
            else:
                out[key] = known._replace(setting=known.setting._replace(added=True))
    return out


def _is_mapping(value: Any) -> bool:
    return hasattr(value, "items") and not is_section(value)
