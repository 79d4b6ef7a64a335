"""Time, efficiency and memory of a training step on given hardware.

A step takes the time of its matrix products at an assumed share of peak, and that of its collectives over the cited network.
Two bounds: without overlap, at the bandwidth that was measured with arrays of such size, one after the other and level by
level; and with full overlap at line rate and without latency, the longer of the two. The truth lies between, if the share of
peak is right; a share that is too high makes communication look worse than it is.
"""

from typing import Any, NamedTuple

from accdistill_jax.benchmark.model.hardware import Hardware
from accdistill_jax.benchmark.model.program import Work
from accdistill_jax.benchmark.model.traffic import PASSES, Collective

BYTES_REPLICATED = 16  # per trained parameter: itself, its gradient, two moments; float32
BYTES_SPLITTABLE = 8  # of these the moments


class Estimate(NamedTuple):
    """A training step of `work` on `hardware` with `batch` segments per device.

    Attributes:
        mfu: assumed share of peak.
        flops: matrix products per device.
        compute_s: their time.
        sent_bytes: per device and step, by what is sent.
        slow_s, fast_s: time of the collectives at its longest and shortest.
        efficiency_serial, efficiency_overlapped: throughput per device against that of one device alone.
        input_bytes_per_s: what a host must read and hand over, at the shorter step time.
        activation_bytes, state_bytes: per device.
    """

    work: Work
    hardware: Hardware
    batch: int
    mfu: float
    flops: int
    compute_s: float
    sent_bytes: dict[str, float]
    slow_s: float
    fast_s: float
    efficiency_serial: float
    efficiency_overlapped: float
    input_bytes_per_s: float
    activation_bytes: float
    state_bytes: float

    @property
    def fits(self) -> bool:
        """True if state and activations fit the device."""
        return self.activation_bytes + self.state_bytes <= self.hardware.memory_bytes


def collective_seconds(one: Collective, hardware: Hardware) -> tuple[float, float]:
    """A collective over all devices: (as measured for such sizes and with latency, at line rate without)."""
    slow = fast = 0.0
    for level in hardware.levels:
        wire = (level.size - 1) / level.size * one.array_bytes / level.bandwidth
        slow += wire / level.reached + one.pieces * level.latency_s
        fast += wire
    return PASSES[one.kind] * slow, PASSES[one.kind] * fast


def estimate(work: Work, hardware: Hardware, *, batch: int, mfu: float) -> Estimate:
    """The model of this module.

    Args:
        work: the training stage.
        hardware: devices and network.
        batch: segments per device.
        mfu: share of the devices' bf16 peak that the matrix products run at.
    """
    devices = hardware.devices
    flops = work.step_flops(batch=batch, global_batch=batch * devices)
    compute_s, alone_s = (
        count / (mfu * hardware.peak_flops) for count in (flops, work.step_flops(batch=batch, global_batch=batch))
    )
    collectives = work.collectives(devices=devices, global_batch=batch * devices)
    slow_s, fast_s = (sum(times) for times in zip(*(collective_seconds(c, hardware) for c in collectives), strict=True))
    overlapped_s = max(compute_s, fast_s)
    return Estimate(
        work,
        hardware,
        batch,
        mfu,
        flops,
        compute_s,
        {one.what: one.sent(devices) for one in collectives},
        slow_s,
        fast_s,
        alone_s / (compute_s + slow_s),
        alone_s / overlapped_s,
        hardware.host_devices * batch * work.segment_bytes / overlapped_s,
        work.activation_bytes(batch=batch),
        sum(work.state_bytes(devices=devices, sharded=work.sharded).values()),
    )


def largest_model(memory_bytes: float, *, devices: int = 1, frozen_share: float = 0.0) -> float:
    """Trained parameters whose state takes half of a device's memory; the other half is left to activations.

    Args:
        memory_bytes: of a device.
        devices: over which the moments are split; 1: replicated.
        frozen_share: size of a frozen teacher, relative to the trained parameters.
    """
    per_parameter = BYTES_REPLICATED - BYTES_SPLITTABLE + BYTES_SPLITTABLE / devices + 4 * frozen_share
    return memory_bytes / 2 / per_parameter


def as_record(one: Estimate) -> dict[str, Any]:
    """An estimate for JSON."""
    return {
        "stage": one.work.stage,
        "hardware": one.hardware.name,
        "devices": one.hardware.devices,
        "batch_per_device": one.batch,
    } | {name: getattr(one, name) for name in one._fields if name not in ("work", "hardware", "batch")}
