"""Writes report.md, report.json and their pictures: the result of a run, its numbers, and its settings."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.evaluate import STUDENT, TEACHER, UNTRAINED, Evaluation, json_value
from accdistill_jax.evaluation.report import maps, plots
from accdistill_jax.evaluation.report.markdown import TITLES, run_report_text
from accdistill_jax.evaluation.report.prediction_parts import error_by_coverage
from accdistill_jax.evaluation.report.verdict import verdict
from accdistill_jax.files import write_atomically
from accdistill_jax.labels import HEART_RATE

FORMAT_VERSION = 1
PICTURES = "report"


def write_run_report(
    workdir: str | os.PathLike,
    evaluation: Evaluation,
    *,
    run_info: Mapping,
    curves: Mapping[str, Sequence[Mapping]] | None = None,
    examples: Mapping | None = None,
    seed: int = 0,
) -> Path:
    """Writes `report.md`, `report.json` and `report/*.png` into the work directory, each file atomically.

    The Markdown is written last, so it never shows pictures or numbers of another run.

    Args:
        workdir: local folder; created if missing.
        evaluation: result of `evaluate`.
        run_info: settings of the run, all optional: "config" (dict), "versions" (dict), "hardware" (str or dict),
            "durations_s" (stage -> seconds), "data" (dict), "separation" (overlap of the splits, see
            data/store/separation.py; its warnings are among the cautions), "commit" (str), "parameters" (encoder -> count),
            "command" (str). The report shows further entries unchanged.
        curves: stage ("teacher", "student") -> records of its metrics file (`metrics.read_metrics`).
        examples: see `plots.example_segments`; None draws no examples.
        seed: seed of the map's choice of segments and of its layout.

    Returns:
        Path of report.md.

    Raises:
        UserError: the folder cannot be written.
    """
    workdir = Path(workdir)
    words = verdict(evaluation)
    warnings = run_info.get("separation", {}).get("warnings", ())
    figures = {
        "heart_rate": plots.predicted_heart_rate(
            evaluation.targets[HEART_RATE],
            [n for n in (TEACHER, STUDENT, UNTRAINED) if n in evaluation.encoders],
        ),
        "probe_errors": plots.probe_errors(evaluation.targets, evaluation.main),
        "coverage": error_by_coverage(evaluation.predictions),
        "retrieval": plots.retrieval_ranks(evaluation.ranks, evaluation.retrieval, evaluation.main),
        "map": maps.embedding_map(evaluation, seed=seed),
        "curves": plots.learning_curves(curves or {}),
        "examples": plots.example_segments(examples) if examples is not None else None,
    }
    figures = {name: figure for name, figure in figures.items() if figure is not None}
    record = {
        "format_version": FORMAT_VERSION,
        "verdict": dataclasses.replace(words, cautions=[*words.cautions, *warnings]),
        "evaluation": evaluation,
        "run": run_info,
        "pictures": {name: f"{PICTURES}/{name}.png" for name in figures},
    }
    text = run_report_text(evaluation, words, run_info=run_info, pictures=record["pictures"])
    try:
        (workdir / PICTURES).mkdir(parents=True, exist_ok=True)
        for name in TITLES:
            path = workdir / PICTURES / f"{name}.png"
            if name in figures:
                content = io.BytesIO()
                figures[name].savefig(content, format="png", bbox_inches="tight")
                write_atomically(path, content.getvalue())
            else:
                path.unlink(missing_ok=True)
        content = json.dumps(json_value(record), indent=1, allow_nan=False, ensure_ascii=False)
        write_atomically(workdir / "report.json", content + "\n")
        write_atomically(workdir / "report.md", text)
    except OSError as error:
        raise UserError(f"cannot write the report into {workdir}: {error.strerror or error}") from error
    return workdir / "report.md"
