"""Writes report.html: one self-contained page, for screens of any width, print and screen readers."""

import base64
import html
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

from accdistill_jax.reproduce.report.document import (
    DOTS_PER_INCH,
    HOLDS,
    RULES,
    TRUST,
    UNFINISHED,
    Claim,
    Number,
    Picture,
    Report,
    ReportTable,
    Section,
    flat_settings,
    unfinished,
)
from accdistill_jax.reproduce.report.document_style import CSS
from accdistill_jax.reproduce.report.inline_markdown import to_html, to_plain
from accdistill_jax.runtime.progress import format_seconds

WORDS = {"yes": "holds", "no": "does not hold", "partly": "holds in part", "not measured": "not measured"}
_MARKS = {"yes": "✓", "no": "✗", "partly": "◐", "not measured": "–"}
_NUMERIC = re.compile(r"[-+−±<>≥≤≈]?\s*\d[^a-zA-Z]*(?:\s?[a-zA-Z%/²]{1,12})?[^a-zA-Z]*|[–—-]|")
_PIXELS_PER_INCH = 96  # in CSS
_LEGIBLE = 0.6  # smallest scale of a figure; on narrower screens it scrolls


def html_page(report: Report, pictures: Mapping[str, bytes]) -> str:
    """Makes the page.

    Args:
        report: the report; its runs and settings must be plain values.
        pictures: name -> PNG.
    """
    body = [
        "<header>",
        f"<h1>{to_html(report.title)}</h1>",
        *(f"<p>{to_html(text)}</p>" for text in report.summary),
        _tally(report.claims),
        _alert(report),
        "</header>",
        "<main>",
        *_claims(report.claims),
        *_unfinished(report),
        *_contents(report.sections),
        *(line for section in report.sections for line in _section(section, pictures)),
        *_details(report),
        "</main>",
    ]
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{html.escape(to_plain(report.title))}</title>",
        f"<style>{CSS}</style>",
    ]
    lines = ["<!DOCTYPE html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", *body, "</body>", "</html>"]
    return "\n".join(filter(None, lines)) + "\n"


def _tally(claims: Sequence[Claim]) -> str:
    counts = {word: sum(claim.holds == word for claim in claims) for word in HOLDS}
    words = {word: WORDS[word].replace("holds", "hold").replace("does", "do") for word in HOLDS}
    parts = [
        f"<li>{_badge(word, f'{count} {(WORDS if count == 1 else words)[word]}')}</li>"
        for word, count in counts.items()
        if count
    ]
    return f'<ul class="tally" aria-label="Claims">{"".join(parts)}</ul>' if parts else ""


def _badge(holds: str, text: str) -> str:
    kind = holds.replace(" ", "-")
    return f'<span class="badge {kind}"><span aria-hidden="true">{_MARKS[holds]}</span> {text}</span>'


def _alert(report: Report) -> str:
    missing = unfinished(report)
    if not missing:
        return ""
    failed = sum(run["status"] == "failed" for run in missing)
    text = f"{failed} of {len(report.runs)} runs failed"
    text += (
        f", {len(missing) - failed} more were skipped because they need a failed run" if failed < len(missing) else ""
    )
    return f'<p class="alert"><strong>{text}</strong>: <a href="#unfinished">list and reasons</a>.</p>'


def _claims(claims: Sequence[Claim]) -> Iterator[str]:
    if not claims:
        return
    heads = ("Claim", "The paper says", "Measured here", "Holds?", "Why")
    yield '<section aria-labelledby="claims"><h2 id="claims">Claims</h2>'
    yield '<div class="scroll"><table class="claims" role="table"><caption class="hidden">The paper\'s claims and the measured results</caption>'
    yield (
        '<thead><tr role="row">'
        + "".join(f'<th scope="col" role="columnheader">{head}</th>' for head in heads)
        + "</tr></thead><tbody>"
    )
    for claim in claims:
        trust = (
            f' <abbr title="{html.escape(_trust(claim.trust))}">{html.escape(claim.trust)}</abbr>'
            if claim.trust
            else ""
        )
        cells = (
            to_html(claim.paper) + trust,
            to_html(claim.measured) or "–",
            _badge(claim.holds, WORDS[claim.holds]),
            to_html(claim.why),
        )
        yield f'<tr role="row"><th scope="row" role="rowheader">{to_html(claim.claim)}</th>'
        yield "".join(
            f'<td role="cell" data-head="{head}">{cell}</td>' for head, cell in zip(heads[1:], cells, strict=True)
        )
        yield "</tr>"
    yield "</tbody></table></div>"
    if rules := [f"<li>{to_html(claim.claim)}: {to_html(claim.rule)}</li>" for claim in claims if claim.rule]:
        yield f"<details><summary>{RULES}</summary><ul>{''.join(rules)}</ul></details>"
    known = [letter for letter in TRUST if any(letter in claim.trust for claim in claims)]
    if known:
        yield '<p class="small">Sources of the statements: '
        yield "; ".join(f"<strong>{letter}</strong> {TRUST[letter]}" for letter in known) + ".</p>"
    yield "</section>"


def _trust(letters: str) -> str:
    return "; ".join(TRUST[letter] for letter in TRUST if letter in letters)


