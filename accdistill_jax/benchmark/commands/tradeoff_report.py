"""Report of `benchmark tradeoff`: a table and a figure."""

import argparse
import contextlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from accdistill_jax.benchmark import contest

TARGETS = {"hr_mae": "hr_bpm", "sdnn_mae": "sdnn_ms"}  # linear probes: name in results -> label of the store
LEAST_SHOWN_SHARE = 0.02  # smallest range of the axis of retrieval, so that equal students look equal
TOLERATED = 0.1  # largest relative deviation of a student's time from the median of its budget


class StudentVariant(NamedTuple):
    """A form of the student's training.

    Attributes:
        drop: share of the student's tokens that are dropped.
        views: number of views of each segment that the teacher embeds once; 0: it runs in every step.
    """

    drop: float
    views: int

    @property
    def name(self) -> str:
        """The variant as written on the command line."""
        return f"{self.drop:g}/{self.views}"


def named_variant(text: str) -> StudentVariant:
    """The variant of a name such as "0.5/2", for argparse."""
    drop, _, views = text.partition("/")
    with contextlib.suppress(ValueError):
        if 0 <= float(drop) <= 0.95 and views.isdecimal():
            return StudentVariant(float(drop), int(views))
    raise argparse.ArgumentTypeError(f"{text!r} is not DROP/VIEWS such as 0.5/2 (DROP at most 0.95)")


class Summary(NamedTuple):
    """The students of a variant and budget. A quantity with three values is (median, smallest, largest) over the seeds.

    Attributes:
        variant: form of the training.
        budget_s: training time, in seconds; 0 if the steps were given.
        steps: steps of each student.
        wall_s: training time with the teacher's views, in seconds.
        off: largest relative deviation of their time from the median over all students of the budget; 0 at equal steps.
        views_s: median time for the teacher's views, in seconds.
        hr_mae: heart-rate error, in beats per minute.
        sdnn_mae: SDNN error, in ms.
        top1: share of minutes that are retrieved.
    """

    variant: StudentVariant
    budget_s: float
    steps: int
    wall_s: tuple[float, float, float]
    off: float
    views_s: float
    hr_mae: tuple[float, float, float]
    sdnn_mae: tuple[float, float, float]
    top1: tuple[float, float, float]


def summaries(record: Mapping[str, Any]) -> list[Summary]:
    """A summary per variant and budget, in the order of the results."""
    groups: dict[tuple[str, float, int], list[dict]] = {}
    for result in record["results"]:
        equal_steps = 0 if result["budget_s"] else result["steps"]
        groups.setdefault((result["variant"], result["budget_s"], equal_steps), []).append(result)

    def taken_s(result: Mapping[str, Any]) -> float:
        return result["train_s"] + result["views_s"]

    of_budget: dict[float, list[float]] = {}
    for result in record["results"]:
        of_budget.setdefault(result["budget_s"], []).append(taken_s(result))
    usual_s = {budget_s: statistics.median(seconds) for budget_s, seconds in of_budget.items()}

    def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
        return statistics.median(values), min(values), max(values)

    return [
        Summary(
            variant=named_variant(name),
            budget_s=budget_s,
            steps=group[0]["steps"],
            wall_s=over_seeds([taken_s(result) for result in group]),
            off=max(abs(taken_s(result) / usual_s[budget_s] - 1.0) for result in group) if budget_s else 0.0,
            views_s=statistics.median(result["views_s"] for result in group),
            hr_mae=over_seeds([result["hr_mae"]["student"] for result in group]),
            sdnn_mae=over_seeds([result["sdnn_mae"]["student"] for result in group]),
            top1=over_seeds([result["top1"] for result in group]),
        )
        for (name, budget_s, _), group in groups.items()
    ]


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.benchmark.model.tables import table

    def spread(values: tuple[float, float, float], form: str) -> str:
        return contest.MedianRange(*values).text(form)

    rows = [
        [
            f"{summary.variant.drop:.0%} dropped, "
            + (f"{summary.variant.views} views cached" if summary.variant.views else "teacher in every step"),
            f"{summary.budget_s:g}" if summary.budget_s else "equal steps",
            f"{1e3 * record['step_s'][summary.variant.name]:.0f}",
            f"{record['step_s'][record['first']] / record['step_s'][summary.variant.name]:.2f}",
            f"{summary.steps}",
            f"{summary.views_s:.0f}",
            f"{summary.wall_s[0]:.0f}",
            f"{summary.off:.0%}",
            spread(summary.hr_mae, "{:.2f}"),
            spread(summary.sdnn_mae, "{:.1f}"),
            spread(summary.top1, "{:.3f}"),
        ]
        for summary in summaries(record)
    ]
    seeds = len({result["seed"] for result in record["results"]})
    header = (
        "student",
        "budget, s",
        "step, ms",
        "times as fast",
        "steps",
        "views, s of the budget",
        "time taken, s",
        "largest deviation of the time",
        "heart-rate error, bpm",
        "SDNN error, ms",
        f"top-1 among {record['pool']}",
    )
    equal = "time" if any(result["budget_s"] for result in record["results"]) else "steps"
    out = [f"# Accuracy at equal {equal}: {record['config']}\n\n", table(header, rows)]
    for first in record["results"][:1]:
        heart, variability = (first[name] for name in TARGETS)
        out.append(
            f"\nMedians (smallest to largest) of {seeds} seeds, on {first['validation_segments']} segments of validation "
            f"participants. Errors of the teacher: {heart['teacher']:.2f} bpm and {variability['teacher']:.1f} ms; of the mean: "
            f"{heart['mean']:.2f} bpm and {variability['mean']:.1f} ms. Top-1 by chance: {1 / record['pool']:.3f}. The time includes "
            "the computation of views, which a further student of the same teacher and seed would not need, but not compilation. "
            f"Figure: {record['figure']}\n"
        )
    far = max((summary.off for summary in summaries(record)), default=0.0)
    if far > TOLERATED:
        out.append(
            f"\nThese times are not equal: a student's time deviates by {far:.0%} from the median of its budget (allowed {TOLERATED:.0%}). "
            "Another program ran at the same time, or the measured steps differ from those of training. Ignore the table.\n"
        )
    for name, budget_s in sorted({tuple(summary) for summary in record["left_out"]}):
        out.append(f"\n{name} is left out at {budget_s:g} s: the teacher's views alone take longer.\n")
    return "".join(out)


