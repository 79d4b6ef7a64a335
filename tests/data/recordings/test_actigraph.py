"""ActiGraph files: both firmwares, CSV, idle sleep, real samples, and bad files."""

import io
import zipfile

import numpy as np
import pytest

from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

LOCAL = 1_616_169_420  # 2021-03-19 15:57:00 on the device's clock
TICKS = (LOCAL + 62_135_596_800) * 10**7
RATE = 30


def info(**changes):
    keys = {
        "Serial Number": "TAS1E42150038",
        "Device Type": "Link",
        "Sample Rate": RATE,
        "Start Date": TICKS,
        "TimeZone": "-05:00:00",
        "Acceleration Scale": "256.0",
        "Acceleration Max": "8.0",
    } | changes
    return "".join(f"{key}: {value}\r\n" for key, value in keys.items() if value is not None)


def record(payload, second, kind=26):
    body = b"\x1e" + bytes([kind]) + second.to_bytes(4, "little") + len(payload).to_bytes(2, "little") + payload
    return body + bytes([int(np.bitwise_xor.reduce(np.frombuffer(body, np.uint8))) ^ 0xFF])


def counts(seed=0, samples=RATE):
    return np.random.default_rng(seed).integers(-2048, 2048, (samples, 3)).astype("<i2")


def packed(values):
    digits = "".join(f"{y & 0xFFF:03x}{x & 0xFFF:03x}{z & 0xFFF:03x}" for x, y, z in values.tolist())
    return bytes.fromhex(digits + "0" * (len(digits) % 2))


def seconds(*numbers):
    return b"".join(record(counts(number).tobytes(), LOCAL + number) for number in numbers)


