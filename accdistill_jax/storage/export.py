"""Exports: trained parameters and the metadata that rebuilds their model."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accdistill_jax.errors import UserError
from accdistill_jax.files import free_name, remove_matching, sealed, write_atomically
from accdistill_jax.storage.arrays import (
    PACKED,
    Damaged,
    file_hashes,
    flatten_arrays,
    nest_arrays,
    orbax_checkpointer,
    orbax_path,
    params_fingerprint,
    read_arrays,
    read_json,
    read_packed,
    reporting,
    unflatten,
)
from accdistill_jax.storage.checked_npz import encode_npz

_log = logging.getLogger(__name__)
_EXPORT_JSON = "export.json"
_EXPORT_ARRAYS = "params"
_FILE_OF_ORBAX = re.compile(
    r"_METADATA|_CHECKPOINT_METADATA|_sharding|commit_success\.txt|array_metadatas/process_\d+"
    r"|(ocdbt\.process_\d+/)?(manifest\.ocdbt|d/[0-9a-f]+)(\.__lock)?"
)


class Restored(NamedTuple):
    """Content of a checkpoint.

    Attributes:
        state: pytree of numpy arrays (of the template's structure where one was given).
        meta: the metadata that was saved with it.
    """

    state: Any
    meta: dict


def set_aside(folder: Path) -> None:
    """Renames a folder that this program did not write, so that its name is free."""
    if os.path.lexists(folder):
        kept = free_name(folder.with_name(f"{folder.name}.kept"))
        folder.rename(kept)
        _log.warning("%s has something in it that no run has saved: it was renamed to %s", folder, kept)


def save_params(path: str | os.PathLike, params: Any, meta: Mapping) -> str:
    """Writes trained parameters and the metadata that rebuilds their model.

    Args:
        path: folder to create or replace: `params/` holds the arrays; `export.json`, written last, holds the metadata and the
            fingerprint. A folder without `export.json` is not an export.
        params: pytree of arrays.
        meta: JSON values (architecture config, training data).

    Returns:
        The fingerprint of the parameters.

    Raises:
        UserError: the folder cannot be written; names it.
    """
    import orbax.checkpoint as ocp

    path = Path(path)
    host = flatten_arrays(params)
    record = _record(host, meta)
    with reporting(path), orbax_checkpointer(ocp.Checkpointer) as orbax:
        path.mkdir(parents=True, exist_ok=True)
        (path / _EXPORT_JSON).unlink(missing_ok=True)
        if not remove_matching(path / _EXPORT_ARRAYS, lambda name: _FILE_OF_ORBAX.fullmatch(name) is not None):
            set_aside(path / _EXPORT_ARRAYS)
        with orbax_path(path) as folder:
            orbax.save(folder / _EXPORT_ARRAYS, args=ocp.args.PyTreeSave(nest_arrays(host)), force=True)
        record["files"] = file_hashes(path / _EXPORT_ARRAYS)
        write_atomically(path / _EXPORT_JSON, json.dumps(sealed(record), indent=1))
    return record["fingerprint"]


def save_packed(path: str | os.PathLike, params: Any, meta: Mapping) -> str:
    """Writes trained parameters as `save_params` does, but all arrays into one file, which is read without Orbax.

    Args:
        path: folder, created if missing; it gets `params.npz` and `export.json`.
        params: pytree of arrays, of any float type.
        meta: JSON values.

    Returns:
        The fingerprint of the parameters.

    Raises:
        UserError: the folder cannot be written; names it.
    """
    path, host = Path(path), flatten_arrays(params)
    content = encode_npz(host)
    record = _record(host, meta) | {"files": {PACKED: hashlib.sha256(content).hexdigest()}}
    with reporting(path):
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / PACKED, content)
        write_atomically(path / _EXPORT_JSON, json.dumps(sealed(record), indent=1))
    return record["fingerprint"]


def _record(host: Mapping[str, np.ndarray], meta: Mapping) -> dict[str, Any]:
    return {
        "meta": dict(meta),
        "leaves": {name: [leaf.dtype.name, list(leaf.shape)] for name, leaf in host.items()},
        "fingerprint": params_fingerprint(host),
    }


def change_meta(path: str | os.PathLike, changes: Mapping[str, Any]) -> None:
    """Changes metadata of an export, whose parameters and fingerprint stay.

    Args:
        path: the folder of the export.
        changes: JSON values by name.

    Raises:
        UserError: there is no export, it is damaged, or it cannot be written.
    """
    described = Path(path) / _EXPORT_JSON
    try:
        record = read_json(described)
    except Damaged as damage:
        raise UserError(f"exported parameters in {path} are damaged: {damage}; train or copy them again") from damage
    if record["meta"] | changes != record["meta"]:
        with reporting(Path(path)):
            write_atomically(described, json.dumps(sealed(record | {"meta": record["meta"] | changes}), indent=1))


def load_params(path: str | os.PathLike, template: Any = None) -> Restored:
    """Reads parameters written by `save_params` or `save_packed`.

    Args:
        path: the folder.
        template: pytree of arrays or shape structs that gives the structure, shapes and dtypes; None: nested dictionaries
            as saved.

    Returns:
        The parameters (numpy) and the metadata, with "fingerprint" added.

    Raises:
        UserError: there is no export, it is damaged, or a parameter differs from the template; names the first such
            parameter.
    """
    if "://" in os.fspath(path):
        raise UserError(
            f"{path}: parameters are read from local folders only; fetch the run with `python -m "
            "accdistill_jax.storage.mirror pull ADDRESS FOLDER` and name the folder below that"
        )
    path = Path(path)
    if not (path / _EXPORT_JSON).exists():
        raise UserError(f"no exported parameters in {path} (no {_EXPORT_JSON} there)")
    try:
        record = read_json(path / _EXPORT_JSON)
        packed = PACKED in record["files"]
        flat = read_packed(path, record) if packed else read_arrays(path / _EXPORT_ARRAYS, record)
        if params_fingerprint(flat) != record.get("fingerprint"):
            raise Damaged("the content does not have the fingerprint it was saved with")
    except Damaged as damage:
        raise UserError(f"exported parameters in {path} are damaged: {damage}; train or copy them again") from damage
    params = nest_arrays(flat) if template is None else unflatten(flat, template, where=str(path))
    return Restored(params, record["meta"] | {"fingerprint": record["fingerprint"]})


def refuse_other(saved: dict[str, str], now: dict[str, str], *, where: str) -> None:
    """Raises UserError if a saved result was made with other data or another teacher than this run has."""
    differing = [key for key in now if saved.get(key) != now[key]]
    if differing:
        raise UserError(
            f"{where} was made with another {' and '.join(differing)} than this run has; choose another --workdir, or "
            "delete that folder to train anew"
        )
