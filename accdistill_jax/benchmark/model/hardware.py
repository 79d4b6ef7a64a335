"""Accelerators and their networks: figures of vendors and of published measurements, each with its source.

Bandwidths are bytes per second in a single direction. `SOURCES` marks assumptions.
"""

import math
from typing import NamedTuple

GB = 1e9
TPU_HOP_S = 1e-6
TPU_REACHED = 0.74
NVLINK, NVLINK_LATENCY_S = 450 * GB, 20e-6
NODE_NETWORK = 400 * GB  # of a node with 8 GPUs
# Latency of a small all-reduce over 2 nodes, and its increase for each doubling of the nodes, up to 32.
TWO_NODES_S, DOUBLING_S = 46e-6, (63e-6 - 46e-6) / 4
ASSUMED = "assumed"

SOURCES = {
    "tpu": "Google, TPU v4, v5e, v5p, v6e: https://docs.cloud.google.com/tpu/docs/v5e (v4, v5p, v6e): bf16 peak, HBM, ICI bandwidth "
    "per chip (both directions; half of it is one direction), slice shapes",
    "ici": "Austin et al., How To Scale Your Model: https://jax-ml.github.io/scaling-book/sharding and /tpus: about 1 us per "
    "hop; rings only on axes of 16 (v5e, v6e) or in whole 4x4x4 cubes (v5p), else a line at half the bandwidth; an all_gather "
    "measured on v5e at 0.74 of the line rate, assumed here for all three",
    "dgx": "NVIDIA, DGX SuperPOD H100, key components: https://docs.nvidia.com/dgx-superpod/reference-architecture-scalable-"
    "infrastructure-h100/latest/dgx-superpod-components.html: 8 GPUs, 640 GB, NVLink 900 GB/s per GPU (both directions), "
    "ConnectX-7 at 400 Gbit/s; one per GPU (DGX BasePOD, core components, where H200's 1 128 GB stand too: https://docs.nvidia"
    ".com/dgx-basepod/reference-architecture-infrastructure-foundation-enterprise-ai/latest/core-components.html)",
    "nvlink": "Austin et al., How To Scale Your Model: https://jax-ml.github.io/scaling-book/gpus: all-reduce over 8 H100 reaches "
    "370 of 450 GB/s with very large arrays (NVIDIA's developers say the same, and why: https://github.com/NVIDIA/nccl-tests/"
    "issues/212), 150 GB/s with 58 MB",
    "nccl": "a small all-reduce takes 46 us over 2 nodes of 8 GPUs (H20, 8 x 400 Gbit/s: https://github.com/NVIDIA/nccl/issues/1244) "
    "and 63 us over 32 (A100, 4 x 200 Gbit/s: https://github.com/NVIDIA/nccl/issues/652), interpolated in the logarithm of the "
    "number of nodes; large arrays reach 46 to 48 of 50 GB/s per adapter (NVIDIA, https://github.com/NVIDIA/nccl-tests/issues/290)",
    ASSUMED: "ASSUMED, and marked (a) in the tables: 20 us for a small collective in a node (https://github.com/NVIDIA/nccl/issues/"
    "1259 has 6 us for 2 H100); between nodes a third of the line rate for arrays of tens of MB, as inside a node",
    "h100 peak": "a distributor's copy of NVIDIA's data sheet (the original was not available): https://archive-lib.hpctech.co.jp/"
    "gpuproduct/nvidia-h100.html: H100 SXM, bf16 1 979 TFLOP/s with sparsity, half of it without; memory 3 350 GB/s. H200, ASSUMED: "
    "peak and NVLink as H100, memory 4.8 TB/s",
}


class Level(NamedTuple):
    """A level of a network, whose members exchange data with each other.

    Attributes:
        size: number of members.
        bandwidth: line rate of a member, bytes/s in a single direction.
        reached: measured share of the line rate that collectives reach with arrays of our size.
        latency_s: latency of an all_gather or reduce_scatter of little data, in seconds; an all-reduce takes twice as long.
    """

    size: int
    bandwidth: float
    reached: float
    latency_s: float


