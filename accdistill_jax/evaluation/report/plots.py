"""Figures of a report. Each function draws one figure and returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from accdistill_jax.evaluation.probing.probes import MEAN, MEDIAN, TargetResult
from accdistill_jax.evaluation.report.style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    TICKS,
    capital,
    display,
    panels,
    percent_tick,
    segments_bar,
    styled,
)
from accdistill_jax.evaluation.retrieval.retrieval import ACCEL_TO_PPG, PPG_TO_ACCEL, RetrievalResult, top1_by_pool_size
from accdistill_jax.labels import HEART_RATE, LABELS

EXAMPLE_SECONDS = 15.0
RATE_HZ = 64.0


def curve(records: Sequence[Mapping], kind: str, *, key: str = "loss") -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric in the records of a stage's metrics file.

    Args:
        records: one dictionary per line of the file, {"step": 100, "kind": "train", "loss": 0.61, ...}.
        kind: "train" or "validation".
        key: name of the metric. Records without it, or with a value that is not finite, are left out.

    Returns:
        (steps [K], values [K]), sorted by step.
    """
    values = {r["step"]: r[key] for r in records if r["kind"] == kind and np.isfinite(r.get(key, np.nan))}
    steps = np.array(sorted(values), np.int64)
    return steps, np.array([values[s] for s in steps], np.float64)


@styled
def learning_curves(curves: Mapping[str, Sequence[Mapping]]) -> Figure | None:
    """Train and validation loss of each stage, or None without any record."""
    drawn = {stage: (curve(r, "train"), curve(r, "validation")) for stage, r in curves.items()}
    drawn = {stage: both for stage, both in drawn.items() if len(both[0][0]) or len(both[1][0])}
    if not drawn:
        return None
    figure, axes = panels(len(drawn), width=5.4, height=3.7)
    for axis, (stage, ((step, loss), (v_step, v_loss))) in zip(axes, drawn.items(), strict=True):
        colour = COLOURS.get(stage, PURPLE)
        if len(step):
            if len(step) < 20:
                axis.plot(step, loss, color=colour, lw=2, label="train")
            else:
                axis.plot(step, loss, color=colour, lw=1, alpha=0.35)
                axis.plot(step, _smooth(loss), color=colour, lw=2, label="train (smoothed)")
        if len(v_step):
            axis.plot(v_step, v_loss, color="black", lw=1.2, ls="--", marker="o", ms=4, label="validation")
        titled, kind = (v_loss, "validation") if len(v_step) else (loss, "train")
        axis.set_title(f"{capital(display(stage))}: {kind} loss {titled[0]:.3g} → {titled[-1]:.3g}")
        axis.set_xlabel("step")
        axis.set_ylabel("loss")
        axis.legend()
    return figure


@styled
def predicted_heart_rate(result: TargetResult, encoders: Sequence[str]) -> Figure | None:
    """Predicted against true heart rate, one panel per encoder, with the line of perfect agreement."""
    shown = [n for n in encoders if n in result.probes]
    if result.truth is None or not shown:
        return None
    truth = result.truth
    values = np.concatenate([truth, *(result.probes[n].prediction for n in shown)])
    low, high = np.quantile(values, [0.001, 0.999])
    margin = 0.05 * (high - low) + 1
    limits = (low - margin, high + margin)
    figure, axes = panels(len(shown), width=3.9, height=4.2, layout="compressed")
    meshes = []
    for axis, name in zip(axes, shown, strict=True):
        probe = result.probes[name]
        if len(truth) > 400:
            options = {
                "gridsize": 45,
                "extent": (*limits, *limits),
                "mincnt": 1,
                "cmap": "cividis",
                "lw": 0.1,
            }
            meshes.append(axis.hexbin(truth, probe.prediction, **options))
        else:
            axis.scatter(truth, probe.prediction, s=14, alpha=0.6, color=COLOURS.get(name, PURPLE), lw=0)
        axis.plot(limits, limits, color=RED, lw=1.2, ls="--")
        axis.set(xlim=limits, ylim=limits, xlabel="true heart rate (bpm)", aspect="equal")
        r = "" if probe.r.value is None else f", r = {probe.r.value:.2f}"
        axis.set_title(f"{capital(display(name))}\nMAE {probe.mae.number:.1f} bpm{r}")
    axes[0].set_ylabel("predicted heart rate (bpm)")
    segments_bar(figure, axes, meshes)
    return figure


