"""`--config=NAME|FILE.py[:PRESET] --config.KEY=VALUE`: read for commands that use argparse, checked for main.py, which uses absl."""

import argparse
import ast
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import accdistill_jax
from accdistill_jax.config import validate as configs
from accdistill_jax.config.nearest import nearest
from accdistill_jax.errors import UserError
from accdistill_jax.user_paths import expanded

_FLAG = re.compile(r"--?config\.([^=]*)(=.*)?", re.DOTALL)
OVERRIDE = re.compile(r"--config\.([^=]+)=(.*)", re.DOTALL)
_NAME = re.compile(r"\w+")  # of a shipped config; a file has a suffix
_SHIPPED = Path(accdistill_jax.__file__).parent / "configs"


def parse_overridable(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses the arguments that the parser knows; of the others, returns the overrides of the config.

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
    parser.add_argument("--config", default=default, metavar="CONFIG[:PRESET]", help=f"(default {default})")


def load_config(argument: str, overrides: Sequence[str]) -> Any:
    """A validated config.

    Args:
        argument: "NAME[:PRESET]" or "FILE.py[:PRESET]".
        overrides: "--config.KEY=VALUE" each.

    Raises:
        UserError: no such file, preset or key, or a value that the config refuses.
    """
    path, preset = config_file(argument)
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


def default_workdir(argument: str) -> str:
    """The work directory of a config argument: "distill:smoke" or "configs/distill.py:smoke" -> "runs/distill-smoke"."""
    path, preset = _split(argument)
    return str(Path("runs") / (Path(path).stem + (f"-{preset}" if preset else "")))


def config_argument(argv: Sequence[str]) -> str:
    """The value of --config on a command line; UserError without one."""
    for position, argument in enumerate(argv):
        if argument in ("--config", "-config") and position + 1 < len(argv):
            return argv[position + 1]
        if argument.startswith(("--config=", "-config=")):
            return argument.partition("=")[2]
    raise UserError("no config given; add --config=distill (a preset of it: --config=distill:smoke)")


def config_file(argument: str) -> tuple[Path, str]:
    """File and preset of a config argument.

    Args:
        argument: "NAME[:PRESET]" of a config that the package ships, or "FILE.py[:PRESET]"; "~" is expanded.

    Returns:
        The file and the preset, "" for none.

    Raises:
        UserError: no such file or shipped config; names the nearest one.
    """
    name, preset = _split(expanded(argument))
    if _NAME.fullmatch(name):
        shipped = shipped_configs()
        if name in shipped:
            return shipped[name], preset
        near = nearest(name, sorted(shipped))
        hint = f"did you mean {near}?" if near else f"there are {', '.join(shipped)}"
        raise UserError(f"no config {name} comes with the package; {hint} (a file: --config=FILE.py)")
    path = Path(name)
    if not path.is_file():
        known = sorted(map(str, (path.parent if path.parent.is_dir() else Path("configs")).glob("*.py")))
        near = nearest(str(path), known)
        raise UserError(
            f"no config file {path}" + (f"; did you mean {near}?" if near else "; shipped: --config=distill")
        )
    return path, preset


def shipped_configs() -> dict[str, Path]:
    """Name -> file of the configs that come with the package."""
    files = sorted(_SHIPPED.glob("*.py"))
    return {path.stem: path for path in files if "\ndef get_config(" in path.read_text(encoding="utf-8")}


def _split(argument: str) -> tuple[str, str]:
    path, _, preset = argument.partition(":")
    return path, preset


def check_config(argv: Sequence[str]) -> None:
    """Finds by itself what the flag library would report in many lines: the file, the preset, the keys."""
    argument = config_argument(argv)
    path, preset = config_file(argument)
    known_keys = configs.flatten(_get_config(argument, path, preset))
    for text in argv[1:]:
        override = _FLAG.fullmatch(text)
        if override and override[1] not in known_keys:
            raise configs.unknown_key(override[1], known_keys)


def _get_config(argument: str, path: Path, preset: str) -> Mapping:
    try:
        spec = importlib.util.spec_from_file_location("config", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(preset) if preset else module.get_config()
        if not isinstance(config, ConfigDict):
            raise TypeError(f"get_config must return an ml_collections.ConfigDict, not {type(config).__name__}")
        return config
    except (Exception, SystemExit) as error:
        # A config is Python code of the user's: anything can go wrong in it.
        raise UserError(f"config {argument}: {last_line(error)}") from error


def wrong_value(error: Exception) -> str | None:
    """The rule that a flag's value broke, from the flag library's error; None for other errors."""
    found = re.match(r"flag --config\.([^=]+)=(.*?): ", str(error), re.DOTALL)
    rule = configs.find_rule(found[1]) if found else None
    return f"config.{found[1]} = {found[2]!r} must be {rule.wanted}" if rule else None


def last_line(error: BaseException) -> str:
    """The last line of an error's text, without the name of its kind."""
    lines = [line.strip() for line in str(error.args[0] if error.args else error).splitlines() if line.strip()]
    return re.sub(r"^\w+(Error|Exception): ", "", lines[-1]) if lines else type(error).__name__
