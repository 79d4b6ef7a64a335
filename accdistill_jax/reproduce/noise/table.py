"""Tables and figure of the scores by level of noise."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, panels, styled
from accdistill_jax.reproduce.measure.formatting import (
    decimal,
    percent,
    points,
    ranged,
    signed,
    thousands,
)
from accdistill_jax.reproduce.noise.levels import (
    ALL,
    BOOSTING,
    CALM_SHARE,
    ENVELOPE,
    LIMITS_MG,
    MATCHER,
    OWN_MEAN,
    STUDENT,
    TEACHER,
    LevelScores,
)

_MARKS = {
    STUDENT: (ORANGE, "o", "-"),
    TEACHER: (BLUE, "s", "-"),
    MATCHER: (GREEN, "*", "--"),
    BOOSTING: (GREEN, "*", "--"),
    ENVELOPE: (PURPLE, "^", "--"),
    OWN_MEAN: (SKY, "", ":"),
}
_APART_MG = 0.004  # between the intervals of two routes


def level_tables(scores: Sequence[LevelScores], *, pool: int, train_minutes: int) -> str:
    """Both tables, levels in columns.

    Args:
        scores: of the levels and of all minutes.
        pool: number of candidates of the search.
        train_minutes: number of minutes that the boosting was fitted on.
    """
    levels = ["mg/sqrt(Hz)", *(level.name for level in scores)]
    lines = [
        f"Noise: density of the acceleration at 20 to 30 Hz, median over the calmest {percent(CALM_SHARE)} of each test person's minutes. "
        "Brackets: 95 % intervals over people; a level of one person has none, and with fewer than ten they are rough. "
        "Slow sensors: below 60 Hz, so their noise at 20 to 30 Hz is not known.",
        "",
        *_table(
            levels,
            [
                ["people", *(thousands(level.people) for level in scores)],
                ["minutes", *(thousands(level.minutes) for level in scores)],
                ["minutes with a known heart rate", *(thousands(level.rated_minutes) for level in scores)],
                ["median noise of the people", *(decimal(level.noise_mg) for level in scores)],
            ],
        ),
        "",
        f"Share of minutes, in %, whose PPG is first, by acceleration, among {thousands(pool)} minutes of all levels: the exact expectation "
        f"over random pools (by chance {percent(1 / pool)}). The matcher's lag is fitted on validation people:",
        "",
        *_table(
            levels,
            [
                *([route, *(ranged(points(level.top1[route]), 1) for level in scores)] for route in scores[0].top1),
                [
                    "student minus matcher",
                    *(signed(points(level.top1_ahead), 1) for level in scores),
                ],
            ],
        ),
        "",
        f"Mean absolute error of the heart rate in bpm. Every route answers every minute; the boosting is fitted on "
        f"{thousands(train_minutes)} minutes of training people, the student and the teacher use the run's read-outs:",
        "",
        *_table(
            levels,
            [
                *([route, *(ranged(level.error_bpm[route]) for level in scores)] for route in scores[0].error_bpm),
                ["student minus boosting", *(signed(level.error_ahead_bpm) for level in scores)],
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def to_json(scores: Sequence[LevelScores], *, pool: int, train_minutes: int) -> dict:
    """Plain dictionaries of all numbers."""
    return {
        "limits_mg": list(LIMITS_MG),
        "pool": pool,
        "train_minutes": train_minutes,
        "levels": [{key: _plain(value) for key, value in level._asdict().items()} for level in scores],
    }


def _plain(value: object) -> object:
    if isinstance(value, Estimate):
        return value.__dict__
    return {key: _plain(part) for key, part in value.items()} if isinstance(value, Mapping) else value


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    ruler = ["---", *("---:" for _ in head[1:])]
    return ["| " + " | ".join(row) + " |" for row in (head, ruler, *rows)]


@styled
def draw_levels(scores: Sequence[LevelScores], path: Path, *, pool: int) -> None:
    """Draws top-1 and the error of the heart rate against noise into a PNG file."""
    levels = [level for level in scores if level.name != ALL and level.noise_mg is not None]
    figure, (left, right) = panels(2, width=5.6, height=4.6)
    _curves(left, levels, (STUDENT, MATCHER), lambda level: {r: points(e) for r, e in level.top1.items()})
    left.set_ylim(0, 102)
    left.set_ylabel(f"PPG of the minute first among {thousands(pool)} (%)")
    left.set_title("Search for the same minute")
    routes = (STUDENT, TEACHER, BOOSTING, ENVELOPE, OWN_MEAN)
    _curves(right, levels, routes, lambda level: level.error_bpm)
    right.set_ylim(bottom=0)
    right.set_ylabel("mean absolute error (bpm)")
    right.set_title("Heart rate")
    for axes in (left, right):
        axes.grid(visible=False, axis="x")
        for limit in LIMITS_MG:
            axes.axvline(limit, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("noise of the accelerometer, mg/sqrt(Hz)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8)
    figure.savefig(path)


def _curves(
    axes: Axes,
    levels: Sequence[LevelScores],
    routes: Sequence[str],
    estimates: Callable[[LevelScores], Mapping[str, Estimate]],
) -> None:
    """A curve for each route, over the median noise of the levels, with intervals."""
    for number, route in enumerate(routes):
        shift = (number - (len(routes) - 1) / 2) * _APART_MG
        drawn = [((level.noise_mg or 0.0) + shift, estimates(level)[route]) for level in levels]
        known = [(place, estimate) for place, estimate in drawn if estimate.value is not None]
        if not known:
            continue
        colour, marker, line = _MARKS[route]
        values = [estimate.number for _, estimate in known]
        ends = [estimate.interval or (estimate.number, estimate.number) for _, estimate in known]
        bars = [
            [max(value - low, 0.0) for value, (low, _) in zip(values, ends, strict=True)],
            [max(high - value, 0.0) for value, (_, high) in zip(values, ends, strict=True)],
        ]
        places = [place for place, _ in known]
        axes.errorbar(
            places, values, yerr=bars, label=route, color=colour, marker=marker, linestyle=line, capsize=2, markersize=5
        )
