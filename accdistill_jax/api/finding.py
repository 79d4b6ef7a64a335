"""Finds the exported encoder in a folder or at an address."""

import json
import os
import re
from pathlib import Path
from typing import Literal

from accdistill_jax.config.nearest import did_you_mean
from accdistill_jax.errors import UserError
from accdistill_jax.readouts.label_probe import FOLDER as _PROBES
from accdistill_jax.readouts.readout import FILE_NAME as _READOUTS
from accdistill_jax.storage.folder import LocalFolder, open_folder
from accdistill_jax.storage.mirror_files import MANIFEST
from accdistill_jax.storage.mirror_tree import fetch_files, open_copy

PARTS = ("student", "teacher")
_EXPORT = "export.json"
_EXPORTED_FILE = re.compile(
    r"(teacher|student)/export/(export\.json|params/.*|params\.npz|readouts\.npz|probes/.*)|config\.json"
)


def check_folder(path: str) -> None:
    """Raises UserError if a local path is no folder; names the nearest folder beside it."""
    if os.path.isdir(path):
        return
    if os.path.exists(path):
        raise UserError(f"{path} is a file; give the folder")
    parent, name = os.path.split(path.rstrip("/"))
    names = sorted(os.listdir(parent or ".")) if os.path.isdir(parent or ".") else []
    near = did_you_mean(os.path.join(parent, name), [os.path.join(parent, other) for other in names])
    raise UserError(f"no folder {path}{near}")


def find_export(path: str | os.PathLike[str], part: Literal["teacher", "student"] | None, *, named: str = "") -> str:
    """Path of the export folder in a work directory, a `teacher` or `student` folder, or the folder itself.

    Args:
        path: local folder.
        part: the part to find in a work directory; None for the student, or the teacher if the run has no student stage.
        named: the folder's name in messages; "" for `path`.

    Raises:
        UserError: no such folder, no run in it, or an unfinished run.
    """
    folder, named = Path(path), named or str(path)
    check_folder(str(folder))
    for inner in (folder, folder / "export"):
        if (inner / _EXPORT).is_file():
            return str(inner)
    config = _config(folder)
    finished = [name for name in PARTS if (folder / name / "export" / _EXPORT).is_file()]
    if config is None and not finished:
        if (folder / "checkpoints").is_dir():
            raise UserError(f"{named}: the training is not finished (no export/{_EXPORT}); run the same command again")
        raise UserError(
            f"{named} holds no run (no config.json, no {_EXPORT}); give the --workdir of accdistill train, or an export folder"
        )
    config = config or {}
    stages = config.get("stages") or finished
    wanted = part or ("student" if "student" in stages else "teacher")
    if wanted in finished:
        return str(folder / wanted / "export")
    elsewhere = (config.get("teacher") or {}).get("path")
    if wanted == "teacher" and elsewhere:
        raise UserError(f"{named} took its teacher from {elsewhere}; load that folder")
    if wanted not in stages:
        raise UserError(f"{named} is a run without a {wanted} (its stages: {', '.join(stages)})")
    other = f", or load the finished {finished[0]} by part={finished[0]!r}" if finished else ""
    raise UserError(
        f"{named}: the run has not finished its {wanted} (no {wanted}/export/{_EXPORT}); run the same command again{other}"
    )


def _config(folder: Path) -> dict | None:
    """Content of the run's config.json; None if the folder is no work directory."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{folder / 'config.json'} cannot be read ({problem}); copy the run again") from problem
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'} is not the config of a run; copy the run again")
    return config


def open_address(address: str, copy: Path) -> Path:
    """Fetches the exports of a run at an address, or an export folder that lies at an address by itself.

    Args:
        address: of a run's work directory, of a folder in it, or of an export folder.
        copy: empty local folder.

    Returns:
        The local folder that stands for the address.

    Raises:
        UserError: no run is there, or the object store refuses.
    """
    parts = address.rstrip("/").split("/")
    for above in range(min(3, len(parts) - 2)):  # the address is RUN, RUN/teacher or RUN/teacher/export
        root = "/".join(parts[: len(parts) - above])
        if open_folder(root).read(MANIFEST) is not None:
            store, manifest = open_copy(root)
            fetch_files(store, manifest, copy, lambda name: _EXPORTED_FILE.fullmatch(name) is not None)
            return copy.joinpath(*parts[len(parts) - above :])
    export, local = open_folder(address), LocalFolder(copy)
    if export.read(_EXPORT) is None:
        raise UserError(f"{address} holds no run")
    needed = (_EXPORT, *(export.names("params/") or ("params.npz",)))
    for name in (*needed, _READOUTS, *export.names(f"{_PROBES}/")):
        data = export.read(name)
        if data is not None:
            local.write(name, data)
        elif name != _READOUTS:
            raise UserError(f"{address}: {name} was removed while it was read; load it again")
    return copy
