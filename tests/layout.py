"""The package's import graph: `python -m tests.layout` prints its rooms, its arrows, what breaks the order of imports and long files.

A room is a folder of the package, or a file in its root. An arrow is an import from one room to another, those inside
functions among them.
"""

import ast
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "accdistill_jax"

# Lowest first; a room imports its own rank and lower ones.
ORDER = (
    ("errors", "files", "text", "user_paths", "labels"),
    ("config",),
    ("runtime",),
    ("storage", "inputs", "models"),
    ("objectives", "encoder"),
    ("data",),
    ("training",),
    ("evaluation",),
    ("stages",),
    ("api",),
    ("run", "main", "cli"),
    ("benchmark",),
    ("reproduce",),
)
RANKS = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
MOST_ROOT_MODULES = 10
MOST_LINES = 400  # of a Python file, tests too


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Dotted name -> file of every module of the package; packages by their own name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Module -> the package's modules that it imports, at its top or inside functions."""
    files = modules(package)
    return {name: set(_imported(path, files, name)) - {name} for name, path in files.items()}


def _imported(path: Path, files: Mapping[str, Path], importer: str) -> Iterator[str]:
    root = importer.partition(".")[0]
    tree = ast.parse(path.read_text())
    skipped = set(_imports_for_types(tree)) if importer == root else set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            raise ValueError(f"{path}: a relative import; write it whole")
        else:
            continue
        for name in names:
            if name.partition(".")[0] == root:
                while name not in files:
                    name = name.rpartition(".")[0]
                yield name


def _imports_for_types(tree: ast.Module) -> Iterator[ast.AST]:
    """What is below `if TYPE_CHECKING:`: the package's root names its public parts to type checkers and imports them lazily."""
    for statement in tree.body:
        if (
            isinstance(statement, ast.If)
            and isinstance(statement.test, ast.Name)
            and statement.test.id == "TYPE_CHECKING"
        ):
            for inner in statement.body:
                yield from ast.walk(inner)


def room(module: str) -> str:
    """The room of a module: "accdistill_jax.data.store.units" -> "data"."""
    return module.split(".")[1] if "." in module else ""


def arrows(graph: Mapping[str, Iterable[str]]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """(room, imported room) -> the imports that make it; the package's own name, which only hands names on, is none."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for importer, imported in sorted(graph.items()):
        for other in sorted(imported):
            if room(importer) and room(other) and room(importer) != room(other):
                found.setdefault((room(importer), room(other)), []).append((importer, other))
    return found


def upward(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Imports from a lower room to a higher one, in words."""
    return [
        f"{importer} imports {other}"
        for (low, high), pairs in arrows(graph).items()
        if RANKS[low] < RANKS[high]
        for importer, other in pairs
    ]


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of nodes that import each other in a loop (strongly connected components of two or more nodes)."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, waiting = set(), [start]
        while waiting:
            for other in graph.get(waiting.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        reach[start] = seen
    tied = {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in graph}
    return sorted(sorted(group) for group in tied if len(group) > 1)


def rooms_graph(graph: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """The same graph between rooms."""
    found: dict[str, set[str]] = {room(module): set() for module in graph if room(module)}
    for low, high in arrows(graph):
        found[low].add(high)
    return found


def root_modules(package: Path = PACKAGE) -> list[str]:
    """Files in the package's root."""
    return sorted(path.name for path in package.glob("*.py"))


def long_files(*folders: Path) -> list[str]:
    """Python files below the folders that have more than `MOST_LINES` lines, as "path: lines", the longest first."""
    lines = {path: len(path.read_text().splitlines()) for folder in folders for path in folder.rglob("*.py")}
    return [
        f"{path}: {lines[path]}"
        for path in sorted(lines, key=lambda path: (-lines[path], path))
        if lines[path] > MOST_LINES
    ]


def main() -> None:
    """Prints the graph."""
    graph = imports()
    rooms = rooms_graph(graph)
    for rank in ORDER:
        for name in rank:
            if name in rooms:
                print(
                    f"{name:<11} -> {', '.join(sorted(rooms[name], key=lambda other: (RANKS[other], other))) or 'nothing'}"
                )
    print(f"\n{len(graph)} modules, {len(rooms)} rooms, {sum(map(len, rooms.values()))} arrows between rooms")
    print(f"modules in the root: {len(root_modules())} ({', '.join(root_modules())})")
    too_long = long_files(PACKAGE, TESTS)
    print(
        f"files of more than {MOST_LINES} lines: "
        + ("none" if not too_long else "".join(f"\n  {line}" for line in too_long))
    )
    bad = [*upward(graph), *(" <-> ".join(group) for group in itertools.chain(circles(graph), circles(rooms)))]
    print("imports upwards and circles: " + ("none" if not bad else "".join(f"\n  {line}" for line in bad)))


if __name__ == "__main__":
    main()
