"""Colours, markers and lines of encoders, the same in every figure."""

from typing import NamedTuple

from accdistill_jax.evaluation.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from accdistill_jax.reproduce.plan.variants import MAE_TEACHER


class EncoderStyle(NamedTuple):
    """Colour, marker and line of an encoder; students have solid lines, baselines dashed ones."""

    colour: str
    marker: str
    line: str


STYLES = {
    MAE_TEACHER: EncoderStyle(BLUE, "", "-"),
    "student": EncoderStyle(ORANGE, "o", "-"),
    "student-mean": EncoderStyle("#B07AA1", "P", "-"),
    "student-tiny": EncoderStyle("#5F4B1A", "<", "-"),
    "student-best": EncoderStyle(RED, "D", "-"),
    "student-long": EncoderStyle("#6B1D1D", "p", "-"),
    "student-small": EncoderStyle("#8C6D1F", "v", "-"),
    "student-short": EncoderStyle("#4B5D8F", "d", "-"),
    "size-20th": EncoderStyle(PURPLE, "o", "-"),
    "size-5th": EncoderStyle("#882255", "o", "-"),
    "size-half": EncoderStyle("#000000", "o", "-"),
    "size-equal": EncoderStyle(GREEN, "o", "-"),
    "no-augmentation": EncoderStyle("#D6739B", "h", "-"),
    "applied-64th-g": EncoderStyle(RED, "d", "-"),
    "applied-25hz-64th-g": EncoderStyle(PURPLE, "<", "-"),
    "joint": EncoderStyle("#000000", "X", "-."),
    "accel-mae": EncoderStyle(SKY, "s", "--"),
    "accel-contrastive": EncoderStyle(PURPLE, "^", "--"),
    "accel-contrastive-segment": EncoderStyle("#882255", "P", "--"),
    "supervised": EncoderStyle("#000000", "X", "--"),
    "untrained": EncoderStyle("#7A7A7A", "1", "--"),
    "classical": EncoderStyle(GREEN, "*", "--"),
    "classical-boosting": EncoderStyle(GREEN, "*", "--"),
    "mean": EncoderStyle(GREY, "", ":"),
}
OTHER = EncoderStyle(GREY, ".", "--")


def style_of(name: str) -> EncoderStyle:
    """The style of an encoder; grey if it has none."""
    return STYLES.get(name, OTHER)
