"""Fields of the typed config: default, rule, unit and one line of documentation of every key."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from accdistill_jax.config.duration import parse_duration
from accdistill_jax.errors import UserError

_METADATA = "setting"
_LARGEST = 2**31 - 1


class Rule(NamedTuple):
    """Rule that a config value must meet.

    Attributes:
        accepts: tests a value.
        wanted: words for the message, for example "a whole number of at least 1".
        literals: the allowed values where they are a list; the message names the nearest of them.
    """

    accepts: Callable[[Any], bool]
    wanted: str
    literals: tuple[str, ...] = ()


class Setting(NamedTuple):
    """Description of one config key.

    Attributes:
        rule: rule of its values, or a function that makes the rule (where registries decide which values exist).
        doc: one line of documentation.
        unit: unit of a number, empty for none.
        free: True if the value may change between a run and its continuation, as it does not decide the result.
        added: True for a key added after the first release: runs begun without it continue while it has its default, so
            the default must reproduce the old behaviour.
    """

    rule: Rule | Callable[[], Rule]
    doc: str
    unit: str = ""
    free: bool = False
    added: bool = False

    def current_rule(self) -> Rule:
        """The rule, made anew where a registry decides it."""
        return self.rule if isinstance(self.rule, Rule) else self.rule()


def setting(
    default: Any,
    rule: Rule | Callable[[], Rule],
    doc: str,
    *,
    unit: str = "",
    free: bool = False,
    added: bool = False,
) -> Any:
    """A field of a frozen dataclass that is one config key; parameters as the attributes of `Setting`."""
    described = Setting(rule, doc, unit, free, added)
    return dataclasses.field(default=default, metadata={_METADATA: described})


def settings_of(kind: type) -> Mapping[str, Setting]:
    """The settings of a dataclass by field name; fields made without `setting` are left out."""
    return {field.name: field.metadata[_METADATA] for field in dataclasses.fields(kind) if _METADATA in field.metadata}


def integer(minimum: int = 0, maximum: int = _LARGEST) -> Rule:
    """Rule of a whole number between two bounds, both allowed."""

    def accepts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum

    bound = f" and at most {maximum}" if maximum < _LARGEST else ""
    return Rule(accepts, f"a whole number of at least {minimum}{bound}")


def number(minimum: float = 0.0, maximum: float = math.inf) -> Rule:
    """Rule of a finite number between two bounds, both allowed."""

    def accepts(value: Any) -> bool:
        real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return real and minimum <= value <= maximum

    bound = f" and at most {maximum:g}" if maximum < math.inf else ""
    return Rule(accepts, f"a number of at least {minimum:g}{bound}")


def above_zero(maximum: float = math.inf) -> Rule:
    """Rule of a finite number greater than 0 and at most `maximum`."""
    within = number(0.0, maximum)
    bound = f" and at most {maximum:g}" if maximum < math.inf else ""
    return Rule(lambda value: within.accepts(value) and value > 0, f"a number above 0{bound}")


def below_one() -> Rule:
    """Rule of a decay: a number of at least 0 and less than 1."""
    return number(0.0, 0.999999)


def size() -> Rule:
    """Rule of a width, a length in samples or a count of heads."""
    return integer(1, 65_536)


def one_of(*values: str) -> Rule:
    """Rule of a text from a list."""
    return Rule(lambda value: isinstance(value, str) and value in values, "one of " + ", ".join(values), values)


def text(*, empty: bool = True) -> Rule:
    """Rule of any text."""
    return Rule(
        lambda value: isinstance(value, str) and (empty or bool(value)),
        "a text" + ("" if empty else ", not empty"),
    )


def each(item: Rule, *, at_least: int = 0) -> Rule:
    """Rule of a tuple whose items all meet one rule."""

    def accepts(value: Any) -> bool:
        return isinstance(value, (tuple, list)) and len(value) >= at_least and all(map(item.accepts, value))

    minimum = f" of at least {at_least}" if at_least else ""
    return Rule(accepts, f"a tuple{minimum}, each item {item.wanted}", item.literals)


def row(*names: str) -> Rule:
    """Rule of a tuple of sizes, one for each name."""
    positive = size()

    def accepts(value: Any) -> bool:
        return isinstance(value, (tuple, list)) and len(value) == len(names) and all(map(positive.accepts, value))

    return Rule(accepts, f"a tuple ({', '.join(names)}) of positive whole numbers")


def duration_text() -> Rule:
    """Rule of a duration in steps, examples or epochs."""

    def accepts(value: Any) -> bool:
        try:
            return isinstance(value, str) and parse_duration(value).amount >= 0
        except UserError:
            return False

    return Rule(accepts, "a duration such as '600 steps', '80000 examples' or '3 epochs'")
