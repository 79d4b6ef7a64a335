"""The report of a grid of experiments: what it holds, and how it is written."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib.figure import Figure

from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.evaluate import to_json
from accdistill_jax.files import write_atomically
from accdistill_jax.reproduce.report.check import FORMAT_VERSION, KIND

PICTURES = "report"  # folder beside report.md
DOTS_PER_INCH = 150
HOLDS = ("yes", "no", "partly", "not measured")
RULES = "When a claim counts as holding (our choice, made without a look at test results)"
UNFINISHED = ("failed", "skipped")  # statuses of runs that have no result
_ID = re.compile(r"[a-z0-9][a-z0-9_-]*")


class Table(NamedTuple):
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
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()
    always: bool = False


class Claim(NamedTuple):
    """What the paper says beside what was measured.

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
    return sorted((run for run in report.runs if run["status"] in UNFINISHED), key=lambda run: UNFINISHED.index(run["status"]))


def flat_settings(settings: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text)."""
    if isinstance(settings, dict) and (settings or not prefix):
        return [pair for key, value in settings.items() for pair in flat_settings(value, f"{prefix}{key}.")]
    text = settings if isinstance(settings, str) else json.dumps(settings, ensure_ascii=False)
    return [(prefix[:-1], text)]


def to_dict(report: Report) -> dict[str, Any]:
    """The content of report.json: everything but the figures, of which the files are named; not finite is None."""

    def section(one: Section) -> dict[str, Any]:
        pictures = [{"name": p.name, "caption": p.caption, "file": f"{PICTURES}/{p.name}.png"} for p in one.pictures]
        return one._asdict() | {"tables": [t._asdict() for t in one.tables], "pictures": pictures}

    return to_json(
        {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            **report._asdict(),
            "claims": [claim._asdict() for claim in report.claims],
            "sections": [section(one) for one in report.sections],
            "numbers": {name: number._asdict() for name, number in report.numbers.items()},
        }
    )


def write_report(folder: Path, report: Report) -> Path:
    """Writes report/*.png, report.json, report.html and report.md, each atomically and in this order.

    Args:
        folder: made where missing.
        report: what to write.

    Returns:
        Path of report.html.

    Raises:
        UserError: the folder cannot be written.
        ValueError: the report contradicts itself.
    """
    from accdistill_jax.reproduce.report.document_html import html_page
    from accdistill_jax.reproduce.report.document_markdown import markdown

    check(report)
    folder = Path(folder)
    pictures = {p.name: png(p.figure) for section in report.sections for p in section.pictures}
    plain = to_dict(report)
    shown = report._replace(runs=plain["runs"], settings=plain["settings"])
    try:
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        for name in _former_pictures(folder) - pictures.keys():
            (folder / PICTURES / f"{name}.png").unlink(missing_ok=True)
        for name, content in pictures.items():
            write_atomically(folder / PICTURES / f"{name}.png", content)
        write_atomically(folder / "report.json", json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
        write_atomically(folder / "report.html", html_page(shown, pictures))
        write_atomically(folder / "report.md", markdown(shown))
    except OSError as problem:
        raise UserError(f"cannot write the report into {folder}: {problem.strerror or problem}") from problem
    return folder / "report.html"


def _former_pictures(folder: Path) -> set[str]:
    """Names of the pictures of the report that stands in the folder; other files there are not ours."""
    try:
        sections = json.loads((folder / "report.json").read_text())["sections"]
        return {name for one in sections for p in one["pictures"] if _ID.fullmatch(name := p["name"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def check(report: Report) -> None:
    """Raises ValueError where ids or names occur twice, a row has too few cells, or a claim's result is no known word."""
    _unique("section", [section.id for section in report.sections])
    _unique("picture", [picture.name for section in report.sections for picture in section.pictures])
    for section in report.sections:
        for table in section.tables:
            if wrong := [row for row in table.rows if len(row) != len(table.columns)]:
                raise ValueError(f"table {table.caption!r}: row {wrong[0]} has not {len(table.columns)} cells")
    for claim in report.claims:
        if claim.holds not in HOLDS:
            raise ValueError(f"claim {claim.claim!r}: {claim.holds!r} is none of {HOLDS}")


def _unique(kind: str, names: Sequence[str]) -> None:
    for name in names:
        if not _ID.fullmatch(name) or names.count(name) > 1:
            raise ValueError(f"{kind} {name!r} occurs twice, or is no name of small letters, digits, - and _")


def png(figure: Figure) -> bytes:
    """A figure as PNG on white, the same bytes for the same figure."""
    content = io.BytesIO()
    figure.savefig(
        content, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight", facecolor="white", metadata={"Software": None}
    )
    return content.getvalue()
