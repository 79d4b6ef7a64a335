"""Configs: durations, the one validation, the copy in the work directory."""

import difflib
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections

import accdistill_jax
from accdistill_jax.config.schema import (
    FREE_KEYS,
    LATER_KEYS,
    ONLY_WITH,
    RULES,
    STAGES,
    find_rule,
    matches,
    parse_duration,
    required_keys,
)
from accdistill_jax.errors import UserError, refuse_password
from accdistill_jax.files import read_regular, write_atomically

_DUMP_NAME = "config.json"
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def duration_steps(text: str, *, batch_size: int, num_segments: int | None) -> int:
    """Turns a duration into optimiser steps.

    Args:
      text: "600 steps", "80000 examples" (segments seen) or "3 epochs" (fractions allowed).
      batch_size: segments of a global batch.
      num_segments: distinct segments of an epoch; may be None where the unit is not epochs.

    Returns:
      The number of steps, rounded up; 0 only for a duration of zero.

    Raises:
      UserError: the text is no duration, or epochs were asked for without data.
    """
    amount, unit = parse_duration(text)
    if unit == "epochs":
        if not num_segments:
            raise UserError(
                f"duration {text!r} counts epochs, but the number of segments is not known here; use steps"
            )
        amount *= num_segments
    steps = math.ceil(amount if unit == "steps" else amount / batch_size)
    if steps >= 2**31:
        raise UserError(f"duration {text!r} is {steps} steps, which are counted in 32 bits; make it shorter")
    return steps


def flatten(config: Mapping) -> dict[str, Any]:
    """Lists a nested config as {"a.b.c": value}, in order."""
    return dict(_leaves(config, ""))