@styled
def probe_errors(targets: Mapping[str, TargetResult], encoder: str) -> Figure | None:
    """Mean absolute error per target with 95 % intervals over participants. Titles give the result of `encoder`."""
    shown = {t: r for t, r in targets.items() if not r.reason}
    if not shown:
        return None
    figure, axes = panels(len(shown), width=3.4, height=3.7)
    for axis, (target, result) in zip(axes, shown.items(), strict=True):
        names = [n for n in result.probes if n != MEDIAN]
        tops = []
        for x, name in enumerate(names):
            mae = result.probes[name].mae
            axis.bar(x, mae.number, width=0.7, color=COLOURS.get(name, PURPLE))
            top = mae.number
            if mae.interval is not None:
                axis.plot([x, x], mae.interval, color="#222222", lw=1.5)
                top = max(mae.interval[1], top)
            axis.annotate(f"{mae.number:.1f}", (x, top), (0, 3), textcoords="offset points", ha="center", fontsize=9)
            tops.append(top)
        label, unit = LABELS[target].words, LABELS[target].unit
        change = 100 * (result.probes[encoder].mae.number / max(result.probes[MEAN].mae.number, 1e-12) - 1)
        short = display(encoder).split()[-1]
        axis.set_title(
            f"{capital(label)}\n{short} {abs(change):.0f} % {'below' if change < 0 else 'above'} mean predictor",
            fontsize=10,
        )
        axis.set_ylabel(f"mean absolute error ({unit})")
        axis.set_xticks(range(len(names)), [TICKS.get(n, n.replace("_", "\n")) for n in names], fontsize=8)
        axis.set_ylim(0, 1.14 * max(tops) or 1)
        axis.grid(axis="x", visible=False)
    return figure


@styled
def retrieval_ranks(ranks: Mapping[str, np.ndarray], results: Sequence[RetrievalResult], encoder: str) -> Figure | None:
    """Distribution of the right segment's rank, and top-1 by pool size, both with the values expected by chance."""
    if not ranks:
        return None
    n = len(ranks[ACCEL_TO_PPG])
    figure, (left, right) = panels(2, width=5.2, height=3.9)
    edges = np.unique(np.round(2 ** np.arange(0, np.log2(n + 1), 0.5)).astype(int))
    edges = np.append(edges[edges <= 0.75 * (n + 1)], n + 1)
    colours = {ACCEL_TO_PPG: ORANGE, PPG_TO_ACCEL: BLUE}
    labels = {ACCEL_TO_PPG: "acceleration finds PPG", PPG_TO_ACCEL: "PPG finds acceleration"}
    for direction in (PPG_TO_ACCEL, ACCEL_TO_PPG):
        rank = ranks[direction]
        share = np.histogram(rank, edges)[0] / n
        left.stairs(share, edges, color=colours[direction], lw=2, label=labels[direction])
    left.stairs(np.diff(edges) / n, edges, color=GREY, lw=1.5, ls="--", label="chance")
    left.set(xscale="log", xlim=(1, n + 1), ylim=(0, None))
    left.set_xlabel(f"rank of the right segment among {n:,}".replace(",", " "))
    left.set_ylabel("share of queries")
    median = float(np.median(ranks[ACCEL_TO_PPG]))
    left.set_title(f"Median rank {median:,.0f} of {n:,} (chance {(n + 1) / 2:,.0f})".replace(",", " "))
    _plain_log_axis(left.xaxis)
    left.yaxis.set_major_formatter(FuncFormatter(percent_tick))
    left.legend(loc="best")

    sizes = np.unique(np.round(np.logspace(np.log10(2), np.log10(n), 40)).astype(int))
    for direction in (PPG_TO_ACCEL, ACCEL_TO_PPG):
        share = top1_by_pool_size(ranks[direction], sizes)
        right.plot(sizes, np.where(share > 0, share, np.nan), color=colours[direction], lw=2)
        for r in results:
            if (r.encoder, r.direction) == (encoder, direction) and r.top[1].mean > 0:
                right.plot(r.pool_size, r.top[1].mean, color=colours[direction], marker="o", ms=5)
    right.plot(sizes, 1 / sizes, color=GREY, lw=1.5, ls="--")
    right.set(xscale="log", yscale="log", ylim=(0.5 / n, 1.4), xlabel="candidates in the pool")
    right.set_ylabel("right segment first (top-1)")
    of_encoder = [r for r in results if (r.encoder, r.direction) == (encoder, ACCEL_TO_PPG)]
    if of_encoder:
        closest = min(of_encoder, key=lambda r: abs(np.log(r.pool_size / 1000)))
        size = f"{closest.pool_size:,}".replace(",", " ")
        right.set_title(f"First among {size} in {100 * closest.top[1].mean:.3g} % of queries")
    right.yaxis.set_major_formatter(FuncFormatter(percent_tick))
    _plain_log_axis(right.xaxis)
    return figure