class Hardware(NamedTuple):
    """Devices and their network, innermost level first.

    Attributes:
        name: name in tables.
        peak_flops: peak rate of a device, dense bf16, FLOP/s.
        memory_bytes: memory of a device.
        memory_bandwidth: bandwidth of a device's memory, bytes/s.
        levels: the network; the product of the levels' sizes is the number of devices.
        host_devices: number of devices that a host feeds.
        sources: keys of `SOURCES`.
    """

    name: str
    peak_flops: float
    memory_bytes: float
    memory_bandwidth: float
    levels: tuple[Level, ...]
    host_devices: int
    sources: tuple[str, ...]

    @property
    def devices(self) -> int:
        """Number of devices."""
        return math.prod(level.size for level in self.levels)


class Chip(NamedTuple):
    """A TPU chip.

    Attributes:
        peak_flops: peak rate, bf16, FLOP/s.
        memory_bytes: size of its memory.
        memory_bandwidth: bandwidth of its memory, bytes/s.
        link: bandwidth of a link to a neighbour, bytes/s in a single direction.
        host_chips: number of chips that a host feeds.
        cycle_flops: bf16 FLOP of its matrix units per cycle: 2 per multiplier, 128 x 128 multipliers per unit (v6e 256 x 256), and
            the number of units that peak and clock imply. A test compares it with the compiler's estimate of a large product.
    """

    peak_flops: float
    memory_bytes: float
    memory_bandwidth: float
    link: float
    host_chips: int
    cycle_flops: int


TPU_CHIPS = {
    "v4": Chip(275e12, 32 * 2**30, 1200 * GB, 50 * GB, 4, 2 * 8 * 128**2),
    "v5e": Chip(197e12, 16 * GB, 800 * GB, 50 * GB, 8, 2 * 4 * 128**2),
    "v5p": Chip(459e12, 95 * 2**30, 2765 * GB, 100 * GB, 4, 2 * 8 * 128**2),
    "v6e": Chip(918e12, 32 * GB, 1600 * GB, 100 * GB, 8, 2 * 4 * 256**2),
}


def torus(axes: tuple[int, ...], *, link: float, rings: bool) -> Level:
    """The network of a slice whose chips are connected to their neighbours along each axis.

    Args:
        axes: chips along each axis.
        link: bandwidth of a link, bytes/s in a single direction.
        rings: the ends of each axis are connected; both directions then carry data, and the longest path is half as long.
    """
    hops = sum(size // 2 if rings else size - 1 for size in axes)
    bandwidth = len(axes) * link * (2 if rings else 1)
    return Level(math.prod(axes), bandwidth, TPU_REACHED, hops * TPU_HOP_S)


def tpu(name: str, axes: tuple[int, ...], *, rings: bool) -> Hardware:
    """A slice of TPU `name`, a key of `TPU_CHIPS`."""
    chip = TPU_CHIPS[name]
    chips = math.prod(axes)
    label = f"TPU {name}, {chips} chips ({'x'.join(map(str, axes))})"
    levels = (torus(axes, link=chip.link, rings=rings),)
    return Hardware(
        label, chip.peak_flops, chip.memory_bytes, chip.memory_bandwidth, levels, chip.host_chips, ("tpu", "ici")
    )


def gpu(name: str, nodes: int) -> Hardware:
    """Nodes of 8 GPUs `name` ("H100", "H200") with one 400 Gbit/s network adapter per GPU."""
    memory, bandwidth = {"H100": (80 * GB, 3350 * GB), "H200": (141 * GB, 4800 * GB)}[name]
    reached = 150 / 450
    levels = (Level(8, NVLINK, reached, NVLINK_LATENCY_S / 2),)
    sources = ("dgx", "nvlink", "h100 peak", ASSUMED)
    if nodes > 1:
        latency_s = (TWO_NODES_S + DOUBLING_S * (math.log2(nodes) - 1)) / 2
        levels += (Level(nodes, NODE_NETWORK, reached, latency_s),)
        sources = ("dgx", "nvlink", "nccl", "h100 peak", ASSUMED)
    label = f"{nodes} x 8 {name} SXM" if nodes > 1 else f"8 {name} SXM"
    return Hardware(label, 989.5e12, memory, bandwidth, levels, 8, sources)


def known() -> tuple[Hardware, ...]:
    """The hardware of the tables."""
    return (
        tpu("v5e", (4, 4), rings=False),
        tpu("v5e", (16, 16), rings=True),
        tpu("v5p", (4, 4, 4), rings=True),
        tpu("v5p", (8, 8, 8), rings=True),
        tpu("v6e", (4, 4), rings=False),
        tpu("v6e", (16, 16), rings=True),
        gpu("H100", 1),
        gpu("H100", 4),
        gpu("H200", 1),
        gpu("H200", 4),
    )
