"""`accdistill predict`: figure and tables of a recording's minutes, abstained ones visibly so, and wrong inputs in a line."""

import csv
import json
import math
import shutil

import matplotlib.image
import numpy as np
import pyarrow.parquet as pq
import pytest

import accdistill_jax as ad
from accdistill_jax.api.predict_command import main
from accdistill_jax.api.predict_figure import prediction_figure
from accdistill_jax.api.predicting import PredictedRecording
from accdistill_jax.readouts.label_probe import LabelPrediction
from accdistill_jax.readouts.readout import Prediction

START = 1_714_557_600


def record(folder, store, rows, *, participant="p1", shaken=()):
    """A recording of some minutes of a store, described as the generic layout wants it; `shaken` minutes have much motion."""
    folder.mkdir(parents=True)
    signals = store.read_signals(rows)
    accel, ppg = signals["accel"].copy(), signals["ppg"]
    for minute in shaken:
        accel[minute] += np.random.default_rng(minute).normal(0, 0.2, accel[minute].shape)
    for name, values in {"accel": accel, "ppg": ppg}.items():
        header = ",".join(f"c{number}" for number in range(values.shape[2]))
        np.savetxt(folder / f"{name}.csv", values.reshape(-1, values.shape[2]), "%.6g", ",", header=header, comments="")
    hr = store.segments["hr_bpm"][rows]
    (folder / "hr.csv").write_text("t,hr\n" + "".join(f"{60 * n},{value:.3f}\n" for n, value in enumerate(hr)))
    streams = {
        "accel": {"file": "accel.csv", "columns": ["c0", "c1", "c2"], "rate_hz": 64},
        "ppg": {"file": "ppg.csv", "columns": ["c0", "c1"], "rate_hz": 64},
    }
    windows = {"file": "hr.csv", "time": "t", "hr": "hr", "duration_s": 60}
    described = {"participant": participant, "start": START, "streams": streams, "heart_rate": windows}
    (folder / "recording.json").write_text(json.dumps(described))
    return folder


@pytest.fixture
def recording(smoke_store, tmp_path):
    store = ad.open_store(smoke_store)
    return record(tmp_path / "in/night", store, store.indices("train")[:4], shaken=(2,))


