"""The figure of a recording: predictions over time with intervals, reference values, motion and quality."""

import datetime
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

from accdistill_jax.api.predicting import PredictedRecording
from accdistill_jax.evaluation.report.style import BLUE, GREEN, GREY, ORANGE, capital, styled
from accdistill_jax.labels import LABELS
from accdistill_jax.readouts.label_probe import LabelPrediction
from accdistill_jax.readouts.readout import Prediction
from accdistill_jax.text import for_plot

_DAY_S = 86_400.0


@styled
def prediction_figure(one: PredictedRecording) -> Figure:
    """Panels above each other: a panel for each label per minute, then motion and quality.

    An orange dot is a prediction, its bar the interval. A grey stripe is a minute without a prediction; the number of these minutes
    for each reason is beside the panel. A black dash is the reference.
    """
    of_minutes = {name: p for name, p in one.predictions.items() if len(p.value) == len(one.start_unix_s)}
    shown = {name: p for name, p in of_minutes.items() if p.known.any()}
    shown = shown or dict(list(of_minutes.items())[:1])
    names = list(shown)
    heights = [2.2 if number == 0 else 1.3 for number in range(len(names))] + [0.8, 0.8]
    figure = Figure(figsize=(11, 0.9 + 1.15 * sum(heights)), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)))
    time = _time(one.start_unix_s, axes[-1])
    for axis, name in zip(axes, names, strict=False):
        _panel(axis, time, one, name, shown[name])
    _strip(axes[-2], time, one.motion_g, "motion (g)", BLUE)
    _strip(axes[-1], time, one.quality, "quality", GREEN)
    axes[-1].set_ylim(0, 1)
    figure.align_ylabels(axes)
    per_person = [_words(one, name, p) for name, p in one.predictions.items() if name not in shown]
    title = f"{one.participant}, recording {one.recording}"
    axes[0].set_title("\n".join([for_plot(title), *map(for_plot, per_person)]), loc="left")
    axes[0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    return figure


def _time(start_unix_s: np.ndarray, axis: Axes) -> np.ndarray:
    """Middle of each minute: dates in UTC, or minutes after the start if the recording has no date."""
    if start_unix_s[0] > 2 * _DAY_S:
        moments = [datetime.datetime.fromtimestamp(float(s) + 30, datetime.UTC) for s in start_unix_s]
        locator = AutoDateLocator()
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        axis.set_xlabel("time (UTC)")
        return date2num(moments)
    axis.set_xlabel(
        "days after the start" if start_unix_s[-1] - start_unix_s[0] > 2 * _DAY_S else "minutes after the start"
    )
    scale = _DAY_S if start_unix_s[-1] - start_unix_s[0] > 2 * _DAY_S else 60.0
    return (start_unix_s - start_unix_s[0] + 30) / scale


def _panel(axis: Axes, time: np.ndarray, one: PredictedRecording, name: str, p: Prediction | LabelPrediction) -> None:
    known, width = p.known, _minute(time)
    for number, (left, right) in enumerate(_runs(time, ~known, width)):
        axis.axvspan(left, right, color=GREY, alpha=0.22, lw=0, label=None if number else "no prediction")
    words = LABELS[name].words if name in LABELS else for_plot(name)
    unit = one.units.get(name, "")
    axis.set_ylabel(f"{capital(words)}" + (f"\n({for_plot(unit)})" if unit else ""))
    reasons, counts = np.unique(p.reason[~known], return_counts=True)
    unknown = [f"{count} × {reason}" for reason, count in zip(reasons, counts, strict=True)]
    share = "\n".join([*unknown, f"{100 * known.mean():.0f} % of minutes predicted"])
    axis.annotate(
        share, (1.005, 0.02), xycoords="axes fraction", fontsize=8, color=GREY, va="bottom", annotation_clip=False
    )
    if p.value.dtype.kind == "U":
        classes = sorted(set(p.value[known].tolist()))
        place = {text: number for number, text in enumerate(classes)}
        axis.scatter(time[known], [place[text] for text in p.value[known]], color=ORANGE, s=12, label="prediction")
        axis.set_yticks(range(len(classes)), [for_plot(text) for text in classes])
        axis.set_ylim(-0.6, len(classes) - 0.4)
        return
    finite = known & np.isfinite(p.low)
    axis.vlines(
        time[finite], p.low[finite], p.high[finite], color=ORANGE, alpha=0.35, lw=_bar(len(time)), label="interval"
    )
    axis.plot(time[known], p.value[known], "o", color=ORANGE, ms=3 if len(time) < 400 else 1.5, label="prediction")
    if name in one.reference:
        axis.plot(time, one.reference[name], "_", color="black", ms=6 if len(time) < 400 else 2, label="reference")
    _limits(axis, p, one.reference.get(name))


def _limits(axis: Axes, p: Prediction | LabelPrediction, reference: np.ndarray | None) -> None:
    """Limits that hold the predictions and the reference, and most of the intervals."""
    values = [p.value, p.low, p.high] + ([] if reference is None else [reference])
    values = np.concatenate([np.asarray(v, np.float64) for v in values])
    values = values[np.isfinite(values)]
    if len(values):
        low, high = np.quantile(values, [0.005, 0.995])
        pad = 0.08 * max(high - low, 1e-9)
        axis.set_ylim(low - pad, high + pad)
    else:
        axis.set_yticks([])


def _bar(count: int) -> float:
    return float(np.clip(400 / count, 0.6, 5))


def _minute(time: np.ndarray) -> float:
    """Width of a minute on the axis of time."""
    return float(np.min(np.diff(time))) if len(time) > 1 else 1.0


def _runs(time: np.ndarray, chosen: np.ndarray, width: float) -> list[tuple[float, float]]:
    """Left and right ends of the runs of chosen minutes."""
    runs: list[tuple[float, float]] = []
    for moment in time[chosen]:
        left, right = moment - width / 2, moment + width / 2
        if runs and left - runs[-1][1] < 0.01 * width:
            runs[-1] = (runs[-1][0], right)
        else:
            runs.append((left, right))
    return runs


def _strip(axis: Axes, time: np.ndarray, values: Sequence[float] | np.ndarray, words: str, colour: str) -> None:
    axis.plot(time, values, ".", color=colour, ms=3 if len(time) < 400 else 1.5)
    axis.set_ylabel(words)
    axis.set_ylim(bottom=0)


def _words(one: PredictedRecording, name: str, p: Prediction | LabelPrediction) -> str:
    """The prediction of a label without a panel."""
    if not p.known.any():
        reasons, counts = np.unique(p.reason, return_counts=True)
        words = LABELS[name].words if name in LABELS else name
        return f"{words}: unknown ({reasons[np.argmax(counts)]})"
    if p.value.dtype.kind == "U":
        return f"{name}: {p.value[0]} (probability {p.low[0]:.2f})"
    interval = f" ({p.low[0]:.3g} to {p.high[0]:.3g})" if np.isfinite(p.low[0]) else ""
    return f"{name}: {p.value[0]:.3g}{interval} {one.units.get(name, '')}".rstrip()
