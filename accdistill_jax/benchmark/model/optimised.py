"""The text of a program that a TPU's compiler optimised: its operations, their estimated cycles, and the source lines behind them.

Cycles are the compiler's own estimate for each operation that it fused (`estimated_cycles`); it gives none for collectives,
for copies that run beside others, and for a few scalars. The text is that of `compiled.as_text()` of jax 0.10 or later.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(
    r"^\s+(?P<root>ROOT )?%(?P<name>[\w.\-]+) = (?P<result>\(.*?\)|\S+) (?P<opcode>[\w\-]+)\((?P<operands>[^)]*)"
)
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CALLED = re.compile(r"\b(?:calls|body|to_apply)=%([\w.\-]+)|branch_computations=\{([^}]*)\}")
_CONDITION = re.compile(r"\bcondition=%([\w.\-]+)")
_LIMIT = re.compile(r" = s32\[\]\S* constant\((\d+)\)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_SCOPE = re.compile(r'op_name="([^"]*)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_EXACT = re.compile(r"operand_precision=\{[^}]*high")
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_TRANSFERS = ("infeed", "outfeed", "send", "recv")
_HOST_MEMORY = re.compile(r"S\(5\)")
MATRIX = ("convolution", "dot")
MOVING = ("copy", "transpose")
PACKAGE = "accdistill_jax/"


class Instruction(NamedTuple):
    """A line of the program: its name, result's type with layout, opcode, operands' names, and the rest of the line."""

    name: str
    result: str
    opcode: str
    operands: tuple[str, ...]
    line: str
    root: bool

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate for one time, None where it gives none."""
        found = _CYCLES.search(self.line)
        return int(found[1]) if found else None


class Operation(NamedTuple):
    """An operation that runs as one piece, and is estimated as such.

    Attributes:
        name, opcode, result: as in the program.
        cycles: estimated, of all times that it runs.
        source: "models/attention.py:117" of this package where known, else the module's path in the model, else "".
        moves: whether it is a copy into another layout, or a fusion that the compiler named after one.
    """

    name: str
    opcode: str
    result: str
    cycles: int
    source: str
    moves: bool


class MatrixProduct(NamedTuple):
    """A matrix product or convolution.

    Attributes:
        sides: dtypes of its two sides. The compiler widens bfloat16 where it does arithmetic in the same fusion; the matrix unit
            gets bfloat16 all the same unless `exact`.
        exact: whether float32 is kept, for which a TPU multiplies several times.
        source: as of an `Operation`.
    """

    sides: tuple[str, ...]
    exact: bool
    source: str


class Parsed(NamedTuple):
    """Result of reading a program's text.

    Attributes:
        operations: those with an estimate.
        unestimated: how many instructions of the main program have none, by opcode; only what does work.
        products: each matrix product.
        transfers: instructions that move data between host and device.
        unknown_loops: loops whose number of turns the text does not tell; they are counted once.
    """

    operations: list[Operation]
    unestimated: dict[str, int]
    products: list[MatrixProduct]
    transfers: list[str]
    unknown_loops: int

    @property
    def cycles(self) -> int:
        """Of all operations, one after another."""
        return sum(one.cycles for one in self.operations)

    @property
    def moving(self) -> int:
        """Of those that are copies into another layout."""
        return sum(one.cycles for one in self.operations if one.moves)


# no work of their own, or work that runs beside others
_FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "iota",
    "copy-start",
    "copy-done",
    "slice-start",
    "slice-done",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
)


def parse(text: str) -> Parsed:
    """Reads an optimised program.

    Raises:
        ValueError: it has no main computation.
    """
    computations, entry = _computations(text)
    if entry is None:
        raise ValueError("this text has no main computation (ENTRY): it is no optimised program")
    sources = Sources(text)
    operations, unestimated, loops = [], {}, []

    def walk(name: str, times: int) -> None:
        for one in computations[name]:
            if one.opcode in ("while", "conditional", "call"):
                turns = _turns(one, computations) if one.opcode == "while" else 1
                if turns is None:
                    loops.append(one.name)
                for called in _called(one.line):
                    walk(called, times * (turns or 1))
                continue
            cycles = one.cycles
            if cycles is not None:
                inner = [each for called in _called(one.line) for each in computations.get(called, ())]
                source = sources.of(one, inner)
                moves = one.opcode in MOVING or (one.opcode == "fusion" and one.name.startswith(MOVING))
                operations.append(Operation(one.name, one.opcode, one.result, times * cycles, source, moves))
            elif one.opcode not in _FREE:
                unestimated[one.opcode] = unestimated.get(one.opcode, 0) + times

    walk(entry, 1)
    products = []
    for lines in computations.values():
        types = {one.name: one.result for one in lines}
        for one in lines:
            if one.opcode in MATRIX:
                sides = tuple(types.get(name, "?").split("[")[0] for name in one.operands)
                products.append(MatrixProduct(sides, bool(_EXACT.search(one.line)), sources.of(one, ())))
    every = [one for lines in computations.values() for one in lines]
    transfers = [one.name for one in every if one.opcode.startswith(_TRANSFERS) or _HOST_MEMORY.search(one.result)]
    return Parsed(operations, unestimated, products, transfers, len(loops))


