"""The report: the page parses, escapes all text and is self-contained; report.md and report.json have the same content."""

import json
import math
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from accdistill_jax.errors import UserError
from accdistill_jax.reproduce.report import check
from accdistill_jax.reproduce.report.document import (
    Claim,
    Number,
    Picture,
    Report,
    ReportTable,
    Section,
    flat_settings,
)
from accdistill_jax.reproduce.report.document_style import CSS
from accdistill_jax.reproduce.report.inline_markdown import to_html, to_markdown, to_plain
from accdistill_jax.reproduce.report.write import write_grid_report

NASTY = "<script>alert('1')</script> & \"quoted\" | bar"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A parsed page; fails if an element is closed that is not open."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names))
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def figure():
    drawn = Figure(figsize=(4, 3))
    drawn.subplots().plot([1, 2], [3, 4])
    return drawn


@pytest.fixture
def report():
    table = ReportTable(
        "Errors", ("Encoder", "MAE", "Words"), (("student", "1.5 [1.2, 3.4]", NASTY), ("`ridge`", "−0.2", "b"))
    )
    return Report(
        title=f"Title {NASTY}",
        summary=(f"**Bold** `code` [page](https://arxiv.org/abs/2412.11276) {NASTY}",),
        claims=(
            Claim("augmentation", "Augmentation", "+45 %", "P", "+3 %", "no", "see [Augmentation](#augmentation)"),
            Claim("nasty", NASTY, "99.2 %", "Q", "", "not measured", NASTY, rule=NASTY),
            Claim("joint", "Joint", "95 % worse", "P", "160 %", "yes", ""),
            Claim("size", "Size", "better", "A", "mixed", "partly", ""),
        ),
        sections=(
            Section("probes", "Probes", (NASTY,), (table,), (Picture("errors", NASTY, figure()),), (NASTY,)),
            Section("augmentation", f"Augmentation {NASTY}"),
        ),
        numbers={
            "probes/hr_mae": Number(np.float32(1.5), 1.0, 2.0, (1.4, math.nan), "bpm", 0.05, 0.01),
            "probes/none": Number(math.nan, None, None, (), "", 0.0, 0.1),
        },
        runs=[
            {"name": "a", "status": "finished", "seconds": 61.0, "reason": ""},
            {"name": "c", "status": "skipped", "seconds": 0.0, "reason": "needs b, which failed"},
            {"name": "b", "status": "failed", "seconds": 2.0, "reason": NASTY},
        ],
        settings={"preset": "cpu", "config": {"x": {"y": (1, 2)}, "note": NASTY}, "bad": math.inf},
    )


def test_the_page_is_complete_escaped_and_self_contained(report, tmp_path):
    path = write_grid_report(tmp_path / "new", report)
    text = path.read_text()
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "svg"} & {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    # it occurs in the title, h1, summary, claim, reason, failed run, section, contents, ...
    assert page.text.count("<script>alert('1')</script> & \"quoted\" | bar") >= 12
    addresses = [a for tag, attributes in page.elements for a in (attributes.get("src"), attributes.get("href")) if a]
    assert all(a.startswith(("data:image/png;base64,", "#", "https://arxiv.org/")) for a in addresses)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = [attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes]
    assert {*labels, *(a[1:] for a in addresses if a[0] == "#")} <= set(ids)
    assert "url(" not in CSS and "@import" not in CSS and CSS.count("{") == CSS.count("}")


def test_the_page_is_accessible(report, tmp_path):
    page = Page(write_grid_report(tmp_path, report).read_text())
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert [image["alt"] for image in page.all("img")] == [NASTY]
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert page.all("html") == [{"lang": "en"}] and page.all("title")


def test_the_page_begins_with_failures_and_claims(report, tmp_path):
    text = Page(write_grid_report(tmp_path, report).read_text()).text
    places = [
        text.index(words)
        for words in ("1 of 3 runs failed, 1 more were skipped", "Claims", "Runs without a result", "Experiments")
    ]
    assert places == sorted(places)
    for words in (
        "✗ does not hold",
        "✓ holds",
        "◐ holds in part",
        "– not measured",
        "assumed here, not known from the paper",
    ):
        assert words in text
    assert text.index("Experiments") < text.index("--only probes") < text.index("Settings and versions")
    assert "config.x.y" in text and "[1, 2]" in text
    assert "--only augmentation" in text
    always = report._replace(sections=(report.sections[0], report.sections[1]._replace(always=True)))
    # --only would refuse it
    assert "--only augmentation" not in Page(write_grid_report(tmp_path, always).read_text()).text


def test_without_failed_runs_there_is_no_section_on_failures(report, tmp_path):
    whole = report._replace(runs=report.runs[:1])
    text = write_grid_report(tmp_path, whole).read_text()
    assert 'class="alert"' not in text and "Runs without a result" not in text
    assert "Runs without a result" not in (tmp_path / "report.md").read_text()


def test_report_json_has_everything_except_the_figures(report, tmp_path):
    write_grid_report(tmp_path, report)
    saved = check.load_report(tmp_path / "report.json")
    assert saved["format_version"] == check.FORMAT_VERSION
    assert saved["numbers"]["probes/hr_mae"] == {
        "value": 1.5,
        "low": 1.0,
        "high": 2.0,
        "seeds": [1.4, None],
        "unit": "bpm",
        "relative": 0.05,
        "absolute": 0.01,
        "share": False,
    }
    assert saved["numbers"]["probes/none"]["value"] is None and saved["settings"]["bad"] is None
    assert saved["claims"][0]["holds"] == "no" and saved["runs"][2]["reason"] == NASTY
    assert saved["sections"][0]["tables"][0]["rows"][0] == ["student", "1.5 [1.2, 3.4]", NASTY]
    (picture,) = saved["sections"][0]["pictures"]
    assert picture == {"name": "errors", "caption": NASTY, "file": "report/errors.png"}
    assert (tmp_path / picture["file"]).read_bytes().startswith(b"\x89PNG")
    json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_markdown_has_complete_tables(report, tmp_path):
    write_grid_report(tmp_path, report)
    text = (tmp_path / "report.md").read_text()
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 5
    for lines in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<script" not in text and "**does not hold**" in text and "](report/errors.png)" in text
    assert text.index("## Claims") < text.index("## Runs without a result") < text.index("## Probes")


