"""Pytrees of arrays as files: names of leaves, content hashes, and reads that notice damage.

On disk a pytree is a nested dictionary of numpy arrays named by their paths. So a reader depends neither on the container types
nor on the devices of the process that saved.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from accdistill_jax.errors import UserError
from accdistill_jax.files import open_regular, read_regular, record_checksum
from accdistill_jax.storage.checked_npz import DamagedNpz, read_npz

PACKED = "params.npz"  # all arrays of an export in one file
_AWKWARD = re.compile("[*?[\\\\\ud800-\udfff]")
_NO_SPACE_WORDS = ("no space left", "resource_exhausted", "disk quota", "file too large", "enospc")


class Damaged(Exception):
    """A checkpoint or export cannot be read, or its content was changed after it was saved."""


def path_name(path: tuple) -> str:
    """Name of a leaf from its key path, for example "params/encoder/block_0/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def params_fingerprint(params: Any) -> str:
    """Content hash of a pytree of arrays.

    Args:
        params: pytree of jax or numpy arrays, on any devices.

    Returns:
        64 hexadecimal digits: SHA-256 over path, dtype, shape and bytes of each leaf in the order of the paths. Equal for
        equal content, for all container types (dictionary, frozen dictionary, named tuple) and device layouts.
    """
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten_arrays(params).items()):
        digest.update(f"{name}\0{leaf.dtype.name}\0{leaf.shape}\0".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def orbax_checkpointer(kind: Any) -> Any:
    """Creates an Orbax checkpointer that works in this process alone, without the other processes of the run.

    Args:
        kind: `orbax.checkpoint.Checkpointer` or `AsyncCheckpointer`.
    """
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions()
    if jax.process_count() > 1:
        process = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process{process}"
        )
    # Weights hardly compress, and compression would take time from the training that runs beside the save.
    handler = ocp.PyTreeCheckpointHandler(
        use_ocdbt=True, use_zarr3=True, use_compression=False, multiprocessing_options=alone
    )
    return kind(handler, multiprocessing_options=alone)


@contextlib.contextmanager
def orbax_path(folder: Path) -> Iterator[Path]:
    """Context with a path that Orbax accepts for an existing folder.

    Orbax requires an absolute path. It also takes brackets and wildcards in a path for a pattern and then silently saves nothing;
    TensorStore takes a backslash for a slash and accepts only UTF-8. For such a folder the path goes through an open file
    descriptor, /proc/self/fd/N.

    Raises:
        UserError: the folder needs such a path, and this system has no /proc.
    """
    folder = Path(os.path.abspath(folder))
    if not _AWKWARD.search(os.fspath(folder)):
        yield folder
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        plain = Path(f"/proc/self/fd/{descriptor}")
        if not plain.is_dir():
            raise UserError(
                f"{folder}: parameters cannot be saved below a folder with *, ?, [, \\ or bytes that are no UTF-8 in its path"
            )
        yield plain
    finally:
        os.close(descriptor)


def flatten_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Flattens a pytree to {path name: numpy array}; arrays on this host's CPU are not copied."""
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def nest_arrays(flat: Mapping[str, Any]) -> dict:
    """Converts {"a/b/c": leaf} to nested dictionaries."""
    nested: dict = {}
    for name, leaf in flat.items():
        *folders, last = name.split("/")
        node = nested
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return nested


