"""The text of report.md: result first, then the numbers, then what ran."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.evaluate import Evaluation, to_json
from accdistill_jax.evaluation.report.style import capital, display
from accdistill_jax.evaluation.report.verdict import Verdict, number, with_interval
from accdistill_jax.labels import LABELS
from accdistill_jax.text import literal, several_lines

OUTCOMES = {"better": "better", "worse": "worse", "same": "no difference shown", "unknown": "no interval"}
TITLES = {
    "heart_rate": "Heart rate: predicted against true",
    "probe_errors": "What a linear probe reads",
    "retrieval": "Finding the same minute in the other signal",
    "map": "Map of the embeddings",
    "curves": "Learning curves",
    "examples": "Example segments",
}


def markdown(evaluation: Evaluation, words: Verdict, *, run_info: Mapping, pictures: Mapping[str, str]) -> str:
    """The text of report.md.

    Args:
        evaluation: the numbers.
        words: the same in words.
        run_info: as for `write_report`.
        pictures: name -> path relative to the report, of those that exist.
    """

    def picture(name: str) -> list[str]:
        return [f"![{TITLES[name]}]({pictures[name]})"] if name in pictures else []

    parts = [
        f"# {words.headline}",
        words.summary,
        _table(("Question", "Answer on unseen participants"), words.answers),
    ]
    cautions = [*words.cautions, *map(literal, run_info.get("separation", {}).get("warnings", ()))]
    if cautions:
        parts.append("Keep in mind:\n" + "\n".join(f"- {c}" for c in cautions))
    parts += picture("heart_rate")
    parts += [f"## {TITLES['probe_errors']}", *picture("probe_errors"), *_probe_sections(evaluation)]
    parts += _retrieval_section(evaluation, picture("retrieval"))
    if "map" in pictures:
        how = "t-SNE of test embeddings (standardised, 30 principal components); colour is the true heart rate. "
        how += "Where colours are sorted, segments of like heart rate lie together."
        parts += [f"## {TITLES['map']}", *picture("map"), how]
    parts += ["## Health of the embeddings", _health_table(evaluation)]
    for name in ("curves", "examples"):
        if name in pictures:
            parts += [f"## {TITLES[name]}", *picture(name)]
    parts += ["## What ran", *_what_ran(evaluation, run_info)]
    return "\n\n".join(p for p in parts if p) + "\n"


def _probe_sections(evaluation: Evaluation) -> list[str]:
    available = {t: r for t, r in evaluation.targets.items() if not r.reason}
    if not available:
        return ["No target has enough labels: " + "; ".join(f"{t}: {r.reason}" for t, r in evaluation.targets.items())]
    heads = [f"{LABELS[t].words} ({LABELS[t].unit})" for t in available]
    names = list(next(iter(available.values())).probes)
    rows = [[display(n), *(_interval(r.probes[n].mae) for r in available.values())] for n in names]
    parts = [
        "Mean absolute error on test participants, with the 95 % interval over participants. "
        "Ridge regression on frozen embeddings; strength chosen on "
        + "; ".join(dict.fromkeys(r.strength_chosen_on for r in available.values()))
        + ".",
        _table(("", *heads), rows),
    ]
    missing = [(LABELS[t].words, r.reason) for t, r in evaluation.targets.items() if r.reason]
    if missing:
        parts.append(_table(("Not available", "Why"), missing))
    for target, result in available.items():
        label, unit, *_ = LABELS[target]
        rows = [
            [
                display(n),
                _interval(p.mae),
                _interval(p.rmse),
                _interval(p.r),
                _interval(p.r_within),
                _interval(p.r2),
                "" if p.strength is None else f"{p.strength:.2g}",
            ]
            for n, p in result.probes.items()
        ]
        differences = [
            [
                f"{display(d.encoder)} − {display(d.reference)}",
                with_interval(d.difference, unit),
                f"{number(d.ratio.value)} [{number(d.ratio.low)}, {number(d.ratio.high)}]",
                OUTCOMES[d.outcome],
            ]
            for d in result.differences
        ]
        parts += [
            f"<details><summary>{capital(label)}: all measures and paired differences</summary>",
            f"{_thousands(result.train_segments)} train segments of {result.train_participants} participants, "
            f"{_thousands(result.test_segments)} test segments of {result.test_participants} unseen participants. r within: after each participant's mean is taken "
            "out, so what remains is change from minute to minute.",
            _table(("", f"MAE ({unit})", f"RMSE ({unit})", "r", "r within", "R²", "strength"), rows),
            _table(("Paired difference of MAE", "95 % interval over participants", "ratio", ""), differences),
            "</details>",
        ]
    return parts


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
                _thousands(r.pool_size),
                f"**{tops[0]}**{_bracket(r.top1, 100)}",
                number(r.times_chance),
                *tops[1:],
                f"{number(r.mean_rank.mean)} ± {number(r.mean_rank.std)}",
                number(r.median_rank.mean),
                f"{chance} %; {number(r.chance_rank)}",
            ]
        )
    measures = (
        "Top-1",
        "× chance",
        "Top-3",
        "Top-5",
        "Mean rank",
        "Median rank",
        "Guessing (top-1, 3, 5; rank)",
    )
    heads = ("Encoder", "Query → candidates", "Pool", *measures)
    draws = evaluation.retrieval[0].draws
    parts = [
        title,
        *picture,
        f"Each test segment looks for its own minute in the other signal among a pool of test segments; mean ± standard "
        f"deviation over {draws} draws of the pool, and for top-1 the 95 % interval over participants. Ties count against the "
        "encoder.",
        _table(heads, rows),
    ]
    within = [
        [
            display(w.encoder),
            w.direction.replace("->", " → "),
            w.participants,
            number(w.mean_pool_size),
            f"{100 * w.top1.value:.3g} %" + _bracket(w.top1, 100),
            f"{100 * w.chance_top1:.3g} %",
            f"{100 * w.relative_rank.value:.2g} %" + _bracket(w.relative_rank, 100),
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
            "Guessing",
            "Relative rank (0 % best, 50 % guessing)",
        )
        parts += ["The hard case: all candidates are minutes of the same person.", _table(columns, within)]
    if controls:
        table = _table(heads, controls)
        parts.append(f"<details><summary>Control: other encoders</summary>\n\n{table}\n\n</details>")
    return parts


def _health_table(evaluation: Evaluation) -> str:
    rows = [
        [
            display(n),
            h.width,
            number(h.effective_rank),
            number(h.effective_rank_centred),
            f"{h.std:.3g}",
            h.dead_dimensions,
            number(h.uniformity),
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
        text += f"\n\nAlignment of student and teacher projections: {number(evaluation.alignment)} (0 identical, 2 unrelated)."
    return text


def _what_ran(evaluation: Evaluation, run_info: Mapping) -> list[str]:
    labels = {"command": "Command", "commit": "Git commit", "hardware": "Hardware", "durations_s": "Time"}
    labels |= {"parameters": "Parameters", "data": "Data", "separation": "On two sides", "versions": "Versions"}
    rows = []
    for key in [*labels, *(k for k in run_info if k not in labels and k != "config")]:
        value = run_info.get(key)
        if value is None:
            continue
        if key == "durations_s":
            value = {stage: _duration(s) for stage, s in value.items()}
        elif key == "parameters" and isinstance(value, Mapping):
            value = {n: f"{c:,}".replace(",", " ") for n, c in value.items()}
        rows.append([labels.get(key, literal(key.replace("_", " ")).capitalize()), _inline(value)])
    splits = [
        f"{name} {s.segments:,} segments of {s.participants} participants".replace(",", " ")
        for name, s in evaluation.splits.items()
    ]
    rows.append(["Evaluated on", "<br>".join(splits)])
    rows.append(["Evaluation took", _duration(evaluation.seconds)])
    parts = [_table(("", ""), rows)]
    if run_info.get("config"):
        dump = several_lines(json.dumps(to_json(run_info["config"]), indent=1, ensure_ascii=False))
        dump = dump.replace("<", "\\u003c").replace(">", "\\u003e")  # the same JSON
        parts.append(f"<details><summary>Configuration</summary>\n\n```json\n{dump}\n```\n\n</details>")
    return parts


def _inline(value) -> str:
    """Escapes text of a run or store, so that Markdown shows it literally, whatever characters are in it."""
    if isinstance(value, Mapping):
        return "<br>".join(
            f"{literal(k)}: {_inline(v) if not isinstance(v, Mapping) else _flat(v)}" for k, v in value.items()
        )
    if isinstance(value, float):
        return f"{value:.4g}"
    return (", ".join(map(literal, value)) or "none") if isinstance(value, (list, tuple)) else literal(value)


def _flat(value: Mapping) -> str:
    return ", ".join(f"{literal(k)} {_inline(v)}" for k, v in value.items())


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _thousands(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _interval(estimate: Estimate) -> str:
    return number(estimate.value) + _bracket(estimate, 1)


def _bracket(estimate: Estimate, scale: float) -> str:
    if not estimate.has_interval:
        return ""
    return f" [{number(scale * estimate.low)}, {number(scale * estimate.high)}]"


def _table(heads: Sequence[str], rows: Sequence[Sequence]) -> str:
    def line(cells):
        return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    return "\n".join([line(heads), line(["---"] * len(heads)), *(line(r) for r in rows)])
