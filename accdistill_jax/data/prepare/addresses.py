"""Recordings at an object-store address: each is fetched into a temporary folder, read there, and removed again.

Each folder directly below the address is searched by itself, and the objects beside these folders are searched together. Recordings that
need files of two such folders are not found. A folder is fetched twice: to find its recordings, and to load each of them.
"""

import contextlib
import functools
import os
import posixpath
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from accdistill_jax.data import recordings
from accdistill_jax.data.recording import Recording, RecordingSource
from accdistill_jax.errors import UserError
from accdistill_jax.storage.folder import open_folder
from accdistill_jax.text import readable


def at_address(root: str | os.PathLike) -> bool:
    """True if recordings are at an object-store URL.

    Raises:
        UserError: another kind of URL.
    """
    return "://" in os.fspath(root) and not open_folder(root).is_local


def find_at(reader: str, address: str, **options: object) -> recordings.Found:
    """Finds the recordings of a reader below an address; as `recordings.find`.

    Raises:
        UserError: no recording there, two with the same id, or an error of the reader or the object store.
    """
    names = open_folder(address).names()
    if not names:
        raise UserError(f"{address}: no object there; check the address")
    sources: dict[str, RecordingSource] = {}
    not_read: dict[str, str] = {}
    chosen = recordings.reader(reader)
    for below in sorted({name.partition("/")[0] if "/" in name else "" for name in names}):
        place = _Portion(address.rstrip("/"), below, reader, tuple(sorted(options.items())))
        with place.fetched() as (root, unsafe):
            found, _ = recordings.find_any(reader, root, **options)
            not_read |= unsafe | found.not_read
            for source in found:
                name = source.recording_id
                if name in sources:
                    raise UserError(f"{address}: two recordings are called {name!r}; rename one of them")
                sources[name] = RecordingSource(name, source.participant_id, functools.partial(place.load, name))
    if not sources:
        raise UserError(f"{address}: no recording of kind {reader!r} found ({chosen.summary})")
    found = recordings.Found(
        sources.values(), reader=reader, options=options, not_read=not_read, can_crash=chosen.can_crash
    )
    found.is_local = False
    return found


@dataclass(frozen=True)
class _Portion:
    """A folder directly below an address, or with `below` "" the objects beside these folders; picklable."""

    address: str
    below: str
    reader: str
    options: tuple[tuple[str, object], ...]

    @contextlib.contextmanager
    def fetched(self) -> Iterator[tuple[Path, dict[str, str]]]:
        """A temporary copy, in a folder that is called as the address is; and the objects that were not fetched, with the reason.

        Errors name the address in place of the copy.
        """
        with tempfile.TemporaryDirectory(prefix="accdistill-recordings-") as temporary:
            root = Path(temporary).resolve() / (posixpath.basename(self.address) or "recordings")
            root.mkdir()
            try:
                yield root, self._fetch(root)
            except UserError as error:
                raise UserError(str(error).replace(str(root), self.address)) from error

    def _fetch(self, root: Path) -> dict[str, str]:
        folder, unsafe = open_folder(self.address), {}
        for name in folder.names(self.below):
            if name.endswith("/") or (not self.below and "/" in name):  # the former marks an empty folder
                continue
            if PurePosixPath(name).is_absolute() or not {"", ".", ".."}.isdisjoint(name.split("/")):
                unsafe[readable(name)] = "its name is no path inside a folder; rename it"
                continue
            content = folder.read(name)
            if content is None:
                raise UserError(f"{folder.where(name)}: the object has gone; run the same command again")
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return unsafe

    def load(self, recording_id: str) -> Recording:
        """Fetches the files of a recording and loads it.

        Raises:
            UserError: the recording is not there any more, or an error of its reader.
        """
        with self.fetched() as (root, _):
            for source in recordings.find_any(self.reader, root, **dict(self.options))[0]:
                if source.recording_id == recording_id:
                    return source.load()
            raise UserError(f"{self.address}/{self.below}: the recording {recording_id} has gone")
