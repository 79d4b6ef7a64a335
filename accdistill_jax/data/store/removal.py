"""Removes stores and staging folders: only files that this program wrote."""

import contextlib
import os
import re

from accdistill_jax.data.store.manifest import ADDED, CONTENT, MANIFEST, PARTICIPANTS, SEGMENTS, partial_path
from accdistill_jax.errors import UserError
from accdistill_jax.files import is_leftover
from accdistill_jax.storage.folder import LocalFolder, RemoteFolder, open_folder
from accdistill_jax.storage.sole_use import sole_use

REQUEST = "request.json"
_STORE_FILE = re.compile(
    rf"(?:{ADDED}/)?(?:zarr\.json|{re.escape(MANIFEST)}|{re.escape(SEGMENTS)}|{re.escape(PARTICIPANTS)}|{re.escape(CONTENT)}"
    r"|(ppg|accel)(_scale|_offset)?/(zarr\.json|c(/\d+)+)"
    r"|teacher_views/[0-9a-f]{16}(\.lock|/(part-\d+|views\.json)))"
)
_STAGED_FILE = re.compile(rf"{re.escape(REQUEST)}|lock|units/[^/]+-[0-9a-f]{{12}}\.npz|beam/[\w.-]+")
_WRITING = re.compile(r"\.writing-\d+-\d+")


def is_store_file(name: str) -> bool:
    """True if this program writes a file with this path into stores."""
    name = _WRITING.sub("", name)
    return (
        _STORE_FILE.fullmatch(name) is not None
        or name.startswith("teacher_views/")
        and is_leftover(os.path.basename(name))
    )


def is_staged_file(name: str) -> bool:
    """True if this program writes a file with this path into staging folders."""
    name = _WRITING.sub("", name)
    return (
        _STAGED_FILE.fullmatch(name) is not None
        or name.startswith("store/")
        and is_store_file(name.removeprefix("store/"))
    )


def refuse_other_content(target: LocalFolder | RemoteFolder) -> None:
    """Raises UserError if the target folder has other files than those of a store."""
    if target.read(MANIFEST) is not None:
        return
    foreign = [name for name in target.names() if not is_store_file(name)]
    if foreign:
        raise UserError(
            f"{target.path}: the folder is not empty, and what is in it is no store ({foreign[0]}); choose another one"
        )


def discard_staging(path: str | os.PathLike) -> None:
    """Removes the staging folder of a complete store, unless another process is using it."""
    staging = open_folder(partial_path(path))
    if not staging.is_local:
        staging.remove_ours(is_staged_file)
    elif os.path.isdir(staging.path):
        with contextlib.suppress(UserError, OSError):  # a folder in use, or without write permission, stays
            with sole_use(staging.path, refusal=str, patience_s=0.0):
                staging.remove_ours(is_staged_file)
            os.rmdir(staging.path)
