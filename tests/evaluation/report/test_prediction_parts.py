"""Table and plot of read-outs, where no minute is answered too."""

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.predictions import ErrorByCoverage, PredictionResult
from accdistill_jax.evaluation.report.prediction_parts import error_by_coverage, prediction_rows


def result(kept):
    known = Estimate(0.9, 0.85, 0.95) if kept else Estimate(None)
    curve = ErrorByCoverage(np.array([0.5, 1.0]), np.array([1.0, 2.0]), np.array([0.5, 2.0]))
    unknown = {} if kept else {"uncertain": 1.0}
    width = 8.0 if kept else np.nan
    return PredictionResult(
        "hr_bpm", 0.9, 40, Estimate(0.9, 0.8, 1.0), known, width, kept, unknown, known, known, curve
    )


def test_a_read_out_without_answers_has_dashes_and_its_mark_stays_inside():
    (row,) = prediction_rows({"hr_bpm": result(0.0)})
    assert "nan" not in " ".join(row) and row[2] == "–" and row[4] == "0 %; uncertain 100 %"
    (row,) = prediction_rows({"hr_bpm": result(1.0)})
    assert row[2] == "90.0 % [85.0, 95.0]"
    for kept in (0.0, 1.0):
        figure = error_by_coverage({"hr_bpm": result(kept)})
        figure.canvas.draw()
        (axis,) = figure.axes
        (mark,) = [text for text in axis.texts if text.get_text() == "answered"]
        box, frame = mark.get_window_extent(), axis.get_window_extent()
        assert frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 1
