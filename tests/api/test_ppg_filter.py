"""The band-pass of the PPG that a teacher was trained with: exports name it, and raw signals get it."""

import shutil
import types

import numpy as np
import pyarrow.parquet as pq
import pytest

import accdistill_jax as ad
from accdistill_jax.api.embed_command import main as embed
from accdistill_jax.api.shipped import shipped_folder
from accdistill_jax.config.schema import InputSettings
from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Participant, Recording, Stream
from accdistill_jax.export.plain import plain_encoder
from accdistill_jax.stages.context import Run
from accdistill_jax.storage.export import change_meta, load_params

BAND_HZ, ORDER = (0.7, 3.0), 2


@pytest.fixture
def narrow(tmp_path):
    """A teacher whose store had another band-pass than the default."""
    folder = shutil.copytree(shipped_folder("synthetic-teacher"), tmp_path / "export")
    signal = load_params(folder).meta["signal"]
    change_meta(folder, {"signal": signal | {"ppg_band_hz": list(BAND_HZ), "ppg_filter_order": ORDER}})
    return ad.load(folder)


def pulse(rate_hz=64.0):
    """Two minutes of PPG [time, 1] with sharp beats."""
    at = np.arange(round(125 * rate_hz)) / rate_hz
    return 100 * np.exp(-((((at % 0.9) - 0.2) / 0.06) ** 2))[:, None]


def test_a_raw_signal_gets_the_band_of_the_store(narrow):
    signal = pulse()
    ppg = Stream("ppg", signal, ("green",), "a.u.", rate_hz=64.0, polarity="systole_up")
    accel = np.random.default_rng(0).normal([0.0, 0.6, 0.8], 0.002, (len(signal), 3))
    still = Stream("accel", accel, ("x", "y", "z"), "g", rate_hz=64.0)
    recording = Recording("one", Participant("anna"), "watch", "test", 0.0, {"ppg": ppg, "accel": still})
    store = preprocess(recording, PreprocessSettings(ppg_band_hz=BAND_HZ, ppg_filter_order=ORDER))
    embedded = narrow.embed(signal, 64.0, polarity="systole_up")
    np.testing.assert_allclose(embedded, narrow.encode(store.ppg), atol=1e-5)
    by_default = ad.load("synthetic-teacher").embed(signal, 64.0, polarity="systole_up")
    assert np.abs(embedded - by_default).max() > 0.01


def test_files_get_the_band_of_the_encoder_and_no_other(narrow, tmp_path, capsys):
    columns = np.column_stack([pulse(), np.random.default_rng(0).normal([0.0, 0.6, 0.8], 0.002, (8000, 3))])
    np.savetxt(tmp_path / "watch.csv", columns, "%.6f", ",", header="green,x,y,z", comments="")
    stream = "{file: watch.csv, columns: [%s], rate_hz: 64%s}"
    ppg, accel = stream % ("green", ", polarity: systole_up"), stream % ("x, y, z", "")
    (tmp_path / "recording.yaml").write_text(f"participant: anna\nstreams: {{ppg: {ppg}, accel: {accel}}}\n")
    out = tmp_path / "z.parquet"
    words = [str(narrow.path), str(tmp_path / "recording.yaml"), "--out", str(out), "--workers", "1", "--quiet"]
    with pytest.raises(SystemExit):
        embed([*words, "--ppg-band-hz", "0.5", "8"])
    assert "unrecognized arguments: --ppg-band-hz" in capsys.readouterr().err and not out.exists()
    assert embed(words) == 0
    by_files = np.stack(pq.read_table(out)["embedding"].to_numpy())
    np.testing.assert_allclose(by_files, narrow.embed(columns[:, :1], 64.0, polarity="systole_up"), atol=1e-3)


def test_a_run_names_the_band_in_its_exports():
    preprocessed = PreprocessSettings(ppg_band_hz=BAND_HZ, ppg_filter_order=ORDER).to_json()
    store = types.SimpleNamespace(
        rate_hz=64.0,
        samples=3840,
        channels={"ppg": ("green",), "accel": tuple("xyz")},
        manifest={"preprocess": preprocessed},
    )
    run = types.SimpleNamespace(stores=[store], inputs=lambda modality: InputSettings())
    signal = Run.signal_meta(run, "ppg")
    assert (signal["ppg_band_hz"], signal["ppg_filter_order"]) == (list(BAND_HZ), ORDER)
    assert "ppg_band_hz" not in Run.signal_meta(run, "accel")


def test_an_export_says_what_comes_before_it(narrow):
    said = plain_encoder(narrow).contract.preparation
    assert "band-passed from 0.7 to 3 Hz (Butterworth of order 2, run forwards and backwards)" in said
    assert "64 Hz" in plain_encoder(ad.load("synthetic-small")).contract.preparation
    for name in ("synthetic-small", "synthetic-teacher", "synthetic-wrist"):
        encoder = ad.load(name)
        with open(f"{encoder.path}/MODEL_CARD.md", encoding="utf-8") as card:
            assert plain_encoder(encoder).contract.preparation in card.read()
