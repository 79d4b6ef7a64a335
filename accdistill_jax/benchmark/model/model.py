"""Time, efficiency and memory of a training step on given hardware.

A step consists of its matrix products, at an assumed share of the peak, and of its collectives over the cited network. The model
gives two bounds. The upper bound has no overlap: the times add up, level by level, at the bandwidth measured with arrays of such
size. The lower bound has full overlap: it is the longer of the two times, at line rate and without latency. The real time lies
between them if the share of the peak is right. A share that is too high makes communication look worse than it is.
"""

from typing import Any, NamedTuple

from accdistill_jax.benchmark.model.hardware import Hardware
from accdistill_jax.benchmark.model.program import Work
from accdistill_jax.benchmark.model.traffic import PASSES, Collective

BYTES_REPLICATED = 16  # per trained parameter: the parameter, its gradient and two moments, in float32
BYTES_SPLITTABLE = 8  # the moments among them


class StepEstimate(NamedTuple):
    """A training step of `work` on `hardware` with `batch` segments per device.

    Attributes:
        work: the training stage.
        hardware: devices and network.
        batch: segments per device.
        mfu: assumed share of the peak.
        flops: FLOP of the matrix products per device.
        compute_s: seconds of the matrix products.
        sent_bytes: bytes sent per device and step, by content.
        slow_s: seconds of the collectives, upper bound.
        fast_s: seconds of the collectives, lower bound.
        efficiency_serial: throughput per device relative to a device alone, without overlap.
        efficiency_overlapped: the same with full overlap.
        input_bytes_per_s: input that a host must read, at the lower bound of the step time.
        activation_bytes: activations kept for the backward pass, per device.
        state_bytes: parameters, gradients and optimiser state, per device.
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
        """True if state and activations fit the device's memory."""
        return self.activation_bytes + self.state_bytes <= self.hardware.memory_bytes

    def as_record(self) -> dict[str, Any]:
        """The estimate as plain values, for JSON."""
        described = {
            "stage": self.work.stage,
            "hardware": self.hardware.name,
            "devices": self.hardware.devices,
            "batch_per_device": self.batch,
        }
        return described | {
            name: getattr(self, name) for name in self._fields if name not in ("work", "hardware", "batch")
        }


def collective_seconds(collective: Collective, hardware: Hardware) -> tuple[float, float]:
    """Seconds of a collective over all devices: with measured bandwidth and latency, and at line rate without latency."""
    slow = fast = 0.0
    for level in hardware.levels:
        wire = (level.size - 1) / level.size * collective.array_bytes / level.bandwidth
        slow += wire / level.reached + collective.pieces * level.latency_s
        fast += wire
    return PASSES[collective.kind] * slow, PASSES[collective.kind] * fast


def estimate(work: Work, hardware: Hardware, *, batch: int, mfu: float) -> StepEstimate:
    """Estimates a training step with the model of this module.

    Args:
        work: the training stage.
        hardware: devices and network.
        batch: segments per device.
        mfu: share of the devices' bf16 peak at which matrix products run.
    """
    devices = hardware.devices
    flops = work.step_flops(batch=batch, global_batch=batch * devices)
    compute_s, alone_s = (
        count / (mfu * hardware.peak_flops) for count in (flops, work.step_flops(batch=batch, global_batch=batch))
    )
    collectives = work.collectives(devices=devices, global_batch=batch * devices)
    slow_s, fast_s = (sum(times) for times in zip(*(collective_seconds(c, hardware) for c in collectives), strict=True))
    overlapped_s = max(compute_s, fast_s)
    return StepEstimate(
        work,
        hardware,
        batch,
        mfu,
        flops,
        compute_s,
        {collective.what: collective.sent(devices) for collective in collectives},
        slow_s,
        fast_s,
        alone_s / (compute_s + slow_s),
        alone_s / overlapped_s,
        hardware.host_devices * batch * work.segment_bytes / overlapped_s,
        work.activation_bytes(batch=batch),
        sum(work.state_bytes(devices=devices, sharded=work.sharded).values()),
    )


def largest_model(memory_bytes: float, *, devices: int = 1, frozen_share: float = 0.0) -> float:
    """Number of trained parameters whose state fills half of a device's memory; activations use the other half.

    Args:
        memory_bytes: memory of a device.
        devices: number of devices that share the moments; 1: replicated.
        frozen_share: size of a frozen teacher, relative to the trained parameters.
    """
    per_parameter = BYTES_REPLICATED - BYTES_SPLITTABLE + BYTES_SPLITTABLE / devices + 4 * frozen_share
    return memory_bytes / 2 / per_parameter