@styled
def example_segments(examples: Mapping, *, count: int = 3) -> Figure | None:
    """PPG with the teacher's reconstruction of the dropped patches, and the acceleration of the same seconds.

    Args:
        examples: "ppg" [K, T, C] at 64 Hz; optional "reconstruction" [K, T, C], "dropped" [K, P] bool, "accel" [K, T, 3]
            in g, and "hr_bpm" [K].
        count: maximum number of examples in the figure.
    """
    ppg = np.asarray(examples["ppg"], np.float64)
    if not len(ppg):
        return None
    k, length = min(count, len(ppg)), ppg.shape[1]
    accel, reconstruction, dropped = (examples.get(name) for name in ("accel", "reconstruction", "dropped"))
    window = slice(0, min(length, round(EXAMPLE_SECONDS * RATE_HZ)))
    time = np.arange(length)[window] / RATE_HZ
    rows, heights = (1, [1.6]) if accel is None else (2, [1.6, 1.2])
    figure = Figure(figsize=(11, sum(heights) * k + 0.5), layout="constrained")
    axes = figure.subplots(rows * k, 1, sharex=True, squeeze=False, height_ratios=heights * k)[:, 0]
    for i in range(k):
        axis = axes[rows * i]
        axis.plot(time, ppg[i, window, 0], color="#555555", lw=1.1, label="PPG")
        title = f"Segment {i + 1}"
        heart_rate = examples.get(HEART_RATE)
        if heart_rate is not None and np.isfinite(heart_rate[i]):
            title += f", {heart_rate[i]:.0f} bpm"
        if reconstruction is not None and dropped is not None:
            hidden = np.repeat(np.asarray(dropped[i], bool), length // len(dropped[i]))
            rebuilt = np.asarray(reconstruction[i], np.float64)
            axis.plot(time, np.where(hidden, rebuilt[:, 0], np.nan)[window], color=RED, lw=1.6, label="reconstruction")
            for start, stop in _runs(hidden[window]):
                axis.axvspan(start / RATE_HZ, stop / RATE_HZ, color=SKY, alpha=0.25, lw=0)
            error, power = ((rebuilt - ppg[i]) ** 2)[hidden].mean(), max(ppg[i][hidden].var(), 1e-12)
            title += (
                f": reconstruction explains {100 * (1 - error / power):.0f} % of the variance of the hidden "
                f"{100 * hidden.mean():.0f} % (shaded)"
            )
        axis.set_title(title, fontsize=10)
        axis.set_ylabel("PPG")
        axis.grid(visible=False)
        if i == 0:
            axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=9)
        if accel is not None:
            axis = axes[rows * i + 1]
            part = 1000 * np.asarray(accel[i], np.float64)[window]
            part -= np.median(part, axis=0)
            step = max(1.3 * np.quantile(np.abs(part), 0.995), 1e-9)
            for row, (label, colour) in enumerate(zip("xyz", (BLUE, ORANGE, GREEN), strict=True)):
                offset = (1 - row) * step
                axis.plot(time, part[:, row] + offset, color=colour, lw=0.8)
                place = {
                    "xycoords": ("axes fraction", "data"),
                    "xytext": (5, 0),
                    "textcoords": "offset points",
                }
                axis.annotate(label, (1.0, offset), color=colour, va="center", weight="bold", **place)
            axis.set_ylabel("accel.\n(mg, offset)")
            axis.grid(visible=False)
    axes[-1].set_xlabel("time (s)")
    axes[-1].set_xlim(time[0], time[-1])
    return figure


def _smooth(values: np.ndarray) -> np.ndarray:
    """Moving average over a twentieth of the curve, over fewer values at its ends."""
    width = max(len(values) // 20, 2)
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Start and stop of each run of True values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return list(zip(edges[::2], edges[1::2], strict=True))


def _plain_log_axis(axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}".replace(",", " ")))
    axis.set_minor_formatter(FuncFormatter(lambda v, _: ""))
