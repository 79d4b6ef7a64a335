"""Style of a report's figures: names, colours and sizes.

The colours are Okabe and Ito's, which colour-blind readers can distinguish. A name has the same colour in every figure.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from accdistill_jax.evaluation.evaluate import STUDENT, TEACHER, UNTRAINED
from accdistill_jax.evaluation.probing.probes import MEAN, MEDIAN, OWN_MEAN

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#7F7F7F",
)
COLOURS = {TEACHER: BLUE, STUDENT: ORANGE, UNTRAINED: GREEN, MEAN: GREY, MEDIAN: GREY, OWN_MEAN: SKY}
NAMES = {
    TEACHER: "PPG teacher",
    STUDENT: "accelerometer student",
    UNTRAINED: "untrained encoder",
    MEAN: "mean predictor",
    MEDIAN: "median predictor",
    OWN_MEAN: "person's own mean",
}
TICKS = {
    TEACHER: "PPG\nteacher",
    STUDENT: "accel.\nstudent",
    UNTRAINED: "untrained\nencoder",
    MEAN: "mean\npredictor",
    OWN_MEAN: "person's\nown mean",
}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 110,
}


_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def styled(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Draws with this module's style and keeps the caller's style."""

    @functools.wraps(function)
    def wrapper(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return wrapper


def display(name: str) -> str:
    """Name of an encoder in reports."""
    return NAMES.get(name, name)


def panels(
    count: int, *, width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained"
) -> tuple[Figure, list[Axes]]:
    """A figure with a row of panels, each `width` x `height` inches."""
    figure = Figure(figsize=(max(width * count, 4.8), height), layout=layout)
    return figure, list(np.atleast_1d(figure.subplots(1, count)))


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def percent_tick(value: float, _: int | None = None) -> str:
    """Tick label of a share in per cent."""
    return f"{100 * value:.3g} %"


def segments_bar(figure: Figure, axes: Sequence[Axes], meshes: Sequence[PolyCollection]) -> None:
    """Gives the hexagons of several panels one logarithmic colour scale of counts, with its bar."""
    if not meshes:
        return
    norm = LogNorm(1, max(2.0, *(np.asarray(mesh.get_array()).max() for mesh in meshes)))
    for mesh in meshes:
        mesh.set_norm(norm)
    bar = figure.colorbar(meshes[0], ax=axes, fraction=0.03, pad=0.01, shrink=0.8)
    bar.outline.set_visible(False)
    bar.set_label("segments")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    bar.ax.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: ""))