def by_source(operations: list[Operation]) -> dict[str, list[Operation]]:
    """Operations by source line, the dearest line first, and within each the dearest operation first."""
    groups: dict[str, list[Operation]] = {}
    for one in sorted(operations, key=lambda one: -one.cycles):
        groups.setdefault(one.source, []).append(one)
    return dict(sorted(groups.items(), key=lambda item: -sum(one.cycles for one in item[1])))


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str | None]:
    found: dict[str, list[Instruction]] = {}
    entry = current = None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = found.setdefault(header["name"], [])
            entry = header["name"] if header["entry"] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (match := _INSTRUCTION.match(line)):
            operands = tuple(re.findall(r"%([\w.\-]+)", match["operands"]))
            current.append(
                Instruction(match["name"], match["result"], match["opcode"], operands, line, bool(match["root"]))
            )
    return found, entry


def _turns(loop: Instruction, computations: Mapping[str, list[Instruction]]) -> int | None:
    """Number of a loop's iterations: as its line says, else the number that its counter is compared with, which JAX's scans start at 0."""
    if told := _TRIPS.search(loop.line):
        return int(told[1])
    named = _CONDITION.search(loop.line)
    lines = computations.get(named[1], []) if named else []
    ends = {one.name: int(found[1]) for one in lines if (found := _LIMIT.search(one.line))}
    root = next((one for one in lines if one.root and one.opcode == "compare" and "direction=LT" in one.line), None)
    return next((ends[name] for name in root.operands if name in ends), None) if root else None


def _called(line: str) -> list[str]:
    names = []
    for single, several in _CALLED.findall(line):
        names += [single] if single else [name.strip().lstrip("%") for name in several.split(",")]
    return names


class Sources:
    """The tables at the head of a program's text, from which a line of source is found."""

    def __init__(self, text: str):
        tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
        current = None
        for line in text.splitlines():
            if line in _TABLES:
                current = tables[line]
            elif not line.strip():
                current = None
            elif current is not None and (match := re.match(r"(\d+) (.*)", line)):
                current[int(match[1])] = match[2]
        self._files = {key: value.strip('"') for key, value in tables["FileNames"].items()}
        self._locations = {key: _numbers(value) for key, value in tables["FileLocations"].items()}
        self._frames = {key: _numbers(value) for key, value in tables["StackFrames"].items()}

    def frame(self, number: int) -> str:
        """The innermost place of this package that a frame was called from, "" where there is none."""
        while number in self._frames:
            place = self._locations.get(self._frames[number].get("file_location_id", 0), {})
            name = self._files.get(place.get("file_name_id", 0), "")
            if PACKAGE in name:
                return f"{name.rsplit(PACKAGE, 1)[1]}:{place['line']}"
            number = (
                self._frames[number].get("parent_frame_id", 0) - 1
            )  # the table counts parents from 1, and 1 is none
        return ""

    def of(self, one: Instruction, inner: list[Instruction] | tuple) -> str:
        """Where an operation comes from: its own frame, else that of a matrix product in it, of its root, of anything in it."""
        ordered = sorted(inner, key=lambda each: (each.opcode not in MATRIX, not each.root))
        for each in (one, *ordered):
            frame = _FRAME.search(each.line)
            if frame and (place := self.frame(int(frame[1]))):
                return place
        scope = next((match[1] for each in (one, *ordered) if (match := _SCOPE.search(each.line))), "")
        return "/".join(scope.split("/")[-3:])


def _numbers(text: str) -> Mapping[str, int]:
    return dict(_pairs(text))


def _pairs(text: str) -> Iterator[tuple[str, int]]:
    for key, value in re.findall(r"(\w+)=(\d+)", text):
        yield key, int(value)
