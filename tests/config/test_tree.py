"""The tree of sections: dotted keys, copies with other values, registered sections."""

import dataclasses

import pytest

from accdistill_jax.config import tree
from accdistill_jax.config.fields import integer, setting, text
from accdistill_jax.config.registry import Registry

ENGINES = Registry("engine")


@dataclasses.dataclass(frozen=True)
class Piston:
    """A nested section."""

    strokes: int = setting(4, integer(2), "strokes of a cycle")
    sizes: tuple[int, ...] = setting((), integer(), "sizes")


@dataclasses.dataclass(frozen=True)
class Petrol:
    """A registered section."""

    tank: int = setting(40, integer(), "volume", unit="l", free=True)
    piston: Piston = tree.section(Piston, strokes=2)


@dataclasses.dataclass(frozen=True)
class Electric:
    """Another registered section."""

    range: int = setting(300, integer(), "reach", unit="km")


@dataclasses.dataclass(frozen=True)
class Car:
    """A section with registered ones."""

    name: str = setting("x", text(), "name")
    engine: str = setting("petrol", tree.choice(ENGINES, "car"), "engine")
    engines: tree.Options = tree.registered(
        ENGINES, role="car", chosen_by="engine", defaults={"electric": {"range": 500}}
    )


@dataclasses.dataclass(frozen=True)
class Garage:
    """The root."""

    mine: Car = tree.section(Car, name="mine")
    parts: tree.Options = tree.registered(ENGINES, always_bind=("petrol",))


ENGINES.register("petrol", "petrol", options=Petrol)
ENGINES.register("battery", "battery", options=Electric, section="electric")
ENGINES.register("sail", "sail", roles=("boat",))

FLAT = {
    "mine.name": "mine",
    "mine.engine": "petrol",
    "mine.petrol.tank": 40,
    "mine.petrol.piston.strokes": 2,
    "mine.petrol.piston.sizes": (),
    "mine.electric.range": 500,
    "parts.petrol.tank": 40,
    "parts.petrol.piston.strokes": 2,
    "parts.petrol.piston.sizes": (),
    "parts.electric.range": 300,
}


def test_keys_leave_out_the_name_of_the_field_whose_sections_are_chosen_from():
    garage = Garage()
    assert tree.flatten_section(garage) == FLAT == {key: known.default for key, known in tree.keys(garage).items()}
    assert tree.flatten_section(tree.nest_keys(FLAT)) == FLAT
    assert tree.plain(garage)["mine"]["petrol"] == {"tank": 40, "piston": {"strokes": 2, "sizes": []}}


def test_registered_keys_say_when_they_count():
    known = tree.keys(Garage())
    assert known["mine.electric.range"].only_with == ("mine.engine", "battery")
    assert known["mine.petrol.piston.strokes"].only_with == ("mine.engine", "petrol")
    assert known["parts.petrol.tank"].only_with is None and not known["parts.petrol.tank"].setting.added
    assert known["parts.electric.range"].setting.added and known["parts.electric.range"].setting.unit == "km"


def test_the_rule_of_a_choice_follows_the_registry_and_the_role():
    rule = tree.keys(Garage())["mine.engine"].setting.current_rule()
    assert rule.literals == ("petrol", "battery") and rule.accepts("battery") and not rule.accepts("sail")


def test_a_copy_has_the_new_values_and_tuples_for_lists():
    garage = Garage()
    changes = {"mine": {"electric": {"range": 1}, "petrol": {"piston": {"sizes": [1, 3]}}}}
    changed = tree.with_values(garage, changes)
    assert changed.mine.engines["electric"].range == 1
    assert changed.mine.engines.of(Petrol).piston == Piston(strokes=2, sizes=(1, 3))
    assert garage == Garage() and hash(garage) == hash(Garage()) and changed != garage


def test_a_copy_with_an_unknown_name_is_refused():
    with pytest.raises(KeyError, match="Piston has no strokse"):
        tree.with_values(Garage(), {"mine": {"petrol": {"piston": {"strokse": 1}}}})


def test_a_section_by_class_must_be_the_only_one():
    options = tree.Options({"a": Piston(), "b": Piston(), "c": Electric()})
    assert options.of(Electric) is options["c"]
    for kind, count in ((Piston, 2), (Car, 0)):
        with pytest.raises(KeyError, match=f"{count} sections are a {kind.__name__}"):
            options.of(kind)


def test_an_empty_section_of_a_mapping_is_listed():
    assert tree.flatten_section({"a": {"b": 1, "c": {}}}) == {"a.b": 1, "a.c": {}}
