"""Registries: names, nearest names, lazy items and built-in modules."""

import dataclasses
import sys

import pytest

from accdistill_jax.config.fields import integer, setting
from accdistill_jax.config.registry import Registry
from accdistill_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a registered item."""

    depth: int = setting(3, integer(1), "blocks")


def test_an_item_is_registered_by_call_or_as_a_decorator():
    registry = Registry("encoder")

    @registry.register("second", roles=("teacher",))
    def second():
        return 2

    assert registry.register("first", 1, options=Options, section="one") == 1
    assert registry.get("second") is second and second() == 2
    assert registry.names() == ("second", "first")
    assert registry.names("teacher") == ("second", "first") and registry.names("student") == ("first",)
    assert registry.sections() == {"one": Options} and registry.sections("teacher") == {"one": Options}


def test_an_unknown_name_is_refused_with_the_nearest():
    registry = Registry("encoder architecture")
    registry.register("transformer", 1)
    with pytest.raises(UserError, match=r"no encoder architecture 'transformr'; known: transformer; did you mean tr"):
        registry.get("transformr")


def test_a_name_is_taken_once_but_the_same_item_may_come_again():
    registry = Registry("encoder")
    registry.register("a", Options)
    registry.register("a", Options)
    with pytest.raises(ValueError, match="the encoder 'a' is registered already, as .*Options"):
        registry.register("a", pytest.raises)


def test_text_items_are_imported_when_they_are_asked_for(monkeypatch, tmp_path):
    (tmp_path / "lazily_imported.py").write_text("def build():\n    return 'built'\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("encoder")
    registry.register("late", "lazily_imported:build")
    assert registry.names() == ("late",) and "lazily_imported" not in sys.modules
    assert registry.get("late")() == "built"
    del sys.modules["lazily_imported"]


def test_built_in_modules_are_imported_on_first_use(monkeypatch, tmp_path):
    (tmp_path / "built_in_entries.py").write_text(f"from {__name__} import REGISTRY\nREGISTRY.register('inner', len)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "built_in_entries" not in sys.modules
    REGISTRY.register("outer", max)
    assert REGISTRY.names() == ("inner", "outer")
    del sys.modules["built_in_entries"]


REGISTRY = Registry("function", ("built_in_entries",))


@pytest.mark.parametrize("item", ["no_such_module:flip", "accdistill_jax.errors:no_such_name"])
def test_a_text_that_names_nothing_is_refused_in_a_line(item):
    registry = Registry("augmentation")
    registry.register("mine", item)
    with pytest.raises(
        UserError, match=f"'{item}' is registered, but cannot be imported .*; register the object itself"
    ):
        registry.get("mine")
