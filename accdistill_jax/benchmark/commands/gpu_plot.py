"""The record of `benchmark gpu` as a figure: speed by batch size, variants, and losses in both dtypes."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter

from accdistill_jax.benchmark.contest import Measured, ratios, spread
from accdistill_jax.evaluation.report.style import BLUE, GREEN, GREY, ORANGE, RED, panels, styled

COLOURS = {"ours": BLUE, "PyTorch eager": ORANGE, "PyTorch compiled": GREEN}
DTYPES = {"bfloat16": "-", "float32": "--"}
STAGES = {"teacher": GREY, "student": RED}


@styled
def draw_measurements(record: Mapping[str, Any]) -> Figure:
    """Draws the measured parts; the panel of a part that is missing or failed says so.

    Args:
        record: as `gpu_report.report`.
    """
    figure, axes = panels(3, width=5.0, height=4.4)
    for axis, (part, title, fill) in zip(axes, PANELS, strict=True):
        axis.set_title(title)
        measured = record["parts"].get(part, {"failed": "not measured"})
        if "failed" in measured:
            axis.text(0.5, 0.5, f"{part}: not measured", ha="center", transform=axis.transAxes)
        else:
            fill(axis, measured)
    if record["tiny"]:
        figure.suptitle("rehearsal: the figures mean nothing")
    return figure


def _contest(axis: Axes, part: Mapping[str, Any]) -> None:
    """Segments per second against the batch, a line per program."""
    lines: dict[str, dict[int, float]] = {}
    for name, measured in part["times"].items():
        program, _, batch = name.rpartition(", ")
        if measured["seconds"]:
            segments = part["facts"][f"ours, {batch}"]["segments"]
            lines.setdefault(program, {})[int(batch)] = segments / spread(measured["seconds"]).median
    for program, speeds in lines.items():
        batches = sorted(speeds)
        axis.plot(batches, [speeds[batch] for batch in batches], "o-", color=COLOURS.get(program), label=program)
    axis.set(xscale="log", xlabel="segments per step", ylabel="segments/s")
    axis.set_xticks(sorted({batch for speeds in lines.values() for batch in speeds}))
    axis.xaxis.set_major_formatter(FormatStrFormatter("%d"))
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    if lines:
        axis.legend()


def _variants(axis: Axes, part: Mapping[str, Any]) -> None:
    """Segments per second of each variant relative to the first."""
    names = [name for name in part["facts"] if part["times"].get(name, {}).get("seconds")]
    first = next(iter(part["facts"]))
    if first not in names:
        axis.text(0.5, 0.5, f"{first}: failed", ha="center", transform=axis.transAxes)
        return
    base, segments = part["times"][first]["seconds"], part["facts"][first]["segments"]
    gains = []
    for name in names:
        seconds = part["times"][name]["seconds"]
        rounds = min(len(base), len(seconds))
        gain = ratios(Measured({}, base[:rounds], 0), Measured({}, seconds[:rounds], 0)).median
        gains.append(gain * part["facts"][name]["segments"] / segments)
    axis.barh(names[::-1], gains[::-1], color=BLUE)
    axis.axvline(1.0, color=GREY, linewidth=0.8)
    axis.set_xlabel("segments/s relative to the first")
    axis.tick_params(axis="y", labelsize=7)


def _training(axis: Axes, part: Mapping[str, Any]) -> None:
    """Loss by step of both stages in both dtypes."""
    for stage, colour in STAGES.items():
        for dtype, line in DTYPES.items():
            loss = part["curves"][dtype][stage]["loss"]
            axis.plot(range(1, len(loss) + 1), loss, line, color=colour, linewidth=1.2, label=f"{stage}, {dtype}")
    axis.set(xlabel="step", ylabel="loss")
    axis.legend()


PANELS = (
    ("contest", "Distillation step", _contest),
    ("variants", "Changes, each alone", _variants),
    ("training", "Training loss", _training),
)