def unflatten(flat: Mapping[str, np.ndarray], template: Any, *, where: str) -> Any:
    """Puts named arrays into the structure of a template.

    Args:
        flat: arrays by path name.
        template: pytree of arrays or shape structs.
        where: source of the arrays, for messages.

    Raises:
        UserError: a leaf is missing, unexpected, or of another shape or dtype; names the first such leaf.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(template)
    leaves = []
    for path, expected in paths:
        name = path_name(path)
        if name not in flat:
            raise UserError(f"{where} holds no {name}; it was saved by another model or optimiser configuration")
        leaf, dtype = flat[name], np.dtype(getattr(expected, "dtype", type(expected)))
        if leaf.shape != np.shape(expected) or leaf.dtype != dtype:
            raise UserError(
                f"{where}: {name} is {leaf.dtype.name}{list(leaf.shape)}, this configuration needs "
                f"{dtype.name}{list(np.shape(expected))}; use the configuration that it was trained with"
            )
        leaves.append(leaf)
    extra = sorted(set(flat) - {path_name(path) for path, _ in paths})
    if extra:
        raise UserError(f"{where} holds {extra[0]}, which this configuration does not have")
    return jax.tree_util.tree_unflatten(structure, leaves)


def read_json(path: Path) -> dict:
    """Reads the `sealed` record that was written last, beside the arrays.

    Raises:
        Damaged: the record is missing, truncated, changed, or not of this kind.
    """
    try:
        record = json.loads(read_regular(path))
        if not {"meta", "leaves", "files", "checksum"} <= record.keys():
            raise ValueError("keys are missing")
        if record["checksum"] != record_checksum(record):
            raise ValueError("it was changed after it was written")
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as problem:
        raise Damaged(f"{path.name} cannot be read ({_first_line(problem)})") from problem
    return record


def read_arrays(folder: Path, record: Mapping) -> dict[str, np.ndarray]:
    """Reads arrays by path name from a folder that Orbax wrote.

    Args:
        folder: the folder.
        record: holds "leaves" (expected names) and "files" (hashes, see `file_hashes`).

    Raises:
        Damaged: a file is missing or changed (named), or Orbax cannot read the folder.
    """
    import orbax.checkpoint as ocp

    _check_files(folder, record["files"])
    names = record["leaves"]
    arguments = ocp.args.PyTreeRestore(
        restore_args=nest_arrays({name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names})
    )
    try:
        with orbax_path(folder) as path, orbax_checkpointer(ocp.Checkpointer) as orbax:
            return flatten_arrays(orbax.restore(path, args=arguments))
    except UserError:
        raise
    except Exception as problem:
        # Orbax and TensorStore report unreadable files with many exception types.
        raise Damaged(f"cannot be read ({_first_line(problem)})") from problem


def read_packed(folder: Path, record: Mapping) -> dict[str, np.ndarray]:
    """Reads arrays by path name from the file `PACKED`, without Orbax, whose import takes a second.

    Args:
        folder: folder of the file.
        record: as for `read_arrays`.

    Raises:
        Damaged: the file is missing or changed, or an array is missing.
    """
    _check_files(folder, record["files"])
    try:
        with open_regular(folder / PACKED) as file:
            return read_npz(file, list(record["leaves"]))
    except (OSError, DamagedNpz) as problem:
        raise Damaged(f"{PACKED} cannot be read ({_first_line(problem)})") from problem


def file_hashes(folder: Path, prefix: str = "") -> dict[str, str]:
    """SHA-256 of each file in a folder and its sub-folders, by relative path."""
    hashes = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            hashes |= file_hashes(path, f"{prefix}{path.name}/")
        else:
            hashes[prefix + path.name] = _hash(path)
    return hashes


def _check_files(folder: Path, expected: Mapping[str, str]) -> None:
    for name, content_hash in expected.items():
        if not isinstance(name, str) or not set(name.split("/")).isdisjoint(("", ".", "..")):
            raise Damaged(f"{name!r} is not the name of a file in it")
        try:
            actual = _hash(folder / name)
        except (FileNotFoundError, NotADirectoryError) as problem:
            raise Damaged(f"file {name} is missing") from problem
        except OSError as problem:
            raise Damaged(f"file {name} cannot be read ({problem.strerror or problem})") from problem
        if actual != content_hash:
            raise Damaged(f"file {name} is not what was saved")


def _hash(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(problem: BaseException) -> str:
    text = str(problem).strip() or type(problem).__name__
    return text.splitlines()[0][:200]


@contextlib.contextmanager
def reporting(directory: Path) -> Iterator[None]:
    """Turns failures to write into a UserError that names the directory."""
    try:
        yield
    except UserError:
        raise
    except Exception as problem:
        if any(word in str(problem).lower() for word in _NO_SPACE_WORDS):
            raise UserError(
                f"no space left to save in {directory}; earlier checkpoints are intact: free space and run the same "
                "command again"
            ) from problem
        if isinstance(problem, OSError):
            raise UserError(f"cannot save in {directory}: {_first_line(problem)}") from problem
        raise
