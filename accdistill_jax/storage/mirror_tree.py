"""Reads the last complete copy at an object-store address, without a run: its manifest and its files."""

import contextlib
import glob
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from accdistill_jax.errors import UserError
from accdistill_jax.storage.folder import LocalFolder
from accdistill_jax.storage.mirror_files import content
from accdistill_jax.storage.mirror_store import CopyStore, Manifest, Patience
from accdistill_jax.storage.sole_use import sole_use

_ATTEMPTS = 5


def fetch_tree(url: str, folder: str | os.PathLike) -> int:
    """Fetches the last complete copy at an address as plain files.

    Args:
        url: the address.
        folder: local folder to create; it appears complete or not at all.

    Returns:
        Number of files.

    Raises:
        UserError: no run is there, the folder exists, the disk is full, or the store refuses.
    """
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists already; name a folder to make")
    store, manifest = open_copy(url)
    for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.*.fetching"):  # of a killed process
        with contextlib.suppress(UserError), sole_use(leftover, refusal=str, patience_s=0.0, machines=False):
            shutil.rmtree(leftover, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.fetching")
    try:
        with sole_use(partial, refusal=str, machines=False):
            manifest = fetch_files(store, manifest, partial)
        partial.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(manifest.files)


def fetch_files(
    store: CopyStore, manifest: Manifest, folder: Path, wanted: Callable[[str], bool] = lambda name: True
) -> Manifest:
    """Fetches the wanted files of one complete copy into a folder that holds nothing else.

    Returns:
        The manifest of the copy: a run that goes on may have replaced the one given.

    Raises:
        UserError: a run replaces the copy faster than it can be fetched, or the store refuses.
    """
    for _ in range(_ATTEMPTS):
        names = set(filter(wanted, manifest.files))
        missing = store.download(manifest, names - _keep(folder, manifest), LocalFolder(folder))
        if missing is None:
            return manifest
        manifest = store.read_newer(manifest, missing=missing)
    raise UserError(f"{store.url}: a run replaces the copy faster than it can be fetched; try again later")


def _keep(folder: Path, manifest: Manifest) -> set[str]:
    """Removes the files that a copy does not have, or has with another content; returns the names of the others."""
    kept = set()
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        name = path.relative_to(folder).as_posix()
        if name in manifest.files and content(path) == manifest.files[name]:
            kept.add(name)
        elif not name.startswith(".in-use"):
            path.unlink()
    return kept


def open_copy(url: str) -> tuple[CopyStore, Manifest]:
    """The store at an address and the manifest of its last complete copy.

    Raises:
        UserError: no run is there, or the store refuses.
    """
    store = CopyStore(url, Patience(0.0))
    manifest = store.read()
    if manifest is None:
        raise UserError(f"{url} holds no run")
    return store, manifest
