"""Verily Study Watch in TSDF: inheritance, pairs of descriptions, and bad files."""

import json

import numpy as np
import pytest

from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

START, RATE_HZ, ROWS = "2021-06-27T16:52:20Z", 100, 500
PER_COUNT = 0.00469378
AXES = ["acceleration_x", "acceleration_y", "acceleration_z", "rotation_x", "rotation_y", "rotation_z"]
TIME = {"file_name": "{}_time.bin", "channels": ["time"], "units": ["time_delta_ms"], "data_type": "float", "bits": 32}
TOP = {
    "subject_id": "S7",
    "device_id": "Verily Study Watch",
    "start_iso8601": START,
    "rows": ROWS,
    "endianness": "little",
}


def imu(**changes):
    """As the watch's files: the scale of the times comes from the middle level."""
    values = {
        "file_name": "imu_values.bin",
        "channels": AXES,
        "units": ["m/s/s"] * 3 + ["deg/s"] * 3,
        "scale_factors": [PER_COUNT] * 3 + [0.06] * 3,
        "data_type": "int",
        "bits": 16,
    }
    times = TIME | {"file_name": "imu_time.bin"}
    return (
        TOP
        | {"end_iso8601": "2021-06-27T16:52:25Z", "sensors": [{"scale_factors": [1], "sensors": [times]}, values]}
        | changes
    )


def ppg(**changes):
    """The type comes from the level around."""
    values = {"file_name": "ppg_values.bin", "channels": ["green"], "units": ["none"], "bits": 32}
    times = TIME | {"file_name": "ppg_time.bin"}
    sensors = [{"data_type": "int", "sensors": [values]}, times]
    return (
        TOP
        | {
            "end_iso8601": "2021-06-27T16:52:26Z",
            "start_iso8601": "2021-06-27T16:52:21Z",
            "sensors": sensors,
            "scale_factors": [1],
        }
        | changes
    )


def counts():
    k = np.arange(ROWS)
    return np.stack([k % 5, -(k % 3), 2089 + k % 2, *np.zeros((3, ROWS))], -1).astype("<i2")


def contents(**changes):
    """File -> bytes; `changes` has __ in place of a slash or a point."""
    steps = np.full(ROWS, 1000 / RATE_HZ, "<f4")
    steps[0] = 0
    files = {
        "imu/imu_meta.json": json.dumps(imu()),
        "imu/imu_time.bin": steps.tobytes(),
        "imu/imu_values.bin": counts().tobytes(),
        "ppg/ppg_meta.json": json.dumps(ppg()),
        "ppg/ppg_time.bin": steps.tobytes(),
        "ppg/ppg_values.bin": (1_000_000 + np.arange(ROWS)).astype("<i4").tobytes(),
    }
    return files | changes


def write(folder, files):
    for name, content in files.items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def load(folder, **changes):
    write(folder, contents(**changes))
    (source,) = find("verily_tsdf", folder)
    return source.load()


def test_inherited_keys_and_times(tmp_path):
    recording = load(tmp_path / "night")
    accel, ppg = recording.streams["accel"], recording.streams["ppg"]
    assert (recording.participant.participant_id, recording.device) == ("S7", "Verily Study Watch")
    assert (recording.recording_id, recording.start_unix_s) == ("night", 1_624_812_740)
    np.testing.assert_allclose(accel.values, counts()[:, :3] * PER_COUNT / 9.80665, rtol=1e-5)
    np.testing.assert_allclose(accel.time_s, np.arange(ROWS) / RATE_HZ, atol=1e-5)
    np.testing.assert_allclose(ppg.time_s, 1 + np.arange(ROWS) / RATE_HZ, atol=1e-5)
    assert ppg.values[3, 0] == 1_000_003 and ppg.channels == ("green",) and ppg.polarity == "systole_down"
    assert accel.range[1][0] == pytest.approx(32_767 * PER_COUNT / 9.80665)


def test_descriptions_pair_by_their_names(tmp_path):
    for name in ("a", "b"):
        write(tmp_path, {f"{name}_{path.split('/')[1]}": text for path, text in contents().items()})
    for name in ("a", "b"):  # both name the same files
        for kind, text in (("imu", json.dumps(imu())), ("ppg", json.dumps(ppg()))):
            (tmp_path / f"{name}_{kind}_meta.json").write_text(text.replace(f"{kind}_", f"{name}_{kind}_"))
    (tmp_path / "b_imu_meta.json").unlink()
    write(tmp_path, {"other_meta.json": json.dumps(imu()).replace("acceleration", "velocity")})
    found = find("verily_tsdf", tmp_path)
    assert [source.recording_id for source in found] == ["a"] and set(found[0].load().streams) == {"accel", "ppg"}
    assert found.not_read["b_ppg_meta.json"].startswith("PPG without acceleration")
    assert found.not_read["other_meta.json"] == "describes neither acceleration nor PPG"


def test_acceleration_alone_and_big_endian(tmp_path):
    big = imu()
    big["sensors"][1]["endianness"] = "big"
    recording = load(
        tmp_path,
        **{
            "imu/imu_meta.json": json.dumps(big),
            "imu/imu_values.bin": counts().astype(">i2").tobytes(),
            "ppg/ppg_meta.json": None,
        },
    )
    assert list(recording.streams) == ["accel"]
    np.testing.assert_allclose(recording.streams["accel"].values[4], counts()[4, :3] * PER_COUNT / 9.80665, rtol=1e-5)