@pytest.fixture
def predict(capsys):
    def run(*arguments):
        status = main([str(word) for word in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_tables_and_figure_of_a_recording(finished, recording, predict, tmp_path):
    outs = [tmp_path / name for name in ("out.csv", "out.parquet", "out.png")]
    status, out, err = predict(finished, recording, "--out", *outs)
    assert (status, err) == (0, "") and out.splitlines()[0] == "night (p1): 4 minutes"
    table = pq.read_table(outs[1])
    assert table.num_rows == 4 and table["start"][1].as_py().timestamp() == START + 60
    assert table["hr_bpm_unknown"][2].as_py() == "more motion than in training" and table["hr_bpm"][2].as_py() is None
    assert table["hr_bpm_reference"][0].as_py() == pytest.approx(
        ad.open_store(_store(finished)).segments["hr_bpm"][_first(finished)], abs=0.01
    )
    with outs[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == table.column_names and rows[2]["hr_bpm"] == ""
    assert matplotlib.image.imread(outs[2]).shape[1] > 1000


def _store(finished):
    return json.loads((finished / "config.json").read_text())["config"]["data"]["stores"][0]


def _first(finished):
    return ad.open_store(_store(finished)).indices("train")[0]


def test_predictions_are_those_of_the_encoder(finished, smoke_store):
    encoder, store = ad.load(finished), ad.open_store(smoke_store)
    rows = store.indices("test")
    embeddings = encoder.encode(store.read(rows))
    direct = encoder.readouts.predict(embeddings)
    predicted = encoder.predict_embeddings(embeddings)
    assert set(predicted) == set(direct) and "hr_bpm" in predicted
    np.testing.assert_array_equal(predicted["hr_bpm"].value, direct["hr_bpm"].value)


def test_a_file_without_description_needs_rate_and_unit(finished, predict, tmp_path):
    signal = np.random.default_rng(0).normal([0.0, 600.0, 800.0], 2.0, (6500, 3))
    np.savetxt(tmp_path / "my.csv", signal, "%.2f", ",", header="x,y,z", comments="")
    outs = [tmp_path / "my.png", tmp_path / "table.csv"]
    status, _, err = predict(finished, tmp_path / "my.csv", "--out", *outs)
    assert status == 2 and "give the rate" in err
    status, out, _ = predict(finished, tmp_path / "my.csv", "--out", *outs, "--rate-hz", "50", "--unit", "mg")
    assert status == 0 and out.startswith("my (my): 2 minutes\n") and all(path.exists() for path in outs)


def test_a_student_loses_no_minute_to_a_gap_in_the_ppg(finished, recording, predict, tmp_path):
    lines = (recording / "ppg.csv").read_text().splitlines()
    lines[1 : 2 * 3840] = ["nan,nan"] * (2 * 3840 - 1)
    (recording / "ppg.csv").write_text("\n".join(lines) + "\n")
    status, out, _ = predict(finished, recording, "--out", tmp_path / "out.csv")
    assert status == 0 and out.splitlines()[0] == "night (p1): 4 minutes"
    status, out, _ = predict(finished, recording, "--part", "teacher", "--out", tmp_path / "out.csv")
    assert status == 0 and out.splitlines()[0] == "night (p1): 2 minutes, 2 left out: gap"


def test_read_outs_of_another_encoder_are_refused(finished, copy, recording, predict, tmp_path):
    shutil.copy(finished / "teacher/export/readouts.npz", copy / "student/export/readouts.npz")
    status, _, err = predict(copy, recording, "--out", tmp_path / "out.csv")
    assert status == 2 and "readouts.npz belongs to another encoder (fingerprint" in err and err.count("\n") == 1
    encoder = ad.load(copy)
    assert encoder.embed(np.random.default_rng(0).normal([0, 0.6, 0.8], 0.002, (3840, 3)), 64).shape[0] == 1
    with pytest.warns(ad.SignalWarning) as warned:
        assert encoder.embed_recording(recording).column_names[-1] == "embedding"
    assert any("no predictions" in str(w.message) and "belongs to another" in str(w.message) for w in warned)


def test_wrong_inputs_get_one_line(finished, copy, recording, predict, tmp_path):
    store = ad.open_store(_store(finished))
    record(tmp_path / "in/day", store, store.indices("train")[4:6], participant="p2")
    out = tmp_path / "out.png"

    def refused(*arguments):
        status, _, err = predict(*arguments)
        assert status == 2 and err.count("\n") == 1, err
        return err

    assert "a figure shows one of 2 recordings; choose it by --recording day" in refused(
        finished, tmp_path / "in", "--out", out
    )
    assert "no recording 'nigt'" in refused(finished, tmp_path / "in", "--out", out, "--recording", "nigt")
    assert "give a name that ends in" in refused(finished, recording, "--out", tmp_path / "out.txt")
    assert "there is no folder" in refused(finished, recording, "--out", tmp_path / "no/out.csv")
    assert "no such file or folder" in refused(finished, tmp_path / "none", "--out", out)
    stamped = np.column_stack([np.arange(4000) / 64, np.random.default_rng(0).normal([0, 0.6, 0.8], 0.002, (4000, 3))])
    np.savetxt(tmp_path / "accel.csv", stamped, "%.5f", ",", header="time,x,y,z", comments="")
    refusal = refused(finished, tmp_path / "accel.csv", "--part", "teacher", "--out", tmp_path / "a.csv")
    assert "has no PPG, which the teacher reads; take a student" in refusal
    (tmp_path / "empty").mkdir()
    assert "no reader knows these files" in refused(finished, tmp_path / "empty", "--out", out)
    (copy / "student/export/readouts.npz").unlink()
    assert "readouts.npz is missing; repeat the run's command" in refused(copy, recording, "--out", out)
    (copy / "student/export/readouts.npz").write_bytes(b"damaged")
    assert "readouts.npz is damaged" in refused(copy, recording, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("start", [0.0, float(START)])
@pytest.mark.parametrize("count", [1, 5])
def test_the_figure_shows_what_is_not_predicted(start, count):
    reason = np.array(["", "motion", "", "", "uncertain"])[:count]
    value = np.where(reason == "", 60.0 + np.arange(count), np.nan)
    number = Prediction(value, value - 5, value + 5, reason)
    stage = np.where(reason == "", "rem", "")
    nan = np.full(count, math.nan)
    one = PredictedRecording(
        "p1",
        "night",
        start + 60 * np.arange(count),
        motion_g=np.full(count, 0.01),
        quality=np.full(count, 0.8),
        reference={"hr_bpm": value},
        predictions={
            "hr_bpm": number,
            "sdnn_ms": Prediction(nan, nan, nan, np.full(count, "uncertain")),
            "stage": LabelPrediction(stage, value / 100, nan, None, reason),
        },
        units={"hr_bpm": "bpm"},
        left_out={},
    )
    figure = prediction_figure(one)
    figure.canvas.draw()
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["Heart rate\n(bpm)", "Stage", "motion (g)", "quality"]
    assert "SDNN: unknown (uncertain)" in figure.axes[0].get_title(loc="left")
    beside = "".join(text.get_text() for text in figure.axes[0].texts)
    assert ("1 × motion\n1 × uncertain\n60 % of minutes predicted" if count == 5 else "100 % of") in beside
    stripes = [patch for patch in figure.axes[0].patches if patch.get_alpha()]
    assert len(stripes) == (0 if count == 1 else 2)
