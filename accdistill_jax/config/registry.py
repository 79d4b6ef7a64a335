"""Registries: encoders, objectives, augmentations and optimisers by the name that a config gives them.

A registration may bring a frozen dataclass of options, made with `fields.setting`. It becomes the config section of that
name, with its defaults, rules and documentation:

    encoder.<architecture>.*    augment.<modality>.<augmentation>.*    teacher.<objective>.*, student.<objective>.*
    train.<optimizer>.*

Checking a config must stay fast, so a module that registers built-in entries must not import jax; it registers
"module:attribute" instead of the object, which is then imported by `get`.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from accdistill_jax.config.nearest import did_you_mean
from accdistill_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Registration:
    """A registered item.

    Attributes:
        item: the item itself, or "module:attribute".
        options: frozen dataclass of its config section, or None for no section.
        section: name of that section.
        roles: names of the config sections that may choose the entry ("teacher", "student"); empty for any.
    """

    item: Any
    options: type | None
    section: str
    roles: tuple[str, ...]


class Registry:
    """Items of one kind by name.

    Args:
        kind: the word for an item in messages, for example "encoder architecture".
        built_in: dotted names of the modules that register the built-in items; imported on first use.
    """

    def __init__(self, kind: str, built_in: tuple[str, ...] = ()):
        self.kind = kind
        self._built_in = built_in
        self._loaded = False
        self._entries: dict[str, Registration] = {}

    def register(
        self,
        name: str,
        item: Any = None,
        *,
        options: type | None = None,
        section: str = "",
        roles: tuple[str, ...] = (),
    ) -> Any:
        """Adds an item under a name; without `item`, a decorator that does it.

        Args:
            name: the value that the config chooses it by.
            item: the item, or "module:attribute" to import it on first use.
            options: frozen dataclass of the config section; its fields are made with `fields.setting`.
            section: name of the config section; by default `name`.
            roles: sections that may choose it ("teacher", "student"); empty for any.

        Returns:
            The item.

        Raises:
            ValueError: the name is taken by another item.
        """
        if item is None:
            return lambda decorated: self.register(name, decorated, options=options, section=section, roles=roles)
        self._load()
        if name in self._entries and _origin(self._entries[name].item) != _origin(item):
            raise ValueError(f"the {self.kind} {name!r} is registered already, as {_origin(self._entries[name].item)}")
        self._entries[name] = Registration(item, options, section or name, roles)
        return item

    def get(self, name: str) -> Any:
        """The item of a name.

        Raises:
            UserError: no such item; names the nearest one.
        """
        return resolve(self.entry(name).item)

    def entry(self, name: str) -> Registration:
        """The registration of a name; raises UserError as `get` does."""
        self._load()
        if name not in self._entries:
            known = self.names()
            raise UserError(
                f"no {self.kind} {name!r}; known: {', '.join(known) or 'none'}{did_you_mean(str(name), known)}"
            )
        return self._entries[name]

    def names(self, role: str = "") -> tuple[str, ...]:
        """The names in order of registration: all, or those that the section `role` may choose."""
        self._load()
        return tuple(
            name for name, entry in self._entries.items() if not role or not entry.roles or role in entry.roles
        )

    def sections(self, role: str = "") -> Mapping[str, type]:
        """The options dataclass of every config section that the entries of a role bring, by the section's name."""
        entries = [self.entry(name) for name in self.names(role)]
        return {entry.section: entry.options for entry in entries if entry.options is not None}

    def _load(self) -> None:
        """Imports the built-in modules once; they call `register`, which comes back here."""
        if self._loaded:
            return
        self._loaded = True
        try:
            for module in self._built_in:
                importlib.import_module(module)
        except BaseException:
            self._loaded = False
            raise


def resolve(item: Any) -> Any:
    """An item itself, or the object that the text "module:attribute" names.

    Raises:
        UserError: no such module or attribute.
    """
    if not isinstance(item, str):
        return item
    module, _, attribute = item.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as problem:
        raise UserError(
            f"{item!r} is registered, but cannot be imported ({problem}); register the object itself"
        ) from problem


def _origin(item: Any) -> str:
    """The module and name that define an item; a config file that is read twice registers the same item twice."""
    return item if isinstance(item, str) else f"{getattr(item, '__module__', '')}:{getattr(item, '__qualname__', item)}"


ENCODERS = Registry("encoder architecture", ("accdistill_jax.models.registered",))
OBJECTIVES = Registry("objective", ("accdistill_jax.objectives.registered",))
AUGMENTATIONS = Registry("augmentation", ("accdistill_jax.inputs.registered",))
OPTIMIZERS = Registry("optimizer", ("accdistill_jax.training.registered",))
