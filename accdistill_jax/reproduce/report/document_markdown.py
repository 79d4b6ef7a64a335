"""Writes report.md: the claims, then each experiment, then settings and runs."""

from collections.abc import Iterator, Sequence

from accdistill_jax.reproduce.report.document import (
    PICTURES,
    RULES,
    TRUST,
    Report,
    Section,
    flat_settings,
    unfinished,
)
from accdistill_jax.reproduce.report.inline_markdown import to_markdown, to_plain
from accdistill_jax.runtime.progress import format_seconds

WORDS = {"yes": "**holds**", "no": "**does not hold**", "partly": "**holds in part**", "not measured": "not measured"}


def document_markdown(report: Report) -> str:
    """Makes the text of report.md."""
    return "\n\n".join(_parts(report)) + "\n"


def _parts(report: Report) -> Iterator[str]:
    yield f"# {to_markdown(report.title)}"
    yield from map(to_markdown, report.summary)
    if report.claims:
        yield "## Claims"
        yield _table(
            ("Claim", "The paper says", "Source", "Measured here", "Holds?", "Why"),
            [(c.claim, c.paper, c.trust, c.measured, WORDS[c.holds], c.why) for c in report.claims],
        )
        if rules := [f"- {to_markdown(c.claim)}: {to_markdown(c.rule)}" for c in report.claims if c.rule]:
            yield f"{RULES}:"
            yield "\n".join(rules)
        known = [letter for letter in TRUST if any(letter in claim.trust for claim in report.claims)]
        yield ("Sources of the statements: " + "; ".join(f"**{letter}** {TRUST[letter]}" for letter in known) + ".")
    if missing := unfinished(report):
        yield "## Runs without a result"
        yield _table(("Run", "Status", "Why"), [(f"`{run['name']}`", run["status"], run["reason"]) for run in missing])
    for section in report.sections:
        yield from _section(section)
    yield "## Settings and versions"
    yield _table(("Setting", "Value"), [(f"`{name}`", value) for name, value in flat_settings(report.settings)])
    yield f"{len(report.numbers)} numbers, with intervals, values for each seed and tolerances, are in `report.json`."
    yield "## Runs"
    yield _table(
        ("Run", "Status", "Duration since its last start"),
        [(f"`{run['name']}`", run["status"], format_seconds(run["seconds"])) for run in report.runs],
    )


def _section(section: Section) -> Iterator[str]:
    yield f'<a id="{section.id}"></a>'
    yield f"## {to_markdown(section.title)}"
    yield from map(to_markdown, section.text)
    for picture in section.pictures:
        caption = to_plain(picture.caption).replace("[", "(").replace("]", ")")
        yield f"![{to_markdown(caption)}]({PICTURES}/{picture.name}.png)"
        yield to_markdown(picture.caption)
    for table in section.tables:
        yield f"**{to_markdown(table.caption)}**"
        yield _table(table.columns, table.rows)
    if section.notes:
        yield "Keep in mind:"
        yield "\n".join(f"- {to_markdown(note)}" for note in section.notes)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(to_markdown(str(cell), cell=True) for cell in cells) + " |"

    return "\n".join([line(columns), "|" + " --- |" * len(columns), *map(line, rows)])
