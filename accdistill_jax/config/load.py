"""`--config=FILE[:PRESET] --config.KEY=VALUE` for commands that use argparse; main.py reads them with absl, as a trainer does."""

import argparse
import ast
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accdistill_jax.config import validate as configs
from accdistill_jax.errors import UserError
from accdistill_jax.user_paths import expanded

OVERRIDE = re.compile(r"--config\.([^=]+)=(.*)", re.DOTALL)


def parse_overridable(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What the parser knows, and the overrides of the config among what it does not.

    They are taken out first: argparse has words with a space, as `--config.student.train.duration=300 steps`, for values of the option
    before them.

    Returns:
        The namespace, and what is for `load_config`: "--config.KEY=VALUE" each, then what nobody knows.
    """
    overrides = [word for word in argv if OVERRIDE.fullmatch(word)]
    known, unknown = parser.parse_known_args([word for word in argv if not OVERRIDE.fullmatch(word)])
    return known, overrides + unknown


def add_config(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds --config; overrides of it are for `parse_overridable`."""
    parser.add_argument("--config", default=default, metavar="FILE[:PRESET]", help=f"(default {default})")


def load_config(argument: str, overrides: Sequence[str]) -> Any:
    """A validated config.

    Args:
        argument: "FILE.py[:PRESET]".
        overrides: "--config.KEY=VALUE" each.

    Raises:
        UserError: no such file, preset or key, or a value that the config refuses.
    """
    path, _, preset = expanded(argument).partition(":")
    if not Path(path).is_file():
        raise UserError(f"no config file {path}; give --config=configs/distill.py:paper")
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(preset) if preset else module.get_config()
    except ValueError as problem:
        raise UserError(f"config {argument}: {problem}") from problem
    known = configs.flatten(config)
    for text in overrides:
        found = OVERRIDE.fullmatch(text)
        if found is None:
            raise UserError(f"unknown argument {text!r}; see --help")
        if found[1] not in known:
            raise configs.unknown_key(found[1], known)
        try:
            value = ast.literal_eval(found[2])
        except (ValueError, SyntaxError):
            value = found[2]
        with config.unlocked(), config.ignore_type():
            config.update_from_flattened_dict({found[1]: value})
    configs.validate(config)
    return config
