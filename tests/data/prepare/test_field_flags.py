"""Flags made from fields: their help."""

import argparse
import dataclasses

import pytest

from accdistill_jax.data.prepare.field_flags import add_flags, dataclass_fields


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings.

    Attributes:
        channels: names; without it, all are kept.
        unit: without it, the unit in the header.
        options: without it, none are passed on.
        band_hz: lower and upper edge.
        floor: smallest value.
    """

    channels: tuple[str, ...] = ()
    unit: str | None = None
    options: str = ""
    band_hz: tuple[float, float] = (0.5, 8.0)
    floor: float = 0.0


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--channels", "names; without it, all are kept."),
        ("--unit", "without it, the unit in the header."),
        ("--options", "without it, none are passed on."),
        ("--band-hz", "lower and upper edge. (default: 0.5 8.0)"),
        ("--floor", "smallest value. (default: 0.0)"),
    ],
)
def test_help_shows_a_default_unless_it_is_empty(flag, text):
    parser = argparse.ArgumentParser(prog="prepare", add_help=False)
    add_flags(parser, dataclass_fields(Settings))
    words = " ".join(parser.format_help().partition("options:")[2].split())
    entries = {entry.split()[0]: entry for entry in f" {words}".split(" --")[1:]}
    assert entries[flag.removeprefix("--")].endswith(text)
