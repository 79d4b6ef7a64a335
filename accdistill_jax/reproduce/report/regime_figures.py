"""Figures of an error against an amount: epochs of training, or steps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from accdistill_jax.evaluation.report.style import panels, styled


class AmountLine(NamedTuple):
    """A line of `against_amount`.

    Attributes:
        title: entry in the legend.
        amounts: horizontal positions, above 0.
        values: an error at each.
        spread: half the length of each bar; 0 draws none.
        colour: of the line.
        style: of the line, as in matplotlib.
    """

    title: str
    amounts: Sequence[float]
    values: Sequence[float]
    spread: Sequence[float]
    colour: str
    style: str = "-"


@styled
def against_amount(lines: Sequence[AmountLine], *, amount: str, error: str) -> Figure:
    """Draws errors against an amount on a logarithmic axis, with a bar for the spread over training seeds.

    Args:
        lines: the lines.
        amount: label of the horizontal axis.
        error: label of the vertical axis.
    """
    figure, (axis,) = panels(1, width=6.4, height=4.2)
    for line in lines:
        order = np.argsort(line.amounts)
        amounts, values, spread = (np.asarray(part)[order] for part in (line.amounts, line.values, line.spread))
        axis.errorbar(
            amounts,
            values,
            yerr=spread if spread.any() else None,
            color=line.colour,
            ls=line.style,
            marker="o",
            ms=5,
            lw=1.6,
            capsize=2,
            label=line.title,
        )
    marked = sorted({float(f"{amount:.3g}") for line in lines for amount in line.amounts})
    axis.set(xscale="log", xlabel=amount, ylabel=error)
    axis.set_ylim(bottom=0)
    axis.set_xticks(marked)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=9)
    return figure
