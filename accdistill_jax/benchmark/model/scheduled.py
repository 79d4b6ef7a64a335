"""Cycles of the machine code that a TPU's compiler schedules for each operation of a program.

libtpu counts them if a flag asks for it: instructions as they are packed for the chip's units, iterations of their loops, and
waiting for matrix units and memory. The estimates in a program's text are made before the code exists; they choose between forms.
The flag is not documented. libtpu ends the process at an operation that it cannot count, such as a gather.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from accdistill_jax.benchmark.model.optimised import EstimatedOperation

VARIABLE = "LIBTPU_INIT_ARGS"  # read once, when libtpu is loaded
_FLAG = "--xla_jf_dump_static_llo_profile_to"
_PROFILE = re.compile(
    r'hlo_op_name: "([^"]*)"\s+estimated_cycles: (?P<cycles>\d+)\s+num_equivalent_hlos: (?P<times>\d+)'
)
_REFUSED = re.compile(r"Static LLO profiling of (.*)")
_BROKEN = re.compile(r"Check failed: .*? in HLO \[([^\]]+)\]", re.DOTALL)


class Scheduled(NamedTuple):
    """An operation's machine code.

    Attributes:
        cycles: cycles of one execution.
        times: number of operations that share this code.
    """

    cycles: int
    times: int


def with_flag(flags: str, folder: str) -> str:
    """The value of `VARIABLE` that writes a profile of each operation into a folder.

    Args:
        flags: the variable's value so far.
        folder: an existing folder whose path has no spaces.
    """
    return f"{flags} {_FLAG}={folder}".strip()


def read_profiles(folder: str) -> dict[str, Scheduled]:
    """The profiles in a folder, by name of the operation."""
    found = {}
    for file in sorted(Path(folder).glob("*.textproto")):
        for match in _PROFILE.finditer(file.read_text()):
            found[match[1]] = Scheduled(int(match["cycles"]), int(match["times"]))
    return found


def refused(output: str) -> str:
    """The operation that libtpu could not count, and why; "" if its output names none."""
    if match := _REFUSED.search(output):
        return match[1]
    broken = _BROKEN.search(output)
    return f"a check of its machine code failed at {broken[1]}" if broken else ""


def counted_again(operations: list[EstimatedOperation], profiles: Mapping[str, Scheduled]) -> list[EstimatedOperation]:
    """The operations that have code of their own, with the cycles of that code and of the code's other uses.

    An operation that shares the code of another one is left out, as its cycles count there.
    """
    known = {operation.name: operation for operation in operations}
    counted = []
    for name, code in profiles.items():
        operation = known.get(name) or EstimatedOperation(name, "", "", 0, "", name.startswith("copy"))
        counted.append(operation._replace(cycles=code.cycles * code.times))
    return counted
