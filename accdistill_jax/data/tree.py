"""The files below a root folder, with links followed, and a reason for every file that is not read."""

import copy
import hashlib
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from accdistill_jax.errors import UserError
from accdistill_jax.text import readable

_TRASH = (
    "$recycle.bin",
    "recycler",
    "recycled",
    "lost+found",
    "system volume information",
    "found.000",
    "#recycle",
    "@eadir",
)
_OF_DESKTOPS = (
    ".ds_store",
    "thumbs.db",
    "desktop.ini",
    ".localized",
    ".directory",
    ".gitignore",
    ".gitattributes",
    ".gitkeep",
)
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_LONGEST_PATH = 4096
_SPECIAL = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class Tree:
    """Files below a root. Each folder is read once, links are followed, hidden folders and trash are left out.

    Args:
        root: folder, or a single file.

    Attributes:
        root: the absolute path of the root, with links resolved.
        files: regular files, sorted by path; a linked file keeps the path of the link, below `root`.
        not_read: path from `root` -> reason, for each file and folder that was left out. Stores keep the reasons: other words
            would change the fingerprints of stores.

    Raises:
        UserError: `root` does not exist or cannot be read.
    """

    def __init__(self, root: str | os.PathLike):
        try:
            self.root = Path(root).resolve(strict=True)
            is_folder = stat.S_ISDIR(self.root.stat().st_mode)
            if is_folder:
                os.scandir(self.root).close()
        except FileNotFoundError:
            raise UserError(f"{root}: no such file or folder") from None
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
            raise UserError(f"{root}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
        self.files: list[Path] = []
        self.not_read: dict[str, str] = {}
        self._claimed: set[str] = set()
        self._expected: dict[str, str] = {}
        if is_folder:
            self._walk()
        else:
            self.files.append(regular_file(self.root))
        self.files.sort()

    def unclaimed(self) -> "Tree":
        """A copy of which nothing is claimed, for another reader; the folders are not read again."""
        tree = copy.copy(self)
        tree.not_read, tree._claimed, tree._expected = dict(self.not_read), set(), {}
        return tree

    @property
    def claimed(self) -> frozenset[str]:
        """Paths of the claimed files."""
        return frozenset(self._claimed)

    def folders(self) -> dict[Path, list[Path]]:
        """The files of each folder; folders and files are sorted."""
        by_folder: dict[Path, list[Path]] = {}
        for file in self.files:
            by_folder.setdefault(file.parent, []).append(file)
        return dict(sorted(by_folder.items()))

    def leave_out(self, path: Path | str, reason: str) -> None:
        """Records that a path (on disk, or of a member of a zip) is not read."""
        name = os.path.relpath(path, self.root) if self.root.is_dir() else os.path.basename(path)
        self.not_read.setdefault(readable(name), reason)

    def claim(self, *paths: Path) -> None:
        """Records that the reader reads these files, or that it reports their fate by itself."""
        self._claimed.update(os.path.normpath(path) for path in paths)

    def expect(self, *endings: str, reason: str) -> None:
        """Sets the reason that `leave_out_the_rest` gives for unclaimed files with these endings."""
        self._expected.update(dict.fromkeys(endings, reason))

    def leave_out_the_rest(self) -> None:
        """Records as not read: folders without a claimed file at any depth; elsewhere, unclaimed data files and archives."""
        used_folders = {self.root}
        for file in self._claimed:
            used_folders.update(Path(file).parents)
        unused: dict[Path, Counter] = {}
        for file in self.files:
            unused_folder = next(
                (
                    folder
                    for folder in reversed(file.parents)
                    if folder.is_relative_to(self.root) and folder not in used_folders
                ),
                None,
            )
            kind = ending(file.name)
            if unused_folder is not None:
                unused.setdefault(unused_folder, Counter())[kind] += 1
            elif str(file) not in self._claimed and kind in self._expected:
                self.leave_out(file, self._expected[kind])
            elif str(file) not in self._claimed and kind in _ARCHIVES:
                self.leave_out(file, "an archive that is not looked into; unpack it")
            elif not kind and _stands_for_link(file):
                self.leave_out(
                    file, "a text file with another path in it: what a link becomes where links cannot be stored"
                )
        for folder, endings in unused.items():
            self.leave_out(folder, f"holds no recording of this kind ({endings_text(endings)})")

    def endings(self) -> str:
        """The number of files with each ending, as text for messages."""
        return endings_text(Counter(ending(file.name) for file in self.files))

    def _walk(self) -> None:
        seen: dict[tuple[int, int], Path] = {}
        folders, links = [self.root], []
        while folders or links:
            if not folders:  # links come last: a folder that is also linked to is read at its real place
                links.sort(reverse=True)
                folders.append(links.pop())
            folder = folders.pop()
            try:
                status = folder.stat()
                first = seen.setdefault((status.st_dev, status.st_ino), folder)
                if first is not folder:
                    self.leave_out(folder, f"the same folder as {os.path.relpath(first, self.root)}, which is read")
                    continue
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                self.leave_out(folder, f"the folder cannot be read ({error.strerror})")
                continue
            before = len(self.files) + len(folders) + len(links) + len(self.not_read)
            for entry in entries:
                self._take(Path(entry.path), folders, links)
            if before == len(self.files) + len(folders) + len(links) + len(self.not_read):
                self.leave_out(folder, "an empty folder")

    def _take(self, path: Path, folders: list[Path], links: list[Path]) -> None:
        if path.name.lower() in _OF_DESKTOPS:
            return
        try:
            is_link = path.is_symlink()
            mode = path.stat().st_mode
        except OSError as error:
            self.leave_out(path, _broken(path, error))
            return
        reason = reason_to_leave_out(path.name, is_folder=stat.S_ISDIR(mode))
        if reason:
            self.leave_out(path, reason)
        elif not stat.S_ISDIR(mode):
            special = _SPECIAL.get(stat.S_IFMT(mode))
            if special:
                self.leave_out(path, f"{special}, not a file")
            else:
                self.files.append(path)
        elif not is_link:
            folders.append(path)
        elif Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(path)):
            self.leave_out(path, "a link to a folder around it")
        else:
            links.append(path)


