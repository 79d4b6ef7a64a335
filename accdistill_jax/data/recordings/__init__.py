"""Readers of recordings: each device or dataset is one module here with one public function `find`.

`find(root, **options) -> list[RecordingSource]` looks for recordings under `root`; the first line of the module's docstring is
its help on the command line, and the keyword arguments of `find` are its options. A new device needs such a
file and nothing else.
"""

import difflib
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

from accdistill_jax.data.recording import RecordingSource
from accdistill_jax.errors import UserError


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


def options(name: str) -> dict[str, inspect.Parameter]:
    """The options of a reader: the keyword arguments of its `find`, with their defaults and annotations."""
    parameters = list(inspect.signature(reader(name).find).parameters.values())[1:]
    return {parameter.name: parameter for parameter in parameters}


def find(name: str, root: str | Path, **chosen: object) -> list[RecordingSource]:
    """Finds the recordings of reader `name` under `root`, sorted by recording id; nothing is loaded yet.

    Raises:
      UserError: an unknown reader or option, a root that does not exist or holds no recording.
    """
    known = options(name)
    for key in chosen:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
            raise UserError(f"reader {name!r} has no option {key!r}; {hint}")
    root = Path(root)
    if not root.exists():
        raise UserError(f"{root}: no such file or folder")
    sources = sorted(reader(name).find(root, **chosen), key=lambda source: source.recording_id)
    if not sources:
        raise UserError(f"{root}: no recording of kind {name!r} found ({summary(name)})")
    seen: set[str] = set()
    for source in sources:
        if source.recording_id in seen:
            raise UserError(f"{root}: two recordings are called {source.recording_id!r}; rename one of them")
        seen.add(source.recording_id)
    return sources
