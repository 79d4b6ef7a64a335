"""Colours, markers and lines of encoders, the same in every figure that tells encoders apart by colour."""

from typing import NamedTuple

from accdistill_jax.evaluation.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from accdistill_jax.reproduce.plan.variants import MAE_TEACHER


class Look(NamedTuple):
    """Colour, marker and line of an encoder; students are drawn through, baselines dashed."""

    colour: str
    marker: str
    line: str


LOOKS = {
    MAE_TEACHER: Look(BLUE, "", "-"),
    "student": Look(ORANGE, "o", "-"),
    "student-best": Look(RED, "D", "-"),
    "student-long": Look("#6B1D1D", "p", "-"),
    "student-small": Look("#8C6D1F", "v", "-"),
    "student-short": Look("#4B5D8F", "d", "-"),
    "size-20th": Look(PURPLE, "o", "-"),
    "size-5th": Look("#882255", "o", "-"),
    "size-half": Look("#000000", "o", "-"),
    "size-equal": Look(GREEN, "o", "-"),
    "no-augmentation": Look("#D6739B", "h", "-"),
    "applied-64th-g": Look(RED, "d", "-"),
    "applied-25hz-64th-g": Look(PURPLE, "<", "-"),
    "joint": Look("#000000", "X", "-."),
    "accel-mae": Look(SKY, "s", "--"),
    "accel-contrastive": Look(PURPLE, "^", "--"),
    "accel-contrastive-segment": Look("#882255", "P", "--"),
    "supervised": Look("#000000", "X", "--"),
    "untrained": Look("#7A7A7A", "1", "--"),
    "classical": Look(GREEN, "*", "--"),
    "classical-boosting": Look(GREEN, "*", "--"),
    "mean": Look(GREY, "", ":"),
}
OTHER = Look(GREY, ".", "--")


def look(name: str) -> Look:
    """Of an encoder by its name; grey where it has none of its own."""
    return LOOKS.get(name, OTHER)
