"""Readers of recordings from outside the package: installed plug-ins, and Python files that a user names."""

import functools
import importlib
import importlib.util
import logging
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType

from accdistill_jax.errors import UserError

_log = logging.getLogger(__name__)
GROUP = "accdistill_jax.recordings"
RESERVED = ("append", "auto", "clocks", "measure", "merge", "respiration", "show", "synthetic", "verify")
"""Commands beside the readers."""


@functools.cache
def plug_ins() -> dict[str, tuple[metadata.EntryPoint, ...]]:
    """Name -> the installed entry points of that name; more than one is a clash."""
    found: dict[str, dict[str, metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=GROUP):
        if point.name in RESERVED:
            _log.warning(
                "the plug-in %s is not used: %r is a command; uninstall or rename it", _place(point), point.name
            )
        else:
            found.setdefault(point.name, {})[point.value] = point  # a package that is installed twice counts once
    return {name: tuple(points.values()) for name, points in found.items()}


def plug_in_module(name: str, *, taken: bool) -> ModuleType:
    """Imports the module of an installed plug-in.

    Args:
        name: name of the entry point.
        taken: True if a reader of the package has this name.

    Raises:
        UserError: the name clashes, or the module cannot be imported.
    """
    points = plug_ins()[name]
    places = list(map(_place, points))
    if taken or len(points) > 1:
        both = " and ".join([*(["accdistill_jax's own"] if taken else []), *places])
        raise UserError(f"several readers are called {name!r}: {both}; uninstall or rename one of them")
    return _imported(f"the plug-in {places[0]}", lambda: importlib.import_module(points[0].module))


def file_module(path: Path, *, taken: Callable[[str], bool]) -> ModuleType:
    """Imports a user's Python file as a module of the file's name, so that worker processes can import it too.

    Args:
        path: the file.
        taken: says if another reader has a name.

    Raises:
        UserError: there is no such file, its name is taken or cannot be imported, or its import fails.
    """
    path = path.resolve()
    name = path.stem
    if path.suffix != ".py" or not path.is_file():
        raise UserError(
            f"{path}: no such Python file; --reader takes the name of a reader, or a file such as my_reader.py"
        )
    if not name.isidentifier() or name in RESERVED or taken(name):
        raise UserError(f"{path}: a reader cannot be called {name!r}; rename the file, to letters, digits and '_'")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module without a file, such as __main__
        spec = None
    origin = spec.origin if spec is not None else None
    if origin is None or Path(origin).resolve() != path:
        raise UserError(f"{path}: Python has another module {name!r} ({origin or 'built in'}); rename the file")
    return _imported(str(path), lambda: importlib.import_module(name))


def _place(point: metadata.EntryPoint) -> str:
    return f"{point.value} of {point.dist.name if point.dist else 'a package'}"


def _imported(place: str, action: Callable[[], ModuleType]) -> ModuleType:
    try:
        return action()
    except (Exception, SystemExit) as error:
        raise UserError(f"{place}: cannot be imported: {failure(error)}") from error


def failure(error: BaseException) -> str:
    """An unforeseen error in words, with the line of code that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    line = f"{Path(place.filename).name} line {place.lineno}"
    if isinstance(error, SyntaxError) and error.filename:
        line = f"{Path(error.filename).name} line {error.lineno}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}, {line}"
