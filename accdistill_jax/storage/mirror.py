"""Copies a work directory to an object-store address and back; the run works in a local folder on process 0.

The address (gs://bucket/run) holds the same tree as the folder, so that people and TensorBoard read it in place:

    metrics/teacher.jsonl, ...   every file of the run, under the name that it has in the folder
    mirror.json                  the manifest: the size and SHA-256 of each file of the last complete copy
    .mirror/<SHA-256>            while a copy is under way: files of the last complete copy that it has replaced

A copy has four steps. Each write is conditional, so that a second process that writes at the address is noticed.

1. The manifest says that a copy is under way; it still lists the files of the last complete copy.
2. New and changed files are written. The old content of a changed file is kept below `.mirror` before.
3. The manifest lists the new files. The copy is complete.
4. Files that the copy does not have, and everything below `.mirror`, are removed.

So a restore gets the files of one complete copy, wherever a copy was cut off: it takes each file from its own name if the content
is the one that the manifest lists, else from `.mirror`. A checkpoint's `<step>.json` never comes without its arrays: the local
files of a copy are pinned by hard links at a moment when every marker file is valid.

The local file `.mirror.json` records the last copy to which the folder was equal. With it `Mirror.pull` decides:

    folder unchanged, address newer           the folder is made equal to the address
    folder changed, address unchanged         nothing is fetched; the next copy uploads the changes
    both changed, or two different runs       UserError: the user decides

The files of the last complete copy, checked (a copy by other tools may be of a moment between two copies):

    python -m accdistill_jax.storage.mirror pull gs://bucket/run folder
    python -m accdistill_jax.storage.mirror ls gs://bucket/run
"""

from accdistill_jax.runtime import streams  # isort: skip

if __name__ == "__main__":
    streams.secure(product="output")

import contextlib
import hashlib
import os
import re
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from accdistill_jax.errors import CommandParser, UserError
from accdistill_jax.runtime.command import run_command
from accdistill_jax.storage.folder import LocalFolder
from accdistill_jax.storage.mirror_files import (
    Content,
    Journal,
    Known,
    content,
    hash_files,
    is_marker,
    local_files,
    pinned,
)
from accdistill_jax.storage.mirror_store import Conflict, CopyStore, Manifest, Patience
from accdistill_jax.storage.mirror_tree import fetch_tree, open_copy
from accdistill_jax.storage.sole_use import sole_use
from accdistill_jax.text import one_line
from accdistill_jax.user_paths import cache_folder, path_argument

_FETCH_ATTEMPTS = 5


def staging_folder(url: str) -> Path:
    """The local work directory of a run at an address, below the user's cache folder.

    Raises:
        UserError: the user has no cache folder.
    """
    url = url.rstrip("/")
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", url.partition("://")[2]).strip("-.")[-60:]
    return cache_folder() / "runs" / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


