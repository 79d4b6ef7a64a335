"""Durations of a training: steps, examples or epochs."""

import math
import re
from typing import NamedTuple

from accdistill_jax.errors import UserError

DURATION_UNITS = ("steps", "examples", "epochs")
_LONGEST = 1e15


class Duration(NamedTuple):
    """A parsed duration: `amount` of `unit`, one of `DURATION_UNITS`."""

    amount: float
    unit: str


def parse_duration(text: str) -> Duration:
    """Reads "600 steps", "80000 examples" or "3 epochs".

    Raises:
        UserError: the text is not a duration.
    """
    match = re.fullmatch(r"\s*(\d[\d_]*(?:\.\d+)?)\s+([a-z]+)\s*", str(text))
    unit = match and next((known for known in DURATION_UNITS if match[2] in (known, known[:-1])), None)
    if not unit or float(match[1].replace("_", "")) > _LONGEST:
        raise UserError(f"{text!r} is not a duration; write a number and steps, examples or epochs: '600 steps'")
    return Duration(float(match[1].replace("_", "")), unit)


def duration_steps(text: str, *, batch_size: int, num_segments: int | None) -> int:
    """Turns a duration into optimiser steps.

    Args:
        text: "600 steps", "80000 examples" (segments seen) or "3 epochs" (fractions allowed).
        batch_size: segments of a global batch.
        num_segments: distinct segments of an epoch; needed for epochs only.

    Returns:
        The number of steps, rounded up; 0 only for a duration of zero.

    Raises:
        UserError: the text is not a duration, it counts epochs without data, or it is too long.
    """
    amount, unit = parse_duration(text)
    if unit == "epochs":
        if not num_segments:
            raise UserError(f"duration {text!r} counts epochs, but the number of segments is unknown here; use steps")
        amount *= num_segments
    steps = math.ceil(amount if unit == "steps" else amount / batch_size)
    if steps >= 2**31:
        raise UserError(f"duration {text!r} is {steps} steps; at most 2147483647 can be counted: make it shorter")
    return steps
