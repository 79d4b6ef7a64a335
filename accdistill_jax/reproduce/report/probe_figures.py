"""Figures of probes' errors: by share of labels, as rows of dots, and by size of the encoder."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.report.style import BLUE, GREY, ORANGE, capital, panels, styled
from accdistill_jax.labels import LABELS
from accdistill_jax.reproduce.measure.formatting import thousands
from accdistill_jax.reproduce.measure.probe_scores import Score, Scores
from accdistill_jax.reproduce.report.encoder_styles import style_of

DRAWN = (
    "teacher-mae",
    "mean",
    "student",
    "student-best",
    "student-long",
    "student-small",
    "accel-mae",
    "accel-contrastive",
    "accel-contrastive-segment",
    "supervised",
    "classical-boosting",
)
_SERIES = ((ORANGE, "o"), (BLUE, "D"))


class DotPanel(NamedTuple):
    """One panel of `dots`.

    Attributes:
        title: what is measured.
        series: name in the legend -> an estimate for each row, None where there is none.
        share: whether the values are shares, shown in per cent from 0.
    """

    title: str
    series: Mapping[str, Sequence[Estimate | None]]
    share: bool = False


@styled
def by_fraction(scores: Scores, titles: Mapping[str, str], fractions: Sequence[float]) -> Figure:
    """Mean absolute error against the share of labels, a panel for each target, both axes logarithmic.

    Args:
        scores: of probes at these fractions.
        titles: of the encoders, by name; those that `DRAWN` does not know are left out.
        fractions: above 0.
    """
    targets = list(scores.truth)
    columns = 2 if len(targets) > 1 else 1
    rows = -(-len(targets) // columns)
    figure = Figure(figsize=(4.9 * columns, 3.6 * rows + 1.1), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    handles = {}
    names = [name for name in DRAWN if name in titles]
    for axis, target in zip(axes, targets, strict=False):
        for place, name in enumerate(names):
            found = {f: score for f in fractions if (score := scores.error(target, f, name)) is not None}
            if not found:
                continue
            colour, marker, line = style_of(name)
            x = np.array(list(found)) * 1.04 ** (place - len(names) / 2)
            y, e = ([getattr(score, what) for score in found.values()] for what in ("value", "std"))
            handles[titles[name]] = axis.errorbar(
                x,
                y,
                yerr=[np.minimum(e, 0.9 * np.array(y)), e],
                color=colour,
                marker=marker,
                ls=line,
                lw=1.6,
                ms=5,
                capsize=2,
            )
        words, unit, *_ = LABELS[target]
        axis.set(xscale="log", yscale="log", title=capital(words), ylabel=f"mean absolute error ({unit})")
        axis.set_xticks(fractions, [f"{100 * f:g} %" for f in fractions])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(axis="x", which="minor", length=0)
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("labelled training minutes")
    for axis in axes[len(targets) :]:
        axis.set_axis_off()
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=9)
    return figure


@styled
def dots(rows: Sequence[str], shown: Sequence[DotPanel], *, reference: int | None = None) -> Figure:
    """A dot and its interval for each row, in panels side by side.

    Args:
        rows: labels, from the top.
        shown: panels with values for these rows.
        reference: row whose value of the first series is drawn as a line.
    """
    figure, axes = panels(len(shown), width=3.1, height=1.5 + 0.31 * len(rows))
    handles = {}
    for axis, panel in zip(axes, shown, strict=True):
        for k, (name, estimates) in enumerate(panel.series.items()):
            colour, marker = _SERIES[k % len(_SERIES)]
            shift = 0.22 * (k - (len(panel.series) - 1) / 2)
            for row, estimate in enumerate(estimates):
                if estimate is None or estimate.value is None:
                    continue
                if estimate.has_interval:
                    axis.plot([estimate.low, estimate.high], [row + shift] * 2, color=colour, lw=1.8, alpha=0.6)
                handles[name] = axis.plot(estimate.value, row + shift, marker=marker, color=colour, ms=6, ls="")[0]
        first = next(iter(panel.series.values()))
        if reference is not None and first[reference] is not None:
            axis.axvline(first[reference].value, color=GREY, lw=1.2, ls="--")
        axis.set(ylim=(len(rows) - 0.5, -0.5), title=panel.title)
        axis.set_yticks(range(len(rows)), rows if axis is axes[0] else [""] * len(rows))
        axis.grid(axis="x", visible=True)
        if panel.share:
            ends = [
                e.high if e.has_interval else e.value for own in panel.series.values() for e in own if e is not None
            ]
            axis.set_xlim(-0.03 * max([*ends, 0.01]), 1.05 * max([*ends, 0.01]))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %"))
    if len(handles) > 1:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


@styled
def by_parameters(
    scores: Mapping[str, Mapping[str, Score]],
    parameters: Mapping[str, int],
    titles: Mapping[str, str],
    lines: Sequence[str],
) -> Figure:
    """Error against the number of parameters, a panel for each target; circles are the sizes of the sweep, diamonds others.

    Args:
        scores: target -> encoder -> error.
        parameters: by encoder.
        titles: by encoder.
        lines: encoders that are horizontal lines, to compare with.
    """
    figure, axes = panels(len(scores), width=4.1, height=4.4)
    handles = {}
    for axis, (target, errors) in zip(axes, scores.items(), strict=True):
        for name, score in errors.items():
            colour = style_of(name).colour
            if name in lines:
                handles[titles[name]] = axis.axhline(score.value, color=colour, lw=1.5, ls="--")
            elif name in parameters:
                if score.estimate.has_interval:
                    axis.plot(
                        [parameters[name]] * 2,
                        [score.estimate.low, score.estimate.high],
                        color=colour,
                        lw=1.8,
                        alpha=0.6,
                    )
                marker = "o" if name.startswith("size") else "D"
                (handles[titles[name]],) = axis.plot(
                    parameters[name], score.value, marker=marker, color=colour, ms=7, ls=""
                )
        words, unit, *_ = LABELS[target]
        axis.set(xscale="log", xlabel="parameters", ylabel=f"mean absolute error ({unit})", title=capital(words))
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: thousands(round(v))))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.margins(x=0.15)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=9)
    return figure
