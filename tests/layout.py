"""Structure of the package and the tests: import graph, names, sizes. `python -m tests.layout` prints it with all counts.

A room is a folder of the package, or a file in its root. An arrow is an import from one room to another, inside functions
too.
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
    ("objectives", "encoder", "readouts"),
    ("data",),
    ("training",),
    ("evaluation",),
    ("stages",),
    ("export",),
    ("api",),
    ("run", "main", "cli"),
    ("shipped",),
    ("benchmark",),
    ("reproduce",),
    ("tutorial",),
)
RANKS = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
MOST_ROOT_MODULES = 10
MOST_LINES = 400  # of a Python file, tests too
MOST_PARAMETERS = 6
NAMED_TUPLE_METHODS = ("_asdict", "_fields", "_make", "_replace")  # public, despite the underscore
RELATIVE_WORDS = ("What", "How", "Whether", "That", "Which")
# Folders of tests without a folder of the package beside them.
EXTRA_TEST_FOLDERS = {
    "bad_inputs": "every input file in every damaged form",
    "launch": "scripts of the folder launch/",
    "multiprocess": "runs of several processes",
}
# Public functions that several modules define because a caller picks the module: name -> prefixes of those modules.
PROTOCOLS = {
    "main": ("accdistill_jax.",),  # entry points of commands
    "add_arguments": ("accdistill_jax.benchmark.commands.",),
    "measure": ("accdistill_jax.benchmark.commands.",),
    "report": ("accdistill_jax.benchmark.commands.",),
    "prepare_contender": ("accdistill_jax.benchmark.contenders.",),
    "find": ("accdistill_jax.data.recordings",),  # readers of devices
    "load": (
        "accdistill_jax.data.recordings",
        "accdistill_jax.benchmark.made_up.raw_recordings",  # a reader too
        "accdistill_jax.api.loading",  # public as accdistill_jax.load
    ),
    "run_stage": ("accdistill_jax.stages.",),
    "export_path": ("accdistill_jax.stages.",),
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


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
    """Nodes below `if TYPE_CHECKING:`. The package's root declares its public parts to type checkers there; it imports them lazily."""
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
    """(room, imported room) -> the imports that make it; imports of the package's root, which only re-exports names, do not count."""
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
    """The import graph between rooms."""
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


def functions(package: Path = PACKAGE) -> Iterator[tuple[Path, Function]]:
    """All functions and methods of the Python files below a folder, with their files."""
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def many_parameters(package: Path = PACKAGE) -> list[str]:
    """Functions with more than `MOST_PARAMETERS` parameters, `self` and `cls` not counted, as "path:line name: parameters"."""
    found = []
    for path, function in functions(package):
        parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        count = sum(parameter.arg not in ("self", "cls") for parameter in parameters)
        if count > MOST_PARAMETERS:
            found.append(f"{path.relative_to(package.parent)}:{function.lineno} {function.name}: {count}")
    return found


