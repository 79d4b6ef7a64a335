"""Axivity files: packings, times, gaps, real samples, and bad files."""

import numpy as np
import pytest

from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

RATE_100_HZ_8_G = 0x4A
DATE = 20 << 26 | 5 << 22 | 17 << 17 | 10 << 12 | 30 << 6 | 15  # 2020-05-17 10:30:15
UNIX = 1589711415.0


def header(hardware=0x17):
    return (b"MD" + (1020).to_bytes(2, "little") + bytes([hardware])).ljust(1024, b"\xff")


def block(data, *, sequence=0, date=DATE, fraction=0, offset=0, count=80, packing=0x32, light=0, rate=RATE_100_HZ_8_G):
    """A data block with a right checksum."""
    fields = [
        b"AX",
        (508).to_bytes(2, "little"),
        (0x8000 | fraction).to_bytes(2, "little"),
        (7).to_bytes(4, "little"),
        sequence.to_bytes(4, "little"),
        date.to_bytes(4, "little"),
        light.to_bytes(2, "little"),
        bytes(4),
        bytes([rate, packing]),
        offset.to_bytes(2, "little", signed=True),
        count.to_bytes(2, "little"),
        data.ljust(480, b"\0"),
    ]
    words = b"".join(fields)
    total = int(np.frombuffer(words, "<u2").sum(dtype=np.uint32)) & 0xFFFF
    return words + ((-total) & 0xFFFF).to_bytes(2, "little")


def counts(seed=0, samples=80):
    return np.random.default_rng(seed).integers(-2000, 2000, (samples, 3)).astype("<i2")


def load(folder, *blocks, name="anna_1.cwa", head=None, **options):
    (folder / name).write_bytes((header() if head is None else head) + b"".join(blocks))
    (source,) = find("axivity", folder, **options)
    return source.load()


def test_words_of_16_bits(tmp_path):
    values = counts()
    recording = load(tmp_path, block(values.tobytes()), participant_from="prefix", utc_offset_h=2)
    accel = recording.streams["accel"]
    np.testing.assert_array_equal(accel.values, (values / 256).astype(np.float32))
    assert (recording.device, recording.participant.participant_id) == ("Axivity AX3", "anna")
    assert recording.start_unix_s == UNIX - 7200 and list(recording.streams) == ["accel"]
    assert accel.range == (-8.0, 8 - 1 / 256)
    np.testing.assert_allclose(accel.time_s, np.arange(80) / 100, atol=1e-9)


def test_ax6_has_gyroscope_first_and_its_own_scale(tmp_path):
    values = np.random.default_rng(1).integers(-30000, 30000, (40, 6)).astype("<i2")
    one = block(values.tobytes(), count=40, packing=0x62, light=4 << 13)
    recording = load(tmp_path, one, head=header(0x64))
    np.testing.assert_allclose(recording.streams["accel"].values, values[:, 3:] / 4096, rtol=1e-6)
    assert recording.device == "Axivity AX6"


def test_packed_tens_of_bits(tmp_path):
    # x = -512, y = 511, z = -1, shifted by an exponent of 2; then x = 1, y = 0, z = 256 with exponent 0.
    packed = np.array([2 << 30 | 0x3FF << 20 | 0x1FF << 10 | 0x200, 256 << 20 | 1], "<u4")
    recording = load(tmp_path, block(packed.tobytes(), count=2, packing=0x30))
    np.testing.assert_array_equal(
        recording.streams["accel"].values, np.float32([[-2048, 2044, -4], [1, 0, 256]]) / np.float32(256)
    )
    assert recording.streams["accel"].range == (-8.0, 8 * 511 / 512)  # the largest value is 511 * 8 / 512


