"""Tables of acceleration that nobody described: time stamps beside a given rate, gaps, and columns that count rows."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accdistill_jax.data.preprocessing.cut import cut
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

START = 1_714_557_600
ROWS = 64 * 240
LOST = np.r_[: 64 * 70, 64 * 83 : ROWS]  # rows of a recording with a hole of 13 s
JITTER = np.random.default_rng(2).uniform(0, 0.6, ROWS)  # steps


def write(folder, time, *, header="time,x,y,z", name="watch.csv"):
    signal = np.random.default_rng(1).normal([0.0, 0.6, 0.8], 0.002, (len(time), 3)).round(4)
    rows = [",".join(map(str, row)) for row in zip(time, *signal.T, strict=True)]
    (folder / name).write_text("\n".join([*([header] if header else []), *rows]) + "\n")
    return folder / name


def dates(seconds):
    return [str(np.datetime64(START, "s") + np.timedelta64(round(1000 * s), "ms")) for s in seconds]


def load(path, **options):
    (source,) = find("plain", path, **options)
    return source.load()


def times(path, **options):
    accel = load(path, **options).streams["accel"]
    return accel.stamps if accel.rate_hz is None else accel.start_s + np.arange(len(accel.values)) / accel.rate_hz


@pytest.mark.parametrize("form", ["seconds", "dates"])
def test_a_hole_stays_a_hole_beside_a_rate(tmp_path, form):
    seconds = LOST / 64
    path = write(tmp_path, dates(seconds) if form == "dates" else seconds)
    np.testing.assert_allclose(times(path, rate_hz=64), seconds, atol=1e-3)
    settings = PreprocessSettings(rate_hz=64, segment_s=60, hop_s=60)
    gap_s = cut(load(path, rate_hz=64), settings, signals=("accel",)).gap_s
    np.testing.assert_allclose(gap_s[:3], [0, 13, 0], atol=0.2)


STAMPS = {
    "exact": np.arange(ROWS) / 64,
    "a pause of 90 minutes": np.arange(ROWS) / 64 + np.where(np.arange(ROWS) > ROWS // 2, 5400, 0),
    "rounded to ms": (np.arange(ROWS) / 64).round(3),
    "rounded to 10 ms": (np.arange(ROWS) / 64).round(2),
    "whole seconds": np.arange(ROWS) // 64,
    "unix ms": 1000 * START + (np.arange(ROWS) * 1000 / 64).round().astype(int),
    "a crystal of 200 ppm": np.arange(ROWS) / 64 * 1.0002,
    "jitter": ((np.arange(ROWS) + JITTER) / 64).round(6),
    "a twentieth lost": np.delete(np.arange(ROWS) / 64, np.arange(7, ROWS, 20)).round(3),
    "jitter and a hole": ((LOST + JITTER[LOST]) / 64).round(6),
}


@pytest.mark.parametrize("name", STAMPS)
def test_a_rate_that_is_that_of_the_stamps_changes_nothing(tmp_path, name):
    path = write(tmp_path, STAMPS[name])
    given, alone = load(path, rate_hz=64), load(path)
    np.testing.assert_array_equal(given.streams["accel"].stamps, alone.streams["accel"].stamps)
    assert given.start_unix_s == alone.start_unix_s


@pytest.mark.parametrize("form", ["seconds", "ms", "dates", "whole seconds", "with a hole"])
@pytest.mark.parametrize("true_hz", [55, 63.05, 64.3])
def test_another_rate_than_that_of_the_stamps_is_refused(tmp_path, true_hz, form):
    seconds = (LOST if form == "with a hole" else np.arange(4 * ROWS)) / true_hz
    forms = {"ms": (1000 * seconds).round().astype(int), "dates": dates(seconds), "whole seconds": seconds.astype(int)}
    path = write(tmp_path, forms.get(form, seconds.round(3)))
    said = rf"watch.csv: the given rate is 64 Hz, but column 'time' has {true_hz:g}\d* samples per second; correct the"
    with pytest.raises(UserError, match=said):
        load(path, rate_hz=64)
    atol = 1.0 if form == "whole seconds" else 1e-3
    np.testing.assert_allclose(times(path), seconds, atol=atol)


def test_stamps_that_samples_share_without_order_leave_the_times_to_the_rate(tmp_path):
    minutes = np.arange(5 * ROWS) // (64 * 60) * 60
    path = write(tmp_path, dates(minutes))
    recording = load(path, rate_hz=64)
    assert recording.streams["accel"].rate_hz == 64 and recording.start_unix_s == START
    kept = np.delete(minutes, slice(64 * 300, 64 * 540))
    with pytest.raises(UserError, match="covers 1140 s, but 61440 rows at 64 Hz last 959.984 s, .*rows are missing"):
        load(write(tmp_path, dates(kept)), rate_hz=64)


@pytest.mark.parametrize("place", [5, 5000])
def test_stamps_that_are_missing_or_go_back_are_refused_beside_a_rate(tmp_path, place):
    seconds = np.arange(ROWS) / 64
    cells = [str(value) for value in seconds]
    cells[place] = ""
    with pytest.raises(UserError, match=r"watch.csv: column 'time', line \d+: the time stamp is missing; or remove"):
        load(write(tmp_path, cells), rate_hz=64)
    seconds[place] = 0
    with pytest.raises(UserError, match="the time stamps go back by .* sort the rows by time; or remove this column"):
        load(write(tmp_path, seconds), rate_hz=64)


def test_stamps_that_cannot_be_read_leave_the_times_to_the_rate(tmp_path):
    path = write(tmp_path, [f"{second // 3600}h{second // 60 % 60}" for second in range(ROWS)])
    assert load(path, rate_hz=64).streams["accel"].rate_hz == 64


COUNTERS = {"no header": {"header": ""}, "named t": {"header": "t,x,y,z"}, "named time": {"header": "time,x,y,z"}}


@pytest.mark.parametrize("name", COUNTERS)
@pytest.mark.parametrize("first", [0, 123_456])
def test_a_counter_of_rows_needs_the_rate(tmp_path, name, first):
    path = write(tmp_path, first + np.arange(ROWS), **COUNTERS[name])
    with pytest.raises(UserError, match=r"counts the rows by 1, which tells no time; give the rate .*rate is 1000"):
        load(path)
    np.testing.assert_allclose(times(path, rate_hz=64), np.arange(ROWS) / 64)
    path = write(tmp_path, first + LOST, **COUNTERS[name])
    np.testing.assert_allclose(times(path, rate_hz=64), LOST / 64)


@pytest.mark.parametrize("rate_hz", [64, 1000, 1024])
def test_a_counter_goes_by_the_given_rate(tmp_path, rate_hz):
    kept = np.delete(np.arange(ROWS), np.arange(150, ROWS, 100))
    path = write(tmp_path, kept)
    np.testing.assert_allclose(times(path, rate_hz=rate_hz), kept / rate_hz)
    table = pa.table({"t": kept} | {axis: np.full(len(kept), 0.5) for axis in "xyz"})
    pq.write_table(table, tmp_path / "watch.parquet")
    np.testing.assert_allclose(times(tmp_path / "watch.parquet", rate_hz=rate_hz), kept / rate_hz)


def test_milliseconds_of_a_sensor_of_1000_hz(tmp_path):
    milliseconds = np.arange(ROWS)
    path = write(tmp_path, milliseconds, header="t (ms),x,y,z")
    np.testing.assert_allclose(times(path), milliseconds / 1000)
    np.testing.assert_allclose(times(path, rate_hz=1000), milliseconds / 1000)
    with pytest.raises(UserError, match=r"the given rate is 64 Hz, but column 't \(ms\)' has 1000 samples per second"):
        load(path, rate_hz=64)
    unix = load(write(tmp_path, 1000 * START + milliseconds))
    assert unix.start_unix_s == START
    np.testing.assert_allclose(unix.streams["accel"].stamps, milliseconds / 1000)
    uneven = (np.arange(ROWS) * 1000 / 800).round().astype(int)  # steps of 1 and 2
    np.testing.assert_allclose(times(write(tmp_path, uneven)), uneven / 1000)
