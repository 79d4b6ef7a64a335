"""A run's record in its work directory: the config and the environment it ran in."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

import accdistill_jax
from accdistill_jax.config.schema import FREE_KEYS, LATER_KEYS, ONLY_WITH, matches
from accdistill_jax.config.validate import flatten
from accdistill_jax.errors import UserError
from accdistill_jax.files import read_regular, write_atomically

_DUMP_NAME = "config.json"
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


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
    """Provenance of the numbers: versions, Python, machine, devices, git commit (None outside a checkout) and
    source.
    """
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
    """Hash of the package's source files: 16 hexadecimal digits.

    Shipped configs are no part of it: the settings of a run are recorded by themselves.
    """
    folder = Path(accdistill_jax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        if folder / "configs" in path.parents:
            continue
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
        raise UserError(f"{path} cannot be read as a run's config ({problem}); restore or delete it") from problem


def plain(section: Any) -> Any:
    """A config section as nested dictionaries and lists for JSON."""
    if hasattr(section, "items"):
        return {key: plain(value) for key, value in section.items()}
    return [plain(value) for value in section] if isinstance(section, (tuple, list)) else section
