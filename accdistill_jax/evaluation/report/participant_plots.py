"""Figure of the health targets that mean embeddings predict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from accdistill_jax.evaluation.evaluate import TEACHER
from accdistill_jax.evaluation.people.participant_scores import ParticipantTarget
from accdistill_jax.evaluation.people.participant_targets import YES_NO
from accdistill_jax.evaluation.people.participants import ParticipantEvaluation
from accdistill_jax.evaluation.report.style import (
    COLOURS,
    GREY,
    PURPLE,
    RED,
    SKY,
    capital,
    display,
    panels,
    styled,
)
from accdistill_jax.text import for_plot

_MORE_COLOURS = (PURPLE, SKY, RED, "#000000", GREY)
_MARKERS = "osD^vP*X"
_LONG = 36  # letters of a name; three longer names do not fit into one row of the legend


@styled
def auc_forest(
    result: ParticipantEvaluation,
    *,
    encoders: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Figure | None:
    """AUC of each encoder on each yes/no target with 95 % intervals over participants, and the ceiling where known.

    Args:
        result: from `evaluate_participants`.
        encoders: names of the encoders to show, the first one on top; None shows all. Use at most six.
        names: encoder -> name in the legend; None, or no entry, uses `style.display`.
        colours: encoder -> colour; None, or no entry, uses the colours of the style.

    Returns:
        A figure with one row per target, the easiest target on top. The order follows the ceilings; without ceilings, the
        teacher's AUC; without a teacher, the first encoder's AUC. None without a scored target.
    """
    shown = [t for t in result.targets.values() if t.kind == YES_NO and not t.reason]
    drawn = [name for name in (encoders or result.encoders) if name in result.encoders]
    if not shown or not drawn:
        return None
    all_colours = COLOURS | dict(colours or {})
    by = TEACHER if TEACHER in result.encoders else drawn[0]
    shown.sort(key=lambda t: _expected_auc(t, by), reverse=True)
    apart = 0.62 / len(drawn)
    figure, (axis,) = panels(1, width=8.6, height=1.5 + len(shown) * max(0.24, 0.085 * len(drawn) + 0.06))
    rows = np.arange(len(shown))
    axis.barh(rows[1::2], 1.0, height=1.0, left=0.0, color="#F6F6F6", lw=0, zorder=0)
    axis.axvline(0.5, color=GREY, lw=1.2, ls="--", zorder=1)
    ceilings = [math.nan if target.ceiling is None else target.ceiling for target in shown]
    if not np.isnan(ceilings).all():
        axis.plot(ceilings, rows, ls="", marker="|", ms=13, mew=1.8, color="black", zorder=2, label="ceiling")
    for k, name in enumerate(drawn):
        y = rows + (k - (len(drawn) - 1) / 2) * apart
        colour = all_colours.get(name, _MORE_COLOURS[k % len(_MORE_COLOURS)])
        areas = [target.auc(name) for target in shown]
        for place, auc in zip(y, areas, strict=True):
            if auc.interval is not None:
                axis.plot(auc.interval, [place, place], color=colour, lw=1.3, alpha=0.75, zorder=3)
        values = [auc.number for auc in areas]
        axis.plot(
            values,
            y,
            ls="",
            marker=_MARKERS[k % len(_MARKERS)],
            ms=4.5,
            color=colour,
            mec="white",
            mew=0.4,
            zorder=4,
            label=_label(result, name, (names or {}).get(name) or display(name)),
        )
    intervals = [t.auc(name).interval for t in shown for name in drawn]
    lows = [interval[0] for interval in intervals if interval is not None]
    axis.set_xlim(max(0.0, min([0.45, *lows]) - 0.02), 1.01)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_yticks(
        rows, [f"{for_plot(capital(t.label))} ({t.test_yes}/{t.test_participants})" for t in shown], fontsize=8.5
    )
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("ROC AUC on test participants, 95 % interval (chance 0.5); in brackets: yes / people")
    axis.set_title(f"{len(shown)} yes/no targets from mean embeddings")
    handles, labels = axis.get_legend_handles_labels()
    wide = max(map(len, labels)) > _LONG
    figure.legend(handles, labels, loc="outside upper center", ncols=2 if wide else 3, fontsize=9)
    return figure


def _expected_auc(target: ParticipantTarget, encoder: str) -> float:
    if target.ceiling is not None:
        return target.ceiling
    return target.auc(encoder).value or 0.0


def _label(result: ParticipantEvaluation, name: str, called: str) -> str:
    mean = result.mean_auc and result.mean_auc.auc[name].value
    return called if mean is None else f"{called} (mean {mean:.3f})"
