"""Bytes that a step sends over the interconnect: by formula, and as counted in the compiled program.

Bytes are those that a device sends, which are as many as it receives, when the collective is done over a ring:
(D - 1) / D of the whole array for an all_gather or a reduce_scatter, twice that for an all-reduce.
"""

import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
UPDATE = ("gradients", "parameters", "metrics")  # what does not grow with the batch
FLOAT = 4  # bytes: gradients, projections and embeddings cross in float32

_DTYPES = {"f32": 4, "f16": 2, "bf16": 2, "f64": 8, "s32": 4, "u32": 4, "s8": 1, "u8": 1, "pred": 1, "s64": 8, "u64": 8}
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
# The groups of devices, as the compiler writes them: a list, a shape, or (JAX 0.12 and later) axes of a named mesh.
_GROUPS = r"(?:\{\{(?P<listed>[\d,]*)\}|\[\d+,(?P<shaped>\d+)\]|mesh\[(?P<mesh>[^\]]*)\](?:, device_ids=\S+)? \{(?P<axes>[^}]*)\})"
_INSTRUCTION = re.compile(
    rf" = (?P<result>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(.*?replica_groups={_GROUPS}"
)

# a collective that a TPU's compiler cuts into steps and hides in later operations: each step is written as the whole of it
_CHAIN = re.compile(r'\bchain_id="(\d+)"')


class Collective(NamedTuple):
    """One array, or several exchanged as one.

    Attributes:
        what: in words.
        kind: of `KINDS`.
        array_bytes: of the whole array: what is reduced, or what is there after gathering or before scattering.
        pieces: exchanges it takes unless the compiler joins them.
    """

    what: str
    kind: str
    array_bytes: int
    pieces: int = 1

    def sent(self, devices: int) -> float:
        """Bytes that each of `devices` sends."""
        return PASSES[self.kind] * (devices - 1) / devices * self.array_bytes


# how often the array goes around a ring
PASSES = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1, "collective-permute": 1, "all-to-all": 1}


def expected(
    *,
    parameters: int,
    global_batch: int,
    projection: int,
    embedding: int,
    metrics: int,
    sharded_arrays: int,
) -> list[Collective]:
    """The collectives of a training step.

    Args:
        parameters: trained ones.
        global_batch: rows over all devices.
        projection: width of what the contrastive loss compares; 0: no such loss.
        embedding: width of the embedding, whose mean and spread over the global batch are taken for a metric.
        metrics: scalars that are averaged.
        sharded_arrays: how many arrays the parameters are, where each device updates its part of every one, so that
            gradients are reduced to parts and the new parameters gathered; 0: every device updates all.
    """
    gathered = FLOAT * global_batch
    found = []
    if projection:
        for what in ("teacher's projections", "student's projections"):
            found.append(Collective(what, "all-gather", gathered * projection))
            found.append(Collective(f"gradient of {what}", "reduce-scatter", gathered * projection))
    if sharded_arrays:
        found.append(Collective("gradients", "reduce-scatter", FLOAT * parameters, sharded_arrays))
        found.append(Collective("parameters", "all-gather", FLOAT * parameters, sharded_arrays))
    else:
        found.append(Collective("gradients", "all-reduce", FLOAT * parameters))
    return [*found, Collective("metrics", "all-reduce", FLOAT * (metrics + 2 * embedding))]


def total(collectives: list[Collective], devices: int) -> dict[str, float]:
    """Bytes that a device sends per step, by kind."""
    sums: dict[str, float] = {}
    for one in collectives:
        sums[one.kind] = sums.get(one.kind, 0.0) + one.sent(devices)
    return sums


def counted(hlo: str) -> list[Collective]:
    """The collectives of an optimised program, each once, however many steps it is cut into.

    Args:
        hlo: `compiled.as_text()` of a program without collectives in loops.
    """
    found, chains = [], set()
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
            arrays = arrays[len(arrays) // 2 :]  # what is gathered stands before what comes of it
        size = sum(_array_bytes(dtype, shape) for dtype, shape in arrays)
        if match["kind"] == "reduce-scatter":
            size *= _group_size(match)
        found.append(Collective("", match["kind"], size))
    return found


def _group_size(instruction: re.Match) -> int:
    """Number of devices that one exchange of a collective joins."""
    if instruction["shaped"]:
        return int(instruction["shaped"])
    if instruction["mesh"] is None:
        return len(instruction["listed"].split(","))
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", instruction["mesh"]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", instruction["axes"]))


def _array_bytes(dtype: str, shape: str) -> int:
    return _DTYPES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
