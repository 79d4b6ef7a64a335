"""Tables and figure of leave-one-wearer-out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from accdistill_jax.evaluation.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, styled
from accdistill_jax.reproduce.wearers.scores import NEAR_BPM, RateScore, SearchScore
from accdistill_jax.text import escape_markdown, for_plot

_COLOURS = (BLUE, ORANGE, RED, GREEN, PURPLE, SKY, GREY, "#000000", "#F0E442", "#6B3E1D")


class Results(NamedTuple):
    """Scores of all methods.

    Attributes:
        rates: method -> wearer -> heart-rate errors.
        searches: method -> wearer -> retrieval.
        wearers: in the order of the columns.
    """

    rates: Mapping[str, Mapping[str, RateScore]]
    searches: Mapping[str, Mapping[str, SearchScore]]
    wearers: Sequence[str]

    def to_json(self) -> dict:
        """Plain dictionaries."""
        return {
            name: {method: {who: score.__dict__ for who, score in of.items()} for method, of in scores.items()}
            for name, scores in (("heart_rate", self.rates), ("retrieval", self.searches))
        }


def markdown(results: Results) -> str:
    """Both tables: wearers in columns, and all minutes together in the last one."""
    people = results.wearers
    minutes = {who: score.minutes for of in results.searches.values() for who, score in of.items()}
    heads = [f"{escape_markdown(who)} ({minutes[who]})" for who in people]
    lines = [
        f"Mean absolute error of the heart rate in bpm, and in brackets the share of minutes within {NEAR_BPM:g} bpm:",
        "",
        *_table(
            ["method", *heads, "all minutes", "mean ± SD of wearers"],
            [
                [
                    method,
                    *(f"{of[who].mae_bpm:.2f} ({of[who].near:.0%})" if who in of else "" for who in people),
                    f"{_weighted(of, 'mae_bpm'):.2f} ({_weighted(of, 'near'):.0%})",
                    "{:.2f} ± {:.2f}".format(*_mean_and_sd([score.mae_bpm for score in of.values()])),
                ]
                for method, of in results.rates.items()
                if of
            ],
        ),
        "",
        "Share of minutes whose PPG is first, by acceleration, among the minutes of all wearers, and in brackets among the wearer's own:",
        "",
        *_table(
            ["method", *heads, f"all minutes, of {next(iter(next(iter(results.searches.values())).values())).pool}"],
            [
                [
                    method,
                    *(f"{of[who].among_all:.1%} ({of[who].within:.1%})" for who in people),
                    f"{_weighted(of, 'among_all'):.1%}",
                ]
                for method, of in results.searches.items()
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def _weighted(scores: Mapping[str, RateScore] | Mapping[str, SearchScore], name: str) -> float:
    """Mean over minutes of a number of each wearer."""
    weights = [score.minutes for score in scores.values()]
    return float(np.average([getattr(score, name) for score in scores.values()], weights=weights))


def _mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    ruler = ["---", *("---:" for _ in head[1:])]
    return ["| " + " | ".join(row) + " |" for row in (head, ruler, *rows)]


@styled
def draw_wearers(results: Results, path: Path) -> None:
    """Draws both scores, a group of bars for each wearer, into a PNG file."""
    from matplotlib.figure import Figure

    methods = dict.fromkeys([*results.rates, *results.searches])
    colours = {method: _COLOURS[number % len(_COLOURS)] for number, method in enumerate(methods)}
    figure = Figure(figsize=(11, 8), layout="constrained")
    top, bottom = figure.subplots(2, 1)
    _bars(
        top,
        {m: {w: s.mae_bpm for w, s in of.items()} for m, of in results.rates.items() if of},
        results.wearers,
        colours,
    )
    top.set_title("Heart rate of wearers that were left out")
    top.set_ylabel("mean absolute error (bpm)")
    among = {m: {w: 100 * s.among_all for w, s in of.items()} for m, of in results.searches.items()}
    _bars(bottom, among, results.wearers, colours)
    bottom.set_title("The same minute, found in the PPG of all wearers")
    bottom.set_ylabel("first in (% of minutes)")
    figure.savefig(path)


def _bars(axes, values: Mapping[str, Mapping[str, float]], wearers: Sequence[str], colours: Mapping[str, str]) -> None:
    width = 0.8 / max(len(values), 1)
    for number, (method, of) in enumerate(values.items()):
        places = np.arange(len(wearers)) + (number - (len(values) - 1) / 2) * width
        heights = [of.get(who, np.nan) for who in wearers]
        axes.bar(places, heights, width, label=for_plot(method), color=colours[method])
    axes.set_xticks(range(len(wearers)), [for_plot(who) for who in wearers])
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