def gt3x(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return buffer.getvalue()


def load(folder, content, name="s1.gt3x", **options):
    (folder / name).write_bytes(content)
    (source,) = find("actigraph", folder, **options)
    return source.load()


def test_log_with_idle_sleep(tmp_path):
    log = record(b"{}", LOCAL, kind=6) + seconds(0, 1) + record(b"\x08", LOCAL + 2, kind=3) + seconds(5) + bytes(3)
    recording = load(tmp_path, gt3x(info_txt=info(), log_bin=log))
    accel = recording.streams["accel"]
    assert (recording.device, recording.start_unix_s) == ("ActiGraph Link", LOCAL + 5 * 3600)
    assert (accel.rate_hz, accel.range, accel.values.shape) == (30.0, (-8.0, 8 - 1 / 256), (180, 3))
    np.testing.assert_array_equal(accel.values[30:60], counts(1) / np.float32(256))
    np.testing.assert_array_equal(accel.values[150:], counts(5) / np.float32(256))
    assert np.isnan(accel.values[60:150]).all()


def test_log_of_packed_samples_and_a_cable(tmp_path):
    log = record(packed(counts()), LOCAL, kind=0) + record(b"\x01", LOCAL + 1, kind=0)
    text = info(**{"Serial Number": "NEO1", "Acceleration Scale": None, "Acceleration Max": None, "TimeZone": None})
    recording = load(tmp_path, gt3x(info_txt=text, log_bin=log), utc_offset_h=2)
    np.testing.assert_allclose(recording.streams["accel"].values, counts() / 341, rtol=1e-6)
    assert recording.start_unix_s == LOCAL - 7200 and recording.streams["accel"].range == (-6.0, 6 - 1 / 341)


@pytest.mark.parametrize("samples", [60, 61])
def test_older_firmware(tmp_path, samples):
    text = info(**{"Serial Number": "NEO1", "Acceleration Scale": None})
    recording = load(tmp_path, gt3x(info_txt=text, activity_bin=packed(counts(samples=samples))))
    np.testing.assert_allclose(recording.streams["accel"].values, counts(samples=samples) / 341, rtol=1e-6)
    assert recording.start_unix_s == LOCAL + 5 * 3600


CSV_HEADER = """------------ Data File Created By ActiGraph GT3X+ ActiLife v6.13.4 Firmware v2.5.0 date format d/M/yyyy at 30 Hz  Filter Normal -----------
Serial Number: NEO1C04110003
Start Time 15:57:00
Start Date 19/3/2021
Epoch Period (hh:mm:ss) 00:00:00
Download Time 12:09:58
Download Date 20/3/2021
Current Memory Address: 0
Current Battery Voltage: 4.26     Mode = 12
--------------------------------------------------
Accelerometer X,Accelerometer Y,Accelerometer Z
"""


def test_csv_and_its_gt3x(tmp_path):
    recording = load(tmp_path, (CSV_HEADER + "-0.015,0.029,-1.006\n0,1,2\n").encode(), "s1.csv", utc_offset_h=-5)
    np.testing.assert_array_equal(recording.streams["accel"].values, np.float32([[-0.015, 0.029, -1.006], [0, 1, 2]]))
    assert (recording.device, recording.start_unix_s) == ("ActiGraph GT3X+", LOCAL + 5 * 3600)
    (tmp_path / "s1.gt3x").write_bytes(gt3x(info_txt=info(), log_bin=seconds(0)))
    found = find("actigraph", tmp_path)
    assert len(found) == 1 and found.not_read == {"s1.csv": "the .gt3x of the same name is read"}
    assert found[0].load().device == "ActiGraph Link"


def test_damaged_record_is_refused_or_a_gap(tmp_path):
    log = bytearray(seconds(0, 1, 2))
    log[250] ^= 1  # within second 1
    content = gt3x(info_txt=info(), log_bin=bytes(log))
    with pytest.raises(UserError, match=r"s1.gt3x: log.bin record 2 at byte 189 has a wrong checksum: .*--damaged gap"):
        load(tmp_path, content)
    values = load(tmp_path, content, damaged="gap").streams["accel"].values
    assert np.isnan(values[30:60]).all()
    np.testing.assert_array_equal(values[60:], counts(2) / np.float32(256))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the zip is damaged"),
        (b"PK" + bytes(400), "the zip is damaged"),
        (gt3x(info_txt=info(), log_bin=seconds(0))[:300], "the zip is damaged"),
        (gt3x(info_txt=info()), "must hold info.txt, and log.bin"),
        (gt3x(log_bin=seconds(0)), "must hold info.txt"),
        (gt3x(info_txt=info(**{"Sample Rate": "fast"}), log_bin=seconds(0)), "'Sample Rate' must be a number"),
        (gt3x(info_txt=info(**{"Sample Rate": 12.5}), log_bin=seconds(0)), "must be whole Hz, got 12.5"),
        (gt3x(info_txt=info(**{"Sample Rate": 20}), log_bin=seconds(0)), "holds 30 samples, but .* is 20 Hz"),
        (
            gt3x(info_txt=info(**{"Acceleration Scale": None, "Serial Number": "ABC1"}), log_bin=seconds(0)),
            "scale of the device 'ABC1' is unknown",
        ),
        (gt3x(info_txt=info(), log_bin=seconds(0)[:-9]), "log.bin is cut off within record 1"),
        (gt3x(info_txt=info(), log_bin=seconds(0) + b"\x77" * 9), "no record begins at byte 189"),
        (gt3x(info_txt=info(), log_bin=seconds(1, 0)), "the clock goes back at record 2"),
        (gt3x(info_txt=info(), log_bin=record(b"ab", LOCAL, kind=2)), "log.bin holds no activity"),
        (gt3x(info_txt=info(), log_bin=seconds(0, 86_400 * 500)), "covers 500 days: a time stamp is wrong"),
        (gt3x(info_txt=info(), activity_bin=b""), "activity.bin holds no sample"),
    ],
)
def test_bad_gt3x_is_named(tmp_path, content, message):
    with pytest.raises(UserError, match=rf"s1.gt3x: .*{message}"):
        load(tmp_path, content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("x,y,z\n" * 20, "is no raw data of ActiLife"),
        (CSV_HEADER, "is no raw data of ActiLife"),
        (CSV_HEADER.replace(" at 30 Hz", "") + "0,0,1\n", "line 1: the sampling rate or the date format is missing"),
        (CSV_HEADER.replace("00:00:00", "00:01:00") + "0,0,1\n", "holds counts per epoch"),
        (CSV_HEADER.replace("19/3/2021", "3/19/2021") + "0,0,1\n", "the start '3/19/2021' '15:57:00' is no date"),
        (CSV_HEADER.replace("Accelerometer Y", "Axis1") + "0,0,1\n", "Accelerometer Y"),
        (CSV_HEADER + "0,0,1\n0,0\n", "line 13: Expected 3 columns, got 2"),
        (CSV_HEADER + "0,0,1\n0,x,1\n", "line 13: not a number"),
    ],
)
def test_bad_csv_is_named(tmp_path, text, message):
    with pytest.raises(UserError, match=rf"s1.csv: .*{message}"):
        load(tmp_path, text.encode(), "s1.csv")


def test_real_files(shared_data):
    root = shared_data / "device_files/actigraph"
    if not root.is_dir():
        pytest.skip("device_files is not among the real recordings here")
    idle, neo = (source.load() for source in find("actigraph", root))
    truth = np.loadtxt(root / "neo.csv", delimiter=",", skiprows=11)
    values = neo.streams["accel"].values
    np.testing.assert_array_equal(np.round(values.astype(float), 3), truth)
    assert neo.start_unix_s == 1_640_022_900  # 11:55:00 at -06:00
    missing = np.isnan(idle.streams["accel"].values).any(1).reshape(-1, 30).all(1)
    assert (len(missing), missing.sum(), idle.start_unix_s) == (179, 106, LOCAL + 5 * 3600)
    assert np.flatnonzero(missing)[[0, -1]].tolist() == [24, 154]
