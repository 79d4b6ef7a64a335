"""WFDB records: formats, frames, checksums, times, and bad files."""

import numpy as np
import pytest

from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

NAMES = ("wrist_ppg", "wrist_acc_x", "wrist_acc_y", "wrist_acc_z")
START = 1_588_726_923.0  # 2020-05-06 01:02:03
FRAMES = 101


def encoded(counts, form):
    """The bytes of samples in a format."""
    if form in (16, 61, 32):
        return counts.astype({16: "<i2", 61: ">i2", 32: "<i4"}[form]).tobytes()
    if form == 80:
        return (counts + 128).astype(np.uint8).tobytes()
    if form == 24:
        return b"".join(int(value).to_bytes(3, "little", signed=True) for value in counts)
    pairs = np.append(counts, np.zeros(len(counts) % 2, int)).reshape(-1, 2) & 0xFFF
    octets = np.stack([pairs[:, 0] & 0xFF, pairs[:, 0] >> 8 | pairs[:, 1] >> 8 << 4, pairs[:, 1] & 0xFF], -1)
    return octets.astype(np.uint8).tobytes()[: -1 if len(counts) % 2 else None]


def counts(form=16, frames=FRAMES, signals=4):
    limit = 120 if form == 80 else 2000
    return np.random.default_rng(form).integers(-limit, limit, (frames, signals))


def header(values, form=16, *, first_line=None, unit="m/s2", names=NAMES):
    lines = [first_line or f"r1 {len(names)} 250 {len(values)} 01:02:03 06/05/2020"]
    for i, name in enumerate(names):
        checksum = (int(values[:, i].sum()) + 0x8000 & 0xFFFF) - 0x8000
        kind = "100(7)/mV" if i == 0 else f"50/{unit}"
        lines.append(f"r1.dat {form} {kind} 12 0 {values[0, i]} {checksum} 0 {name}")
    return "\n".join(["# a comment", *lines, "# another"]) + "\n"


def load(folder, head, data, **options):
    (folder / "r1.hea").write_text(head)
    if data is not None:
        (folder / "r1.dat").write_bytes(data)
    (source,) = find("wfdb", folder, **options)
    return source.load()


@pytest.mark.parametrize("form", [16, 24, 32, 61, 80, 212])
def test_formats(tmp_path, form):
    values = counts(form)
    recording = load(tmp_path, header(values, form), encoded(values.reshape(-1), form), utc_offset_h=-2)
    ppg, accel = recording.streams["ppg"], recording.streams["accel"]
    np.testing.assert_allclose(ppg.values[:, 0], (values[:, 0] - 7) / 100, rtol=1e-6)
    np.testing.assert_allclose(accel.values, values[:, 1:] / 50 / 9.80665, rtol=1e-6)
    assert (recording.start_unix_s, accel.rate_hz) == (START + 7200, 250.0)


def test_an_odd_number_of_12_bit_samples(tmp_path):
    values = counts(212, signals=3)
    head = header(np.insert(values, 0, 5, 1), 212).replace("r1 4", "r1 3").replace("r1.dat 212 100(7)/mV", "#")
    recording = load(tmp_path, head, encoded(values.reshape(-1), 212))
    assert list(recording.streams) == ["accel"] and len(recording.streams["accel"].values) == FRAMES
    np.testing.assert_allclose(recording.streams["accel"].values[-1], values[-1] / 50 / 9.80665, rtol=1e-6)


def test_several_samples_per_frame_and_missing_ones(tmp_path):
    values = counts(signals=5)
    values[3, 4] = -32768
    lines = [f"r1 4 50 {FRAMES}", "r1.dat 16x2 1/V 12 0"]
    text = "\n".join([*lines, *(f"r1.dat 16 1000/g 12 0 {values[0, i]}" for i in (2, 3, 4))]) + "\n"
    options = {"ppg_signals": ("signal 1",), "accel_signals": ("signal 2", "signal 3", "signal 4")}
    recording = load(tmp_path, text, encoded(values.reshape(-1), 16), **options)
    ppg, accel = recording.streams["ppg"], recording.streams["accel"]
    assert (ppg.rate_hz, accel.rate_hz, recording.start_unix_s) == (100.0, 50.0, 0.0)
    np.testing.assert_array_equal(ppg.values[:, 0], values[:, :2].reshape(-1))
    assert np.isnan(accel.values).nonzero()[0].tolist() == [3]


GOOD = counts()
HEAD = header(GOOD)
DATA = encoded(GOOD.reshape(-1), 16)


@pytest.mark.parametrize(
    ("head", "data", "message"),
    [
        ("", DATA, "the file is empty"),
        ("hello\n", DATA, "is no WFDB header"),
        (HEAD.replace("r1 4 250", "r1/3 4 250"), DATA, "is a record of several segments"),
        (HEAD.replace("r1 4 250", "r1 4 x"), DATA, "line 1: the sampling rate is missing"),
        (HEAD.replace("06/05/2020", "31/02/2020"), DATA, "line 1: the start '01:02:03 31/02/2020' is no time"),
        (HEAD.replace("r1.dat 16 100", "r1.dat 8 100"), DATA, "line 2: the format 8 is not read"),
        (HEAD.replace("r1.dat 16 100", "r1.dat 16:5 100"), DATA, "line 2: a skew or offset"),
        (HEAD.replace("r1.dat 16 100", "r1.dat sixteen 100"), DATA, "line 2: cannot be read as a signal"),
        ("\n".join(HEAD.splitlines()[:3]), DATA, "states 4 signals, but describes 1"),
        (HEAD, None, "r1.dat: no such file"),
        (HEAD, b"", "r1.dat: the file is empty"),
        (HEAD, DATA[:-8], "r1.dat is cut off: 101 frames of 4 samples are stated, it holds 400"),
        (HEAD, DATA[:100] + b"\x55" + DATA[101:], "r1.dat: the signal 'wrist_acc_y' has a wrong checksum"),
        (HEAD.replace("_x", "_p"), DATA, "no three axes of acceleration"),
        (header(GOOD, unit="parsec"), DATA, "the acceleration's unit is parsec: give --accel-unit"),
    ],
)
def test_bad_file_is_named(tmp_path, head, data, message):
    with pytest.raises(UserError, match=rf"r1.hea: .*{message}"):
        load(tmp_path, head, data)
