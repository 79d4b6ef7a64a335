"""The built-in augmentations with their options; imports no jax."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

from accdistill_jax.config.fields import integer, number, setting
from accdistill_jax.config.registry import AUGMENTATIONS, resolve


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Options of an augmentation; a subclass may change defaults and rules, and add fields."""

    probability: float = setting(0.0, number(0, 1), "probability per segment; 0: never")
    strength: float = setting(0.1, number(), "strength; its meaning is documented at the augmentation's function")
    knots: int = setting(4, integer(2, 1024), "knots of the random curve, for an augmentation that draws a curve")


@dataclasses.dataclass(frozen=True)
class RegisteredAugmentation:
    """An augmentation's registration.

    Attributes:
        function: `function(key, x, spec, groups) -> [time, C]` of one segment [time, C] float32, normalised; `spec` is the
            options object, `groups` the number of bands among the channels. Or "module:attribute".
        stream: number folded into a segment's key. Each augmentation has another one, so that adding an augmentation changes
            neither the randomness of the others nor old runs.
        position: augmentations are applied in this order; by default after all others.
    """

    function: Any
    stream: int
    position: float = math.inf

    def load(self) -> Callable[..., Any]:
        """The function, imported on first use."""
        return resolve(self.function)


def register_augmentation(
    name: str, registered: RegisteredAugmentation, *, options: type[Augmentation] = Augmentation
) -> None:
    """Adds an augmentation and its config section `augment.<modality>.<name>`, with probability 0 where a config has none.

    Raises:
        ValueError: the name or the stream number is taken, or the default probability is not 0.
    """
    taken = {AUGMENTATIONS.get(other).stream: other for other in AUGMENTATIONS.names() if other != name}
    if registered.stream in taken:
        raise ValueError(
            f"augmentation {name!r}: stream {registered.stream} belongs to {taken[registered.stream]!r}; take "
            f"{next(free for free in itertools.count() if free not in taken)}"
        )
    if options().probability != 0:
        raise ValueError(
            f"augmentation {name!r}: its default probability must be 0, so that old configs stay as they are"
        )
    AUGMENTATIONS.register(name, registered, options=options)


@dataclasses.dataclass(frozen=True)
class CutOut(Augmentation):
    """Options of `augment.cut_out`; its strength is a share."""

    strength: float = setting(0.1, number(0, 1), "share of the segment that is set to zero")


@dataclasses.dataclass(frozen=True)
class MagnitudeWarp(Augmentation):
    """Options of `augment.magnitude_warp`."""

    strength: float = setting(0.1, number(), "standard deviation of the random factor")
    knots: int = setting(6, integer(2, 1024), "knots of the factor's curve")


@dataclasses.dataclass(frozen=True)
class GaussianNoise(Augmentation):
    """Options of `augment.gaussian_noise`."""

    strength: float = setting(0.05, number(), "standard deviation of the noise, in those of the normalised signal")


@dataclasses.dataclass(frozen=True)
class ChannelPermute(Augmentation):
    """Options of `augment.channel_permute`."""

    strength: float = setting(1.0, number(), "not used: a permutation has no strength")


@dataclasses.dataclass(frozen=True)
class TimeWarp(Augmentation):
    """Options of `augment.time_warp`."""

    strength: float = setting(0.005, number(), "standard deviation of the local rate; below 1/3 time runs forward")
    knots: int = setting(6, integer(2, 1024), "knots of the rate's curve")


@dataclasses.dataclass(frozen=True)
class ClockOffset(Augmentation):
    """Options of `augment.clock_offset`: clocks of the two sensors that disagree. Our addition, not in the paper."""

    strength: float = setting(8.0, number(), "largest offset, to both sides", unit="samples")
    drift_ppm: float = setting(0.0, number(), "largest drift, to both sides", unit="microseconds per second")
    knots: int = setting(4, integer(2, 1024), "not used: there is no curve")


_MODULE = "accdistill_jax.inputs.augment"
register_augmentation("cut_out", RegisteredAugmentation(f"{_MODULE}:cut_out", stream=0, position=0), options=CutOut)
register_augmentation(
    "magnitude_warp", RegisteredAugmentation(f"{_MODULE}:magnitude_warp", 1, 1), options=MagnitudeWarp
)
register_augmentation(
    "gaussian_noise", RegisteredAugmentation(f"{_MODULE}:gaussian_noise", 2, 2), options=GaussianNoise
)
register_augmentation(
    "channel_permute", RegisteredAugmentation(f"{_MODULE}:channel_permute", 3, 3), options=ChannelPermute
)
register_augmentation("time_warp", RegisteredAugmentation(f"{_MODULE}:time_warp", 4, 4), options=TimeWarp)
# The stream is far from the others: 5 and up are free for a user's augmentations.
register_augmentation(
    "clock_offset", RegisteredAugmentation(f"{_MODULE}:clock_offset", stream=100, position=5), options=ClockOffset
)
