"""Readers of recordings: each device or dataset is one module here with one public function `find`.

`find(tree, **options) -> list[RecordingSource]` looks for recordings among the files of a `Tree`, claims those that belong to one
and notes what it leaves out; the first line of the module's docstring is its help on the command line, and the keyword arguments
of `find` are its options. A new device needs such a file and nothing else. `CAN_CRASH = False` says that no compiled parser, which
a damaged file can crash, reads the files: such recordings may be loaded in the main process.
"""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from accdistill_jax.data.recording import RecordingSource
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

_MOST_NAMED = 5


class Found(list[RecordingSource]):
    """Recordings, sorted by id.

    Attributes:
        not_read: files and folders that are not read although they may have been meant to, and why.
    """

    def __init__(self, sources: Iterable[RecordingSource] = (), *, not_read: Mapping[str, str] | None = None):
        super().__init__(sorted(sources, key=lambda source: source.recording_id))
        self.not_read = dict(not_read or {})


def names() -> list[str]:
    """Names of all readers, sorted; a module whose name begins with "_" is a helper."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def reader(name: str) -> ModuleType:
    """The module of a reader.

    Raises:
        UserError: no reader of that name; names the nearest.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names())}"
        raise UserError(f"no reader of recordings is called {name!r}; {hint}")
    return importlib.import_module(f"{__name__}.{name}")


def summary(name: str) -> str:
    """First line of a reader's docstring: its help on the command line."""
    return (reader(name).__doc__ or name).strip().splitlines()[0]


def can_crash(name: str) -> bool:
    """True if loading a damaged recording may end the process."""
    return getattr(reader(name), "CAN_CRASH", True)


def options(name: str) -> dict[str, inspect.Parameter]:
    """The options of a reader: the keyword arguments of its `find`, with their defaults and annotations."""
    parameters = list(inspect.signature(reader(name).find).parameters.values())[1:]
    return {parameter.name: parameter for parameter in parameters}


def find(name: str, root: str | Path, **chosen: object) -> Found:
    """Finds the recordings of reader `name` under `root`; nothing is loaded yet.

    Raises:
        UserError: an unknown reader or option, a root that does not exist or holds no recording.
    """
    known = options(name)
    for key in chosen:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
            raise UserError(f"reader {name!r} has no option {key!r}; {hint}")
    tree = Tree(root)
    sources = reader(name).find(tree, **chosen)
    tree.leave_out_the_rest()
    found = Found(sources, not_read=tree.not_read)
    if not found:
        left_out = "".join(
            f"; not read: {path} ({reason})" for path, reason in list(tree.not_read.items())[:_MOST_NAMED]
        )
        raise UserError(
            f"{root}: no recording of kind {name!r} found ({summary(name)}); there are {tree.endings()}{left_out}"
            f"{' ...' if len(tree.not_read) > _MOST_NAMED else ''}"
        )
    seen: set[str] = set()
    for source in found:
        if source.recording_id in seen:
            raise UserError(f"{root}: two recordings are called {source.recording_id!r}; rename one of them")
        seen.add(source.recording_id)
    return found
