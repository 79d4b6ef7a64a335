"""GENEActiv files: calibration, times, gaps, real samples, and bad files."""

import datetime

import numpy as np
import pytest

from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

START = datetime.datetime(2019, 5, 21, 16, 16, 43, 500_000)
UNIX = 1558469803.5  # 16:16:43.5 at GMT -04:00
GAIN, OFFSET = np.array([25000, 26000, 24000]), np.array([300, -600, 100])


def header(pages, rate="50 Hz", zone="GMT -04:00", gain=25000):
    lines = [
        "Device Identity",
        "Device Unique Serial Code:051386",
        "Device Type:GENEActiv",
        "",
        "Configuration Info",
        f"Measurement Frequency:{rate}",
        f"Time Zone:{zone}",
        "Calibration Data",
        f"x gain:{gain}",
        "x offset:300",
        "y gain:26000",
        "y offset:-600",
        "z gain:24000",
        "z offset:100",
        "Memory Status",
        f"Number of Pages:{pages}",
        "",
    ]
    return "\r\n".join(lines) + "\r\n"


def counts(seed=0):
    return np.random.default_rng(seed).integers(-2048, 2048, (300, 3))


def page(values, *, sequence=0, seconds=0.0, rate="50.0", digits=None):
    words = [f"{x & 0xFFF:03X}{y & 0xFFF:03X}{z & 0xFFF:03X}0A0" for x, y, z in values.tolist()]
    moment = START + datetime.timedelta(seconds=seconds)
    lines = [
        "Recorded Data",
        "Device Unique Serial Code:051386",
        f"Sequence Number:{sequence}",
        f"Page Time:{moment:%Y-%m-%d %H:%M:%S}:{moment.microsecond // 1000:03d}",
        "Unassigned:",
        "Temperature:28.2",
        "Battery voltage:4.1642",
        "Device Status:Recording",
        f"Measurement Frequency:{rate}",
        "".join(words) if digits is None else digits,
    ]
    return "\r\n".join(lines) + "\r\n"


def load(folder, text, **options):
    (folder / "s1.bin").write_text(text, newline="")
    (source,) = find("geneactiv", folder, **options)
    return source.load()


def test_calibration_start_and_range(tmp_path):
    recording = load(tmp_path, header(2) + page(counts()) + page(counts(1), sequence=1, seconds=6.0))
    accel = recording.streams["accel"]
    expected = (100.0 * np.concatenate([counts(), counts(1)]) - OFFSET) / GAIN
    np.testing.assert_allclose(accel.values, expected, rtol=1e-6)
    assert recording.start_unix_s + accel.start_s == UNIX and recording.device == "GENEActiv"
    np.testing.assert_allclose(accel.range, [(-204800 - OFFSET) / GAIN, (204700 - OFFSET) / GAIN])
    # Stamps are rounded to half a second; the samples stay evenly spaced.
    np.testing.assert_allclose(np.diff(accel.time_s), 0.02, atol=1e-9)


def test_long_runs_follow_the_stamps_and_lost_pages_are_gaps(tmp_path):
    step = 300 / 50 * 1.001  # the device is slower than it states by 0.1 %
    kept = [k for k in range(400) if k not in (200, 201)]
    pages = [page(counts(), sequence=k, seconds=round(2 * step * k) / 2) for k in kept]
    times = load(tmp_path, header(398) + "".join(pages)).streams["accel"].time_s
    np.testing.assert_allclose(times[: 300 * 200] - 0.5, np.arange(60_000) * step / 300, atol=0.2)
    assert times[60_000] - times[59_999] == pytest.approx(2 * step, abs=0.3)


def test_missing_pages_are_refused_or_left_out(tmp_path):
    text = header(9) + page(counts()) + page(counts(1), sequence=1, seconds=6.0)[:2000]
    with pytest.raises(UserError, match="s1.bin: has 2 of the 9 pages that its header states: .*--damaged gap"):
        load(tmp_path, text)
    assert len(load(tmp_path, text, damaged="gap").streams["accel"].values) == 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("Accelerometer,1\n", "is no GENEActiv file"),
        (header(0), "no whole page"),
        (header(2, rate="") + page(counts()) * 2, "'Measurement Frequency' must be a number, got ''"),
        (header(1, zone="Berlin") + page(counts()), "'Time Zone' must be such as GMT"),
        (header(1, gain=0) + page(counts()), "gains must be positive"),
        (header("many") + page(counts()), "'Number of Pages' must be a number, got 'many'"),
        (header(1) + page(counts(), digits="0A" * 1799), "page 1 of 1 is damaged or cut off"),
        (header(1) + page(counts(), digits="0G" * 1800), "page 1 of 1 is damaged or cut off"),
        (header(1) + page(counts(), rate="100.0"), "page 1: the rate changes to 100.0 Hz"),
        (header(2) + page(counts(), seconds=9) + page(counts(), sequence=1), "page 2: the clock goes back"),
        (header(1) + page(counts()).replace("2019-05", "2019-15"), "page 1: 'Page Time' is no date"),
        (
            header(400) + "".join(page(counts(), sequence=k, seconds=round(13 * k) / 2) for k in range(400)),
            "pages follow each other every 6.5",
        ),
    ],
)
def test_bad_file_is_named(tmp_path, text, message):
    with pytest.raises(UserError, match=rf"s1.bin: .*{message}"):
        load(tmp_path, text)


def test_real_files(shared_data):
    root = shared_data / "device_files/geneactiv"
    if not root.is_dir():
        pytest.skip("device_files is not among the real recordings here")
    cut, whole = find("geneactiv", root)
    recording = whole.load()
    accel = recording.streams["accel"]
    assert (len(accel.values), recording.start_unix_s + accel.start_s) == (900, UNIX)
    np.testing.assert_allclose(accel.values[0], [-0.88049526, 0.19754881, 0.04023521], rtol=1e-6)
    with pytest.raises(UserError, match="GENEActiv_testfile.bin: has 17 of the 222048 pages"):
        cut.load()
