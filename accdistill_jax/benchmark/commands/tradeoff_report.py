"""Report of `benchmark tradeoff`: a table and a figure."""

import argparse
import contextlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from accdistill_jax.benchmark import contest

TARGETS = {"hr_mae": "hr_bpm", "sdnn_mae": "sdnn_ms"}  # of the linear probes: in results -> of the store
TOLERATED = 0.1  # of a student's time to be off the median of its budget


class Variant(NamedTuple):
    """A share of the student's tokens that is dropped, and how many views the teacher embeds once; 0: it runs in every step."""

    drop: float
    views: int

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"{self.drop:g}/{self.views}"


def named_variant(text: str) -> Variant:
    """A variant by its name, for argparse."""
    drop, _, views = text.partition("/")
    with contextlib.suppress(ValueError):
        if 0 <= float(drop) <= 0.95 and views.isdecimal():
            return Variant(float(drop), int(views))
    raise argparse.ArgumentTypeError(f"{text!r} is not DROP/VIEWS such as 0.5/2")


class Summary(NamedTuple):
    """The students of one variant and budget; each quantity as (median, smallest, largest) over the seeds.

    off: largest |time taken / median of all students of the budget - 1| of them: students are compared with each other.
    """

    variant: Variant
    budget_s: float
    steps: int
    wall_s: tuple[float, float, float]
    off: float
    views_s: float
    hr_mae: tuple[float, float, float]
    sdnn_mae: tuple[float, float, float]
    top1: tuple[float, float, float]


def summaries(record: Mapping[str, Any]) -> list[Summary]:
    """One per variant and budget, in the order of the results."""
    groups: dict[tuple[str, float], list[dict]] = {}
    for result in record["results"]:
        groups.setdefault((result["variant"], result["budget_s"]), []).append(result)

    def taken(one: Mapping[str, Any]) -> float:
        return one["train_s"] + one["views_s"]

    of_budget: dict[float, list[float]] = {}
    for result in record["results"]:
        of_budget.setdefault(result["budget_s"], []).append(taken(result))
    usual_s = {budget_s: statistics.median(seconds) for budget_s, seconds in of_budget.items()}

    def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
        return statistics.median(values), min(values), max(values)

    return [
        Summary(
            named_variant(name),
            budget_s,
            own[0]["steps"],
            over_seeds([taken(one) for one in own]),
            max(abs(taken(one) / usual_s[budget_s] - 1.0) for one in own),
            statistics.median(one["views_s"] for one in own),
            *(over_seeds([one[name]["student"] for one in own]) for name in TARGETS),
            over_seeds([one["top1"] for one in own]),
        )
        for (name, budget_s), own in groups.items()
    ]


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.benchmark.model.tables import table

    def spread(values: tuple[float, float, float], form: str) -> str:
        return contest.Spread(*values).text(form)

    rows = [
        [
            f"{one.variant.drop:.0%} dropped, "
            + (f"{one.variant.views} views once" if one.variant.views else "teacher in every step"),
            f"{one.budget_s:g}",
            f"{1e3 * record['step_s'][one.variant.name]:.0f}",
            f"{record['step_s'][record['first']] / record['step_s'][one.variant.name]:.2f}",
            f"{one.steps}",
            f"{one.views_s:.0f}",
            f"{one.wall_s[0]:.0f}",
            f"{one.off:.0%}",
            spread(one.hr_mae, "{:.2f}"),
            spread(one.sdnn_mae, "{:.1f}"),
            spread(one.top1, "{:.3f}"),
        ]
        for one in summaries(record)
    ]
    seeds, some = len({one["seed"] for one in record["results"]}), record["results"][:1]
    header = (
        "student",
        "budget, s",
        "step, ms",
        "times as fast",
        "steps",
        "of the budget for views, s",
        "taken, s",
        "off the others' time by up to",
        "heart-rate error, bpm",
        "SDNN error, ms",
        f"found among {record['pool']}",
    )
    out = [f"# Accuracy at equal time: {record['config']}\n\n", table(header, rows)]
    if some:
        heart, variability = (some[0][name] for name in TARGETS)
        out.append(
            f"\nMedians (smallest to largest) of {seeds} seeds, on {some[0]['validation_segments']} segments of validation "
            f"participants. Errors of the teacher {heart['teacher']:.2f} bpm and {variability['teacher']:.1f} ms, of the mean "
            f"{heart['mean']:.2f} bpm and {variability['mean']:.1f} ms; the right minute by chance {1 / record['pool']:.3f}. Time "
            "leaves compilation out and counts the computation of views, which "
            f"a further student of the same teacher and seed would not need. Figure: {record['figure']}\n"
        )
    far = max((one.off for one in summaries(record)), default=0.0)
    if far > TOLERATED:
        out.append(
            f"\nThese times are not equal: a student's is {far:.0%} off the median of its budget (at most {TOLERATED:.0%} passes for equal). "
            "Something else ran, or steps of the contest are not those of training; do not read the table.\n"
        )
    for name, budget_s in sorted({tuple(one) for one in record["left_out"]}):
        out.append(f"\n{name} is left out at {budget_s:g} s: the teacher's views alone take longer.\n")
    return "".join(out)


def draw(record: Mapping[str, Any]) -> Any:
    """Heart-rate error and retrieval against the time taken: a colour per share dropped, dashed where the teacher ran once."""
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
    found = summaries(record)
    drops = sorted({one.variant.drop for one in found})
    lines: dict[Variant, list[Summary]] = {}
    for one in found:
        lines.setdefault(one.variant, []).append(one)

    @styled
    def figure():
        made, axes = panels(3, width=4.2, height=4.0)
        for axis, quantity in zip(axes, (*TARGETS, "top1"), strict=True):
            for variant, own in lines.items():
                own = sorted(own, key=lambda one: one.wall_s)
                middle, low, high = zip(*(getattr(one, quantity) for one in own), strict=True)
                axis.errorbar(
                    [one.wall_s[0] for one in own],
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
                    label=f"{variant.drop:.0%} dropped" + (f", {variant.views} views once" if variant.views else ""),
                )
            axis.set_xlabel("training time with the teacher's views, s")
        if record["results"]:
            for axis, name in zip(axes, TARGETS, strict=False):
                axis.axhline(record["results"][0][name]["teacher"], color=GREY, linestyle=":", label="teacher")
        axes[0].set(title="Heart-rate error", ylabel="mean absolute error, bpm")
        axes[1].set(title="SDNN error", ylabel="mean absolute error, ms")
        axes[2].set(title=f"Same minute found among {record['pool']}", ylabel="share of minutes")
        made.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
        return made

    return figure()
