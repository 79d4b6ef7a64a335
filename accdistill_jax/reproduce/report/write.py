"""Checks and writes the report of a grid of experiments."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.evaluate import json_value
from accdistill_jax.files import write_atomically
from accdistill_jax.reproduce.report.check import FORMAT_VERSION, KIND
from accdistill_jax.reproduce.report.document import DOTS_PER_INCH, HOLDS, PICTURES, Report, Section
from accdistill_jax.reproduce.report.document_html import html_page
from accdistill_jax.reproduce.report.document_markdown import report_markdown

_ID = re.compile(r"[a-z0-9][a-z0-9_-]*")


def to_dict(report: Report) -> dict[str, Any]:
    """The content of report.json: everything but the figures, of which the files are named; not finite is None."""

    def section(one: Section) -> dict[str, Any]:
        pictures = [{"name": p.name, "caption": p.caption, "file": f"{PICTURES}/{p.name}.png"} for p in one.pictures]
        return one._asdict() | {"tables": [t._asdict() for t in one.tables], "pictures": pictures}

    return json_value(
        {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            **report._asdict(),
            "claims": [claim._asdict() for claim in report.claims],
            "sections": [section(one) for one in report.sections],
            "numbers": {name: number._asdict() for name, number in report.numbers.items()},
        }
    )


def write_grid_report(folder: Path, report: Report) -> Path:
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
    validate_report(report)
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
        write_atomically(
            folder / "report.json", json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        )
        write_atomically(folder / "report.html", html_page(shown, pictures))
        write_atomically(folder / "report.md", report_markdown(shown))
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


def validate_report(report: Report) -> None:
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
