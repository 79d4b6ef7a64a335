"""TROIKA files: both layouts, files of heart rates, and bad files."""

import numpy as np
import pytest
import scipy.io

from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

ALL = PreprocessSettings(max_motion_g=float("inf"), min_ppg_quality=0, max_clipped_fraction=1)


def signal(rows, seconds=130):
    return np.random.default_rng(rows).normal(size=(rows, 125 * seconds))


def test_training_and_test_layout(tmp_path):
    training, test = signal(6), signal(5)
    scipy.io.savemat(tmp_path / "DATA_03_TYPE02.mat", {"sig": training})
    scipy.io.savemat(tmp_path / "DATA_03_TYPE02_BPMtrace.mat", {"BPM0": np.arange(62.0)[:, None] + 100})
    scipy.io.savemat(tmp_path / "TEST_S02_T01.mat", {"sig": test})
    first, second = find("troika", tmp_path)
    assert (first.participant_id, second.participant_id) == ("train-03", "test-S02")
    one, two = first.load(), second.load()
    np.testing.assert_allclose(one.streams["ecg"].values[:, 0], training[0], rtol=1e-6)
    np.testing.assert_allclose(one.streams["ppg"].values, training[1:3].T, rtol=1e-6)
    np.testing.assert_allclose(one.streams["accel"].values, training[3:].T, rtol=1e-6)
    np.testing.assert_allclose(two.streams["ppg"].values, test[:2].T, rtol=1e-6)
    np.testing.assert_allclose(two.streams["accel"].values, test[2:].T, rtol=1e-6)
    assert "ecg" not in two.streams and two.heart_rate is None
    assert (one.heart_rate.start_s[3], one.heart_rate.duration_s, one.heart_rate.hr_bpm[3]) == (6.0, 8.0, 103.0)
    batch = preprocess(one, ALL)
    assert batch.ppg.shape == (2, 3840, 2) and set(batch.columns["hr_source"]) == {"windows"}
    np.testing.assert_allclose(batch.columns["hr_bpm"], [100 + np.arange(29).mean(), 100 + np.arange(28, 59).mean()])


def test_saturation_is_clipping(tmp_path):
    values = signal(5)
    values[1, 100:300] = -1024.0
    scipy.io.savemat(tmp_path / "TEST_S02_T01.mat", {"sig": values})
    batch = preprocess(find("troika", tmp_path)[0].load(), ALL)
    np.testing.assert_allclose(batch.columns["ppg_clipped"], [200 / 7500, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sig": np.zeros((4, 10))}, "'sig' must have 6 rows .* got shape"),
        ({"signal": np.zeros((5, 10))}, "has no variable 'sig'"),
        ({"sig": "text"}, "must hold real numbers"),
        ({"sig": np.zeros((5, 10)) + 1j}, "must hold real numbers, got complex128"),
        (b"MATLAB 5.0 MAT-file" + bytes(40), "cannot be read as a MATLAB v5 file"),
        (b"", "cannot be read as a MATLAB v5 file"),
    ],
)
def test_bad_file_is_named(tmp_path, content, message):
    path = tmp_path / "TEST_S02_T01.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        scipy.io.savemat(path, content)
    with pytest.raises(UserError, match=f"TEST_S02_T01.mat: .*{message}|TEST_S02_T01.mat: {message}"):
        find("troika", tmp_path)[0].load()


def test_cut_off_file_is_named(tmp_path):
    path = tmp_path / "TEST_S02_T01.mat"
    scipy.io.savemat(path, {"sig": signal(5)}, do_compression=True)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="TEST_S02_T01.mat: cannot be read"):
        find("troika", tmp_path)[0].load()


def test_real_files(shared_data):
    root = shared_data / "troika_spc2015"
    if not root.is_dir():
        pytest.skip("troika_spc2015 is not among the real recordings here")
    sources = find("troika", root)
    assert len(sources) == 22 and len({s.participant_id for s in sources}) == 20
    for source in (sources[0], sources[-1]):
        recording = source.load()
        batch = preprocess(recording, ALL)
        minutes = len(recording.streams["ppg"].values) / 125 / 60
        assert batch.examined == int(minutes) == len(batch.ppg)
        assert np.isfinite(batch.columns["hr_bpm"]).all() and (batch.columns["motion_g"] > 0.1).all()
        assert preprocess(recording, PreprocessSettings()).rejected["motion"] == batch.examined