def _leaves(config: Mapping, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every key of a config once, before anything runs.

    Args:
      config: the config as the command line left it.

    Raises:
      UserError: one line that names the first key at fault, what it must be and the nearest valid key or value.
    """
    flat = flatten(config)
    for key, value in flat.items():
        for text in value if _is_listing(value) else (value,):
            if isinstance(text, str):
                refuse_password(text)
        rule = find_rule(key)
        if rule is None:
            raise unknown_key(
                key,
                [pattern for pattern, _ in RULES if "*" not in pattern] + [k for k in flat if find_rule(k)],
            )
        if not rule.accepts(value):
            odd = (
                next((item for item in value if item not in rule.literals), value)
                if _is_listing(value)
                else value
            )
            near = nearest(str(odd), map(str, rule.literals))
            hint = f"; did you mean {near}?" if near else ""
            raise UserError(f"config.{key} = {value!r} must be {rule.wanted}{hint}")
    for key in required_keys(flat):
        if key not in flat:
            raise UserError(f"config.{key} is missing; begin with a copy of configs/distill.py, which lists all keys")
    _validate_together(flat)


def _is_listing(value: Any) -> bool:
    return isinstance(value, (tuple, list))


def _validate_together(flat: Mapping[str, Any]) -> None:
    weights, stores = flat.get("data.weights", ()), flat.get("data.stores", ())
    if weights and len(weights) != len(stores):
        raise UserError(
            f"config.data.weights has {len(weights)} items and config.data.stores {len(stores)}: give one each"
        )
    stages = list(flat.get("stages", ()))
    if stages != [stage for stage in STAGES if stage in stages]:
        raise UserError(
            f"config.stages = {tuple(stages)!r} must be in the order {', '.join(STAGES)}, each at most once"
        )
    for key, value in flat.items():
        block, _, name = key.rpartition(".")
        duration_key = f"{block}.duration"
        if duration_key not in flat:
            continue
        total = parse_duration(flat[duration_key])
        if (name == "duration" or name.endswith("_every")) and parse_duration(value).amount == 0:
            raise UserError(f"config.{key} = {value!r} must be longer than zero")
        if name == "warmup":
            warmup = parse_duration(value)
            if warmup.unit == total.unit and warmup.amount >= total.amount:
                raise UserError(
                    f"config.{key} = {value!r} must be shorter than config.{duration_key} = {flat[duration_key]!r}"
                )
    _validate_savings(flat)
    _validate_objectives(flat)
    for block in sorted(key.rsplit(".", 1)[0] for key in flat if key.endswith(".transformer.tokenizer")):
        sizes = [samples for samples, _ in flat[f"{block}.tokenizer"]] + [flat[f"{block}.patch"]]
        if any(larger % smaller for smaller, larger in itertools.pairwise(sizes)):
            raise UserError(
                f"config.{block}.tokenizer = {flat[f'{block}.tokenizer']!r}: the samples of each level must divide those of the "
                f"next, and the last config.{block}.patch = {sizes[-1]}"
            )
    for block in {key.rsplit(".", 1)[0] for key in flat if key.endswith(".transformer.heads")}:
        width, heads = flat[f"{block}.width"], flat[f"{block}.heads"]
        if width % heads:
            raise UserError(
                f"config.{block}.width = {width} must be a multiple of config.{block}.heads = {heads}"
            )


def _validate_savings(flat: Mapping[str, Any]) -> None:
    """What the student's stage leaves out must be there to be left out."""
    if "student" not in flat.get("stages", ()):
        return
    if flat["student.drop_fraction"] and flat["student.encoder.architecture"] != "transformer":
        raise UserError(
            f"config.student.drop_fraction = {flat['student.drop_fraction']!r} needs tokens to drop, and "
            f"config.student.encoder.architecture = {flat['student.encoder.architecture']!r} has none: set it to 0.0, or the "
            "architecture to 'transformer'"
        )
    if flat.get("student.objective", "distillation") != "distillation":
        return
    augmented = any(
        flat[key] for key in flat if matches(key, "student.augment.ppg.*.probability")
    )
    if flat["teacher.cached_views"] > 1 and not augmented:
        raise UserError(
            f"config.teacher.cached_views = {flat['teacher.cached_views']}: without an augmentation in "
            "config.student.augment.ppg all views are equal; set it to 1"
        )


def _validate_objectives(flat: Mapping[str, Any]) -> None:
    """What an objective does not go together with."""
    for block in ("teacher", "student"):
        if flat.get(f"{block}.objective") == "contrastive" and flat[f"{block}.train.ema_decay"]:
            raise UserError(
                f"config.{block}.train.ema_decay = {flat[f'{block}.train.ema_decay']!r}: the contrastive objective keeps an average "
                f"of its own (config.{block}.contrastive.momentum); set it to 0.0"
            )
    if "student" not in flat.get("stages", ()):
        return
    objective = flat["student.objective"]
    if objective == "distillation" and not (flat["student.contrastive_weight"] or flat["student.regression_weight"]):
        raise UserError(
            "config.student.contrastive_weight and config.student.regression_weight are both 0: nothing would be learned"
        )
    for key in ("student.drop_fraction", "teacher.cached_views"):
        if objective != "distillation" and flat[key]:
            raise UserError(
                f"config.{key} = {flat[key]!r} is for distillation alone; set it to 0 with config.student.objective = {objective!r}"
            )


def unknown_key(key: str, known: Iterable[str]) -> UserError:
    """The error for a key that no config has, with the nearest of the known ones."""
    near = nearest(key, known)
    return UserError(f"unknown key config.{key}" + (f"; did you mean config.{near}?" if near else ""))


def nearest(text: str, known: Iterable[str]) -> str | None:
    known = list(dict.fromkeys(known))
    found = difflib.get_close_matches(text, known, n=1, cutoff=0.5)
    if not found:
        last = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
        found = [
            last[name]
            for name in difflib.get_close_matches(text.rsplit(".", 1)[-1], list(last), n=1, cutoff=0.6)
        ]
    return found[0] if found else None


def config_hash(config: Mapping) -> str:
    """Hash of everything in a config that decides the result (all but `FREE_KEYS`, and `LATER_KEYS` that change nothing)."""
    return hashlib.sha256(json.dumps(_binding(flatten_json(config)), sort_keys=True).encode()).hexdigest()


def flatten_json(config: Mapping) -> dict[str, Any]:
    """`flatten` with values as JSON gives them back: lists for tuples."""
    return json.loads(json.dumps(flatten(config)))


def _binding(flat: Mapping[str, Any]) -> dict[str, Any]:
    def binds(key: str, value: Any) -> bool:
        free = any(matches(key, pattern) for pattern in FREE_KEYS)
        unused = any(
            matches(key, pattern) and flat.get(decisive, LATER_KEYS.get(decisive)) != needed
            for pattern, (decisive, needed) in ONLY_WITH.items()
        )
        return not free and not unused and not (key in LATER_KEYS and value == LATER_KEYS[key])

    return {key: value for key, value in flat.items() if binds(key, value)}


def environment() -> dict[str, Any]:
    """What the numbers were made with: versions, Python, machine, devices, git commit (None outside a checkout) and
    source."""
    import jax

    devices = jax.devices()
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "versions": {"accdistill_jax": accdistill_jax.__version__} | versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "process_count": jax.process_count(),
        "git_commit": _git_commit(),
        "source_hash": source_hash(),
    }


