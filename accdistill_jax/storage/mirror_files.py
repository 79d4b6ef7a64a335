"""The local side of a mirrored work directory: the files to copy, their hashes, and the journal of the last copy."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from accdistill_jax.errors import UserError
from accdistill_jax.files import read_regular, sealed, unsealed, write_atomically

# Marker files declare other files complete: they are written after those and removed before them.
_MARKER = re.compile(r"\d+\.json|export\.json|made_from|[a-z]+\.sha256|manifest.*\.json")
_UNFINISHED = (".tmp", ".lock")
_UNFINISHED_PARTS = (".writing-", "orbax-checkpoint-tmp")
_PINS = ".mirror"
MANIFEST = "mirror.json"  # at the address; a folder that was fetched by other means has it too
_PIN_ATTEMPTS = 100
_BLOCK_BYTES = 1 << 20


class Content(NamedTuple):
    """Content of a file: size in bytes and SHA-256 in hexadecimal."""

    size: int
    sha256: str


class Known(NamedTuple):
    """Content of a file while it has this state (bytes, modification time in ns, inode)."""

    state: tuple[int, int, int]
    content: Content


@dataclasses.dataclass
class Journal:
    """Content of `.mirror.json` in the local folder.

    Attributes:
        run: identifies the run.
        generation: number of the last copy to which the folder was equal; 0: none.
        push: identifies that copy.
        base: files of that copy.
        known: files with known hashes.
        pending: a copy whose manifest may have been written (`generation`, `push`, `files`).
        pulling: the folder is being made equal to a copy, and is no valid run until that ends.
    """

    NAME: ClassVar[str] = ".mirror.json"

    run: str
    generation: int = 0
    push: str = ""
    base: dict[str, Content] = dataclasses.field(default_factory=dict)
    known: dict[str, Known] = dataclasses.field(default_factory=dict)
    pending: dict | None = None
    pulling: bool = False

    def settle(self) -> None:
        """Notes that the pending copy, if there is one, is complete."""
        pending, self.pending = self.pending, None
        if pending is not None:
            self.generation, self.push, self.base = pending["generation"], pending["push"], pending["files"]

    def save(self, folder: Path) -> None:
        """Writes the journal.

        Raises:
            UserError: the disk is full or the folder does not exist.
        """
        try:
            write_atomically(folder / self.NAME, json.dumps(sealed(dataclasses.asdict(self))))
        except OSError as error:
            raise UserError(f"{folder / self.NAME}: cannot be written ({error.strerror or error})") from error

    @classmethod
    def load(cls, folder: Path) -> "Journal | None":
        """Reads the journal; None if the folder has none.

        Raises:
            UserError: the journal is unreadable.
        """
        path = folder / cls.NAME
        try:
            record = unsealed(json.loads(read_regular(path)))
            journal = cls(**record)
            journal.base = {name: Content(*content) for name, content in journal.base.items()}
            journal.known = {
                name: Known(tuple(state), Content(*content)) for name, (state, content) in journal.known.items()
            }
            if journal.pending:
                files = {name: Content(*content) for name, content in journal.pending["files"].items()}
                journal.pending = journal.pending | {"files": files}
            return journal
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise UserError(f"{path} cannot be read ({error}); delete the folder to go on from the address") from error


def is_marker(name: str) -> bool:
    """True if a file declares others complete, like a checkpoint's `<step>.json`."""
    return _MARKER.fullmatch(name.rpartition("/")[2]) is not None


def local_files(folder: Path, exclude: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Files of a work directory and their states, without half-written files and checkpoints without `<step>.json`."""
    listing = {}
    for path, folders, names in os.walk(folder):
        inside = os.path.relpath(path, folder)
        prefix = "" if inside == "." else inside.replace(os.sep, "/") + "/"
        skipped = {name for name in folders if any(part in name for part in _UNFINISHED_PARTS)}
        if not prefix:
            skipped |= {_PINS, *exclude}
        if os.path.basename(path) == "checkpoints":
            skipped |= {name for name in folders if name.isdigit() and f"{name}.json" not in names}
        folders[:] = sorted(set(folders) - skipped)
        for name in names:
            if name.endswith(_UNFINISHED) or any(part in name for part in _UNFINISHED_PARTS):
                continue
            if not prefix and name in (Journal.NAME, MANIFEST):
                continue
            with contextlib.suppress(FileNotFoundError):  # removed since the folder was listed
                if state := _state(os.path.join(path, name)):
                    listing[prefix + name] = state
    return listing


def hash_files(folder: Path, files: Mapping[str, tuple[int, int, int]], known: Mapping[str, Known]) -> dict[str, Known]:
    """Contents of files by name; hashes only files whose state has changed."""
    return {
        name: known[name] if name in known and known[name].state == state else Known(state, content(folder / name))
        for name, state in files.items()
    }


def content(path: Path) -> Content:
    """Reads and hashes the content of a file.

    Raises:
        UserError: it cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    return Content(size, digest.hexdigest())


@contextlib.contextmanager
def pinned(
    folder: Path, exclude: Sequence[str], known: Mapping[str, Known]
) -> Iterator[tuple[dict[str, Known], dict[str, tuple[Path, tuple[int, int, int]]]]]:
    """Context with a consistent set of files that stays readable while the run replaces and removes files.

    Every marker is the same before and after the files are linked, so all files that it declares complete are in the set. A file
    to which the run appends may be read with more content, which is equally valid.

    Yields:
        The files with known content; for each other file, a hard link to read and the state.

    Raises:
        UserError: the folder changes faster than it can be listed.
        OSError: the folder cannot be read.
    """
    pins = folder / _PINS
    try:
        for _ in range(_PIN_ATTEMPTS):
            shutil.rmtree(pins, ignore_errors=True)
            pins.mkdir()
            present = local_files(folder, exclude)
            kept = {name: known[name] for name, s in present.items() if name in known and known[name].state == s}
            links = {name: (pins / str(number), present[name]) for number, name in enumerate(set(present) - set(kept))}
            with contextlib.suppress(FileNotFoundError):
                for name, (link, _) in links.items():
                    _pin(folder / name, link)
                if all(_state(folder / name) == state for name, state in present.items() if is_marker(name)):
                    break
        else:
            raise UserError(f"{folder}: changes faster than it can be copied")
        yield kept, links
    finally:
        shutil.rmtree(pins, ignore_errors=True)


def _state(path: str | Path) -> tuple[int, int, int] | None:
    status = os.lstat(path)
    return (status.st_size, status.st_mtime_ns, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _pin(path: Path, link: Path) -> None:
    try:
        os.link(path, link)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copy2(path, link)
