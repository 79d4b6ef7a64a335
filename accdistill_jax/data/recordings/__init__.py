"""Readers of recordings: each device or dataset is one module of this package. To add a device, add such a module.

A reader module holds:

- a docstring: its first line is the help of the sub-command, and the whole text is the sub-command's description;
- `find(tree, *, option=default, ...) -> list[RecordingSource]`: finds the recordings among the files of a `Tree`, claims the files
  that it reads, and notes what it leaves out. Each keyword argument becomes a flag of the command line: its name, annotation
  and default, with the help from the "Args:" section of the docstring;
- optionally `CAN_CRASH = False`: no compiled parser reads the files, so a damaged file cannot crash the process, and recordings
  may be loaded in the main process.

Packages in this folder hold helpers of readers: `tables` reads descriptions, CSV and Parquet files.

A reader may also lie outside the package: a module that an installed package names in the entry point group
`accdistill_jax.recordings`, or a Python file that the user names (`add_file`).
"""

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

from accdistill_jax.data.outside_readers import failure, file_module, plug_in_module, plug_ins
from accdistill_jax.data.recording import RecordingSource
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

if TYPE_CHECKING:  # a reader needs no preprocessing
    from accdistill_jax.data.preprocessing.polarity import Vote

_MOST_NAMED = 5
_FROM_FILES: dict[str, ModuleType] = {}


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader module, checked.

    Attributes:
        name: name of the module, of the sub-command, and of `Recording.source`.
        description: docstring of the module.
        find: the module's function `find`.
        can_crash: True if loading a damaged recording may end the process.
        is_outside: True for a reader that is no part of the package.
    """

    name: str
    description: str
    find: Callable[..., list[RecordingSource]]
    can_crash: bool = True
    is_outside: bool = False

    @property
    def summary(self) -> str:
        """First line of the description: the help on the command line."""
        return self.description.strip().splitlines()[0]

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The keyword arguments of `find`."""
        parameters = inspect.signature(self.find).parameters.values()
        return {parameter.name: parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


class Found(list[RecordingSource]):
    """Recordings found by one reader, sorted by id.

    Attributes:
        reader: name of the reader.
        options: the reader's options.
        not_read: files and folders that were left out, with the reason.
        can_crash: True if loading a damaged recording may end the process.
        claimed: the files that the reader reads.
        is_local: True if the recordings are files of this machine.
        earlier: recording id -> vote on the PPG's polarity, of the finished store that these recordings are added to.
    """

    def __init__(
        self,
        sources: Iterable[RecordingSource] = (),
        *,
        reader: str,
        options: Mapping[str, object] = MappingProxyType({}),
        not_read: Mapping[str, str] = MappingProxyType({}),
        can_crash: bool = False,
        claimed: Iterable[str] = (),
    ):
        super().__init__(sorted(sources, key=lambda source: source.recording_id))
        self.reader = reader
        self.options = dict(options)
        self.not_read = dict(not_read)
        self.can_crash = can_crash
        self.claimed = frozenset(claimed)
        self.is_local = True
        self.earlier: Mapping[str, Vote] = MappingProxyType({})

    def only(self, sources: Iterable[RecordingSource]) -> "Found":
        """Some of the recordings."""
        chosen = Found(
            sources,
            reader=self.reader,
            options=self.options,
            not_read=self.not_read,
            can_crash=self.can_crash,
            claimed=self.claimed,
        )
        chosen.is_local = self.is_local
        chosen.earlier = self.earlier
        return chosen


def names() -> list[str]:
    """Names of all readers, sorted: those of the package, of installed plug-ins, and of files that were added."""
    return sorted({*_own_names(), *plug_ins(), *_FROM_FILES})


def is_outside(name: str) -> bool:
    """True if a reader of this name comes, or also comes, from outside the package."""
    return name in _FROM_FILES or name in plug_ins()


def add_file(path: str | Path) -> str:
    """Adds the reader of a Python file; returns its name, which is the file's.

    Raises:
        UserError: there is no such file, its name is taken, it cannot be imported, or it holds no reader.
    """
    module = file_module(Path(path), taken=lambda name: name in _own_names() or name in plug_ins())
    _FROM_FILES[module.__name__] = module
    try:
        reader(module.__name__)
    except UserError:
        remove_file(module.__name__)
        raise
    return module.__name__


def remove_file(name: str) -> None:
    """Removes the reader that `add_file` added under this name, if there is one."""
    _FROM_FILES.pop(name, None)


def named_or_added(text: str) -> str:
    """The reader that a user names, or adds by a Python file ("my_reader.py").

    Raises:
        UserError: as `reader` and `add_file`.
    """
    return add_file(text) if text.endswith(".py") else reader(text).name


def reader(name: str) -> Reader:
    """The reader with this name.

    Raises:
        UserError: there is no such reader (the message suggests the closest name), its module lacks a docstring or `find`, or it is a
            plug-in that cannot be imported or whose name clashes.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names())}"
        raise UserError(f"no reader of recordings is called {name!r}; {hint}")
    if name in _FROM_FILES:
        module = _FROM_FILES[name]
    elif name in plug_ins():
        module = plug_in_module(name, taken=name in _own_names())
    else:
        module = importlib.import_module(f"{__name__}.{name}")
    find_function = getattr(module, "find", None)
    if not (module.__doc__ or "").strip() or not callable(find_function):
        raise UserError(f"{module.__file__}: a reader needs a docstring and a function find(tree, *, options)")
    can_crash = bool(getattr(module, "CAN_CRASH", True))
    return Reader(name, module.__doc__ or "", find_function, can_crash=can_crash, is_outside=is_outside(name))


def find(name: str, root: str | Path | Tree, **options: object) -> Found:
    """Finds the recordings of reader `name` below `root`, without loading them.

    Args:
        name: of the reader.
        root: folder or file, or its files if they were listed before.
        options: of the reader.

    Raises:
        UserError: an unknown reader or option, a root that does not exist or holds no recording, or a reader from outside that fails.
    """
    recordings, tree = find_any(name, root, **options)
    root = tree.root if isinstance(root, Tree) else root
    if not recordings:
        left_out = "".join(
            f"; not read: {path} ({reason})" for path, reason in list(tree.not_read.items())[:_MOST_NAMED]
        )
        raise UserError(
            f"{root}: no recording of kind {name!r} found ({reader(name).summary}); the folder holds {tree.endings()}{left_out}"
            f"{' ...' if len(tree.not_read) > _MOST_NAMED else ''}"
        )
    seen: set[str] = set()
    for source in recordings:
        if source.recording_id in seen:
            raise UserError(f"{root}: two recordings are called {source.recording_id!r}; rename one of them")
        seen.add(source.recording_id)
    return recordings


def find_any(name: str, root: str | Path | Tree, **options: object) -> tuple[Found, Tree]:
    """As `find`, but there may be no recording, or several of the same id; also returns the searched files.

    Raises:
        UserError: an unknown reader or option, or a root that does not exist.
    """
    chosen_reader = reader(name)
    known = chosen_reader.options
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
            raise UserError(f"reader {name!r} has no option {key!r}; {hint}")
    tree = root.unclaimed() if isinstance(root, Tree) else Tree(root)
    sources = _sources(chosen_reader, tree, options)
    tree.leave_out_the_rest()
    found = Found(
        sources,
        reader=name,
        options=options,
        not_read=tree.not_read,
        can_crash=chosen_reader.can_crash,
        claimed=tree.claimed,
    )
    return found, tree


def _own_names() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg}


def _sources(chosen: Reader, tree: Tree, options: Mapping[str, object]) -> list[RecordingSource]:
    """The result of a reader's `find`; one from outside is not trusted."""
    if not chosen.is_outside:
        return chosen.find(tree, **options)
    try:
        sources = list(chosen.find(tree, **options))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the reader {chosen.name!r} fails to find recordings: {failure(error)}") from error
    odd = next((source for source in sources if not isinstance(source, RecordingSource)), None)
    if odd is not None:
        raise UserError(f"the reader {chosen.name!r}: find must return RecordingSources, got {type(odd).__name__}")
    return sources
