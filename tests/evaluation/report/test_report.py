"""The report renders whatever is missing, and says so."""

import html
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.evaluate import evaluate
from accdistill_jax.evaluation.report import maps, plots
from accdistill_jax.evaluation.report.report import write_run_report
from accdistill_jax.text import escape_markdown, one_line

FAST = {"bootstrap_draws": 5, "interval_draws": 200}
RUN = {
    "command": "python -m accdistill_jax.main --config=configs/distill.py",
    "config": {"seed": 0, "model": {"width": 64}},
    "versions": {"jax": "0.10"},
    "hardware": "2 cores",
    "durations_s": {"teacher": 61.0, "student": 3723.0},
    "parameters": {"student": 123456},
    "commit": None,
    "note": "anything else",
}


def _curves(steps=50):
    return {
        stage: [
            *({"step": s, "kind": "train", "loss": 1 / (1 + s), "lr": 0.1} for s in range(steps)),
            {"step": steps, "kind": "validation", "loss": 0.5},
            {"step": steps + 1, "kind": "train", "loss": float("nan")},
        ]
        for stage in ("teacher", "student")
    }


def _examples(k=2, length=3840):
    rng = np.random.default_rng(0)
    ppg = rng.standard_normal((k, length, 2))
    dropped = np.arange(60)[None, :] % 2 == np.arange(k)[:, None] % 2
    accel = rng.standard_normal((k, length, 3)) / 100
    return {
        "ppg": ppg,
        "reconstruction": 0.5 * ppg,
        "dropped": dropped,
        "accel": accel,
        "hr_bpm": np.array([60, np.nan]),
    }


def _check(path, pictures):
    """Every picture linked exists, every picture there is linked, tables are whole; returns text and JSON."""
    text = path.read_text()
    linked = set(re.findall(r"\]\((report/\w+\.png)\)", text))
    assert linked == {f"report/{p}.png" for p in pictures}
    assert {f"report/{p.name}" for p in (path.parent / "report").iterdir()} == linked
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        widths = {line.replace("\\|", "").count("|") for line in table.strip().split("\n")}
        assert len(widths) == 1, table
    assert "nan" not in text.lower()
    assert text.startswith("# ")
    assert text.count("<details>") == text.count("</details>")
    return text, json.loads((path.parent / "report.json").read_text(), parse_constant=pytest.fail)


@pytest.fixture(autouse=True)
def small_maps(monkeypatch):
    """The layout of a map is not what these tests are about."""
    monkeypatch.setattr(maps, "MAP_POINTS", 80)
    monkeypatch.setattr(maps, "ITERATIONS", 250)


ALL = {"heart_rate", "probe_errors", "retrieval", "map", "curves", "examples"}


def test_full_report(tmp_path, make_encoders):
    evaluation = evaluate(make_encoders(), **FAST)
    path = write_run_report(tmp_path / "new", evaluation, run_info=RUN, curves=_curves(), examples=_examples())
    text, content = _check(path, ALL)
    assert text.startswith("# The student reads heart rate from acceleration")
    mae = evaluation.targets["hr_bpm"].probes["student"].mae
    assert f"{mae.value:.2f} bpm (95 % CI {mae.low:.2f} to {mae.high:.2f})" in text
    assert "6 unseen participants" in text
    assert "1 h 2 min" in text and "1 min 1 s" in text and "123 456" in text and "anything else" in text
    assert '"width": 64' in text
    assert content["evaluation"] == evaluation.to_json()
    assert content["run"]["config"] == RUN["config"]
    assert content["verdict"]["headline"] == text.split("\n")[0][2:]


