"""Text of report.md: the result first, then the numbers, then the settings of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.evaluate import Evaluation, json_value
from accdistill_jax.evaluation.report.prediction_parts import PREDICTION_HEADS, prediction_rows, prediction_text
from accdistill_jax.evaluation.report.style import capital, display
from accdistill_jax.evaluation.report.verdict import Verdict, count_of, format_number, spaced, with_interval
from accdistill_jax.labels import LABELS
from accdistill_jax.text import escape_markdown, several_lines

OUTCOMES = {"better": "better", "worse": "worse", "same": "no difference shown", "unknown": "no interval"}
TITLES = {
    "heart_rate": "Heart rate: predicted against true",
    "probe_errors": "Errors of linear probes",
    "coverage": "Read-outs: intervals and abstention",
    "retrieval": "Finding the same minute in the other signal",
    "map": "Map of the embeddings",
    "curves": "Learning curves",
    "examples": "Example segments",
}


def run_report_text(evaluation: Evaluation, words: Verdict, *, run_info: Mapping, pictures: Mapping[str, str]) -> str:
    """Text of report.md.

    Args:
        evaluation: the numbers.
        words: the result in words.
        run_info: settings of the run, as for `write_run_report`.
        pictures: name -> path relative to the report, for the existing pictures.
    """

    def picture(name: str) -> list[str]:
        return [f"![{TITLES[name]}]({pictures[name]})"] if name in pictures else []

    parts = [
        f"# {words.headline}",
        words.summary,
        _table(("Question", "Answer on unseen participants"), words.answers),
    ]
    cautions = [*words.cautions, *map(escape_markdown, run_info.get("separation", {}).get("warnings", ()))]
    if cautions:
        parts.append("Keep in mind:\n" + "\n".join(f"- {c}" for c in cautions))
    parts += picture("heart_rate")
    parts += [f"## {TITLES['probe_errors']}", *picture("probe_errors"), *_probe_sections(evaluation)]
    parts += _sensor_section(evaluation, run_info.get("sensors", {}))
    if evaluation.predictions:
        table = _table(PREDICTION_HEADS, prediction_rows(evaluation.predictions))
        parts += [f"## {TITLES['coverage']}", *picture("coverage"), prediction_text(evaluation.predictions), table]
    parts += _retrieval_section(evaluation, picture("retrieval"))
    if "map" in pictures:
        caption = (
            "t-SNE of test embeddings (standardised, 30 principal components); the colour is the true heart rate. "
        )
        caption += "If colours are sorted, segments with similar heart rates are close in the embedding."
        parts += [f"## {TITLES['map']}", *picture("map"), caption]
    parts += ["## Health of the embeddings", _health_table(evaluation)]
    for name in ("curves", "examples"):
        if name in pictures:
            parts += [f"## {TITLES[name]}", *picture(name)]
    parts += ["## Settings of the run", *_settings(evaluation, run_info)]
    return "\n\n".join(p for p in parts if p) + "\n"


def _probe_sections(evaluation: Evaluation) -> list[str]:
    available = {t: r for t, r in evaluation.targets.items() if not r.reason}
    if not available:
        return ["No target has enough labels: " + "; ".join(f"{t}: {r.reason}" for t, r in evaluation.targets.items())]
    heads = [f"{LABELS[t].words} ({LABELS[t].unit})" for t in available]
    names = list(next(iter(available.values())).probes)
    rows = [[display(n), *(_interval(r.probes[n].mae) for r in available.values())] for n in names]
    chosen_on = "; ".join(dict.fromkeys(r.strength_chosen_on for r in available.values()))
    parts = [
        "Mean absolute error on test participants, in brackets the 95 % interval over participants. "
        f"Ridge regression on frozen embeddings; data that chose its strength: {chosen_on}. The person's own mean is the mean "
        "label of the same person's other minutes: it needs a reference device, the encoders do not.",
        _table(("", *heads), rows),
    ]
    missing = [(LABELS[t].words, r.reason) for t, r in evaluation.targets.items() if r.reason]
    if missing:
        parts.append(_table(("Not available", "Why"), missing))
    for target, result in available.items():
        label, unit = LABELS[target].words, LABELS[target].unit
        rows = [
            [
                display(n),
                _interval(p.mae),
                _interval(p.rmse),
                _interval(p.r),
                _interval(p.r_within),
                _interval(p.r2),
                "" if p.strength is None else f"{p.strength:.3g}",
            ]
            for n, p in result.probes.items()
        ]
        differences = [
            [
                f"{display(d.encoder)} − {display(d.reference)}",
                with_interval(d.difference, unit),
                _interval(d.ratio),
                OUTCOMES[d.outcome],
            ]
            for d in result.differences
        ]
        parts += [
            f"<details><summary>{capital(label)}: all measures and paired differences</summary>",
            f"{count_of(result.train_segments, 'train segment')} of {count_of(result.train_participants, 'participant')}, "
            f"{count_of(result.test_segments, 'test segment')} of {count_of(result.test_participants, 'unseen participant')}. "
            "r within: correlation after each participant's mean is removed, for changes from minute to minute.",
            _table(("", f"MAE ({unit})", f"RMSE ({unit})", "r", "r within", "R²", "strength"), rows),
            _table(
                ("Paired difference of MAE", "95 % interval over participants", "Ratio of MAEs", "Result"), differences
            ),
            "</details>",
        ]
    return parts


def _sensor_section(evaluation: Evaluation, sensors: Mapping[str, str]) -> list[str]:
    """Errors by device, if there are several; `sensors` gives the accelerometer of a device in words."""
    if not evaluation.sensors:
        return []
    rows = [
        [
            escape_markdown(r.device or "unknown device")
            + f"<br>{escape_markdown(sensors.get(r.device, ''))}" * (r.device in sensors),
            f"{LABELS[r.target].words} ({LABELS[r.target].unit})",
            r.segments,
            r.participants,
            _interval(r.mae),
            _interval(r.mean_mae),
        ]
        for r in evaluation.sensors
    ]
    heads = (
        "Device",
        "Label",
        "Segments",
        "Participants",
        f"Error of the {display(evaluation.main)}",
        "Error of the mean",
    )
    text = "Mean absolute error on the test participants of each device. A result on one sensor says little about another one."
    return ["## Errors by sensor", text, _table(heads, rows)]


def _retrieval_section(evaluation: Evaluation, picture: list[str]) -> list[str]:
    title = f"## {TITLES['retrieval']}"
    if not evaluation.retrieval:
        return [title, f"Not available: {evaluation.retrieval_reason}."]
    rows, controls = [], []
    for r in evaluation.retrieval:
        tops = [f"{100 * s.mean:.3g} ± {100 * s.std:.2g} %" for s in r.top.values()]
        chance = ", ".join(f"{100 * c:.3g}" for c in r.chance_top.values())
        (rows if r.encoder == evaluation.main else controls).append(
            [
                display(r.encoder),
                r.direction.replace("->", " → "),
                spaced(r.pool_size),
                f"**{tops[0]}**{_bracket(r.top1, 100)}",
                format_number(r.times_chance),
                *tops[1:],
                f"{format_number(r.mean_rank.mean)} ± {format_number(r.mean_rank.std)}",
                format_number(r.median_rank.mean),
                f"{chance} %; {format_number(r.chance_rank)}",
            ]
        )
    measures = (
        "Top-1",
        "× chance",
        "Top-3",
        "Top-5",
        "Mean rank",
        "Median rank",
        "Chance (top-1, 3, 5; rank)",
    )
    heads = ("Encoder", "Query → candidates", "Pool", *measures)
    draws = evaluation.retrieval[0].draws
    parts = [
        title,
        *picture,
        "Each test segment is a query for the same minute in the other signal, in a pool of test segments. Numbers are mean ± "
        f"standard deviation over {draws} draws of the pool; top-1 also has the 95 % interval over participants. Ties count "
        "against the encoder.",
        _table(heads, rows),
    ]
    within = [
        [
            display(w.encoder),
            w.direction.replace("->", " → "),
            w.participants,
            format_number(w.mean_pool_size),
            f"{100 * w.top1.number:.3g} %" + _bracket(w.top1, 100),
            f"{100 * w.chance_top1:.3g} %",
            f"{100 * w.relative_rank.number:.2g} %" + _bracket(w.relative_rank, 100),
        ]
        for w in evaluation.within
    ]
    if within:
        columns = (
            "Encoder",
            "Query → candidates",
            "People",
            "Mean pool",
            "Top-1",
            "Chance",
            "Relative rank (0 % best, 50 % chance)",
        )
        parts += ["The hardest case: all candidates are minutes of the same person.", _table(columns, within)]
    if controls:
        table = _table(heads, controls)
        parts.append(f"<details><summary>Control: other encoders</summary>\n\n{table}\n\n</details>")
    return parts


def _health_table(evaluation: Evaluation) -> str:
    rows = [
        [
            display(n),
            h.width,
            format_number(h.effective_rank),
            format_number(h.effective_rank_centred),
            f"{h.std:.3g}",
            h.dead_dimensions,
            format_number(h.uniformity),
            h.alarm or "none",
        ]
        for n, h in evaluation.health.items()
    ]
    heads = (
        "Encoder",
        "Width",
        "Effective rank",
        "Effective rank, mean removed",
        "Std",
        "Dead dimensions",
        "Uniformity",
        "Alarm",
    )
    text = _table(heads, rows)
    if evaluation.alignment is not None:
        text += f"\n\nAlignment of student and teacher projections: {format_number(evaluation.alignment)} (0: identical, 2: unrelated)."
    return text


def _settings(evaluation: Evaluation, run_info: Mapping) -> list[str]:
    labels = {
        "command": "Command",
        "commit": "Git commit",
        "hardware": "Hardware",
        "durations_s": "Duration",
        "parameters": "Parameters",
        "data": "Data",
        "separation": "Overlap of the splits",
        "versions": "Versions",
    }
    rows = []
    for key in [*labels, *(k for k in run_info if k not in labels and k != "config")]:
        value = run_info.get(key)
        if value is None:
            continue
        if key == "durations_s":
            value = {stage: _duration(s) for stage, s in value.items()}
        elif key == "parameters" and isinstance(value, Mapping):
            value = {n: spaced(c) for n, c in value.items()}
        rows.append([labels.get(key, escape_markdown(key.replace("_", " ")).capitalize()), _inline(value)])
    splits = [
        f"{name}: {count_of(s.segments, 'segment')} of {count_of(s.participants, 'participant')}"
        for name, s in evaluation.splits.items()
    ]
    rows.append(["Evaluated on", "<br>".join(splits)])
    rows.append(["Evaluation took", _duration(evaluation.seconds)])
    parts = [_table(("", ""), rows)]
    if run_info.get("config"):
        dump = several_lines(json.dumps(json_value(run_info["config"]), indent=1, ensure_ascii=False))
        dump = dump.replace("<", "\\u003c").replace(">", "\\u003e")  # escapes of JSON, which keep its meaning
        parts.append(f"<details><summary>Configuration</summary>\n\n```json\n{dump}\n```\n\n</details>")
    return parts


def _inline(value) -> str:
    """A value of a run or store as text in which Markdown shows every character literally."""
    if isinstance(value, Mapping):
        return "<br>".join(f"{escape_markdown(k)}: {_nested(v)}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return (
        (", ".join(map(escape_markdown, value)) or "none")
        if isinstance(value, (list, tuple))
        else escape_markdown(value)
    )


def _nested(value) -> str:
    """The same for a value within a mapping: further mappings are in parentheses."""
    if not isinstance(value, Mapping):
        return _inline(value)
    entries = [
        f"{escape_markdown(k)} ({_nested(v)})" if isinstance(v, Mapping) else f"{escape_markdown(k)} {_inline(v)}"
        for k, v in value.items()
    ]
    return ", ".join(entries)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _interval(estimate: Estimate) -> str:
    return format_number(estimate.value) + _bracket(estimate, 1)


def _bracket(estimate: Estimate, scale: float) -> str:
    if estimate.interval is None:
        return ""
    low, high = estimate.interval
    return f" [{format_number(scale * low)}, {format_number(scale * high)}]"


def _table(heads: Sequence[str], rows: Sequence[Sequence]) -> str:
    def line(cells):
        return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    return "\n".join([line(heads), line(["---"] * len(heads)), *(line(r) for r in rows)])
