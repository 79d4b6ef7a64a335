"""`benchmark clock`: the search of the report under clock errors, and runs in which nothing can be searched."""

import json

import numpy as np
import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.config import record
from accdistill_jax.evaluation.retrieval.retrieval import ACCEL_TO_PPG, top1_by_pool_size


def test_a_finished_run_is_searched_under_each_clock_error(finished, tmp_path, capsys):
    numbers = ["--offsets-s", "0", "0.5", "--drifts-ppm", "200", "--pools", "2", "4"]
    status = command.main(["clock", str(finished), "--split=test", *numbers, "--json", str(tmp_path / "clock.json")])
    out, error = capsys.readouterr()
    assert status == 0, error
    measured = json.loads((tmp_path / "clock.json").read_text())
    with np.load(finished / "embeddings" / "main.npz") as saved:
        ranks = saved[f"student/test/rank/{ACCEL_TO_PPG}"]
    plain, late, drifting = measured["results"]
    np.testing.assert_allclose(list(plain["top1"].values()), top1_by_pool_size(ranks, [2, 4]), rtol=1e-5)
    assert (late["offset_s"], late["drift_ppm"]) == (0.5, 0.0) and late["top1"] != plain["top1"]
    assert (drifting["offset_s"], drifting["drift_ppm"]) == (0.0, 200.0)
    assert f"{len(ranks)} minutes of {measured['people']} test people" in out
    assert f"| 0 | 0 | {100 * plain['top1']['2']:.1f} % |" in " ".join(out.split())
    assert error.count("offset") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{empty}"], "no run is there (config.json is missing)"),
        (["{finished}", "--config.seed=1"], "clock reads the config of the run"),
        (["{finished}", "--offsets-s", "soon"], "'soon' must be a number"),
        (["{finished}", "--pools", "0"], "'0' must be a positive integer"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(arguments, message, finished, tmp_path, capsys):
    words = [word.format(empty=tmp_path, finished=finished) for word in arguments]
    try:
        status = command.main(["clock", *words])
    except SystemExit as stop:  # argparse
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2 and message in error


def test_a_run_without_a_compared_student_is_refused(smoke_config, smoke_store, tmp_path, capsys):
    record.dump(smoke_config(stages=("teacher",)), tmp_path)
    assert command.main(["clock", str(tmp_path)]) == 2
    assert "error:" in (error := capsys.readouterr().err) and "Traceback" not in error
