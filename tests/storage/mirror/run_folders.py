"""Writes, reads and compares the work directories of a run."""

import shutil
from pathlib import Path

import numpy as np

from accdistill_jax.errors import UserError
from accdistill_jax.storage.checkpoint import Checkpointer

WAIT_S = 20.0


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def tree(folder: Path) -> dict[str, bytes]:
    """Files that the run wrote: everything but the mirror's own files."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.relative_to(folder).parts[0].startswith((".mirror", ".in-use"))
    }


def refuse(*arguments):
    raise UserError("the object store refused (HTTP 403)")


def state(step: int) -> dict:
    return {"w": np.full((50, 20), step, np.float32), "step": np.int32(step)}


def become(folder: Path, wanted: Path) -> None:
    """Makes a work directory equal to another, except for the mirror's own files."""
    for path in list(folder.iterdir()) if folder.exists() else []:
        if not path.name.startswith((".mirror", ".in-use")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(wanted, folder, dirs_exist_ok=True)


def copied(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(folder).items() if not name.startswith("data/")}


def newest_step(folder: Path) -> int:
    with Checkpointer(folder / "student" / "checkpoints") as checkpointer:
        step = checkpointer.latest_valid_step()
        restored = checkpointer.restore(step, state(0)).state
    assert restored["step"] == step
    np.testing.assert_array_equal(restored["w"], state(step)["w"])
    return step
