"""Notes the files that recordings come from, so that a table of embeddings is never taken for that of other files."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accdistill_jax.data.prepare.addresses import at_address
from accdistill_jax.data.recording import RecordingSource
from accdistill_jax.data.recordings import Found
from accdistill_jax.data.tree import Tree
from accdistill_jax.storage.folder import open_folder
from accdistill_jax.text import readable

_MOST_NAMED = 3
UNKNOWN = "an earlier version made it and did not note its files"


class SourceFiles(NamedTuple):
    """The files of recordings.

    Attributes:
        place: hash of the folders and addresses that were given.
        stamps: name from the folder -> size in bytes and time of change in ns of each file of this name; None for a missing file, and
            at an address, where stores list names only.
        names: absolute path -> name.
    """

    place: str
    stamps: dict[str, list[list[int | None]]]
    names: dict[str, str]

    def noted(self) -> dict[str, Any]:
        """The note, as JSON values: place and stamps."""
        return {"place": self.place, "stamps": self.stamps}

    def identity(self, source: RecordingSource) -> str:
        """Hash of the note of a recording's files; of all files if the reader does not tell which are its own."""
        own = {self.names.get(os.path.normpath(path), path) for path in source.files}
        stamps = {name: stamp for name, stamp in self.stamps.items() if name in own} if own else self.stamps
        return _hash([self.place, stamps])

    def difference(self, before: Mapping[str, Any] | None) -> str:
        """Words for the difference to an earlier note, or to None, a note that is missing; "" if there is none."""
        if before is None:
            return UNKNOWN
        old, new = before["stamps"], self.stamps
        kinds = {
            "changed": [name for name in new if name in old and old[name] != new[name]],
            "new": [name for name in new if name not in old],
            "gone": [name for name in old if name not in new],
        }
        words = ["they lie in another folder"] if before["place"] != self.place else []
        words += [
            f"{kind}: {', '.join(map(readable, names[:_MOST_NAMED]))}{' ...' if len(names) > _MOST_NAMED else ''}"
            for kind, names in kinds.items()
            if names
        ]
        return "; ".join(words)


def note_files(roots: Sequence[str | os.PathLike[str]], found: Found) -> SourceFiles:
    """Notes size and time of change of all files that a reader claimed.

    Args:
        roots: files, folders and addresses that were searched.
        found: the recordings; if its reader claimed no file below a root, all files there are noted.

    Raises:
        UserError: a root cannot be read.
    """
    addresses = [os.fspath(root).rstrip("/") for root in roots if at_address(root)]
    bases = [Path(root).resolve() for root in roots if not at_address(root)]
    stamps: dict[str, list[list[int | None]]] = {}
    names: dict[str, str] = {}
    for address in addresses:
        for name in open_folder(address).names():
            stamps.setdefault(name, []).append([None, None])
    paths = set(found.claimed)
    for base in bases:
        if not any(Path(path).is_relative_to(base) for path in paths):
            paths.update(map(str, Tree(base).files))
    for path in sorted(paths):  # a description may name files outside all folders
        base = next((base for base in bases if Path(path).is_relative_to(base)), bases[0])
        names[path] = os.path.relpath(path, base if base.is_dir() else base.parent)
        stamps.setdefault(names[path], []).append(_stamp(path))
    place = _hash(sorted([*addresses, *map(str, bases)]))
    return SourceFiles(place, {name: sorted(stamps[name], key=str) for name in sorted(stamps)}, names)


def _stamp(path: str) -> list[int | None]:
    try:
        status = os.stat(path)
    except OSError:
        return [None, None]
    return [status.st_size, status.st_mtime_ns]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