class Mirror:
    """Keeps an object-store address equal to a local folder: call `pull` first, then `push` at any time.

    It is a context manager: its end waits for the copy in the background. One process of a run has a Mirror.
    """

    def __init__(
        self,
        url: str,
        folder: str | os.PathLike,
        *,
        exclude: Sequence[str] = ("data",),
        say: Callable[[str], None] = print,
        patience_s: float = 60.0,
    ):
        """Does not touch the folder or the address yet.

        Args:
            url: address, gs://bucket/path or s3://bucket/path.
            folder: local folder.
            exclude: folders directly below `folder` that are not copied, because any machine can make them again.
            say: prints one line.
            patience_s: time for which a copy retries while the object store refuses everything, in seconds.
        """
        self._patience = Patience(patience_s)
        self._store = CopyStore(url, self._patience)
        self._folder, self._exclude, self._say = Path(folder), tuple(exclude), say
        self._journal: Journal | None = None
        self._held = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._wanted = False
        self._thread: threading.Thread | None = None
        self._broken: Exception | None = None

    def pull(self) -> None:
        """Makes the local folder equal to the last complete copy if that is newer; see the table above.

        The next pull completes one that was cut off; until then `.mirror.json` marks the folder as incomplete.

        Raises:
            Conflict: folder and address hold different runs, or both have changed.
            UserError: the object store refuses, the disk is full, or another process of this machine uses the folder.
        """
        try:
            self._claim()
            self._pull()
        except BaseException:
            self._held.close()
            raise

    def push(self) -> None:
        """Waits for the copy in the background, then copies all changes. On return the address is up to date.

        Raises:
            Conflict: another run has written there in the meantime.
            UserError: the object store refuses; the local files are complete, and the next push copies them.
        """
        with self._lock:
            self._wanted = False
        self._patience.end()  # ends the retries of a background copy
        self._join()
        self._patience.renew()
        try:
            self._push()
        except Conflict:
            raise
        except UserError as error:
            raise UserError(
                f"what the run wrote is complete in {self._folder} but could not be copied to {self._store.url}: {error}; "
                "the same command copies it again"
            ) from error

    def push_later(self) -> None:
        """Copies in the background. Calls during a copy start one more copy after it.

        A copy that fails prints a warning in one line; the next call tries again.

        Raises:
            Conflict: an earlier copy met another run; no further copy can succeed.
        """
        self._raise_broken()
        with self._lock:
            self._wanted = True
            if self._thread is None:
                self._patience.renew()
                self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Waits for the copies in the background.

        Raises:
            Conflict: one of them met another run.
        """
        self._join()
        self._raise_broken()

    def close(self) -> None:
        """Waits for the copies in the background, without retries, and releases the folder."""
        self._patience.end()
        self._join()
        self._held.close()

    def __enter__(self) -> "Mirror":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _claim(self) -> None:
        def refusal(holder: str) -> str:
            return f"another process of this machine runs {self._store.url} in {self._folder} ({holder}); stop it or wait for it"

        self._held.enter_context(sole_use(self._folder, refusal=refusal))

    def _pull(self) -> None:
        self._patience.renew()
        copy = self._store.read()
        if copy and not copy.is_plain:
            raise Conflict(
                f"{self._store.url} holds a run in the format of an earlier version; fetch it with `python -m "
                f"accdistill_jax.storage.mirror pull {self._store.url} FOLDER` and continue with --workdir=FOLDER"
            )
        journal = Journal.load(self._folder)
        if journal and copy and journal.pending and journal.pending["push"] == copy.push:
            journal.settle()  # that copy was complete, but this machine stopped before it noted that
        local = self._local(journal.known if journal else {})
        synced = journal if journal is not None and (journal.generation > 0 or journal.pulling) else None
        if copy is None and synced is not None:
            raise Conflict(
                f"{self._store.url} is empty, but {self._folder} holds a run that was copied there; delete that "
                f"folder to begin anew, or {self._folder / Journal.NAME} to copy the run there again"
            )
        if copy is not None and self._is_ahead(copy, synced, {name: known.content for name, known in local.items()}):
            self._fetch(copy, journal or Journal(run=copy.run), local)
            return
        self._journal = journal or Journal(run=uuid.uuid4().hex)
        self._journal.known = local
        if copy:
            self._journal.generation, self._journal.push = copy.generation, copy.push
            self._journal.base = copy.files
        self._journal.save(self._folder)

    def _local(self, known: Mapping[str, Known]) -> dict[str, Known]:
        return hash_files(self._folder, local_files(self._folder, self._exclude), known)

    def _is_ahead(self, copy: Manifest, journal: Journal | None, files: Mapping[str, Content]) -> bool:
        """True if the address is newer than the local `files`; see the table of the module.

        Args:
            copy: the last complete copy at the address.
            journal: of the folder; None if it was never equal to a copy.
            files: content of the folder.
        """
        if journal is None:
            if files and files != copy.files:
                raise self._parted("they hold different runs")
            return True
        if journal.run != copy.run:
            raise self._parted("they hold different runs")
        if journal.pulling:
            return True
        if copy.push == journal.push:
            # A file that is missing was lost, unless there are new files too.
            return files != journal.base and files.items() <= journal.base.items()
        if files == copy.files:
            return False
        if copy.generation <= journal.generation:
            raise self._parted("the address was set back to an older copy")
        if files != journal.base:
            raise self._parted("the run went on elsewhere, and the folder has work that was never copied")
        return True

    def _parted(self, how: str) -> Conflict:
        return Conflict(
            f"{self._store.url} and {self._folder} do not fit together: {how}. Delete that folder to go on from the "
            f"address, or go on from the folder with --workdir={self._folder}"
        )

    def _fetch(self, copy: Manifest, journal: Journal, local: Mapping[str, Known]) -> None:
        """Makes the folder equal to a copy."""
        for _ in range(_FETCH_ATTEMPTS):
            journal.run, journal.pulling, journal.pending = copy.run, True, None
            journal.save(self._folder)
            wanted = [name for name, c in copy.files.items() if name not in local or local[name].content != c]
            if wanted:
                megabytes = sum(copy.files[name].size for name in wanted) / 1e6
                self._say(f"{self._store.url}: fetching {len(wanted)} files ({megabytes:.1f} MB) into {self._folder}")
            stale = [name for name, known in local.items() if copy.files.get(name) != known.content]
            self._remove(sorted(stale, key=is_marker, reverse=True))
            missing = self._store.download(copy, wanted, LocalFolder(self._folder))
            if missing is None:
                break
            copy = self._store.read_newer(copy, missing=missing)
            local = self._local(journal.known)
        else:
            raise Conflict(f"another run writes at {self._store.url}, faster than it can be fetched; stop it")
        self._journal = Journal(copy.run, copy.generation, copy.push, base=copy.files, known=self._local(journal.known))
        self._journal.save(self._folder)

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            (self._folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a folder with something in it
                for parent in (self._folder / name).relative_to(self._folder).parents:
                    if parent.name:
                        os.rmdir(self._folder / parent)

    def _push(self) -> None:
        journal = self._journal
        if journal is None:
            raise RuntimeError("pull comes before push")
        copied = {name: known for name, known in journal.known.items() if known.content == journal.base.get(name)}
        try:
            with pinned(self._folder, self._exclude, copied) as (kept, links):
                paths = {name: link for name, (link, _) in links.items()}
                is_new = not journal.generation or kept.keys() | links.keys() != journal.base.keys()
                if is_new or any(content(path) != journal.base[name] for name, path in paths.items()):
                    base = Manifest(journal.run, journal.generation, journal.push, journal.base)
                    self._store.begin(base, paths)
                    read, is_new = self._store.upload(paths, journal.base), True
                else:  # only the times of files have changed
                    read = {name: journal.base[name] for name in paths}
                journal.known = kept | {name: Known(links[name][1], value) for name, value in read.items()}
            if is_new:
                self._commit(journal)
        except OSError as error:
            raise UserError(f"{self._folder}: cannot be read ({error.strerror or error})") from error
        except Conflict as error:
            raise Conflict(f"{error}; to go on from this run's own state: --workdir={self._folder}") from error
        journal.save(self._folder)

    def _commit(self, journal: Journal) -> None:
        files = {name: known.content for name, known in journal.known.items()}
        manifest = Manifest(journal.run, journal.generation + 1, uuid.uuid4().hex, files)
        journal.pending = {"generation": manifest.generation, "push": manifest.push, "files": files}
        journal.save(self._folder)
        self._store.commit(manifest, journal.base)
        journal.settle()
        try:
            self._store.clean()
        except UserError as error:
            self._say(f"warning: files that the copy does not need stay until the next one: {error}")

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._wanted or self._broken:
                    self._thread = None
                    return
                self._wanted = False
            try:
                self._push()
            except Conflict as error:
                self._broken = error
            except UserError as error:
                self._say(f"warning: not copied to {self._store.url}, the next copy catches up: {error}")
            except Exception as error:  # a bug: raised in the caller's thread
                self._broken = error

    def _join(self) -> None:
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _raise_broken(self) -> None:
        if self._broken is not None:
            raise self._broken


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m accdistill_jax.storage.mirror") -> int:
    """Runs the command line; `prog` is the command's name in messages. Returns the exit status."""
    parser = CommandParser(
        prog=prog,
        description="Reads a work directory that lies in an object store.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    pull = commands.add_parser("pull", help="fetch the files of the last complete copy as a plain tree")
    pull.add_argument("address", help="as given to --workdir: gs://..., s3://...")
    pull.add_argument("folder", type=path_argument, help="folder to make")
    ls = commands.add_parser("ls", help="list the files of the last complete copy: bytes and name")
    ls.add_argument("address", help="as given to --workdir: gs://..., s3://...")

    def work() -> None:
        arguments = parser.parse_args(argv)
        if arguments.command == "pull":
            print(f"{fetch_tree(arguments.address, arguments.folder)} files in {arguments.folder}")
        else:
            for name, content in sorted(open_copy(arguments.address)[1].files.items()):
                print(f"{content.size:>12} {one_line(name)}")

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