def test_a_new_report_deletes_old_pictures(report, tmp_path):
    write_grid_report(tmp_path, report)
    write_grid_report(tmp_path, report._replace(sections=report.sections[1:]))
    assert not [*(tmp_path / "report").iterdir()]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_the_same_report_gives_the_same_bytes(report, tmp_path):
    write_grid_report(tmp_path / "a", report)
    write_grid_report(tmp_path / "b", report)
    for name in ("report.html", "report.md", "report.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_invalid_report_is_refused(report, tmp_path):
    double = report._replace(sections=report.sections + report.sections[:1])
    wrong_claim = report._replace(claims=(report.claims[0]._replace(holds="maybe"),))
    short = report._replace(sections=(Section("a", "A", tables=(ReportTable("t", ("x", "y"), (("1",),)),)),))
    for wrong, message in ((double, "section 'probes'"), (wrong_claim, "'maybe'"), (short, "does not have 2 cells")):
        with pytest.raises(ValueError, match=message):
            write_grid_report(tmp_path, wrong)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the report into"):
        write_grid_report(tmp_path / "file", report)


def test_an_empty_report(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Page(write_grid_report(tmp_path, Report("Nothing", (), (), (), {}, [], {})).read_text())
    assert flat_settings({"a": {}, "b": {"c": "x", "d": [1]}}) == [("a", "{}"), ("b.c", "x"), ("b.d", "[1]")]


@pytest.mark.parametrize(
    ("text", "as_html", "as_markdown", "as_plain"),
    [
        ("a **b `c` d** e", "a <strong>b <code>c</code> d</strong> e", "a **b `c` d** e", "a b c d e"),
        ("x < y & z", "x &lt; y &amp; z", "x < y & z", "x < y & z"),
        ("<b>", "&lt;b&gt;", "&lt;b>", "<b>"),
        ("2 * 3 ~ 4", "2 * 3 ~ 4", r"2 \* 3 \~ 4", "2 * 3 ~ 4"),
        ("hr_mae _it_", "hr_mae _it_", r"hr_mae \_it\_", "hr_mae _it_"),
        ("`a_b|c`", "<code>a_b|c</code>", "`a_b|c`", "a_b|c"),
        ("3.2 [1.0, 4.0] (x)", "3.2 [1.0, 4.0] (x)", "3.2 [1.0, 4.0] (x)", "3.2 [1.0, 4.0] (x)"),
        ("[a](https://b.c/d)", '<a href="https://b.c/d">a</a>', "[a](https://b.c/d)", "a"),
        ("[a](javascript:x)", "[a](javascript:x)", r"[a\](javascript:x)", "[a](javascript:x)"),
        ("# no heading", "# no heading", r"\# no heading", "# no heading"),
        ("3. none", "3. none", r"3\. none", "3. none"),
        ("a **b", "a **b", r"a \*\*b", "a **b"),
    ],
)
def test_minimal_markdown(text, as_html, as_markdown, as_plain):
    assert (to_html(text), to_markdown(text), to_plain(text)) == (as_html, as_markdown, as_plain)


def test_bars_and_line_breaks_in_cells_are_escaped():
    assert to_markdown("a | `b|c`\nd", cell=True) == r"a \| `b\|c` d"
