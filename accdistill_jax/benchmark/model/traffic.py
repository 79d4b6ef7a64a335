"""Bytes that a step sends over the interconnect, by formula and counted in the compiled program.

The bytes are those that a device sends (it receives as many) if the collective runs over a ring of D devices: (D - 1) / D of the
whole array for an all_gather or a reduce_scatter, twice that for an all-reduce.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
UPDATE = ("gradients", "parameters", "metrics")  # their size does not depend on the batch
FLOAT = 4  # bytes: gradients, projections and embeddings are sent in float32

_DTYPES = {"f32": 4, "f16": 2, "bf16": 2, "f64": 8, "s32": 4, "u32": 4, "s8": 1, "u8": 1, "pred": 1, "s64": 8, "u64": 8}
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
# The compiler writes the groups of devices as a list, as a shape or (JAX 0.12 and later) as axes of a named mesh.
_GROUPS = r"(?:\{\{(?P<listed>[\d,]*)\}|\[\d+,(?P<shaped>\d+)\]|mesh\[(?P<mesh>[^\]]*)\](?:, device_ids=\S+)? \{(?P<axes>[^}]*)\})"
_INSTRUCTION = re.compile(
    rf" = (?P<result>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(.*?replica_groups={_GROUPS}"
)

# A TPU's compiler may split a collective into steps and fuse them into later operations; each step has the whole array's shape.
_CHAIN = re.compile(r'\bchain_id="(\d+)"')


class Collective(NamedTuple):
    """An exchange of an array, or of several arrays together.

    Attributes:
        what: content of the array, in words.
        kind: one of `KINDS`.
        array_bytes: bytes of the whole array: the reduced array, the result of a gather, or the input of a scatter.
        pieces: number of exchanges, unless the compiler joins them.
    """

    what: str
    kind: str
    array_bytes: int
    pieces: int = 1

    def sent(self, devices: int) -> float:
        """Bytes that each of `devices` devices sends."""
        return PASSES[self.kind] * (devices - 1) / devices * self.array_bytes


# Number of times that the array goes around a ring.
PASSES = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1, "collective-permute": 1, "all-to-all": 1}


def expected_collectives(
    *,
    parameters: int,
    global_batch: int,
    projection: int,
    embedding: int,
    metrics: int,
    sharded_arrays: int,
) -> list[Collective]:
    """The collectives of a training step, by formula.

    Args:
        parameters: number of trained parameters.
        global_batch: rows over all devices.
        projection: width of the projections of the contrastive loss; 0: no such loss.
        embedding: width of the embedding, whose mean and spread over the global batch are a metric.
        metrics: number of averaged scalars.
        sharded_arrays: number of parameter arrays if each device updates its part of every array (gradients are then scattered and
            the new parameters gathered); 0: every device updates all parameters.
    """
    gathered = FLOAT * global_batch
    collectives = []
    if projection:
        for what in ("teacher's projections", "student's projections"):
            collectives.append(Collective(what, "all-gather", gathered * projection))
            collectives.append(Collective(f"gradient of {what}", "reduce-scatter", gathered * projection))
    if sharded_arrays:
        collectives.append(Collective("gradients", "reduce-scatter", FLOAT * parameters, sharded_arrays))
        collectives.append(Collective("parameters", "all-gather", FLOAT * parameters, sharded_arrays))
    else:
        collectives.append(Collective("gradients", "all-reduce", FLOAT * parameters))
    return [*collectives, Collective("metrics", "all-reduce", FLOAT * (metrics + 2 * embedding))]


def total(collectives: Iterable[Collective], devices: int) -> dict[str, float]:
    """Bytes that a device sends per step, by kind of collective."""
    sums: dict[str, float] = {}
    for collective in collectives:
        sums[collective.kind] = sums.get(collective.kind, 0.0) + collective.sent(devices)
    return sums


def counted_collectives(hlo: str) -> list[Collective]:
    """The collectives of an optimised program; a collective that is split into steps counts once.

    Args:
        hlo: `compiled.as_text()` of a program without collectives in loops.
    """
    collectives, chains = [], set()
    for line in hlo.splitlines():
        match = _INSTRUCTION.search(line)
        if match is None:
            continue
        arrays = _ARRAY.findall(match["result"])
        if chain := _CHAIN.search(line):
            step = (chain[1], match["kind"], *arrays)
            if step in chains:
                continue
            chains.add(step)
        if match["start"] and match["kind"] == "all-gather":
            arrays = arrays[len(arrays) // 2 :]  # operands precede results
        size = sum(_array_bytes(dtype, shape) for dtype, shape in arrays)
        if match["kind"] == "reduce-scatter":
            size *= _group_size(match)
        collectives.append(Collective("", match["kind"], size))
    return collectives


def _group_size(instruction: re.Match) -> int:
    """Number of devices in a group of a collective."""
    if instruction["shaped"]:
        return int(instruction["shaped"])
    if instruction["mesh"] is None:
        return len(instruction["listed"].split(","))
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", instruction["mesh"]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", instruction["axes"]))


def _array_bytes(dtype: str, shape: str) -> int:
    return _DTYPES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
