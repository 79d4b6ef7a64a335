"""Hours of a training on given hardware, and which resource binds."""

from typing import Any, NamedTuple

from accdistill_jax.benchmark.model.hardware import Hardware
from accdistill_jax.benchmark.model.model import estimate
from accdistill_jax.benchmark.model.program import Work
from accdistill_jax.config.duration import duration_steps
from accdistill_jax.models.build import parameter_count

# What is kept for the backward pass is written and read once each, and so are gradients of the same size.
PASSES_OVER_ACTIVATIONS = 4
# Parameters, gradients and two moments in float32, each read once, all but the gradients written: bytes per parameter.
UPDATE_BYTES = 28
RESOURCES = ("matrix products", "device memory", "interconnect", "input of a host")


class Budget(NamedTuple):
    """A stage on some hardware.

    Attributes:
        stage, hardware, devices, batch: what, where, and segments per device.
        segments: in all.
        seconds: per step, by resource (`RESOURCES`), each as if it were alone.
        step_s: seconds of a step, without overlap and with full overlap of these.
        fits: whether state and activations fit the devices.
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
        """The resource that takes longest."""
        return max(self.seconds, key=self.seconds.get)

    @property
    def hours(self) -> tuple[float, float]:
        """Without overlap and with."""
        slow, fast = (self.segments / (self.batch * self.devices) * seconds / 3600 for seconds in self.step_s)
        return slow, fast


def segments_of(work: Work, *, minutes: int) -> float:
    """Segments that a stage is trained on, its duration being counted on a corpus of so many minutes."""
    settings = work.settings
    return settings.batch_size * duration_steps(settings.duration, batch_size=settings.batch_size, num_segments=minutes)


def plan(work: Work, hardware: Hardware, *, batch: int, mfu: float, segments: float, host_bytes_per_s: float) -> Budget:
    """Time of a stage by its resources.

    Args:
        work: the stage.
        hardware: where.
        batch: segments per device.
        mfu: share of the devices' peak at which matrix products run.
        segments: how many are trained on.
        host_bytes_per_s: what a host reads from the store and hands over.
    """
    one = estimate(work, hardware, batch=batch, mfu=mfu)
    moved = PASSES_OVER_ACTIVATIONS * one.activation_bytes * work.settings.micro_batches
    moved += UPDATE_BYTES * parameter_count(work.params)
    seconds = dict(
        zip(
            RESOURCES,
            (
                one.compute_s,
                moved / hardware.memory_bandwidth,
                one.slow_s,
                hardware.host_devices * batch * work.segment_bytes / host_bytes_per_s,
            ),
            strict=True,
        )
    )
    on_device = seconds["matrix products"] + seconds["device memory"]
    # reading ahead always overlaps; the rest may
    slow = max(on_device + one.slow_s, seconds["input of a host"])
    fast = max(seconds["matrix products"], seconds["device memory"], one.fast_s, seconds["input of a host"])
    return Budget(work.stage, hardware.name, hardware.devices, batch, segments, seconds, (slow, fast), one.fits)


def as_record(one: Budget) -> dict[str, Any]:
    """For JSON."""
    return one._asdict() | {"binds": one.binds, "hours": one.hours}
