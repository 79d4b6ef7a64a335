"""Reads the text of a program that a TPU's compiler optimised: operations, their estimated cycles, and their source lines.

Cycles are the compiler's estimate for each fused operation (`estimated_cycles`). It gives none for collectives, for copies that run
in parallel with other operations, for kernels of this project, and for a few scalars. Kernels are counted elsewhere. The text is that of `compiled.as_text()` of JAX 0.10 or later.
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
_KERNEL = re.compile(r'custom_call_target="tpu_custom_call"')
_HOST_MEMORY = re.compile(r"S\(5\)")
MATRIX = ("convolution", "dot")
MOVING = ("copy", "transpose")
PACKAGE = "accdistill_jax/"


class Instruction(NamedTuple):
    """A line of the program.

    Attributes:
        name: name of the instruction.
        result: type of its result, with the layout.
        opcode: its operation.
        operands: names of its operands.
        line: the whole line.
        root: it is the result of its computation.
    """

    name: str
    result: str
    opcode: str
    operands: tuple[str, ...]
    line: str
    root: bool

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate for a single execution, None without an estimate."""
        match = _CYCLES.search(self.line)
        return int(match[1]) if match else None

    @property
    def kernel(self) -> str:
        """Name and result of a kernel of this project, "forward_attention bf16[32,192,256]"; "" for any other operation."""
        return f"{self.name.split('.')[0]} {self.result.split('{')[0]}" if _KERNEL.search(self.line) else ""


class EstimatedOperation(NamedTuple):
    """A (fused) operation with an estimate.

    Attributes:
        name: name in the program.
        opcode: its operation.
        result: type of its result, with the layout.
        cycles: estimated cycles of all its executions.
        source: source line in this package ("models/attention.py:117"), else its path in the model, else "".
        moves: it is a copy into another layout, or a fusion that the compiler named after such a copy.
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
        sides: dtypes of its two operands. The compiler widens bfloat16 if the same fusion does arithmetic; the matrix unit still
            receives bfloat16 unless `exact`.
        exact: it keeps float32, for which a TPU multiplies several times.
        source: source line or path, as for an operation.
    """

    sides: tuple[str, ...]
    exact: bool
    source: str


class Parsed(NamedTuple):
    """The contents of a program's text.

    Attributes:
        operations: operations with an estimate.
        unestimated: number of instructions of the main program that do work but have no estimate, by opcode.
        products: the matrix products.
        transfers: names of instructions that move data between host and device.
        unknown_loops: number of loops whose number of iterations is not in the text; they count once.
    """

    operations: list[EstimatedOperation]
    unestimated: dict[str, int]
    products: list[MatrixProduct]
    transfers: list[str]
    unknown_loops: int

    @property
    def cycles(self) -> int:
        """Sum of the cycles of all operations."""
        return sum(operation.cycles for operation in self.operations)

    @property
    def moving(self) -> int:
        """Sum of the cycles of copies into another layout."""
        return sum(operation.cycles for operation in self.operations if operation.moves)


# These do no work, or their work runs in parallel with other operations.
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


def parse_program(text: str, kernels: Mapping[str, int] | None = None) -> Parsed:
    """Reads an optimised program.

    Args:
        text: the program.
        kernels: cycles of kernels, by `Instruction.kernel`; others have no estimate.

    Raises:
        ValueError: the text has no main computation.
    """
    computations, entry = _computations(text)
    if entry is None:
        raise ValueError("this text has no main computation (ENTRY), so it is not an optimised program")
    sources = Sources(text)
    operations, unestimated, loops = [], {}, []

    def walk(name: str, times: int) -> None:
        for instruction in computations[name]:
            if instruction.opcode in ("while", "conditional", "call"):
                turns = _turns(instruction, computations) if instruction.opcode == "while" else 1
                if turns is None:
                    loops.append(instruction.name)
                for called in _called(instruction.line):
                    walk(called, times * (turns or 1))
                continue
            cycles = instruction.cycles
            if cycles is None:
                cycles = (kernels or {}).get(instruction.kernel)
            if cycles is not None:
                inner = [each for called in _called(instruction.line) for each in computations.get(called, ())]
                source = sources.of(instruction, inner)
                moves = instruction.opcode in MOVING or (
                    instruction.opcode == "fusion" and instruction.name.startswith(MOVING)
                )
                operations.append(
                    EstimatedOperation(
                        instruction.name, instruction.opcode, instruction.result, times * cycles, source, moves
                    )
                )
            elif instruction.opcode not in _FREE:
                unestimated[instruction.opcode] = unestimated.get(instruction.opcode, 0) + times

    walk(entry, 1)
    products = []
    for lines in computations.values():
        types = {instruction.name: instruction.result for instruction in lines}
        for instruction in lines:
            if instruction.opcode in MATRIX:
                sides = tuple(types.get(name, "?").split("[")[0] for name in instruction.operands)
                products.append(
                    MatrixProduct(sides, bool(_EXACT.search(instruction.line)), sources.of(instruction, ()))
                )
    every = [instruction for lines in computations.values() for instruction in lines]
    transfers = [
        instruction.name
        for instruction in every
        if instruction.opcode.startswith(_TRANSFERS) or _HOST_MEMORY.search(instruction.result)
    ]
    return Parsed(operations, unestimated, products, transfers, len(loops))


