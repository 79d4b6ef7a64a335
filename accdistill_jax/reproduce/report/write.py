"""Validates and writes the report of a grid of experiments."""

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
from accdistill_jax.reproduce.report.document_markdown import document_markdown

_ID = re.compile(r"[a-z0-9][a-z0-9_-]*")


def to_dict(report: Report) -> dict[str, Any]:
    """Makes the content of report.json. Figures are named by their files; numbers that are not finite become None."""

    def section_dict(section: Section) -> dict[str, Any]:
        pictures = [
            {"name": p.name, "caption": p.caption, "file": f"{PICTURES}/{p.name}.png"} for p in section.pictures
        ]
        return section._asdict() | {"tables": [t._asdict() for t in section.tables], "pictures": pictures}

    return json_value(
        {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            **report._asdict(),
            "claims": [claim._asdict() for claim in report.claims],
            "sections": [section_dict(section) for section in report.sections],
            "numbers": {name: number._asdict() for name, number in report.numbers.items()},
        }
    )


def write_grid_report(folder: Path, report: Report) -> Path:
    """Writes report/*.png, report.json, report.html and report.md, each atomically and in this order.

    Args:
        folder: folder of the report; created if missing.
        report: the report.

    Returns:
        Path of report.html.

    Raises:
        UserError: the folder cannot be written.
        ValueError: the report is not valid, see `validate_report`.
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
        write_atomically(folder / "report.md", document_markdown(shown))
    except OSError as problem:
        raise UserError(f"cannot write the report into {folder}: {problem.strerror or problem}") from problem
    return folder / "report.html"


def _former_pictures(folder: Path) -> set[str]:
    """Reads the names of the pictures of an earlier report in the folder; other files in the folder are left alone."""
    try:
        sections = json.loads((folder / "report.json").read_text())["sections"]
        return {name for section in sections for p in section["pictures"] if _ID.fullmatch(name := p["name"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def validate_report(report: Report) -> None:
    """Raises ValueError if an id or name occurs twice, a row has too few cells, or a verdict is unknown."""
    _unique("section", [section.id for section in report.sections])
    _unique("picture", [picture.name for section in report.sections for picture in section.pictures])
    for section in report.sections:
        for table in section.tables:
            if wrong := [row for row in table.rows if len(row) != len(table.columns)]:
                raise ValueError(f"table {table.caption!r}: row {wrong[0]} does not have {len(table.columns)} cells")
    for claim in report.claims:
        if claim.holds not in HOLDS:
            raise ValueError(f"claim {claim.claim!r}: verdict {claim.holds!r} is not one of {HOLDS}")


def _unique(kind: str, names: Sequence[str]) -> None:
    for name in names:
        if not _ID.fullmatch(name) or names.count(name) > 1:
            raise ValueError(f"{kind} {name!r} occurs twice, or has characters other than a-z, 0-9, - and _")


def png(figure: Figure) -> bytes:
    """Draws a figure as PNG on white; the same figure gives the same bytes."""
    content = io.BytesIO()
    figure.savefig(
        content, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight", facecolor="white", metadata={"Software": None}
    )
    return content.getvalue()