def draw(record: Mapping[str, Any]) -> Any:
    """The figure: errors and retrieval against training time, a colour per share of dropped tokens, dashed for cached views."""
    from accdistill_jax.evaluation.report.style import (
        BLUE,
        GREEN,
        GREY,
        ORANGE,
        PURPLE,
        RED,
        SKY,
        panels,
        styled,
    )

    colours = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
    drawn_summaries = summaries(record)
    drops = sorted({summary.variant.drop for summary in drawn_summaries})
    lines: dict[StudentVariant, list[Summary]] = {}
    for summary in drawn_summaries:
        lines.setdefault(summary.variant, []).append(summary)

    @styled
    def figure():
        drawn, axes = panels(3, width=4.2, height=4.0)
        for axis, quantity in zip(axes, (*TARGETS, "top1"), strict=True):
            for variant, line in lines.items():
                line = sorted(line, key=lambda summary: summary.wall_s)
                middle, low, high = zip(*(getattr(summary, quantity) for summary in line), strict=True)
                axis.errorbar(
                    [summary.wall_s[0] for summary in line],
                    middle,
                    yerr=[
                        [m - a for m, a in zip(middle, low, strict=True)],
                        [b - m for m, b in zip(middle, high, strict=True)],
                    ],
                    color=colours[drops.index(variant.drop) % len(colours)],
                    marker="s" if variant.views else "o",
                    linestyle="--" if variant.views else "-",
                    markerfacecolor="white" if variant.views else None,
                    capsize=3,
                    label=f"{variant.drop:.0%} dropped" + (f", {variant.views} views cached" if variant.views else ""),
                )
            axis.set_xlabel("training time with the teacher's views, s")
        if record["results"]:
            for axis, name in zip(axes, TARGETS, strict=False):
                axis.axhline(record["results"][0][name]["teacher"], color=GREY, linestyle=":", label="teacher")
        axes[0].set(title="Heart-rate error", ylabel="mean absolute error, bpm")
        axes[1].set(title="SDNN error", ylabel="mean absolute error, ms")
        axes[2].set(title=f"Top-1 retrieval among {record['pool']}", ylabel="share of minutes")
        low, high = axes[2].get_ylim()
        middle, half = (low + high) / 2, max((high - low) / 2, LEAST_SHOWN_SHARE / 2)
        axes[2].set_ylim(max(middle - half, 0.0), min(middle + half, 1.005))
        drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
        return drawn

    return figure()
