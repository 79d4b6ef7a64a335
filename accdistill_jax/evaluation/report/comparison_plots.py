"""Figures that compare encoders: agreement with the labels, and causes of failed retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.probing.agreement import Agreement
from accdistill_jax.evaluation.probing.probes import TargetResult
from accdistill_jax.evaluation.report.style import (
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    capital,
    display,
    panels,
    percent_tick,
    segments_bar,
    styled,
)
from accdistill_jax.evaluation.retrieval.failures import MOTION, QUALITY, Failures, Hazard
from accdistill_jax.labels import HEART_RATE, LABELS

_MANY = 400
_QUANTITIES = {
    HEART_RATE: ("heart rate (bpm)", "heart rate", 1.0),
    MOTION: ("motion (mg)", "motion", 1000.0),
    QUALITY: ("PPG quality (0 to 1)", "PPG quality", 1.0),
}


@styled
def bland_altman_panels(
    result: TargetResult, agreements: Mapping[str, Agreement], encoders: Sequence[str]
) -> Figure | None:
    """Difference against mean of prediction and truth, one panel per encoder, with bias and limits of agreement.

    Args:
        result: probes with their predictions.
        agreements: encoder -> `agreement.bland_altman` of its prediction.
        encoders: names in the order of the panels. Names that `result` or `agreements` lack are left out.
    """
    shown = [n for n in encoders if n in result.probes and n in agreements]
    if result.truth is None or not shown:
        return None
    label, unit = LABELS[result.target].words, LABELS[result.target].unit
    truth = result.truth
    means = {n: (result.probes[n].prediction + truth) / 2 for n in shown}
    differences = {n: result.probes[n].prediction - truth for n in shown}
    x = _limits(np.concatenate(list(means.values())))
    lines = [limit.number for n in shown for limit in (agreements[n].low, agreements[n].high)]
    y = _limits(np.concatenate(list(differences.values())), lines)
    figure, axes = panels(len(shown), width=4.1, height=4.0)
    meshes = []
    for axis, name in zip(axes, shown, strict=True):
        agreement = agreements[name]
        if len(truth) > _MANY:
            options = {"gridsize": 45, "extent": (*x, *y), "mincnt": 1, "cmap": "cividis", "lw": 0.1}
            meshes.append(axis.hexbin(means[name], differences[name], **options))
        else:
            axis.scatter(means[name], differences[name], s=14, alpha=0.6, color=COLOURS.get(name, PURPLE), lw=0)
        for estimate, style, words in (
            (agreement.high, "--", "+1.96 SD"),
            (agreement.bias, "-", "bias"),
            (agreement.low, "--", "−1.96 SD"),
        ):
            axis.axhline(estimate.number, color=RED, lw=1.3, ls=style)
            if estimate.interval is not None:
                axis.axhspan(*estimate.interval, color=RED, alpha=0.13, lw=0)
            axis.annotate(
                f"{words} {_signed(estimate.number)}",
                (1.0, estimate.number),
                (-2, 2),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                va="bottom",
                fontsize=8.5,
                color="#222222",
                bbox={"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 0.5},
            )
        axis.set(xlim=x, ylim=y, xlabel=f"mean of predicted and true {label} ({unit})")
        axis.set_title(
            f"{capital(display(name))}\n95 % limits "
            f"{_signed(agreement.low.number)} to {_signed(agreement.high.number)} {unit}",
            fontsize=10,
        )
    axes[0].set_ylabel(f"predicted − true ({unit})")
    segments_bar(figure, axes, meshes)
    return figure


@styled
def retrieval_failures_figure(failures: Failures) -> Figure | None:
    """Share of failures by motion, PPG quality and heart rate, and the winners of failed queries; None without data."""
    hazards = {k: failures.hazards[k] for k in (MOTION, QUALITY, HEART_RATE) if failures.hazards.get(k)}
    winners = _winner_bars(failures)
    count = len(hazards) + bool(winners)
    if not count:
        return None
    figure, axes = panels(count, width=3.9, height=3.7)
    ceiling = max((_top(h.share) for ranges in hazards.values() for h in ranges), default=0.0)
    for axis, (quantity, ranges) in zip(axes, hazards.items(), strict=False):
        _draw_hazards(axis, quantity, ranges, failures, ceiling)
    if hazards:
        axes[0].set_ylabel("queries without the right minute first")
        axes[0].legend(loc="upper left", fontsize=9)
    if winners:
        _draw_winners(axes[-1], winners, failures)
    return figure


def _draw_hazards(axis, quantity: str, hazards: Sequence[Hazard], failures: Failures, ceiling: float) -> None:
    label, short, scale = _QUANTITIES[quantity]
    at = np.arange(len(hazards))
    for k, hazard in zip(at, hazards, strict=True):
        axis.bar(k, hazard.share.number, width=0.75, color=ORANGE)
        if hazard.share.interval is not None:
            axis.plot([k, k], hazard.share.interval, color="#222222", lw=1.5)
    overall = failures.failures / failures.queries
    axis.axhline(overall, color=GREY, lw=1.3, ls="--", label="all queries")
    axis.set_xticks(at, [_between(h.low * scale, h.high * scale) for h in hazards], fontsize=8)
    axis.set(xlabel=label, ylim=(0, 1.2 * ceiling or 1.0))
    axis.yaxis.set_major_formatter(FuncFormatter(percent_tick))
    axis.grid(axis="x", visible=False)
    first, last = (100 * hazards[k].share.number for k in (0, -1))
    axis.set_title(f"{capital(short)}: {first:.3g} % fail where lowest,\n{last:.3g} % where highest", fontsize=10)


def _winner_bars(failures: Failures) -> list[tuple[str, Estimate, float]]:
    """(label, share, chance) of each kind of winner."""
    bars = []
    if failures.same_participant is not None and failures.chance_same_participant is not None:
        bars.append(("same\nparticipant", failures.same_participant, failures.chance_same_participant))
    if failures.near is not None and failures.chance_near is not None:
        bars.append((f"heart rate\nwithin {failures.near_bpm:g} bpm", failures.near, failures.chance_near))
    return bars


def _draw_winners(axis, bars: Sequence[tuple[str, Estimate, float]], failures: Failures) -> None:
    for k, (_, estimate, chance) in enumerate(bars):
        axis.bar(k - 0.2, estimate.number, width=0.38, color=BLUE, label="winner of a failure" if k == 0 else None)
        if estimate.interval is not None:
            axis.plot([k - 0.2] * 2, estimate.interval, color="#222222", lw=1.5)
        axis.bar(k + 0.2, chance, width=0.38, color=GREY, label="any wrong minute" if k == 0 else None)
    top = max(max(_top(estimate), chance) for _, estimate, chance in bars)
    axis.set_xticks(range(len(bars)), [label for label, *_ in bars], fontsize=9)
    axis.set(xlim=(-0.6, len(bars) - 0.4), ylim=(0, 1.3 * top or 1.0))
    axis.set_ylabel("share of failures")
    axis.yaxis.set_major_formatter(FuncFormatter(percent_tick))
    axis.grid(axis="x", visible=False)
    axis.legend(loc="upper left", fontsize=9)
    failed, total = (f"{v:,}".replace(",", " ") for v in (failures.failures, failures.queries))
    axis.set_title(f"Winners of failed queries\n({failed} failures of {total} queries)", fontsize=10)


def _limits(values: np.ndarray, also: Sequence[float] = ()) -> tuple[float, float]:
    """Limits of an axis: nearly all of the values, and all further values in `also`."""
    low, high = np.quantile(values, [0.002, 0.998])
    low, high = min([low, *also]), max([high, *also])
    margin = 0.08 * (high - low) + 1e-6
    return float(low - margin), float(high + margin)


def _top(estimate: Estimate) -> float:
    return estimate.number if estimate.interval is None else estimate.interval[1]


def _between(low: float, high: float) -> str:
    return f"{low:.3g}\nto {high:.3g}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