def test_times_follow_the_stamps_and_losses_stay_gaps(tmp_path):
    # The true rate is 98 Hz. Block k begins after 80 k / 98 s; the fourth is lost.
    blocks = []
    for k in (0, 1, 2, 4, 5):
        begin = 80 * k / 98
        fraction = begin % 1
        # The firmware moves the offset back by the fraction's samples at 100 Hz.
        offset = -int(np.floor(int(fraction * 32768) / 32768 * 100))
        stamp = DATE + int(begin)
        blocks.append(block(counts(k).tobytes(), sequence=k, date=stamp, fraction=int(fraction * 32768), offset=offset))
    times = load(tmp_path, *blocks).streams["accel"].time_s
    np.testing.assert_allclose(times[:160], np.arange(160) / 98, atol=1e-3)
    np.testing.assert_allclose(times[240:320], (320 + np.arange(80)) / 98, atol=1e-3)
    assert times[240] - times[239] > 0.8


def test_damaged_block_is_refused_or_a_gap(tmp_path):
    blocks = [block(counts(k).tobytes(), sequence=k, date=DATE + k) for k in range(3)]
    blocks[1] = blocks[1][:100] + b"\x99" + blocks[1][101:]
    with pytest.raises(UserError, match=r"anna_1.cwa: block 2 of 3 is damaged \(checksum\).*--damaged gap"):
        load(tmp_path, *blocks)
    accel = load(tmp_path, *blocks, damaged="gap").streams["accel"]
    assert len(accel.values) == 160 and accel.time_s[80] == 2.0
    np.testing.assert_array_equal(accel.values[80:], (counts(2) / 256).astype(np.float32))


GOOD = block(counts().tobytes())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"RIFF" + bytes(2000), "is no CWA file"),
        (header(), "has a header but no data"),
        (header() + GOOD[:400], "is cut off: 1424 bytes"),
        (header() + GOOD[:-1] + bytes([GOOD[-1] ^ 1]), "block 1 of 1 is damaged"),
        (header() + block(b"", count=0), "no data block without damage"),
        (header() + block(counts().tobytes(), count=200), "more samples than it can hold"),
        (header() + block(counts().tobytes(), packing=0x41), r"packs its samples in an unknown way \(0x41\)"),
        (header() + GOOD + block(counts().tobytes(), sequence=1, rate=0x4B), "rate or range changes.*block 2"),
        (header() + GOOD + block(counts().tobytes(), sequence=1, date=DATE - 9), "block 2: the clock goes back by 9 s"),
        (header() + block(counts().tobytes(), date=0), "block 1: the time stamp is no date"),
    ],
)
def test_bad_file_is_named(tmp_path, content, message):
    (tmp_path / "s1.cwa").write_bytes(content)
    with pytest.raises(UserError, match=rf"s1.cwa: .*{message}"):
        find("axivity", tmp_path)[0].load()


def test_an_unknown_rule_is_named(tmp_path):
    with pytest.raises(UserError, match="participant_from must be one of auto, name, prefix, parent, got 'parents'"):
        load(tmp_path, GOOD, participant_from="parents")


@pytest.mark.parametrize(
    ("name", "device", "start", "samples", "rate_hz"),
    [
        ("ax3_sample", "Axivity AX3", 1581498218.0, 58800, 197.242),
        ("ax6_sample", "Axivity AX6", 1572339786.0, 10360, 98.412),
        ("paradigma_test_data", "Axivity AX6", 1763370002.0, 36400, 99.909),
    ],
)
def test_real_files(shared_data, name, device, start, samples, rate_hz):
    root = shared_data / "device_files/axivity"
    if not root.is_dir():
        pytest.skip("device_files is not among the real recordings here")
    recording = next(source for source in find("axivity", root) if source.recording_id == name).load()
    accel = recording.streams["accel"]
    assert (recording.device, recording.start_unix_s, len(accel.values)) == (device, start, samples)
    assert (samples - 1) / (accel.time_s[-1] - accel.time_s[0]) == pytest.approx(rate_hz, abs=1e-3)
    assert 0.95 < np.median(np.linalg.norm(accel.values, axis=1)) < 1.06