def changed(kind, **values):
    """The description with changes of the file of values."""
    description = {"imu": imu, "ppg": ppg}[kind]()
    place = description["sensors"][1] if kind == "imu" else description["sensors"][0]["sensors"][0]
    place.update(values)
    return json.dumps(description)


def steps(value):
    array = np.full(ROWS, 10, "<f4")
    array[7] = value
    return array.tobytes()


IMU, PPG = "imu/imu_meta.json", "ppg/ppg_meta.json"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (IMU, json.dumps(imu())[:-30], "not a whole JSON file"),
        (IMU, "[" * 100_000, "not a whole JSON file"),
        (IMU, "[1]", "holds no JSON object"),
        (IMU, json.dumps(imu(sensors=[])), "names no binary file"),
        (IMU, json.dumps(imu(sensors=[3])), "the key 'sensors' must be a list of objects"),
        (IMU, json.dumps(imu(rows=ROWS + 1)), "imu_time.bin: has 2000 bytes, its description says 2004"),
        (IMU, json.dumps(imu(rows="many")), "imu_time.bin: its numbers cannot be read as rows 'many'"),
        (IMU, json.dumps(imu(start_iso8601="yesterday")), "start_iso8601 must be a time in ISO 8601"),
        (IMU, json.dumps(imu(end_iso8601=None)), "end_iso8601 must be a time in ISO 8601, got None"),
        (
            IMU,
            json.dumps(imu(end_iso8601="2021-06-27T18:52:25Z")),
            "its steps last 5.0 s, start_iso8601 to end_iso8601",
        ),
        (IMU, json.dumps(imu(subject_id="S8")), "is of another subject_id"),
        (IMU, changed("imu", bits=12), "cannot be read as .* bits 12"),
        (IMU, changed("imu", data_type="complex"), "cannot be read as .* data_type 'complex'"),
        (IMU, changed("imu", endianness="middle"), "cannot be read as .* endianness 'middle'"),
        (IMU, changed("imu", file_name="../imu_values.bin"), "no plain name of a file"),
        (IMU, changed("imu", file_name="gone.bin"), "gone.bin: no such file"),
        (IMU, changed("imu", channels=[*AXES[:2], "t", *AXES[3:]]), "the channel 'acceleration_z' is missing"),
        (IMU, changed("imu", units=["m/s/s"]), "needs a unit for each of its 6 channels"),
        (IMU, changed("imu", units=["mi/s"] * 6), "the acceleration's unit is mi/s, not g, mg or m/s2"),
        (IMU, changed("imu", scale_factors=[1, 2]), "scale_factors must be 6 numbers"),
        (IMU, changed("imu", scale_factors=[float("inf")]), "scale_factors must be 6 numbers other than 0"),
        (IMU, changed("imu", scale_factors=[0]), "scale_factors must be 6 numbers other than 0"),
        (IMU, json.dumps(imu()).replace("time_delta_ms", "fortnights"), "the unit of the times is 'fortnights'"),
        ("imu/imu_values.bin", counts().tobytes()[:-5], "imu_values.bin: has 5995 bytes, its description says 6000"),
        ("imu/imu_values.bin", b"", "imu_values.bin: the file is empty"),
        ("imu/imu_time.bin", steps(np.nan), "imu_time.bin: step 7 is nan ms"),
        ("imu/imu_time.bin", steps(-1), "imu_time.bin: step 7 is -1 ms"),
        (PPG, changed("ppg", bits=16), "ppg_values.bin: has 2000 bytes, its description says 1000"),
        (PPG, json.dumps(ppg(rows=499)), "ppg_time.bin: has 2000 bytes, its description says 1996"),
    ],
)
def test_a_bad_file_is_named(tmp_path, file, content, message):
    with pytest.raises(UserError, match=rf"{tmp_path}/.*(json|bin): .*{message}|{tmp_path}/.*{message}"):
        load(tmp_path, **{file: content})


def test_two_descriptions_of_one_name_are_refused(tmp_path):
    write(tmp_path, contents() | {"imu_meta.json": json.dumps(imu())})
    with pytest.raises(UserError, match="has the same name and kind"):
        find("verily_tsdf", tmp_path)


def test_real_files(shared_data):
    folder = shared_data / "paradigma/verily_tsdf"
    if not folder.is_dir():
        pytest.skip("no Verily recording there")
    (source,) = find("verily_tsdf", folder)
    recording = source.load()
    accel, ppg = recording.streams["accel"], recording.streams["ppg"]
    assert (len(accel.values), len(ppg.values), recording.recording_id) == (72_947, 64_775, "verily_tsdf")
    assert (len(ppg.values) - 1) / ppg.time_s[-1] == pytest.approx(100.49, abs=0.01)
    assert (len(accel.values) - 1) / accel.time_s[-1] == pytest.approx(99.82, abs=0.01)
    assert accel.time_s[-1] == pytest.approx(730.8, abs=0.1) and ppg.time_s[-1] == pytest.approx(644.6, abs=0.1)
    assert np.median(np.linalg.norm(accel.values, axis=1)) == pytest.approx(0.944, abs=0.02)


def test_channels_that_are_no_texts(tmp_path):
    description = imu()
    description["sensors"][1]["channels"] = [["acceleration_x"], {}, 3]
    write(tmp_path, contents(**{"imu/imu_meta.json": json.dumps(description).encode()}))
    with pytest.raises(
        UserError, match="imu_meta.json: file_name 'imu_values.bin': needs a text, and a list of channels that are"
    ):
        find("verily_tsdf", tmp_path)[0].load()
