"""Plot and table of the read-outs: intervals, abstention, and the error of the most certain minutes."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.predictions import PredictionResult
from accdistill_jax.evaluation.report.style import GREY, ORANGE, capital, panels, percent_tick, styled
from accdistill_jax.evaluation.report.verdict import format_number
from accdistill_jax.labels import LABELS


@styled
def error_by_coverage(predictions: Mapping[str, PredictionResult]) -> Figure | None:
    """Mean absolute error of the share of minutes with the narrowest intervals, per target."""
    if not predictions:
        return None
    figure, axes = panels(len(predictions), width=3.6, height=3.5)
    for axis, (target, result) in zip(axes, predictions.items(), strict=True):
        curve = result.curve
        axis.plot(curve.share, curve.error, color=ORANGE, lw=2, label="narrowest intervals first")
        axis.plot(curve.share, curve.best_error, color=GREY, lw=1.5, ls="--", label="best possible order")
        axis.axvline(result.kept, color=GREY, lw=1, ls=":")
        axis.annotate(
            "answered",
            (result.kept, 0.02),
            (-3 if result.kept > 0.3 else 3, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if result.kept > 0.3 else "left",
            fontsize=8,
            color=GREY,
        )
        axis.set(xlim=(0, 1), ylim=(0, None), xlabel="share of minutes")
        axis.xaxis.set_major_formatter(FuncFormatter(percent_tick))
        axis.set_ylabel(f"mean absolute error ({LABELS[target].unit})")
        axis.set_title(
            f"{capital(LABELS[target].words)}\nhalf of the minutes: {curve.error[len(curve.error) // 2 - 1]:.1f}"
        )
    axes[0].legend(loc="upper left", fontsize=8)
    return figure


def prediction_rows(predictions: Mapping[str, PredictionResult]) -> list[list[str]]:
    """Cells of the table of read-outs, a row for each target, in the order of `PREDICTION_HEADS`."""
    return [
        [
            f"{capital(LABELS[target].words)} ({LABELS[target].unit})",
            _percent(result.coverage),
            _percent(result.coverage_kept),
            format_number(result.width),
            f"{100 * result.kept:.3g} %"
            + "".join(f"; {reason} {100 * share:.3g} %" for reason, share in result.unknown.items()),
            _with_bracket(result.mae),
            _with_bracket(result.mae_kept),
        ]
        for target, result in predictions.items()
    ]


PREDICTION_HEADS = (
    "",
    "Labels inside the interval",
    "of answered minutes",
    "Width, median",
    "Answered; unknown",
    "MAE, all minutes",
    "MAE, answered minutes",
)


def prediction_text(predictions: Mapping[str, PredictionResult]) -> str:
    """Explains the table."""
    first = next(iter(predictions.values()))
    people = {LABELS[target].words: result.calibration_people for target, result in predictions.items()}
    counted = f"{first.calibration_people} validation people"
    if len(set(people.values())) > 1:
        counted = f"the validation people with the label ({', '.join(f'{name} {n}' for name, n in people.items())})"
    return (
        f"Intervals are meant to hold {100 * first.level:g} % of the labels. They come from the errors of {counted}, each with the "
        "same weight. A minute is unknown if its embedding is far from the training minutes, if it has more motion than all of them, "
        "or if its interval is no narrower than that of the best constant. In brackets the 95 % interval over test participants."
    )


def _percent(estimate: Estimate) -> str:
    if estimate.value is None:
        return "–"
    if estimate.value is None:
        return "–"
    text = f"{100 * estimate.number:.1f} %"
    if estimate.interval is None:
        return text
    low, high = estimate.interval
    return f"{text} [{100 * low:.1f}, {100 * high:.1f}]"


def _with_bracket(estimate: Estimate) -> str:
    if estimate.interval is None:
        return format_number(estimate.value)
    low, high = estimate.interval
    return f"{format_number(estimate.value)} [{format_number(low)}, {format_number(high)}]"
