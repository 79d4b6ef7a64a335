"""WildPPG and BAMI: units, channels, references, and bad files."""

import numpy as np
import pytest
import scipy.io

from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

SAMPLES = 128 * 65


def site(seed=0, **changes):
    rng = np.random.default_rng(seed)
    signals = {name: rng.normal(size=SAMPLES) for name in ("ppg_g", "ppg_r", "ppg_ir", "acc_x", "acc_y")}
    signals["acc_z"] = 1 + 0.01 * rng.normal(size=SAMPLES)
    return {name: {"v": values, "fs": 128} for name, values in signals.items()} | {
        key: value for key, value in changes.items()
    }


def wild(folder, **options):
    content = {"id": "an0", "notes": "", "wrist": site(), "ankle": site(1)}
    scipy.io.savemat(folder / "WildPPG_Part_an0.mat", content)
    (source,) = find("wildppg", folder, **options)
    return source.load()


def test_wildppg(tmp_path):
    recording = wild(tmp_path)
    ppg, accel = recording.streams["ppg"], recording.streams["accel"]
    assert (recording.participant.participant_id, recording.device) == ("an0", "WildPPG, wrist")
    assert (ppg.channels, ppg.rate_hz, accel.rate_hz) == (("green", "red", "infrared"), 128.0, 128.0)
    np.testing.assert_allclose(ppg.values[:, 2], site()["ppg_ir"]["v"], rtol=1e-6)
    np.testing.assert_allclose(accel.values[:, 2], site()["acc_z"]["v"], rtol=1e-6)
    other = wild(tmp_path, site="ankle", accel_unit="m/s2")
    np.testing.assert_allclose(other.streams["accel"].values[:, 0], site(1)["acc_x"]["v"] / 9.80665, rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a MATLAB v5 file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "cannot be read as a MATLAB v5 file"),
        ({"ankle": site()}, "has no variable 'wrist'"),
        ({"wrist": np.zeros(9)}, "'wrist' holds no signal 'ppg_g'"),
        ({"wrist": {key: value for key, value in site().items() if key != "acc_y"}}, "holds no signal 'acc_y'"),
        ({"wrist": site(acc_x={"v": np.zeros(9), "fs": 128})}, "differ in length"),
        ({"wrist": site(ppg_r={"v": np.zeros(SAMPLES), "fs": 64})}, r"or rate \(\[128.0, 64.0, 128.0\]\)"),
        ({"wrist": site(acc_x={"v": "text", "fs": 128})}, "'wrist.acc_x.v' must hold real numbers"),
    ],
)
def test_bad_wildppg_is_named(tmp_path, content, message):
    path = tmp_path / "WildPPG_Part_an0.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        scipy.io.savemat(path, content)
    with pytest.raises(UserError, match=rf"WildPPG_Part_an0.mat: .*{message}"):
        find("wildppg", tmp_path)[0].load()


def bami(**changes):
    rng = np.random.default_rng(0)
    return {
        "rawPPG": rng.normal(size=(3, 50 * 65)),
        "rawAcc": rng.integers([[30000], [30000], [40000]], [[35000], [35000], [41000]], (3, 50 * 65)).astype(float),
        "bpm_ecg": np.arange(29.0)[:, None] + 100,
    } | changes


def load_bami(folder, content):
    scipy.io.savemat(folder / "BAMI1_3.mat", content)
    (source,) = find("bami", folder)
    return source.load()


def test_bami(tmp_path):
    recording = load_bami(tmp_path, bami())
    ppg, accel = recording.streams["ppg"], recording.streams["accel"]
    assert (recording.participant.participant_id, ppg.values.shape, accel.rate_hz) == ("BAMI1_3", (3250, 3), 50.0)
    np.testing.assert_allclose(accel.values, (bami()["rawAcc"] / 65535 * 8 - 4).T, rtol=1e-5)
    assert 0.88 < accel.values[:, 2].min() and accel.values[:, 2].max() < 1.01
    assert (recording.heart_rate.start_s[3], recording.heart_rate.hr_bpm[3]) == (6.0, 103.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rawPPG": np.zeros((3, 9))}, "has no variable 'rawAcc'"),
        (bami(rawPPG=np.zeros((2, 3250))), "must have 3 rows of one length"),
        (bami(rawAcc=bami()["rawAcc"] / 65535), "rawAcc must be counts of 0 to 65535, got 0.4"),
        (bami(rawAcc=bami()["rawAcc"] - 40000), "rawAcc must be counts"),
        (bami(bpm_ecg=np.full(200, 90.0)), "bpm_ecg has 200 values, but the signal has about 30 windows"),
        (bami(bpm_ecg="none"), "'bpm_ecg' must hold real numbers"),
    ],
)
def test_bad_bami_is_named(tmp_path, content, message):
    with pytest.raises(UserError, match=rf"BAMI1_3.mat: .*{message}"):
        load_bami(tmp_path, content)


def test_other_files_are_left_out(tmp_path):
    scipy.io.savemat(tmp_path / "BAMI1_3.mat", bami())
    scipy.io.savemat(tmp_path / "other.mat", bami())
    assert find("bami", tmp_path).not_read == {"other.mat": "its name does not begin with BAMI1_ or BAMI2_"}