def _unfinished(report: Report) -> Iterator[str]:
    missing = unfinished(report)
    if not missing:
        return
    words = dict(zip(UNFINISHED, ("failed", "skipped"), strict=True))
    rows = [(f"`{run['name']}`", words[run["status"]], str(run["reason"])) for run in missing]
    yield '<section aria-labelledby="unfinished"><h2 id="unfinished">Runs without a result</h2>'
    yield from _table(
        ReportTable("Runs that failed, and runs that need a failed run", ("Run", "Status", "Why"), tuple(rows)),
        hidden=True,
    )
    yield "</section>"


def _contents(sections: Sequence[Section]) -> Iterator[str]:
    if not sections:
        return
    yield '<nav aria-labelledby="contents"><h2 id="contents">Experiments</h2><ol>'
    yield from (f'<li><a href="#{section.id}">{to_html(section.title)}</a></li>' for section in sections)
    yield '<li><a href="#settings">Settings, versions and all numbers</a></li></ol></nav>'


def _section(section: Section, pictures: Mapping[str, bytes]) -> Iterator[str]:
    yield f'<section class="experiment" aria-labelledby="{section.id}">'
    yield f'<h2 id="{section.id}">{to_html(section.title)}</h2>'
    if not section.always:
        yield f'<p class="small"><code>--only {section.id}</code></p>'
    yield from (f"<p>{to_html(text)}</p>" for text in section.text)
    for picture in section.pictures:
        yield from _figure(picture, pictures[picture.name])
    for table in section.tables:
        yield from _table(table)
    if section.notes:
        yield '<div class="notes"><p><strong>Keep in mind</strong></p><ul>'
        yield from (f"<li>{to_html(note)}</li>" for note in section.notes)
        yield "</ul></div>"
    yield "</section>"


def _figure(picture: Picture, content: bytes) -> Iterator[str]:
    width, height = (round(n * _PIXELS_PER_INCH / DOTS_PER_INCH) for n in struct.unpack(">II", content[16:24]))
    data = base64.b64encode(content).decode()
    yield "<figure>"
    yield (
        f'<div class="card"><img alt="{html.escape(to_plain(picture.caption))}" width="{width}" height="{height}" '
        f'style="min-width:{round(_LEGIBLE * width)}px" src="data:image/png;base64,{data}"></div>'
    )
    yield f"<figcaption>{to_html(picture.caption)}</figcaption></figure>"


def _table(table: ReportTable, *, hidden: bool = False) -> Iterator[str]:
    caption = f"<caption{' class=hidden' if hidden else ''}><span>{to_html(table.caption)}</span></caption>"
    numeric = [all(_NUMERIC.fullmatch(to_plain(row[k])) for row in table.rows) for k in range(len(table.columns))]
    kind = [' class="number"' if flag and k else "" for k, flag in enumerate(numeric)]
    # tabindex lets the keyboard scroll the table
    yield f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(to_plain(table.caption))}"><table>{caption}'
    yield "<thead><tr>" + "".join(
        f'<th scope="col"{c}>{to_html(h)}</th>' for h, c in zip(table.columns, kind, strict=True)
    )
    yield "</tr></thead><tbody>"
    for row in table.rows:
        cells = [f"<td{c}>{to_html(cell)}</td>" for cell, c in zip(row[1:], kind[1:], strict=True)]
        yield f'<tr><th scope="row">{to_html(row[0])}</th>{"".join(cells)}</tr>'
    yield "</tbody></table></div>"


def _details(report: Report) -> Iterator[str]:
    yield '<section aria-labelledby="settings"><h2 id="settings">Settings, versions and all numbers</h2>'
    settings = [(f"`{name}`", _literal(value)) for name, value in flat_settings(report.settings)]
    yield from _fold(ReportTable("Settings and versions", ("Setting", "Value"), tuple(settings)))
    runs = [(f"`{run['name']}`", run["status"], format_seconds(run["seconds"] or 0)) for run in report.runs]
    yield from _fold(
        ReportTable(f"All {len(runs)} runs", ("Run", "Status", "Duration since its last start"), tuple(runs))
    )
    numbers = [_number_row(name, number) for name, number in report.numbers.items()]
    columns = ("Name", "Value", "Interval", "Unit", "By seed", "Tolerance")
    yield from _fold(ReportTable(f"All {len(numbers)} numbers, as in report.json", columns, tuple(numbers)))
    yield "</section>"


def _fold(table: ReportTable) -> Iterator[str]:
    if table.rows:
        yield f"<details><summary>{html.escape(table.caption)}</summary>"
        yield from _table(table, hidden=True)
        yield "</details>"


def _number_row(name: str, number: Number) -> tuple[str, ...]:
    interval = "" if number.low is None or number.high is None else f"{number.low:.4g} to {number.high:.4g}"
    allowed = [f"{100 * number.relative:.3g} %"] if number.relative else []
    allowed += [f"{number.absolute:.3g}"] if number.absolute or not allowed else []
    value = "–" if number.value is None or not math.isfinite(number.value) else f"{number.value:.6g}"
    return f"`{name}`", value, interval, number.unit, _list(number.seeds), " + ".join(allowed)


def _list(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" if math.isfinite(value) else "–" for value in values)


def _literal(text: str) -> str:
    """Marks a setting's value as code, so that no character in it is read as Markdown."""
    return f"`{text}`" if text and "`" not in text and "\n" not in text else text
