"""Figures of probe errors: by share of the labels, as rows of dots, and by size of the encoder."""

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
    "student-mean",
    "student-best",
    "student-long",
    "student-small",
    "student-tiny",
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
        title: title of the panel.
        series: name in the legend -> an estimate for each row; None without a result.
        share: True shows the values in per cent, on an axis from 0.
    """

    title: str
    series: Mapping[str, Sequence[Estimate | None]]
    share: bool = False


@styled
def by_fraction(scores: Scores, titles: Mapping[str, str], fractions: Mapping[float, float]) -> Figure:
    """Draws the mean absolute error by share of the labels, in one panel for each target, on logarithmic axes.

    Args:
        scores: errors of probes at these fractions.
        titles: encoder -> title; only encoders in `DRAWN` are drawn.
        fractions: share of the labels as the axis states it, above 0 -> fraction by which the scores are kept.
    """
    targets = list(scores.truth)
    columns = 2 if len(targets) > 1 else 1
    rows = -(-len(targets) // columns)
    figure = Figure(figsize=(4.9 * columns, 3.6 * rows + 1.1), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    handles = {}
    names = [name for name in DRAWN if name in titles]
    for axis, target in zip(axes, targets, strict=False):
        for k, name in enumerate(names):
            by_share = {
                share: score
                for share, fraction in fractions.items()
                if (score := scores.error(target, fraction, name)) is not None
            }
            if not by_share:
                continue
            colour, marker, line = style_of(name)
            x = np.array(list(by_share)) * 1.04 ** (k - len(names) / 2)  # side by side
            mean = np.array([score.value for score in by_share.values()])
            std = np.array([score.std for score in by_share.values()])
            handles[titles[name]] = axis.errorbar(
                x,
                mean,
                yerr=[np.minimum(std, 0.9 * mean), std],
                color=colour,
                marker=marker,
                ls=line,
                lw=1.6,
                ms=5,
                capsize=2,
            )
        words, unit, *_ = LABELS[target]
        axis.set(xscale="log", yscale="log", title=capital(words), ylabel=f"mean absolute error ({unit})")
        axis.set_xticks(list(fractions), [f"{100 * share:g} %" for share in fractions])
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
    """Draws a dot and its interval for each row, in panels side by side.

    Args:
        rows: labels of the rows, from the top.
        shown: the panels.
        reference: number of a row; a dashed line marks its value in the first series.
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
                if estimate.interval is not None:
                    axis.plot(estimate.interval, [row + shift] * 2, color=colour, lw=1.8, alpha=0.6)
                handles[name] = axis.plot(estimate.value, row + shift, marker=marker, color=colour, ms=6, ls="")[0]
        marked = None if reference is None else next(iter(panel.series.values()))[reference]
        if marked is not None and marked.value is not None:
            axis.axvline(marked.value, color=GREY, lw=1.2, ls="--")
        axis.set(ylim=(len(rows) - 0.5, -0.5), title=panel.title)
        axis.set_yticks(range(len(rows)), rows if axis is axes[0] else [""] * len(rows))
        axis.grid(axis="x", visible=True)
        if panel.share:
            known = [
                e for estimates in panel.series.values() for e in estimates if e is not None and e.value is not None
            ]
            right_end = max([0.01, *(e.number if e.interval is None else e.interval[1] for e in known)])
            axis.set_xlim(-0.03 * right_end, 1.05 * right_end)
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
    """Draws the error by number of parameters, in one panel for each target.

    Circles are the encoders of the sweep over sizes, diamonds are others.

    Args:
        scores: target -> encoder -> error.
        parameters: encoder -> number of parameters.
        titles: encoder -> title.
        lines: encoders that are drawn as horizontal lines.
    """
    figure, axes = panels(len(scores), width=4.1, height=4.4)
    handles = {}
    for axis, (target, errors) in zip(axes, scores.items(), strict=True):
        for name, score in errors.items():
            colour = style_of(name).colour
            if name in lines:
                handles[titles[name]] = axis.axhline(score.value, color=colour, lw=1.5, ls="--")
            elif name in parameters:
                if score.estimate.interval is not None:
                    axis.plot([parameters[name]] * 2, score.estimate.interval, color=colour, lw=1.8, alpha=0.6)
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