def reason_to_leave_out(name: str, *, is_folder: bool) -> str | None:
    """The reason why a file or folder with this name, on disk or in a zip, is never read; None if it may be a recording."""
    if name.lower() in _TRASH or name.lower().startswith(".trash"):
        return "deleted files or a system's own folder"
    if name == "__MACOSX" or name.startswith("._"):
        return "what macOS keeps beside the files themselves"
    if name.startswith("."):
        return f"a hidden {'folder' if is_folder else 'file'}; rename it to have it read"
    if "\\" in name:
        return "its name holds a path with backslashes; unpack its archive again, or rename it"
    return None


def regular_file(path: Path) -> Path:
    """Checks that a path is a regular file, so that reading it neither blocks nor runs forever; returns the path.

    Raises:
        UserError: the path is a folder, a named pipe, a socket or a device, or does not exist.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: is a folder, not a file")
    special = _SPECIAL.get(stat.S_IFMT(mode))
    if special:
        raise UserError(f"{path}: is {special}, not a file")
    return path


def same_name(wanted: str, names: Iterable[str]) -> str | None:
    """Finds `wanted` among `names`, else the name that differs from it only in case or in the encoding of accents.

    Raises:
        UserError: several names differ in this way, and none equals `wanted`.
    """
    names = list(names)
    if wanted in names:
        return wanted
    alike = [name for name in names if readable(name).casefold() == readable(wanted).casefold()]
    if len(alike) > 1:
        raise UserError(f"{wanted} matches {', '.join(sorted(alike))}; keep only one of them")
    return alike[0] if alike else None


def sibling(path: Path) -> Path:
    """The path; if it does not exist, the file beside it whose name differs only in case or in the encoding of accents."""
    if os.path.lexists(path) or not path.parent.is_dir():
        return path
    return path.with_name(same_name(path.name, os.listdir(path.parent)) or path.name)


def recording_ids(places: Iterable[Iterable[str]]) -> list[str]:
    """Makes an id for each recording from the names of the folders around it, outermost first.

    Letters and digits of any script, ".", "_" and "-" stay; other characters become "-"; names are joined by "__". Recordings
    with equal ids get a hash of their names appended.
    """
    places = [tuple(place) for place in places]
    ids = [_fit("__".join(map(readable, place))) for place in places]
    counts = Counter(ids)
    return [
        name if counts[name] == 1 else f"{name}-{hashlib.sha256(repr(place).encode()).hexdigest()[:8]}"
        for name, place in zip(ids, places, strict=True)
    ]


def ending(name: str) -> str:
    """The ending of a file's name in lower case; "" if it has none."""
    return os.path.splitext(name)[1].lower()


def endings_text(endings: Mapping[str, int]) -> str:
    """Text with the number of files for each ending, the most frequent first: "12 .csv, 1 without ending"."""
    by_count = sorted(endings.items(), key=lambda item: (-item[1], not item[0], item[0]))
    shown = [f"{count} {readable(name) or 'without ending'}" for name, count in by_count[:6]]
    if len(by_count) > 6:
        shown.append(f"{sum(count for _, count in by_count[6:])} others")
    return ", ".join(shown) or "no file"


def _fit(name: str) -> str:
    return "".join(c if c in "._-" or unicodedata.category(c)[0] in "LMN" else "-" for c in name)


def _stands_for_link(file: Path) -> bool:
    """True if a file contains only an existing path: git, zip and copying turn links into such files on some systems."""
    try:
        with file.open("rb") as content:
            target = os.fsdecode(content.read(_LONGEST_PATH + 1)).removesuffix("\n")
        return 0 < len(target) <= _LONGEST_PATH and "\n" not in target and (file.parent / target).exists()
    except (OSError, ValueError):
        return False


def _broken(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return f"a link to {readable(os.readlink(path))}, which does not exist"
    return f"cannot be read ({error.strerror})"
