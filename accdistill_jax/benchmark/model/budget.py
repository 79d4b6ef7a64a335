"""Hours of a training on given hardware, and the resource that limits it."""

from typing import Any, NamedTuple

from accdistill_jax.benchmark.model.hardware import Hardware
from accdistill_jax.benchmark.model.model import estimate
from accdistill_jax.benchmark.model.program import Work
from accdistill_jax.config.duration import duration_steps
from accdistill_jax.models.build import parameter_count

# Activations kept for the backward pass are written once and read once, and so are gradients of the same size.
PASSES_OVER_ACTIVATIONS = 4
# Bytes per parameter: parameters, gradients and two moments in float32 are read, and all but the gradients are written.
UPDATE_BYTES = 28
RESOURCES = ("matrix products", "device memory", "interconnect", "input of a host")


class Budget(NamedTuple):
    """The time of a training stage on given hardware.

    Attributes:
        stage: "student" or "teacher".
        hardware: name of the hardware.
        devices: number of devices.
        batch: segments per device.
        segments: segments of the whole training.
        seconds: seconds per step that each of `RESOURCES` needs by itself.
        step_s: seconds per step, without overlap of the resources and with full overlap.
        fits: True if state and activations fit the devices' memory.
    """

    stage: str
    hardware: str
    devices: int
    batch: int
    segments: float
    seconds: dict[str, float]
    step_s: tuple[float, float]
    fits: bool

    @property
    def binds(self) -> str:
        """The limiting resource: it takes the longest time."""
        return max(self.seconds, key=lambda resource: self.seconds[resource])

    @property
    def hours(self) -> tuple[float, float]:
        """Hours of the training, without overlap and with full overlap."""
        slow, fast = (self.segments / (self.batch * self.devices) * seconds / 3600 for seconds in self.step_s)
        return slow, fast

    def as_record(self) -> dict[str, Any]:
        """The budget as plain values, for JSON."""
        return self._asdict() | {"binds": self.binds, "hours": self.hours}


def segments_of(work: Work, *, minutes: int) -> float:
    """Number of segments of a stage's training if its duration refers to a corpus of this many minutes."""
    settings = work.settings
    return settings.batch_size * duration_steps(settings.duration, batch_size=settings.batch_size, num_segments=minutes)


def plan(work: Work, hardware: Hardware, *, batch: int, mfu: float, segments: float, host_bytes_per_s: float) -> Budget:
    """Computes the time of a stage from the time of each resource.

    Args:
        work: the training stage.
        hardware: devices and network.
        batch: segments per device.
        mfu: share of the devices' peak at which matrix products run.
        segments: segments of the whole training.
        host_bytes_per_s: input rate of a host, from the store to its devices.
    """
    estimated = estimate(work, hardware, batch=batch, mfu=mfu)
    moved = PASSES_OVER_ACTIVATIONS * estimated.activation_bytes * work.settings.micro_batches
    moved += UPDATE_BYTES * parameter_count(work.params)
    seconds = dict(
        zip(
            RESOURCES,
            (
                estimated.compute_s,
                moved / hardware.memory_bandwidth,
                estimated.slow_s,
                hardware.host_devices * batch * work.segment_bytes / host_bytes_per_s,
            ),
            strict=True,
        )
    )
    on_device = seconds["matrix products"] + seconds["device memory"]
    # Input always overlaps with the step, because it is read ahead.
    slow = max(on_device + estimated.slow_s, seconds["input of a host"])
    fast = max(seconds["matrix products"], seconds["device memory"], estimated.fast_s, seconds["input of a host"])
    return Budget(work.stage, hardware.name, hardware.devices, batch, segments, seconds, (slow, fast), estimated.fits)
