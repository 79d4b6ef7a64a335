"""EDF, EDF+ and BDF files: values, times, gaps, choices, and bad files."""

import numpy as np
import pytest

from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

START = 1_614_853_230.0  # 2021-03-04 10:20:30
RECORDS = 4
LABELS = (("PPG green", "uV", 100), ("Acc X", "mg", 50), ("Acc Y", "mg", 50), ("Acc Z", "mg", 50))
FIELDS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
RNG = np.random.default_rng(0)
DIGITAL = {name: RNG.integers(-32768, 32768, (RECORDS, size)) for name, _, size in LABELS}


def edf(*, kind="", onsets=None, labels=LABELS, bytes_per_sample=2, **changes):
    """A file of `RECORDS` records of 1 s; `onsets` adds annotations with the records' times."""
    signals = [(name, "", unit, -2000, 2000, -32768, 32767, "", size, "") for name, unit, size in labels]
    if onsets is not None:
        signals.append(("EDF Annotations", "", "", -1, 1, -32768, 32767, "", 20, ""))
    header = {
        "version": "0" if bytes_per_sample == 2 else "\xffBIOSEMI",
        "patient": "X X X X",
        "recording": "Startdate 04-MAR-2021 X X X",
        "date": "04.03.21",
        "time": "10.20.30",
        "size": 256 * (len(signals) + 1),
        "kind": kind,
        "records": RECORDS,
        "duration": 1,
        "signals": len(signals),
    } | changes
    widths = (8, 80, 80, 8, 8, 8, 44, 8, 8, 4)
    text = "".join(str(value).ljust(width) for value, width in zip(header.values(), widths, strict=True))
    text += "".join(str(signal[i]).ljust(width) for i, width in enumerate(FIELDS) for signal in signals)
    body = b""
    for record in range(RECORDS):
        for name, _, _ in labels:
            words = DIGITAL[name][record]
            body += b"".join(int(word).to_bytes(bytes_per_sample, "little", signed=True) for word in words)
        if onsets is not None:
            body += onsets[record].encode().ljust(40, b"\0")
    return text.encode("latin-1") + body


def load(folder, content, name="s1.edf", **options):
    (folder / name).write_bytes(content)
    (source,) = find("edf", folder, **options)
    return source.load()


def values(name, scale=1.0):
    return ((DIGITAL[name].reshape(-1) + 32768) * 4000 / 65535 - 2000) * scale


def test_values_units_rates_and_start(tmp_path):
    recording = load(tmp_path, edf(), utc_offset_h=1)
    ppg, accel = recording.streams["ppg"], recording.streams["accel"]
    assert (recording.start_unix_s, ppg.rate_hz, accel.rate_hz) == (START - 3600, 100.0, 50.0)
    np.testing.assert_allclose(ppg.values[:, 0], values("PPG green"), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(accel.values[:, 2], values("Acc Z", 1 / 1000), rtol=1e-5, atol=1e-6)


def test_a_continuous_file_may_begin_within_a_second(tmp_path):
    onsets = [f"+{k}.25\x14\x14\0" for k in range(RECORDS)]
    assert load(tmp_path, edf(kind="EDF+C", onsets=onsets)).start_unix_s == START + 0.25


def test_records_of_a_discontinuous_file_keep_their_times(tmp_path):
    onsets = [f"+{seconds}\x14\x14\0" for seconds in (0, 1, 60.5, 61.5)]
    accel = load(tmp_path, edf(kind="EDF+D", onsets=onsets)).streams["accel"]
    np.testing.assert_allclose(accel.time_s[[0, 50, 99, 100, 199]], [0, 1, 1.98, 60.5, 62.48])


def test_24_bits(tmp_path):
    recording = load(tmp_path, edf(bytes_per_sample=3), "s1.bdf")
    np.testing.assert_allclose(recording.streams["accel"].values[:, 0], values("Acc X", 1 / 1000), rtol=1e-5, atol=1e-6)


def test_signals_are_chosen(tmp_path):
    labels = (("red", "uV", 100), ("A", "", 50), ("B", "", 50), ("C", "", 50))
    DIGITAL.update({name: DIGITAL[other[0]] for (name, *_), other in zip(labels, LABELS, strict=True)})
    options = {"ppg_signals": ("red",), "accel_signals": ("A", "B", "C"), "accel_unit": "m/s2"}
    recording = load(tmp_path, edf(labels=labels), **options)
    np.testing.assert_allclose(
        recording.streams["accel"].values[:, 1], values("Acc Y", 1 / 9.80665), rtol=1e-5, atol=1e-4
    )
    assert recording.streams["ppg"].channels == ("red",)
    with pytest.raises(UserError, match="s1.edf: no three axes of acceleration .*the file holds red, A, B, C"):
        load(tmp_path, edf(labels=labels))
    with pytest.raises(UserError, match="s1.edf: there is no signal 'D', or several"):
        load(tmp_path, edf(labels=labels), accel_signals=("A", "B", "D"))
    with pytest.raises(UserError, match="s1.edf: the acceleration's unit is not stated: give --accel-unit"):
        load(tmp_path, edf(labels=labels), accel_signals=("A", "B", "C"))
    with pytest.raises(UserError, match="s1.edf: --accel-signals needs three names, got 2"):
        load(tmp_path, edf(labels=labels), accel_signals=("A", "B"))


TWO = (*LABELS, ("Ankle Acc X", "g", 50), ("Ankle Acc Y", "g", 50), ("Ankle Acc Z", "g", 50))
DIGITAL.update({f"Ankle {name}": DIGITAL[name] for name, *_ in LABELS[1:]})
UNEQUAL = (LABELS[0], ("Acc X", "mg", 50), ("Acc Y", "g", 50), ("Acc Z", "mg", 50))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"RIFF" + bytes(600), "is no EDF or BDF file"),
        (edf()[:700], "the header is damaged or cut off: 4 signals need 1280 bytes"),
        (edf()[:-10], "it is cut off or damaged"),
        (edf() + b"\0\0", "it is cut off or damaged"),
        (edf(records=-1), "the recording was not closed"),
        (edf(records="many"), "the number of data records must be a number, got 'many'"),
        (edf(records=0), "it is cut off or damaged"),
        (edf(size=512), "the header is damaged or cut off"),
        (edf(signals=0), "the header is damaged or cut off"),
        (edf(date="31.02.21", recording=""), "the start '31.02.21' '10.20.30' is no date"),
        (edf(kind="EDF+D"), "is discontinuous .* but has no annotations"),
        (edf(kind="EDF+D", onsets=["x"] * RECORDS), "record 1 does not begin with its time"),
        (edf(kind="EDF+D", onsets=["+5\x14\x14"] * RECORDS), "its records overlap or go back"),
        (edf().replace(b"32767   ", b"-32768  "), "the range of .* is empty"),
        (edf(labels=TWO), "several accelerometers are among its signals"),
        (edf(labels=UNEQUAL), "the acceleration's unit is g and mg"),
    ],
)
def test_bad_file_is_named(tmp_path, content, message):
    with pytest.raises(UserError, match=rf"s1.edf: .*{message}"):
        load(tmp_path, content)