def shared_names(package: Path = PACKAGE) -> dict[str, list[str]]:
    """Names of classes and of public module-level functions that more than one module defines -> those modules."""
    owners: dict[str, list[str]] = {}
    for module, path in modules(package).items():
        for node in ast.walk(tree := ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                owners.setdefault(node.name, []).append(module)
        public = {
            node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        }
        for name in public:  # a set: overloads of a function count once
            owners.setdefault(name, []).append(module)
    return {name: sorted(places) for name, places in sorted(owners.items()) if len(places) > 1}


def unexplained_shared_names(package: Path = PACKAGE) -> list[str]:
    """Shared names outside the protocols of `PROTOCOLS`, as "name: modules"."""
    return [
        f"{name}: {', '.join(places)}"
        for name, places in shared_names(package).items()
        if not all(any(place.startswith(prefix) for prefix in PROTOCOLS.get(name, ())) for place in places)
    ]


def docstring_openings(*folders: Path) -> list[str]:
    """Docstrings whose first word is a relative or question word, as "path:line first words"."""
    found = []
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words = (ast.get_docstring(node) or "").split()
                if words and words[0] in RELATIVE_WORDS:
                    line = getattr(node, "lineno", 1)
                    found.append(f"{path.relative_to(path.parents[0])}:{line} {' '.join(words[:4])}")
    return found


def private_reach(tests: Path = TESTS, package: str = PACKAGE.name) -> list[str]:
    """Uses of a package module's private names in the tests, as "path:line use".

    A use is an import of `_name`, an attribute `_name` of anything imported from the package, and a string that names one:
    "package.module._name", or an argument beside such an imported object ("_name" in `monkeypatch.setattr(module, "_name", ...)`).
    """
    return [
        f"{path.relative_to(tests.parent)}:{line} {use}"
        for path in sorted(tests.rglob("*.py"))
        for line, use in sorted(_private_uses(ast.parse(path.read_text()), package))
    ]


def _private_uses(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.asname or alias.name.partition(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names]
        else:
            continue
        for full_name, local_name in names:
            if full_name.partition(".")[0] == package:
                imported.add(local_name)
                if _has_private_part(full_name):
                    yield node.lineno, f"import of {full_name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and _root_name(node) in imported:
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.startswith(f"{package}.") and _has_private_part(node.value):
                yield node.lineno, repr(node.value)
        elif isinstance(node, ast.Call) and any(_root_name(argument) in imported for argument in node.args):
            for argument in node.args:
                if (
                    isinstance(argument, ast.Constant)
                    and isinstance(argument.value, str)
                    and _is_private(argument.value)
                ):
                    yield node.lineno, ast.unparse(node)


def _is_private(name: str) -> bool:
    return (
        name.isidentifier() and name.startswith("_") and not name.startswith("__") and name not in NAMED_TUPLE_METHODS
    )


def _has_private_part(name: str) -> bool:
    return any(map(_is_private, name.split(".")))


def _root_name(node: ast.AST) -> str | None:
    """Leftmost name of a chain of attributes, calls and subscripts: "a" for `a.b(1)[2].c`."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def unmatched_test_folders(tests: Path = TESTS, package: Path = PACKAGE) -> list[str]:
    """Folders with tests that match neither a folder or module of the package nor one of `EXTRA_TEST_FOLDERS`."""
    folders = {path.parent.relative_to(tests) for path in tests.rglob("*.py")} - {Path()}
    return sorted(
        str(folder)
        for folder in folders
        if folder.parts[0] not in EXTRA_TEST_FOLDERS
        and not any((package / folder).glob("*.py"))
        and not (package / folder).with_suffix(".py").is_file()
    )


def lines_of(folder: Path) -> int:
    """Lines of the Python files below a folder."""
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))


def _print_list(title: str, lines: Iterable[str]) -> None:
    lines = list(lines)
    print(f"{title}: " + ("none" if not lines else str(len(lines)) + "".join(f"\n  {line}" for line in lines)))


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
    print(f"lines of Python: {lines_of(PACKAGE)} in the package, {lines_of(TESTS)} in the tests")
    print(f"modules in the root: {len(root_modules())} ({', '.join(root_modules())})")
    too_long = long_files(PACKAGE, TESTS)
    print(
        f"files of more than {MOST_LINES} lines: "
        + ("none" if not too_long else "".join(f"\n  {line}" for line in too_long))
    )
    _print_list(f"functions of more than {MOST_PARAMETERS} parameters", many_parameters())
    _print_list("docstrings that open with " + ", ".join(RELATIVE_WORDS), docstring_openings(PACKAGE, TESTS))
    _print_list("shared names of classes and public functions", unexplained_shared_names())
    _print_list("uses of the package's private names in tests", private_reach())
    _print_list("test folders without a folder of the package", unmatched_test_folders())
    bad = [*upward(graph), *(" <-> ".join(group) for group in itertools.chain(circles(graph), circles(rooms)))]
    print("imports upwards and circles: " + ("none" if not bad else "".join(f"\n  {line}" for line in bad)))


if __name__ == "__main__":
    main()
