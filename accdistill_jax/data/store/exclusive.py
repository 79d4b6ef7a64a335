"""Lock of a store that is being made, so that no two preparations, merges or appends write it at the same time."""

import contextlib
import os
from collections.abc import Iterator

from accdistill_jax.data.store.manifest import partial_path
from accdistill_jax.storage.folder import open_folder
from accdistill_jax.storage.sole_use import sole_use


@contextlib.contextmanager
def exclusive_store(path: str | os.PathLike) -> Iterator[None]:
    """Context in which no other process makes the same local store; an object store has no lock.

    Args:
        path: folder or URL of the store. The lock lies in the staging folder beside it, which is removed if nothing else is in it.

    Raises:
        UserError: another process is making the store, or the folder cannot be written.
    """
    target, staging = open_folder(path), open_folder(partial_path(path))
    if not staging.is_local:
        yield
        return

    def refusal(holder: str) -> str:
        return f"{target.path}: another process is preparing this store ({holder}); wait for it"

    try:
        with sole_use(staging.path, refusal=refusal):
            yield
    finally:
        with contextlib.suppress(OSError):  # a folder with files stays
            os.rmdir(staging.path)