def kernels_of(text: str) -> dict[str, int]:
    """Cycles of the kernels in a program, by `Instruction.kernel`, if libtpu counted their code (`scheduled.with_flag`)."""
    computations, _ = _computations(text)
    every = [instruction for lines in computations.values() for instruction in lines]
    return {each.kernel: each.cycles for each in every if each.kernel and each.cycles is not None}


def by_source(operations: list[EstimatedOperation]) -> dict[str, list[EstimatedOperation]]:
    """Operations by source line; the lines, and the operations of each, from the most expensive to the cheapest."""
    groups: dict[str, list[EstimatedOperation]] = {}
    for operation in sorted(operations, key=lambda operation: -operation.cycles):
        groups.setdefault(operation.source, []).append(operation)
    return dict(sorted(groups.items(), key=lambda item: -sum(operation.cycles for operation in item[1])))


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str | None]:
    computations: dict[str, list[Instruction]] = {}
    entry = current = None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = computations.setdefault(header["name"], [])
            entry = header["name"] if header["entry"] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (match := _INSTRUCTION.match(line)):
            operands = tuple(re.findall(r"%([\w.\-]+)", match["operands"]))
            current.append(
                Instruction(match["name"], match["result"], match["opcode"], operands, line, bool(match["root"]))
            )
    return computations, entry


def _turns(loop: Instruction, computations: Mapping[str, list[Instruction]]) -> int | None:
    """Number of a loop's iterations, from its line or from the limit in its condition; None if neither has it.

    The limit is the number of iterations because the counters of JAX's scans start at 0.
    """
    if known := _TRIPS.search(loop.line):
        return int(known[1])
    named = _CONDITION.search(loop.line)
    lines = computations.get(named[1], []) if named else []
    ends = {line.name: int(limit[1]) for line in lines if (limit := _LIMIT.search(line.line))}
    root = next(
        (line for line in lines if line.root and line.opcode == "compare" and "direction=LT" in line.line), None
    )
    return next((ends[name] for name in root.operands if name in ends), None) if root else None


def _called(line: str) -> list[str]:
    names = []
    for single, several in _CALLED.findall(line):
        names += [single] if single else [name.strip().lstrip("%") for name in several.split(",")]
    return names


class Sources:
    """The tables at the head of a program's text, which map operations to source lines."""

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
        """The innermost source line of this package in the stack of a frame, "" if it has none."""
        while number in self._frames:
            place = self._locations.get(self._frames[number].get("file_location_id", 0), {})
            name = self._files.get(place.get("file_name_id", 0), "")
            if PACKAGE in name:
                return f"{name.rsplit(PACKAGE, 1)[1]}:{place['line']}"
            # The table numbers parents from 1, and 1 means none.
            number = self._frames[number].get("parent_frame_id", 0) - 1
        return ""

    def of(self, instruction: Instruction, inner: list[Instruction] | tuple) -> str:
        """The source of an operation: from its frame, else from a matrix product inside it, its root or any other instruction."""
        ordered = sorted(inner, key=lambda each: (each.opcode not in MATRIX, not each.root))
        for each in (instruction, *ordered):
            frame = _FRAME.search(each.line)
            if frame and (place := self.frame(int(frame[1]))):
                return place
        scope = next((match[1] for each in (instruction, *ordered) if (match := _SCOPE.search(each.line))), "")
        return "/".join(scope.split("/")[-3:])


def _numbers(text: str) -> Mapping[str, int]:
    return dict(_pairs(text))


def _pairs(text: str) -> Iterator[tuple[str, int]]:
    for key, value in re.findall(r"(\w+)=(\d+)", text):
        yield key, int(value)