CASES = {
    "no labels": ({"labels": False}, {"retrieval", "map"}, "No heart-rate result: no labelled segments."),
    "student knows nothing": (
        {"student_noise": 50.0},
        ALL - {"curves", "examples"},
        "does not read heart rate",
    ),
    "one test participant": (
        {"participants": (20, 6, 1)},
        ALL - {"curves", "examples"},
        "too few people for an interval",
    ),
    "few test participants": (
        {"participants": (20, 6, 3)},
        ALL - {"curves", "examples"},
        "only 3 test participants",
    ),
    "no validation split": (
        {"segments": (400, 0, 90)},
        ALL - {"curves", "examples"},
        "cross-validation over 20 train",
    ),
    "only pretraining": (
        {"names": ("teacher",), "projections": False},
        {"heart_rate", "probe_errors", "map"},
        "The PPG teacher reads heart rate from PPG",
    ),
    "only a student": (
        {"names": ("student",)},
        {"heart_rate", "probe_errors", "map"},
        "Not available: needs a PPG teacher",
    ),
    "tiny": (
        {"segments": (30, 12, 6), "participants": (3, 2, 2)},
        {"heart_rate", "probe_errors", "retrieval"},
        "only 6 test segments",
    ),
    "one segment": (
        {"segments": (30, 12, 1), "participants": (3, 2, 1)},
        set(),
        "1 labelled test segments, needs 5",
    ),
    "many segments": ({"segments": (500, 80, 450)}, ALL - {"curves", "examples"}, "reads heart rate"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_report_of_less(case, tmp_path, make_encoders):
    options, pictures, words = CASES[case]
    evaluation = evaluate(make_encoders(**options), **FAST)
    text, _ = _check(write_run_report(tmp_path, evaluation, run_info={}), pictures)
    assert words in text


@pytest.mark.slow
def test_another_run_leaves_no_stale_pictures(tmp_path, make_encoders):
    evaluation = evaluate(make_encoders(), **FAST)
    write_run_report(tmp_path, evaluation, run_info=RUN, curves=_curves(), examples=_examples())
    one_stage = {"student": _curves(5)["student"], "teacher": []}
    _check(write_run_report(tmp_path, evaluation, run_info={}, curves=one_stage), ALL - {"examples"})


@pytest.mark.slow
def test_a_constant_student_is_called_that(tmp_path, make_encoders):
    encoders = make_encoders()
    for split in encoders["student"].values():
        split.embedding[:] = 1.0
        split.projection[:] = 8**-0.5
    text, _ = _check(write_run_report(tmp_path, evaluate(encoders, **FAST), run_info={}), ALL - {"curves", "examples"})
    assert "student: constant output" in text
    assert "does not read heart rate" in text


def test_a_folder_that_cannot_be_written_is_named(tmp_path, make_encoders):
    (tmp_path / "file").write_text("in the way")
    evaluation = evaluate(make_encoders(labels=False, names=("teacher",)), **FAST)
    with pytest.raises(UserError, match="cannot write the report into .*file"):
        write_run_report(tmp_path / "file", evaluation, run_info={})


def test_curves_are_sorted_finite_and_of_their_kind():
    records = [
        {"step": 20, "kind": "train", "loss": 0.2},
        {"step": 10, "kind": "train", "loss": 0.9},
        {"step": 15, "kind": "validation", "loss": 5.0},
        {"step": 30, "kind": "train", "loss": float("inf")},
        {"step": 40, "kind": "train", "other": 1.0},
    ]
    steps, values = plots.curve(records, "train")
    assert (steps.tolist(), values.tolist()) == ([10, 20], [0.9, 0.2])
    assert plots.curve(records, "validation")[1].tolist() == [5.0]
    assert plots.learning_curves({"teacher": []}) is None


def test_reconstruction_is_drawn_on_hidden_patches_alone():
    examples = _examples()
    figure = plots.example_segments(examples, count=1)
    line = next(a for a in figure.axes[0].lines if a.get_label() == "reconstruction")
    drawn = np.isfinite(line.get_ydata())
    hidden = np.repeat(examples["dropped"][0], 64)[: len(drawn)]
    np.testing.assert_array_equal(drawn, hidden)
    assert "explains 75 %" in figure.axes[0].get_title(loc="left")


def test_examples_may_be_ppg_alone():
    assert isinstance(plots.example_segments({"ppg": _examples()["ppg"]}), Figure)


def test_map_neighbours_know_heart_rate_where_the_encoder_does(make_encoders):
    figure = maps.embedding_map(evaluate(make_encoders(), **FAST))
    titles = [axis.get_title(loc="left") for axis in figure.axes[:3]]
    apart = [float(re.search(r"differ by ([\d.]+) bpm", t).group(1)) for t in titles]
    any_two = float(re.search(r"any two by ([\d.]+)", titles[0]).group(1))
    assert apart[0] < 0.75 * any_two
    assert apart[2] > 0.75 * any_two


FOREIGN = [
    "a|b",
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "![x](http://host/x.png)",
    "**bold** _it_ `code`",
    "<!-- ",
    "</details>",
    "line\nbreak",
    "\x1b[31mred",
    "turn\u202earound",
    "```",
    "| a | b |",
    "http://host/x",
    "&lt;b&gt;",
    "\\|",
    "$x$",
    "# heading",
    "</td>",
]


def test_texts_of_stores_are_shown_as_they_are(tmp_path, make_encoders):
    """Names of stores, sources, reasons, settings: no markup, HTML, link, end of a cell or command of a terminal."""
    data = {
        f"/data/{text}": {"source": text, "counts": {"total": {"rejected": {text: 1}}}, "texts": [text, text]}
        for text in FOREIGN
    }
    info = {
        "data": data,
        "config": {"data": {"stores": FOREIGN}},
        "command": "".join(FOREIGN),
        "more": {text: text for text in FOREIGN},
    }
    text, content = _check(
        write_run_report(tmp_path, evaluate(make_encoders(), **FAST), run_info=info), ALL - {"curves", "examples"}
    )
    assert list(content["run"]["data"]) == list(data), "JSON has them unchanged"
    table, rest = text.split("## Settings of the run")[1].split("<details>", 1)
    for shown in (table.replace("<br>", ""), rest):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", shown)
    assert not re.search(r"<|>|https?:|(?<!\\)[\[\]*`]", table.replace("<br>", "")), "what marks up is escaped"
    fences = re.findall(r"^```", rest, re.M)
    assert len(fences) == 2
    assert markdown_text(escape_markdown("a_b*c")) == "a_b*c"
    for foreign in FOREIGN:
        assert markdown_text(escape_markdown(foreign)) == one_line(foreign)


def markdown_text(text: str) -> str:
    """A text as Markdown without markup shows it: escapes and entities resolved."""
    return html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", lambda found: f"&#{ord(found[1])};", text))
