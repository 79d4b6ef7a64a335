"""Figures of the experiments on retrieval, health of embeddings and few labelled people."""

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
        name: of its variant (looks.py).
        title: in the legend.
        errors: column -> estimate; columns that it lacks are left out.
    """

    name: str
    title: str
    errors: Mapping[str, Estimate]


@styled
def pools(
    ranks: Mapping[str, np.ndarray], titles: Mapping[str, str], measured: Mapping[str, Sequence[tuple[int, float]]]
) -> Figure:
    """First places by pool size, and how often the right minute has which rank among all or a better one; both with guessing.

    Args:
        ranks: encoder -> int [N], in the pool of all N.
        titles: of the encoders.
        measured: encoder -> (pool size, share of first places) of drawn pools.
    """
    n = len(next(iter(ranks.values())))
    figure, (left, right) = panels(2, width=5.6, height=4.4)
    sizes = np.unique(np.round(np.geomspace(2, n, 40)).astype(int))
    edges = np.unique(np.round(np.geomspace(1, n + 1, min(n + 1, 22))).astype(int))
    for name, own in ranks.items():
        how = {"color": style_of(name).colour, "lw": 1.8}
        mark = style_of(name).marker or "."
        share = top1_by_pool_size(own, sizes)
        left.plot(sizes, np.where(share > 0, share, np.nan), **how)
        left.plot(*zip(*measured[name], strict=True), ls="", marker=mark, ms=5, color=style_of(name).colour)
        left.plot([], [], marker=mark, label=titles[name], **how)
        right.plot(edges[1:] - 1, np.cumsum(np.histogram(own, edges)[0]) / n, marker=mark, ms=3.5, **how)
    left.plot(sizes, 1 / sizes, color=GREY, lw=1.5, ls="--", label="guessing")
    right.plot(edges[1:] - 1, (edges[1:] - 1) / n, color=GREY, lw=1.5, ls="--")
    left.set(xscale="log", ylim=(0, 1.03), xlabel="candidates in the pool", ylabel="right minute first (top-1)")
    right.set(
        xscale="log",
        ylim=(0, 1.03),
        xlabel=f"rank of the right minute among {n:,}".replace(",", " "),
        ylabel="queries with that rank or a better one",
    )
    left.set_title("First places by size of the pool")
    right.set_title("Ranks among all")
    for axis in (left, right):
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}".replace(",", " ")))
        axis.xaxis.set_minor_formatter(FuncFormatter(lambda v, _: ""))
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9)
    return figure


@styled
def bars(measures: Mapping[str, Mapping[str, tuple[float, float]]], titles: Mapping[str, str]) -> Figure:
    """Horizontal bars of encoders, a panel for each measure.

    Args:
        measures: measure in words -> encoder -> (mean, standard deviation over seeds); encoders that it lacks are left out.
        titles: of the encoders, in order.
    """
    figure, axes = panels(len(measures), width=3.7, height=1.2 + 0.36 * len(titles))
    place = {name: k for k, name in enumerate(titles)}
    for axis, (measure, values) in zip(axes, measures.items(), strict=True):
        for name, (mean, std) in values.items():
            axis.barh(place[name], mean, xerr=std or None, height=0.7, color=style_of(name).colour, ecolor="#222222")
            axis.annotate(
                f" {mean:.2g}" if abs(mean) < 1 else f" {mean:.1f}",
                (max(mean + std, 0.0), place[name]),
                va="center",
                fontsize=9,
            )
        ends = [mean + std for mean, std in values.values()]
        axis.set(
            ylim=(len(titles) - 0.5, -0.5),
            xlim=(min([0.0, *(m for m, _ in values.values())]), 1.2 * max([*ends, 0.05])),
        )
        axis.set_yticks(list(place.values()), titles.values() if axis is axes[0] else [""] * len(place), fontsize=9)
        axis.grid(axis="y", visible=False)
        axis.set_title(measure, fontsize=10)
    return figure


@styled
def by_people(lines: Mapping[str, Sequence[ErrorLine]], columns: Sequence[str], label: str) -> Figure:
    """Errors by number of labelled people, a panel for each target, with 95 % intervals over test people.

    Args:
        lines: target -> its encoders.
        columns: numbers of people, in order; the first one's points stand alone, apart from the lines.
        label: of the horizontal axis.
    """
    figure, axes = panels(len(lines), width=4.1, height=4.4)
    shown: dict[str, Line2D] = {}
    for axis, (target, own) in zip(axes, lines.items(), strict=True):
        for k, line in enumerate(own):
            known = [
                (x, line.errors[c])
                for x, c in enumerate(columns)
                if c in line.errors and line.errors[c].value is not None
            ]
            if not known:
                continue
            known_x = np.array([x for x, _ in known]) + 0.06 * (k - (len(own) - 1) / 2)
            colour, marker, style = style_of(line.name)
            values, how = np.array([e.value for _, e in known]), {"color": colour, "marker": marker or ".", "ms": 5}
            alone = known[0][0] == 0  # another probe than the others'
            axis.plot(known_x[:alone], values[:alone], ls="", **how)
            axis.plot(known_x[alone:], values[alone:], ls=style, lw=1.5, **how)
            shown.setdefault(line.title, axis.plot([], [], ls=style, lw=1.5, **how)[0])
            for x, (_, estimate) in zip(known_x, known, strict=True):
                if estimate.has_interval:
                    axis.plot([x, x], [estimate.low, estimate.high], color=colour, lw=1.2, alpha=0.7)
        words, unit, *_ = LABELS[target]
        axis.set_xticks(range(len(columns)), columns)
        axis.set(xlabel=label, ylim=(0, None), xlim=(-0.4, len(columns) - 0.6))
        axis.set_ylabel(f"mean absolute error ({unit})")
        axis.set_title(capital(words))
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=3, fontsize=9)
    return figure
