"""`--config=NAME|FILE.py[:PRESET] --config.KEY=VALUE`: the one loader of configs, for every command."""

import argparse
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

import accdistill_jax
from accdistill_jax.config import tree
from accdistill_jax.config.convert import for_objective, parse_section, value_of, with_changes
from accdistill_jax.config.effect import refuse_without_effect
from accdistill_jax.config.nearest import nearest
from accdistill_jax.config.renamed import current_key
from accdistill_jax.config.schema import Config
from accdistill_jax.config.validate import check_together
from accdistill_jax.errors import UserError
from accdistill_jax.user_paths import expanded

_OVERRIDE = re.compile(r"--?config\.([^=]*)(?:=(.*))?", re.DOTALL)
_NAME = re.compile(r"\w+")  # of a shipped config; a file has a suffix
_SHIPPED = Path(accdistill_jax.__file__).parent / "configs"


def load_config(argument: str, overrides: Sequence[str] = ()) -> Config:
    """The checked config of a command line.

    If an override chooses the student's objective, values of the file that this objective does not read are left out: they belong
    to the file's objective. Overrides without effect are refused.

    Args:
        argument: "NAME[:PRESET]" or "FILE.py[:PRESET]".
        overrides: "--config.KEY=VALUE" each; they may name keys that the file does not list.

    Raises:
        UserError: no such file, preset or key, a file that fails, or a value that the config refuses.
    """
    given = read_config(argument)
    listed: dict[str, list[str]] = {}
    for key in tree.flatten_section(given):
        listed.setdefault(current_key(key), []).append(key)
    added, overridden = {}, set()
    for word in overrides:
        match = _OVERRIDE.fullmatch(word)
        if match is None:
            raise UserError(f"unknown argument {word!r}; see --help")
        key, text = match[1], match[2]
        value = value_of(key, text or "")
        if text is None:
            raise UserError(f"{word} has no value; write {word}=VALUE")
        overridden.add(current_key(key))
        if current_key(key) in listed:
            # changed in the file's own object, so that values which refer to this one follow it
            with given.unlocked(), given.ignore_type():
                given.update_from_flattened_dict(dict.fromkeys(listed[current_key(key)], value))
        else:
            added[key] = value
    config = with_changes(parse_section(Config, given), added)
    if "student.objective" in overridden:
        config = for_objective(config, keep=overridden)
    check_together(config)
    return config


def load_for_training(argument: str, overrides: Sequence[str] = ()) -> Config:
    """`load_config` for a single training: other commands may derive further configs, in which another override counts.

    Raises:
        UserError: as `load_config`, or an override changes nothing.
    """
    config = load_config(argument, overrides)
    refuse_without_effect(config, {current_key(match[1]) for match in map(_OVERRIDE.fullmatch, overrides) if match})
    return config


def read_config(argument: str) -> ConfigDict:
    """The values that a config file's `get_config` returns.

    Raises:
        UserError: no such file or preset, or a file that fails.
    """
    path, preset = config_file(argument)
    try:
        spec = importlib.util.spec_from_file_location("config", path)
        if spec is None or spec.loader is None:
            raise ImportError("no Python file; its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(preset) if preset else module.get_config()
        if not isinstance(config, ConfigDict):
            raise TypeError(f"get_config must return an ml_collections.ConfigDict, not {type(config).__name__}")
        return config
    except (Exception, SystemExit) as error:
        # a config is Python code of the user's: anything can go wrong in it
        raise UserError(f"config {argument}: {last_line(error)}") from error


def is_override(word: str) -> bool:
    """True for "--config.KEY=VALUE", or its first word if KEY and VALUE are two."""
    return _OVERRIDE.fullmatch(word) is not None


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates the overrides of the config from the other words of a command line.

    Args:
        words: "--config.KEY=VALUE", "--config.KEY VALUE" in two words, and others.

    Returns:
        The other words, and the overrides as "--config.KEY=VALUE" each.
    """
    others, overrides = [], []
    remaining: Iterator[str] = iter(words)
    for word in remaining:
        match = _OVERRIDE.fullmatch(word)
        if match is None:
            others.append(word)
        elif match[2] is None and (value := next(remaining, None)) is not None:
            overrides.append(f"{word}={value}")
        else:
            overrides.append(word)
    return others, overrides


def parse_overridable(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses the arguments that the parser knows; of the others, returns the overrides of the config.

    Overrides are taken out first: argparse takes a word with a space, as in `--config.student.train.duration=300 steps`, for
    a value of the option before it.

    Returns:
        The namespace, and the words for `load_config`: overrides, then unknown words, which it refuses.
    """
    others, overrides = split_overrides(argv)
    known, unknown = parser.parse_known_args(others)
    return known, overrides + unknown


def add_config(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds --config; its overrides are for `parse_overridable`."""
    parser.add_argument(
        "--config", default=default, metavar="CONFIG[:PRESET]", help=f"config and preset to measure (default {default})"
    )


def default_workdir(argument: str) -> str:
    """The work directory of a config argument: "distill:smoke" or "configs/distill.py:smoke" -> "runs/distill-smoke"."""
    path, preset = _split(argument)
    return str(Path("runs") / (Path(path).stem + (f"-{preset}" if preset else "")))


def config_file(argument: str) -> tuple[Path, str]:
    """File and preset of a config argument.

    Args:
        argument: "NAME[:PRESET]" of a config that the package ships, or "FILE.py[:PRESET]"; "~" is expanded.

    Returns:
        The file and the preset, "" for none.

    Raises:
        UserError: no such file or shipped config (names the nearest one), or a colon without a preset, as an empty shell
            variable leaves it.
    """
    name, preset = _split(expanded(argument))
    if argument.endswith(":"):
        raise UserError(
            f"config {argument}: no preset after the colon; name one, or leave out the colon for the default"
        )
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


def last_line(error: BaseException) -> str:
    """The last line of an error's text, without the name of its kind."""
    text = str(error.args[0]) if error.args and not isinstance(error, SyntaxError) else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^\w+(Error|Exception): ", "", lines[-1]) if lines else type(error).__name__
