"""The report of a grid of experiments: its parts."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from matplotlib.figure import Figure

PICTURES = "report"  # folder beside report.md
DOTS_PER_INCH = 150
HOLDS = ("yes", "no", "partly", "not measured")
RULES = "When a claim counts as holding (our choice, made without a look at test results)"
UNFINISHED = ("failed", "skipped")  # statuses of runs that have no result


class ReportTable(NamedTuple):
    """Cells are minimal Markdown (see inline.py); the first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Picture(NamedTuple):
    """A figure; `name` is its file's, unique in the report, and the caption also its text for those who do not see it."""

    name: str
    caption: str
    figure: Figure


class Section(NamedTuple):
    """One experiment; `id` is its name on the command line, unless it is `always` there. `notes` are what to keep in mind."""

    id: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[ReportTable, ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()
    always: bool = False


class Claim(NamedTuple):
    """A statement of the paper beside the measured result.

    Attributes:
        claim, paper: what is claimed, and in which numbers.
        trust: in that, see `TRUST`.
        measured, holds, why: what became of it here.
        rule: when it counts as holding, in part or not at all.
        section: id of the experiment that it was measured in.
    """

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
        value: None, or not finite, where it could not be measured.
        low: of its interval; None without.
        high: likewise.
        seeds: its value by training seed.
        unit: "" for none.
        relative: when it is measured again it may differ by this share of itself ...
        absolute: ... and by this much besides.
    """

    value: float | None
    low: float | None
    high: float | None
    seeds: tuple[float, ...]
    unit: str
    relative: float
    absolute: float


class Report(NamedTuple):
    """All of it.

    Attributes:
        title: of the page.
        summary: paragraphs.
        claims: in the order of the paper.
        sections: one for each experiment.
        numbers: by name, "<section's id>/<what>".
        runs: one dictionary for each, with "name", "status" (see jobs.Outcome), "seconds", "reason" and what else is known.
        settings: plain values; see check.SETTINGS for those that a comparison goes by.
        broken: experiments that a mistake in the program kept from being measured, and which.
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
    """The runs without a result: those that failed before those that were left out because of them."""
    return sorted(
        (run for run in report.runs if run["status"] in UNFINISHED), key=lambda run: UNFINISHED.index(run["status"])
    )


def flat_settings(settings: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text)."""
    if isinstance(settings, dict) and (settings or not prefix):
        return [pair for key, value in settings.items() for pair in flat_settings(value, f"{prefix}{key}.")]
    text = settings if isinstance(settings, str) else json.dumps(settings, ensure_ascii=False)
    return [(prefix[:-1], text)]
