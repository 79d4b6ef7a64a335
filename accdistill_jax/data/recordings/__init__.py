"""Readers of recordings: each device or dataset is one module of this package. To add a device, add such a module.

A reader module holds:

- a docstring: its first line is the help of the sub-command, and the whole text is the sub-command's description;
- `find(tree, *, option=default, ...) -> list[RecordingSource]`: finds the recordings among the files of a `Tree`, claims the files
  that it reads, and notes what it leaves out. Each keyword argument becomes a flag of the command line: its name, annotation
  and default, with the help from the "Args:" section of the docstring;
- optionally `CAN_CRASH = False`: no compiled parser reads the files, so a damaged file cannot crash the process, and recordings
  may be loaded in the main process.

Packages in this folder hold helpers of readers: `tables` reads descriptions, CSV and Parquet files.
"""

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from accdistill_jax.data.recording import RecordingSource
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

_MOST_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader module, checked.

    Attributes:
        name: name of the module, of the sub-command, and of `Recording.source`.
        description: docstring of the module.
        find: the module's function `find`.
        can_crash: True if loading a damaged recording may end the process.
    """

    name: str
    description: str
    find: Callable[..., list[RecordingSource]]
    can_crash: bool = True

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
    """

    def __init__(
        self,
        sources: Iterable[RecordingSource] = (),
        *,
        reader: str,
        options: Mapping[str, object] = MappingProxyType({}),
        not_read: Mapping[str, str] = MappingProxyType({}),
        can_crash: bool = False,
    ):
        super().__init__(sorted(sources, key=lambda source: source.recording_id))
        self.reader = reader
        self.options = dict(options)
        self.not_read = dict(not_read)
        self.can_crash = can_crash


def names() -> list[str]:
    """Names of all readers, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def reader(name: str) -> Reader:
    """The reader with this name.

    Raises:
        UserError: there is no such reader (the message suggests the closest name), or its module lacks a docstring or `find`.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names())}"
        raise UserError(f"no reader of recordings is called {name!r}; {hint}")
    module = importlib.import_module(f"{__name__}.{name}")
    find_function = getattr(module, "find", None)
    if not (module.__doc__ or "").strip() or not callable(find_function):
        raise UserError(f"{module.__file__}: a reader needs a docstring and a function find(tree, *, options)")
    return Reader(name, module.__doc__ or "", find_function, can_crash=getattr(module, "CAN_CRASH", True))


def find(name: str, root: str | Path, **options: object) -> Found:
    """Finds the recordings of reader `name` below `root`, without loading them.

    Raises:
        UserError: an unknown reader or option, or a root that does not exist or holds no recording.
    """
    chosen_reader = reader(name)
    known = chosen_reader.options
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
            raise UserError(f"reader {name!r} has no option {key!r}; {hint}")
    tree = Tree(root)
    sources = chosen_reader.find(tree, **options)
    tree.leave_out_the_rest()
    recordings = Found(sources, reader=name, options=options, not_read=tree.not_read, can_crash=chosen_reader.can_crash)
    if not recordings:
        left_out = "".join(
            f"; not read: {path} ({reason})" for path, reason in list(tree.not_read.items())[:_MOST_NAMED]
        )
        raise UserError(
            f"{root}: no recording of kind {name!r} found ({chosen_reader.summary}); the folder holds {tree.endings()}{left_out}"
            f"{' ...' if len(tree.not_read) > _MOST_NAMED else ''}"
        )
    seen: set[str] = set()
    for source in recordings:
        if source.recording_id in seen:
            raise UserError(f"{root}: two recordings are called {source.recording_id!r}; rename one of them")
        seen.add(source.recording_id)
    return recordings
