"""The config section of the contrastive loss between the two sensors: `student.contrast`."""

import dataclasses

from accdistill_jax.config.fields import above_zero, each, integer, number, one_of, setting


@dataclasses.dataclass(frozen=True)
class ContrastConfig:
    """Other forms of the contrastive loss between the two sensors, and of its batches. None is in the paper."""

    loss: str = setting(
        "infonce",
        one_of("infonce", "sigmoid"),
        "infonce: a softmax over the batch, in both directions; sigmoid: each pair of minutes by itself, matching or not",
        added=True,
    )
    temperature_bounds: tuple[float, ...] = setting(
        (),
        each(above_zero()),
        "(smallest, largest) value of a learned temperature, which starts at `student.temperature`; (): it is not learned",
        added=True,
    )
    bias: float = setting(
        -10.0, number(-100, 100), "start of the sigmoid loss's learned bias; near -log(batch size)", added=True
    )
    same_person: int = setting(
        1,
        integer(1, 65_536),
        "minutes of one person that a batch holds together, as harder negatives; 1: all minutes in random order",
        added=True,
    )
    same_rate: int = setting(
        1,
        integer(1, 65_536),
        "minutes of about the same heart rate that a batch holds together, as harder negatives; 1: random order",
        added=True,
    )
