"""Figures of the experiments on retrieval, embedding health and few labelled people."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, PercentFormatter

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.report.style import GREY, capital, panels, styled
from accdistill_jax.evaluation.retrieval.retrieval import top1_by_pool_size
from accdistill_jax.labels import LABELS
from accdistill_jax.reproduce.report.encoder_styles import style_of


class ErrorLine(NamedTuple):
    """An encoder's errors by number of labelled people.

    Attributes:
        name: variant of the encoder; decides the style of the line (encoder_styles.py).
        title: entry in the legend.
        errors: column -> estimate; columns without a result are missing.
    """

    name: str
    title: str
    errors: Mapping[str, Estimate]


@styled
def pools(
    ranks: Mapping[str, np.ndarray], titles: Mapping[str, str], measured: Mapping[str, Sequence[tuple[int, float]]]
) -> Figure:
    """Draws two panels: top-1 by pool size, and the cumulative distribution of ranks; both with a line for guessing.

    Args:
        ranks: encoder -> int [N], rank of the right minute in the pool of all N.
        titles: encoder -> title.
        measured: encoder -> (pool size, top-1) in randomly drawn pools.
    """
    n = len(next(iter(ranks.values())))
    figure, (left, right) = panels(2, width=5.6, height=4.4)
    sizes = np.unique(np.round(np.geomspace(2, n, 40)).astype(int))
    edges = np.unique(np.round(np.geomspace(1, n + 1, min(n + 1, 22))).astype(int))
    for name, encoder_ranks in ranks.items():
        line = {"color": style_of(name).colour, "lw": 1.8}
        marker = style_of(name).marker or "."
        top1 = top1_by_pool_size(encoder_ranks, sizes)
        left.plot(sizes, np.where(top1 > 0, top1, np.nan), **line)
        left.plot(*zip(*measured[name], strict=True), ls="", marker=marker, ms=5, color=style_of(name).colour)
        left.plot([], [], marker=marker, label=titles[name], **line)
        right.plot(edges[1:] - 1, np.cumsum(np.histogram(encoder_ranks, edges)[0]) / n, marker=marker, ms=3.5, **line)
    left.plot(sizes, 1 / sizes, color=GREY, lw=1.5, ls="--", label="guessing")
    right.plot(edges[1:] - 1, (edges[1:] - 1) / n, color=GREY, lw=1.5, ls="--")
    left.set(xscale="log", ylim=(0, 1.03), xlabel="candidates in the pool", ylabel="right minute ranked first (top-1)")
    right.set(
        xscale="log",
        ylim=(0, 1.03),
        xlabel=f"rank of the right minute among {n:,}".replace(",", " "),
        ylabel="share of queries with this rank or better",
    )
    left.set_title("Top-1 by size of the pool")
    right.set_title("Ranks in the pool of all minutes")
    for axis in (left, right):
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}".replace(",", " ")))
        axis.xaxis.set_minor_formatter(FuncFormatter(lambda v, _: ""))
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9)
    return figure


@styled
def bars(measures: Mapping[str, Mapping[str, tuple[float, float]]], titles: Mapping[str, str]) -> Figure:
    """Draws horizontal bars, one for each encoder, in one panel for each measure.

    Args:
        measures: title of the measure -> encoder -> (mean, standard deviation over seeds); encoders without a result are missing.
        titles: encoder -> title, from the top.
    """
    figure, axes = panels(len(measures), width=3.7, height=1.2 + 0.36 * len(titles))
    row_of = {name: k for k, name in enumerate(titles)}
    for axis, (measure, values) in zip(axes, measures.items(), strict=True):
        for name, (mean, std) in values.items():
            axis.barh(row_of[name], mean, xerr=std or None, height=0.7, color=style_of(name).colour, ecolor="#222222")
            axis.annotate(
                f" {mean:.2g}" if abs(mean) < 1 else f" {mean:.1f}",
                (max(mean + std, 0.0), row_of[name]),
                va="center",
                fontsize=9,
            )
        ends = [mean + std for mean, std in values.values()]
        axis.set(
            ylim=(len(titles) - 0.5, -0.5),
            xlim=(min([0.0, *(m for m, _ in values.values())]), 1.2 * max([*ends, 0.05])),
        )
        axis.set_yticks(list(row_of.values()), titles.values() if axis is axes[0] else [""] * len(row_of), fontsize=9)
        axis.grid(axis="y", visible=False)
        axis.set_title(measure, fontsize=10)
    return figure


@styled
def by_people(lines: Mapping[str, Sequence[ErrorLine]], columns: Sequence[str], label: str) -> Figure:
    """Draws errors by number of labelled people, in one panel for each target, with 95 % intervals over test people.

    Args:
        lines: target -> a line for each encoder.
        columns: numbers of people, from the left. The first column is another probe, so lines do not connect to it.
        label: label of the horizontal axis.
    """
    figure, axes = panels(len(lines), width=4.1, height=4.4)
    shown: dict[str, Line2D] = {}
    for axis, (target, target_lines) in zip(axes, lines.items(), strict=True):
        for k, line in enumerate(target_lines):
            known = [
                (x, line.errors[c])
                for x, c in enumerate(columns)
                if c in line.errors and line.errors[c].value is not None
            ]
            if not known:
                continue
            known_x = np.array([x for x, _ in known]) + 0.06 * (k - (len(target_lines) - 1) / 2)
            colour, marker, style = style_of(line.name)
            values = np.array([estimate.number for _, estimate in known])
            points = {"color": colour, "marker": marker or ".", "ms": 5}
            unconnected = int(known[0][0] == 0)
            axis.plot(known_x[:unconnected], values[:unconnected], ls="", **points)
            axis.plot(known_x[unconnected:], values[unconnected:], ls=style, lw=1.5, **points)
            shown.setdefault(line.title, axis.plot([], [], ls=style, lw=1.5, **points)[0])
            for x, (_, estimate) in zip(known_x, known, strict=True):
                if estimate.interval is not None:
                    axis.plot([x, x], estimate.interval, color=colour, lw=1.2, alpha=0.7)
        words, unit, *_ = LABELS[target]
        axis.set_xticks(range(len(columns)), columns)
        axis.set(xlabel=label, ylim=(0, None), xlim=(-0.4, len(columns) - 0.6))
        axis.set_ylabel(f"mean absolute error ({unit})")
        axis.set_title(capital(words))
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=3, fontsize=9)
    return figure
