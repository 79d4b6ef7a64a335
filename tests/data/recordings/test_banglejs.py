"""Bangle.js logs: interleaved rows, reference, real samples, and bad files."""

import numpy as np
import pytest

from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

HEADER = " Time,Acc_x,Acc_y,Acc_z,HRM_b,HRM_c,HRM_r,HRM_f,PPG_r,PPG_o,BTHRM\n"
START_MS = 1_655_061_766_469.25


def ppg(ms, value):
    return f" {START_MS + ms},,,,,,{value},-88,{value},0,\n"


def accel(ms, x=0.0, y=-0.5, z=0.8):
    return f" {START_MS + ms},{x},{y},{z},,,,,,,,\n"


ROWS = (
    accel(0) + ppg(10, 2377) + ppg(43.5, 2416) + f" {START_MS + 50},,,,66,100,,,,\n" + accel(80, 0.25) + ppg(77 + 9, 2)
)


def load(folder, text):
    (folder / "s1.csv").write_text(text)
    (source,) = find("banglejs", folder)
    return source.load()


def test_each_sensor_gets_its_rows_and_times(tmp_path):
    strap = "".join(f" {START_MS + 1000 * k},,,,,,,,,,{60 + k}\n" for k in range(1, 4))
    recording = load(tmp_path, HEADER + ROWS + strap)
    light, motion = recording.streams["ppg"], recording.streams["accel"]
    assert (recording.device, recording.start_unix_s) == ("Bangle.js 2", 1_655_061_766.0)
    np.testing.assert_allclose(motion.time_s, [0.46925, 0.54925], atol=1e-9)
    np.testing.assert_array_equal(motion.values, np.float32([[0, -0.5, 0.8], [0.25, -0.5, 0.8]]))
    np.testing.assert_allclose(light.time_s, [0.47925, 0.51275, 0.55525], atol=1e-9)
    assert light.values[:, 0].tolist() == [2377, 2416, 2] and light.polarity == "unknown"
    assert recording.heart_rate.hr_bpm.tolist() == [61, 62, 63]
    np.testing.assert_allclose(recording.heart_rate.start_s, [-0.53075, 0.46925, 1.46925], atol=1e-9)


def test_without_a_strap_there_is_no_reference(tmp_path):
    assert load(tmp_path, HEADER + ROWS).heart_rate is None
    assert load(tmp_path, (HEADER + ROWS).replace(",BTHRM", "").replace(",,,,,,,,\n", ",,,,,,,\n")).heart_rate is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (HEADER.replace("HRM_r", "hrm") + ROWS, "line 1: the column 'HRM_r' is missing"),
        (HEADER, "has a header but no rows"),
        (HEADER + accel(0), "holds no values of HRM_r"),
        (HEADER + ppg(0, 1), "holds no accelerations"),
        (HEADER + ROWS + " 1655061766866.84619140625,,,,,,\n", "line 8: holds no value: is the file cut off"),
        (HEADER + ROWS + " 1655061767866,0.5,0.5\n", "line 8: an axis of the acceleration is missing"),
        (HEADER + ROWS + ",0.5,0.5,0.5\n", "line 8: the time must be milliseconds since 1970"),
        (HEADER + " 99999999999999,0.5,0.5,0.5,,,,,,,,\n", "line 2: the time must be milliseconds since 1970"),
        (HEADER + ROWS + ppg(-500, 3), "line 8: the time goes back by 586 ms"),
        (HEADER + ROWS + ppg(99, "12x"), "line 8: not a number"),
        (HEADER + ROWS + accel(99)[:-1] + "1,2,3\n", "line 8: expected 11 columns, got 14"),
    ],
)
def test_bad_file_is_named(tmp_path, text, message):
    with pytest.raises(UserError, match=rf"s1.csv: .*{message}"):
        load(tmp_path, text)


def test_real_files(shared_data):
    root = shared_data / "device_files/banglejs"
    if not root.is_dir():
        pytest.skip("device_files is not among the real recordings here")
    sitting, moving = (source.load() for source in find("banglejs", root))
    assert [len(sitting.streams[name].values) for name in ("accel", "ppg")] == [119, 2983]
    assert [len(moving.streams[name].values) for name in ("accel", "ppg")] == [1092, 2179]
    assert np.nanmean(sitting.heart_rate.hr_bpm) == pytest.approx(65.98)
    assert 1.0 < np.median(np.linalg.norm(sitting.streams["accel"].values, axis=1)) < 1.05
