"""Times of the generic layout: every table keeps its moments, in every format of time stamps."""

import datetime
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from accdistill_jax.data.prepare import __main__ as prepare
from accdistill_jax.data.preprocessing.packets import spread_packets
from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

START = 1_714_557_600
RATE_HZ = 50
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
TIME = np.arange(70 * RATE_HZ) / RATE_HZ  # exact in every unit


def tap(time):
    """A bump at 30 s that PPG and acceleration share, beside a pulse."""
    return np.exp(-0.5 * ((time - 30) / 0.1) ** 2) + 0.05 * np.sin(2 * np.pi * 1.2 * time)


def columns_of(name):
    return ["green"] if name == "ppg" else ["x", "y", "z"]


def values_of(name):
    wave = tap(TIME)
    return {"green": wave} if name == "ppg" else {"x": 0.02 * wave, "y": 0 * wave, "z": 0 * wave + 1}


def write(path, columns):
    """Writes a CSV file, or a Parquet file if the name says so; datetimes become ISO 8601."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return
    rows = zip(*(["" if cell is None else str(cell) for cell in column] for column in columns.values()), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(row) for row in rows)]) + "\n")


def make(folder, stamps, suffix="csv", start=START, beats=None, **keys):
    """A recording whose streams have the time stamps `stamps[name]`, or else a constant rate."""
    folder.mkdir(exist_ok=True)
    content = {"participant": "p", "streams": {}} | ({} if start is None else {"start": start})
    for name in ("ppg", "accel"):
        entry = {"file": f"{name}.{suffix}", "columns": columns_of(name)}
        columns = values_of(name)
        if stamps.get(name) is None:
            entry["rate_hz"] = RATE_HZ
        else:
            entry |= {"time": "t"} | keys
            columns = {"t": stamps[name]} | columns
        content["streams"][name] = entry | ({"polarity": "systole_up"} if name == "ppg" else {})
        write(folder / entry["file"], columns)
    if beats is not None:
        content["beats"] = {"file": f"beats.{suffix}", "time": "t", "interval": "ibi"} | keys
        write(folder / f"beats.{suffix}", {"t": beats, "ibi": [0.8] * len(beats)})
    (folder / "recording.json").write_text(json.dumps(content))
    return folder


def load(folder):
    return find("generic", folder)[0].load()


def taps(recording):
    """Time of the tap in the PPG and in the acceleration of the store, in unix seconds."""
    batch = preprocess(recording, PreprocessSettings(min_ppg_quality=0, ppg_band_hz=(0.2, 20)))
    time = batch.columns["start_unix_s"][0] + np.arange(3840) / 64
    return [time[np.argmax(signal[0, :, 0])] for signal in (batch.ppg, batch.accel)]


@pytest.mark.parametrize("kind", ["whole", "float", "iso"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_fractional_start_with_unix_stamps(tmp_path, kind, unit, fraction, suffix):
    begin = START + fraction
    per = PER_SECOND[unit]
    exact = [round((fraction + t) * 10**9) + START * 10**9 for t in TIME]  # whole nanoseconds
    if kind == "iso":
        stamps = [
            datetime.datetime.fromtimestamp(START, datetime.UTC)
            + datetime.timedelta(microseconds=ns // 1000 - START * 10**6)
            for ns in exact
        ]
        stamps = [stamp.isoformat() for stamp in stamps] if suffix == "csv" else stamps
    elif kind == "whole":
        stamps = (
            [ns * per // 10**9 for ns in exact] if unit != "s" else [f"{ns // 10**9}.{ns % 10**9:09d}" for ns in exact]
        )
        stamps = np.array(stamps, np.float64 if suffix == "parquet" and unit == "s" else None)
    else:
        stamps = np.array([ns * per / 10**9 for ns in exact])
    recording = load(make(tmp_path, {"accel": stamps}, suffix, begin, time_unit=unit, time_origin="unix"))
    # float64 represents unix seconds to 0.24 us, and unix nanoseconds to 256 ns.
    np.testing.assert_allclose(recording.streams["accel"].time_s, TIME, atol=5e-7)
    assert recording.start_unix_s == begin and recording.streams["ppg"].start_s == 0
    assert taps(recording) == pytest.approx([begin + 30, begin + 30], abs=1 / 64)


@pytest.mark.parametrize("row", [0, 1, 1700, 3499])
@pytest.mark.parametrize("kind", ["seconds", "milliseconds", "iso", "iso with zone"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("start", [START, None])
def test_a_missing_stamp_is_named(tmp_path, row, kind, suffix, start):
    stamps = {"seconds": list(START + TIME), "milliseconds": [START * 1000 + round(1000 * t) for t in TIME]}.get(kind)
    if stamps is None:
        zone = datetime.UTC if kind == "iso with zone" else None
        first = datetime.datetime(2024, 5, 1, 10, tzinfo=zone)
        stamps = [first + datetime.timedelta(milliseconds=round(1000 * t)) for t in TIME]
        stamps = [stamp.isoformat() for stamp in stamps] if suffix == "csv" else stamps
    stamps[row] = None
    unit = {"milliseconds": "ms"}.get(kind, "s")
    folder = make(tmp_path, {"accel": stamps}, suffix, start, time_origin="unix", time_unit=unit)
    place = f"line {row + 2}" if suffix == "csv" else f"row {row + 1}"
    with pytest.raises(UserError, match=f"accel.{suffix}: column 't', {place}: the time stamp is missing"):
        load(folder)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("row", [0, 40, 79])
def test_a_missing_stamp_of_a_beat_is_named(tmp_path, suffix, row):
    first = datetime.datetime(2024, 5, 1, 10)
    beats = [first + datetime.timedelta(seconds=0.8 * k) for k in range(80)]
    beats = [beat.isoformat() for beat in beats] if suffix == "csv" else beats
    assert load(make(tmp_path, {}, suffix, beats=beats)).beats.time_s[[0, -1]] == pytest.approx([0, 63.2])
    beats[row] = None
    place = f"line {row + 2}" if suffix == "csv" else f"row {row + 1}"
    with pytest.raises(UserError, match=f"beats.{suffix}: column 't', {place}: the time stamp is missing"):
        load(make(tmp_path, {}, suffix, beats=beats))


def test_not_a_number_among_stamps_of_parquet_is_missing(tmp_path):
    stamps = START + TIME
    stamps[5] = np.nan
    with pytest.raises(UserError, match="column 't', row 6: the time stamp is missing"):
        load(make(tmp_path, {"accel": stamps}, "parquet", time_origin="unix"))


def iso(shift_h=0.0, zone="", every=1):
    first = datetime.datetime(2024, 5, 1, 10) + datetime.timedelta(hours=shift_h)
    return [(first + datetime.timedelta(milliseconds=20 * k)).isoformat() + zone for k in range(len(TIME))][::every]


def test_time_zones(tmp_path):
    summer, winter = iso(2, "+02:00"), iso(1, "+01:00")
    changing = summer[:1000] + winter[1000:]  # the clock changes during the recording, but the moments continue
    recording = load(make(tmp_path, {"ppg": iso(0, "Z"), "accel": changing}))
    for stream in recording.streams.values():
        np.testing.assert_allclose(stream.time_s, TIME, atol=1e-6)
    recording = load(make(tmp_path, {"ppg": iso(), "accel": iso(-3.5, "-03:30")}))
    np.testing.assert_allclose(recording.streams["accel"].time_s, TIME, atol=1e-6)


@pytest.mark.parametrize("row", [1, 2000])
@pytest.mark.parametrize(
    ("usual", "odd", "message"), [("Z", "", "has no time zone"), ("", "+02:00", "has a time zone")]
)
def test_zones_that_some_stamps_lack(tmp_path, row, usual, odd, message):
    stamps = iso(0, usual)
    stamps[row] = iso(0, odd)[row]
    with pytest.raises(UserError, match=f"column 't', line {row + 2}: '2024.*{message}"):
        load(make(tmp_path, {"accel": stamps}))


@pytest.mark.parametrize("start", ["2024-05-01T12:00:00+02:00", None])
def test_local_times_without_a_zone_are_not_taken_for_utc(tmp_path, start):
    # 12:00 local time, two hours ahead of UTC: read as UTC, PPG and acceleration would be two hours apart.
    with pytest.raises(
        UserError, match=r"ppg.csv: its dates have no time zone, and read as UTC they begin 2 h after the recording"
    ):
        load(make(tmp_path, {"ppg": iso(2), "accel": iso(2, "+02:00")}, start=start))
    with pytest.raises(UserError, match=r"ppg.csv: its dates have no time zone, .* begin 3.5 h before the recording"):
        load(make(tmp_path, {"ppg": iso(-3.5), "accel": iso(-3.5, "-03:30")}, start="2024-05-01T10:00:00Z"))
    load(make(tmp_path, {"ppg": iso(2), "accel": iso(2)}, start="2024-05-01T10:00:00Z"))  # no sign of another clock


@pytest.mark.parametrize("set_h", [1, -1])
def test_a_clock_that_is_set_while_it_records_is_told(tmp_path, set_h):
    stamps = iso()[:1700] + iso(set_h)[1700:]
    with pytest.raises(UserError, match=r"accel.csv: column 't', line 1702: .* by 3(600|599).* did the clock change"):
        load(make(tmp_path, {"accel": stamps}))
    paused = iso(0, "Z")[:1700] + iso(1, "Z")[1700:]
    assert load(make(tmp_path, {"accel": paused})).streams["accel"].end_s == pytest.approx(
        3669.98
    )  # the moments are known


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_a_table_of_beats_without_a_row_is_named(tmp_path, unit):
    with pytest.raises(UserError, match="beats.csv: has no rows"):
        load(make(tmp_path, {}, beats=[], time_unit=unit))


@pytest.mark.parametrize("written", ["10:00:00", "01.05.2024 10:00", "5/1/2024 10:00", "noon", "2024-13-01T00:00:00"])
@pytest.mark.parametrize("row", [0, 1700])
def test_stamps_that_are_no_dates(tmp_path, written, row):
    stamps = iso()
    stamps[row:] = [written] * len(stamps[row:])
    with pytest.raises(UserError, match=rf"column 't', line ({row + 2}|2): not (a number or )?an ISO 8601 date"):
        load(make(tmp_path, {"accel": stamps}))


@pytest.mark.parametrize("start", ["2024-05-01T10:00:00Z", START + 0.5, None])
@pytest.mark.parametrize("tables", [("ppg", "accel"), ("accel",)])
@pytest.mark.parametrize("unit", ["s", "ms"])
def test_unix_stamps_without_origin_are_told(tmp_path, start, tables, unit):
    stamps = START * PER_SECOND[unit] + np.round(TIME * 1000) * PER_SECOND[unit] / 1000
    folder = make(tmp_path, dict.fromkeys(tables, stamps), start=start, time_unit=unit)
    with pytest.raises(
        UserError, match="its times lie 54.33 years after the recording's start .*give time_origin: unix"
    ):
        load(folder)


def test_beats_by_unix_time_without_origin_are_told(tmp_path):
    with pytest.raises(UserError, match=r"beats.csv: its times lie 54.33 years after .*give time_origin: unix"):
        load(make(tmp_path, {}, beats=START + np.arange(80) * 0.8))


@pytest.mark.parametrize("name", ["ppg", "accel"])
def test_stamps_of_a_wrong_unit_are_told_by_their_rate(tmp_path, name):
    # Milliseconds declared as seconds: a sample every 20 s would be interpolated to a smooth line.
    recording = load(make(tmp_path, {name: 1000 * TIME}))
    with pytest.raises(UserError, match=f"stream '{name}': its samples are usually 20 s apart, .*check time_unit"):
        preprocess(recording, PreprocessSettings())


def test_years_that_cannot_be(tmp_path):
    for year in (1, 1969, 2300):
        stamps = [datetime.datetime(year, 1, 1) + datetime.timedelta(seconds=float(t)) for t in TIME]
        folder = make(tmp_path, {"accel": pyarrow.array(stamps, pyarrow.timestamp("us"))}, "parquet")
        with pytest.raises(UserError, match=f"row 1: outside the years 1970 to 2200 .*{year}"):
            load(folder)
        with pytest.raises(UserError, match="line 2: outside the years 1970 to 2200|not .* an ISO 8601 date"):
            load(make(tmp_path, {"accel": [stamp.isoformat() for stamp in stamps]}))
    with pytest.raises(
        UserError, match="times lie .* years after the recording's start .*check start, time_unit and time_origin"
    ):
        load(
            make(tmp_path, {"accel": START * 1000 + 1000 * TIME}, time_origin="unix")
        )  # milliseconds declared as seconds


@pytest.mark.parametrize("kind", ["seconds", "iso"])
def test_stamps_that_fall_back_are_named_by_line(tmp_path, kind):
    stamps = iso() if kind == "iso" else [f"{t:.2f}" for t in TIME]
    stamps[1000], stamps[1001] = stamps[1001], stamps[1000]
    with pytest.raises(
        UserError, match="accel.csv: column 't', line 1003: the time stamps go back by 0.02 s; sort the rows"
    ):
        load(make(tmp_path, {"accel": stamps}))
    with pytest.raises(UserError, match="beats.csv: column 't', line 4: the time stamps go back by 1 s"):
        load(make(tmp_path, {}, beats=[1, 3, 2, 4]))


def test_a_recording_begins_with_its_streams(tmp_path):
    # Beats that begin before all streams do not shift a stream that has only a rate.
    beats = START - 5 + 0.8 * np.arange(80)
    recording = load(make(tmp_path, {"accel": START + TIME}, start=None, beats=beats, time_origin="unix"))
    assert recording.start_unix_s == START and recording.beats.time_s[0] == pytest.approx(-5)
    with pytest.raises(
        UserError, match="recording.json: the times of beats count from a date, but no stream has a date; give start"
    ):
        load(make(tmp_path, {}, start=None, beats=beats, time_origin="unix"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_stamps_as_coarse_as_float32_made_them(tmp_path, suffix):
    # Seconds since a boot 30 days ago: float32 rounds them to a quarter of a second.
    since = 30 * 86_400 + TIME
    stamps = since.astype(np.float32)
    stamps = stamps.tolist() if suffix == "csv" else stamps
    recording = load(make(tmp_path, {"accel": stamps}, suffix, start=START, time_origin=START - 30 * 86_400))
    spread, mended, _ = spread_packets(recording.streams["accel"])
    assert mended > 3400
    np.testing.assert_allclose(spread.time_s, TIME, atol=1.05 / RATE_HZ)
    with pytest.raises(UserError, match="stream 'accel': .* uncertain .they form no regular packets of at most 2.5 s"):
        spread_packets(
            load(make(tmp_path, {"accel": (START + TIME).astype(np.float32)}, "parquet", time_origin="unix")).streams[
                "accel"
            ]
        )


@pytest.mark.slow
@pytest.mark.parametrize("packet_stamp", ["first", "last", None])
def test_the_summary_says_how_many_stamps_were_mended(tmp_path, capsys, packet_stamp):
    number = np.arange(len(TIME)) // 10
    stamps = (10 * number + (9 if packet_stamp == "last" else 0)) / RATE_HZ
    folder = make(tmp_path / "in", {"accel": stamps}, **({"packet_stamp": packet_stamp} if packet_stamp else {}))
    arguments = [
        "generic",
        str(folder),
        "--out",
        str(tmp_path / "out"),
        "--workers",
        "1",
        "--quiet",
        "--min-ppg-quality",
        "0",
    ]
    assert prepare.main([*arguments, "--split-fractions", "1", "0", "0"]) == 0
    said = (
        f"time stamps mended: recording in, accel: 3500 samples in packets of 10 spread at 50 Hz, each packet's stamp taken as its "
        f"{packet_stamp or 'first'} sample's"
    )
    assert said in capsys.readouterr().out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"]["total"]["mended_stamps"] == manifest["prepared"][0]["mended_stamps"] == {"accel": 3500}
    np.testing.assert_allclose(spread_packets(load(folder).streams["accel"]).stream.time_s, TIME, atol=1e-3)
