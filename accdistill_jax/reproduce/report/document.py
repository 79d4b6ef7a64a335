"""The parts of a report."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from matplotlib.figure import Figure

PICTURES = "report"  # folder beside report.md
DOTS_PER_INCH = 150
HOLDS = ("yes", "no", "partly", "not measured")
RULES = "When a claim holds (rules of this project, fixed before any test result was seen)"
UNFINISHED = ("failed", "skipped")  # statuses of runs that have no result


class ReportTable(NamedTuple):
    """A table; cells are minimal Markdown (see inline_markdown.py), and the first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Picture(NamedTuple):
    """A figure; `name` is the name of its file, unique in the report. The caption is also the alternative text."""

    name: str
    caption: str
    figure: Figure


class Section(NamedTuple):
    """One experiment. `id` is its name for `--only`, except for sections that every report has (`always`). `notes` are caveats."""

    id: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[ReportTable, ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()
    always: bool = False


class Statement(NamedTuple):
    """A statement of the paper.

    Attributes:
        id: by which `--check` finds the claim in another report; it stays when the wording changes.
        claim: in words.
        paper: the paper's numbers.
    """

    id: str
    claim: str
    paper: str


class Claim(NamedTuple):
    """A statement of the paper with the measured result.

    Attributes:
        id, claim, paper: see `Statement`.
        trust: how sure it is that the paper says so, see `TRUST`.
        measured: the result, in words.
        holds: the verdict.
        why: the reason for the verdict.
        rule: when the claim holds, holds in part or does not hold.
        section: id of the experiment that measured it.
    """

    id: str
    claim: str
    paper: str
    trust: str
    measured: str
    holds: Literal["yes", "no", "partly", "not measured"]
    why: str
    rule: str = ""
    section: str = ""


class Number(NamedTuple):
    """One measured number.

    Attributes:
        value: None or not finite if it could not be measured.
        low: lower end of its interval; None without an interval.
        high: upper end.
        seeds: the value of each training seed.
        unit: "" for none.
        relative: tolerance when it is measured again, as a share of the value ...
        absolute: ... plus this absolute tolerance.
        share: True for a proportion from 0 to 1, whose spread shrinks towards both ends.
    """

    value: float | None
    low: float | None
    high: float | None
    seeds: tuple[float, ...]
    unit: str
    relative: float
    absolute: float
    share: bool = False


class Report(NamedTuple):
    """A whole report.

    Attributes:
        title: of the page.
        summary: paragraphs.
        claims: in the order of the paper.
        sections: one for each experiment.
        numbers: "<id of the section>/<...>" -> number.
        runs: a dictionary for each run, with "name", "status" (see jobs.JobOutcome), "seconds", "reason" and further facts.
        settings: plain values; check.SETTINGS lists those that must be equal for a comparison.
        broken: experiment -> error of the program that prevented its measurement.
    """

    title: str
    summary: tuple[str, ...]
    claims: tuple[Claim, ...]
    sections: tuple[Section, ...]
    numbers: dict[str, Number]
    runs: list[dict]
    settings: dict
    broken: dict[str, str] = {}


TRUST = {
    "P": "the paper's abstract, or a source that quotes its sections and tables",
    "Q": "the paper's predecessor, arXiv 2312.05409",
    "A": "assumed here, not known from the paper",
}


def unfinished(report: Report) -> list[dict]:
    """The runs without a result: first those that failed, then those that were skipped because of them."""
    return sorted(
        (run for run in report.runs if run["status"] in UNFINISHED), key=lambda run: UNFINISHED.index(run["status"])
    )


def flat_settings(settings: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Flattens nested settings to pairs of dotted name and text."""
    if isinstance(settings, dict) and (settings or not prefix):
        return [pair for key, value in settings.items() for pair in flat_settings(value, f"{prefix}{key}.")]
    text = settings if isinstance(settings, str) else json.dumps(settings, ensure_ascii=False)
    return [(prefix[:-1], text)]