def source_hash() -> str:
    """Hash of the package's source files: 16 hexadecimal digits."""
    folder = Path(accdistill_jax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _git_commit() -> str | None:
    folder = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        dirty = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("-modified" if dirty.stdout.strip() else "")


def claim(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> None:
    """Makes a work directory this run's: writes `<workdir>/config.json` where there is none, else only compares with it.

    A start that is refused later so leaves the copy of what was done there; `dump` renews it at the end.

    Args:
      config: a validated config.
      workdir: made where missing.

    Raises:
      UserError: as `dump`.
    """
    path = Path(workdir) / _DUMP_NAME
    if path.exists():
        _refuse_other(_read(path), flatten_json(config), Path(workdir))
    else:
        dump(config, workdir)


def dump(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> Path:
    """Writes `<workdir>/config.json`: the config and the environment; refuses to continue another run.

    Args:
      config: a validated config.
      workdir: made where missing.

    Returns:
      The path of the file.

    Raises:
      UserError: the folder belongs to a run whose config differs in a key that decides the result; names the keys.
    """
    workdir = Path(workdir)
    path = workdir / _DUMP_NAME
    if path.exists():
        _refuse_other(_read(path), flatten_json(config), workdir)
    text = json.dumps({"config": _nested(flatten(config)), "environment": environment()}, indent=1)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text + "\n")
    except OSError as problem:
        raise UserError(f"cannot write {path}: {problem.strerror or problem}") from problem
    return path


def _refuse_other(before: Mapping, now: Mapping, workdir: Path) -> None:
    before, now = _binding(flatten(before)), _binding(now)
    differing = sorted(
        (key for key in before.keys() | now.keys() if before.get(key) != now.get(key)),
        key=lambda key: (any(matches(key, pattern) for pattern in ONLY_WITH), key),  # what decides comes first
    )
    if differing:
        shown = ", ".join(f"{key} (was {before.get(key)!r}, now {now.get(key)!r})" for key in differing[:4])
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise UserError(
            f"{workdir} belongs to a run with another config: {shown}{more}; "
            "set them back, choose another --workdir, or delete that folder"
        )


def _nested(flat: Mapping[str, Any]) -> dict:
    nested: dict = {}
    for key, value in flat.items():
        *blocks, last = key.split(".")
        node = nested
        for block in blocks:
            node = node.setdefault(block, {})
        node[last] = value
    return nested


def load(path: str | os.PathLike) -> ml_collections.FrozenConfigDict:
    """Reads a config that `dump` wrote.

    Args:
      path: the file, or the work directory that holds it.

    Returns:
      The config; sequences come back as tuples.

    Raises:
      UserError: missing or unreadable; names the file.
    """
    path = Path(path)
    return ml_collections.FrozenConfigDict(_read(path / _DUMP_NAME if path.is_dir() else path))


def _read(path: Path) -> dict:
    try:
        config = json.loads(read_regular(path))["config"]
        if not isinstance(config, dict):
            raise ValueError("no mapping under the key 'config'")
        return config
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        raise UserError(
            f"{path} cannot be read as a run's config ({problem}); restore or delete it"
        ) from problem
