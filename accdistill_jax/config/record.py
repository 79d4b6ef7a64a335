"""A run's record in its work directory: the config and the environment it ran in."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import accdistill_jax
from accdistill_jax.config import tree
from accdistill_jax.config.convert import known_keys, parse_config
from accdistill_jax.config.registry import OBJECTIVES
from accdistill_jax.config.renamed import current_key, first_key
from accdistill_jax.config.schema import Config
from accdistill_jax.errors import UserError
from accdistill_jax.files import read_regular, write_atomically

_DUMP_NAME = "config.json"
ABSENT = "absent"  # in place of the value of a key that one of two configs lacks
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def config_hash(config: Config | Mapping[str, Any]) -> str:
    """Hash of the keys that decide a run's result.

    Args:
        config: a config, or a part of one as nested values.
    """
    return hashlib.sha256(json.dumps(_binding(config), sort_keys=True).encode()).hexdigest()


def flatten_json(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """All values by dotted key, as JSON gives them back: lists for tuples."""
    return json.loads(json.dumps(tree.flatten_section(config)))


def _binding(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """The values that decide the result, by the first names of their keys.

    Left out are keys that are free to change, sections that the chosen objective or architecture does not use, and keys
    added later that have their default: runs begun before those keys existed continue.
    """
    flat, known = flatten_json(config), known_keys()

    def binds(key: str, value: Any) -> bool:
        setting, default, only_with = known[key]
        if setting.free:
            return False
        if only_with is not None:
            decisive, needed = only_with
            if flat.get(decisive, known[decisive].default) != needed:
                return False
        return not (setting.added and value == json.loads(json.dumps(default)))

    return {first_key(key): value for key, value in flat.items() if binds(key, value)}


def changed_values(
    before: Mapping[str, Any], now: Mapping[str, Any], *, free: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """The keys in which two configs differ, with the value of each config.

    A config of another version may lack a key: it then has the key's default, with which runs of before the key continue, or
    `ABSENT` if this version does not know the key. Keys that are free to change are left out, except `free`.
    """
    known = known_keys()
    old, new = ({current_key(key): value for key, value in flatten_json(config).items()} for config in (before, now))

    def compared(key: str) -> bool:
        return key in free or key not in known or not known[key].setting.free

    def value(flat: Mapping[str, Any], key: str) -> Any:
        default = json.loads(json.dumps(known[key].default)) if key in known else ABSENT
        return flat.get(key, default)

    pairs = {key: (value(old, key), value(new, key)) for key in (*new, *(old.keys() - new.keys())) if compared(key)}
    return {key: (was, is_now) for key, (was, is_now) in pairs.items() if was != is_now}


def environment() -> dict[str, Any]:
    """Provenance of the numbers: versions, Python, machine, devices, git commit (None outside a checkout), source."""
    import jax

    devices = jax.devices()
    versions = {name: _installed_version(name) for name in _PACKAGES}
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


def _installed_version(name: str) -> str:
    """Version of a distribution; benchmarks also run where some are missing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


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


def claim(
    config: Config, workdir: str | os.PathLike[str], *, fingerprints: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Takes a work directory for a run: writes `<workdir>/config.json` if there is none, else only compares with it.

    So a start that is refused later leaves the record of the earlier run as it is; `dump` renews it at the end.

    Args:
        config: the run's config.
        workdir: made if missing.
        fingerprints: as in `dump`.

    Raises:
        UserError: as `dump`.
    """
    path = Path(workdir) / _DUMP_NAME
    if path.exists():
        _refuse_other(load_record(path), config, Path(workdir))
        _refuse_other_content(_recorded_fingerprints(path), fingerprints, Path(workdir))
    else:
        dump(config, workdir, fingerprints=fingerprints)


def dump(
    config: Config, workdir: str | os.PathLike[str], *, fingerprints: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Writes `<workdir>/config.json`: config, environment, fingerprints; refuses to continue another run.

    Args:
        config: the run's config.
        workdir: made if missing.
        fingerprints: key that names a file or folder -> content hash of what was found there. Recorded ones stay.

    Returns:
        The path of the file.

    Raises:
        UserError: the folder belongs to a run whose config differs in a key that decides the result, or whose named files had
            other content; names the keys.
    """
    workdir = Path(workdir)
    path = workdir / _DUMP_NAME
    if path.exists():
        _refuse_other(load_record(path), config, workdir)
        recorded = _recorded_fingerprints(path)
        _refuse_other_content(recorded, fingerprints, workdir)
        fingerprints = {**recorded, **fingerprints}
    content = {"config": tree.plain(config), "environment": environment()}
    if fingerprints:
        content["fingerprints"] = dict(fingerprints)
    text = json.dumps(content, indent=1)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text + "\n")
    except OSError as problem:
        raise UserError(f"cannot write {path}: {problem.strerror or problem}") from problem
    return path


def _refuse_other(before: Config, now: Config, workdir: Path) -> None:
    old, new, known = _binding(before), _binding(now), known_keys()
    was, now_is = flatten_json(before), flatten_json(now)
    differing = sorted(
        {current_key(key) for key in old.keys() | new.keys() if old.get(key) != new.get(key)},
        # a key that chooses a section comes before the keys of the section
        key=lambda key: (known[key].only_with is not None, key),
    )
    if _draws_people(before) and was["data.same_names"] != now_is["data.same_names"]:
        differing.append("data.same_names")
    if differing:
        changed = [key for key in differing if was[key] != now_is[key]]
        shown = ", ".join(f"{key} (was {was[key]!r}, now {now_is[key]!r})" for key in changed[:4])
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise UserError(
            f"{workdir} belongs to a run with another config: {shown}{more}; "
            "set them back, choose another --workdir, or delete that folder"
        )


def _draws_people(config: Config) -> bool:
    """True if a name that several stores have decides which of their people the student is trained on."""
    draws = OBJECTIVES.get(config.student.objective).draws_people
    return draws is not None and draws(config.student) and "student" in config.stages and len(config.data.stores) > 1


def _recorded_fingerprints(path: Path) -> dict[str, str]:
    """The fingerprints of a file that `load_record` has read; {} where it has none."""
    recorded = json.loads(read_regular(path)).get("fingerprints", {})
    return recorded if isinstance(recorded, dict) else {}


def _refuse_other_content(before: Mapping[str, str], now: Mapping[str, str], workdir: Path) -> None:
    for key, fingerprint in now.items():
        if before.get(key, fingerprint) != fingerprint:
            raise UserError(
                f"{workdir} belongs to a run that began with another content of config.{key} (fingerprint was "
                f"{before[key][:12]}, now {fingerprint[:12]}); put the former content back, or choose another --workdir"
            )


def load_record(path: str | os.PathLike[str]) -> Config:
    """Reads a config that `dump` wrote; keys that it lacks have their defaults.

    Args:
        path: the file, or the work directory that holds it.

    Raises:
        UserError: missing or unreadable, or no config of this version; names the file.
    """
    path = Path(path)
    path = path / _DUMP_NAME if path.is_dir() else path
    try:
        config = json.loads(read_regular(path))["config"]
        if not isinstance(config, dict):
            raise ValueError("no mapping under the key 'config'")
        return parse_config(config)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError) as problem:
        raise UserError(f"{path} cannot be read as a run's config ({problem}); restore or delete it") from problem
