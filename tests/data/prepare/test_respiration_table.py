"""`prepare respiration`: close to the truth of synthetic people where it answers, and readable as a label."""

import csv

import numpy as np
import pytest

from accdistill_jax.api.probe_labels import read_label
from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.prepare.respiration_table import HEAD, write_respiration
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError


def test_the_table_of_synthetic_people(smoke_store, tmp_path, capsys):
    out = tmp_path / "respiration.csv"
    assert main(["respiration", str(smoke_store), "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    store = Store.open(smoke_store)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == store.num_segments and tuple(rows[0]) == HEAD
    known = np.array([bool(row["respiration_bpm"]) for row in rows])
    assert f"respiration: {known.sum()} of {len(rows)} minutes have an estimate; mean error" in said
    assert known.mean() > 0.6 and all(
        (float(row["quality"]) >= 0.3) == is_known for row, is_known in zip(rows, known, strict=True)
    )
    label = read_label(store, str(out), column="respiration_bpm")
    error = np.abs(label.value - store.segments["resp_bpm"])
    assert (label.kind, label.per) == ("number", "minute") and np.isfinite(label.value).sum() == known.sum()
    assert error[known].mean() < 0.6 and (error[known] <= 2).mean() > 0.98


def test_no_estimate_below_the_quality(smoke_store, tmp_path):
    store = Store.open(smoke_store)
    summary = write_respiration([store, store], tmp_path / "r.csv", min_quality=1.0)
    assert (summary.minutes, summary.known, summary.compared) == (2 * store.num_segments, 0, 0)
    assert summary.words == f"respiration: 0 of {2 * store.num_segments} minutes have an estimate"


def test_what_cannot_be_estimated_is_refused(make_store, smoke_store, tmp_path, capsys):
    with pytest.raises(
        UserError, match="respiration needs segments of at least 30 s at 16 Hz, these have 10 s at 64 Hz"
    ):
        write_respiration([make_store("short", {"anna": 2})], tmp_path / "r.csv")
    for words, message in (
        (["--min-quality", "2"], "must be from 0 to 1"),
        (["--out", str(tmp_path / "gone/r.csv")], "cannot be written"),
    ):
        assert main(["respiration", str(smoke_store), "--out", str(tmp_path / "r.csv"), *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
