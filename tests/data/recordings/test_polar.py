"""Polar Sensor Logger: clocks, beats, warm-up of the heart rate, and bad files."""

import re

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.packets import spread_packets
from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

EPOCH = np.datetime64("2000-01-01T00:00:00.000", "ms")
START_S = 704_201_974.5  # 2022-04-25T11:39:34.5 of the sensor's clock
LAG_S = 0.8  # the phone's clock is ahead


def stamps(count, rate_hz, *, start_s=START_S):
    return np.round(1e9 * (start_s + np.arange(count) / rate_hz)).astype(np.int64)


def phone(seconds):
    """The phone's time of moments of the sensor's clock."""
    return (EPOCH + np.round(1000 * (np.asarray(seconds) + LAG_S)).astype(np.int64)).astype(str)


def rows(header, *columns, end=""):
    lines = [";".join(map(str, row)) + end for row in zip(*columns, strict=True)]
    return "\n".join([header + end, *lines]) + "\n"


def samples(header, values, rate_hz, *, start_s=START_S, delay_s=0.0, end=""):
    ns = stamps(len(values), rate_hz, start_s=start_s)
    arrived = ns / 1e9 + delay_s * (1 + np.arange(len(ns)) % 3)
    return rows(header, phone(arrived), ns, *np.asarray(values).T, end=end)


ACC_HEADER = "Phone timestamp;sensor timestamp [ns];X [mg];Y [mg];Z [mg]"
PPG_HEADER = "Phone timestamp;sensor timestamp [ns];channel 0;channel 1;channel 2;ambient"
PPI_HEADER = "Phone timestamp;PP-interval [ms];error estimate [ms];blocker;contact;contact;hr [bpm]"


def files(name="Polar_Sense_A1B2_20220425_113934", **changes):
    k = np.arange(520)
    ppi = (phone(START_S + np.arange(6)), [1000] * 6, [10, 10, 31, 10, 10, 10], [0, 1, 0, 0, 0, 0])
    content = {
        "ACC.txt": samples(ACC_HEADER, np.stack([k % 7, -k % 5, 1000 + k % 3], -1), 52, delay_s=0.5),
        "PPG.txt": samples(PPG_HEADER, np.stack([k, 2 * k, 3 * k, -k], -1), 55, start_s=START_S + 0.25, end=";"),
        "PPI.txt": rows(PPI_HEADER, *ppi, [1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 0, 1], [0] * 6),
        "HR.txt": rows(
            "Phone timestamp;HR [bpm];HRV [ms];Breathing interval [rpm]",
            phone(START_S + np.arange(12)),
            [66, 66, 0, 0, 70, 70, 71, 72, 72, 0, 73, 73],
            [""] * 12,
            [""] * 12,
            end=";",
        ),
        "GYRO.txt": "anything",
    } | {f"{tag}.txt": text for tag, text in changes.items()}
    return {f"{name}_{tag}": text for tag, text in content.items() if text is not None}


def write(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(content)


def load(folder, *, options=None, **changes):
    write(folder, files(**changes))
    (source,) = find("polar", folder, **(options or {}))
    return source.load()


def framed(header, values, rate_hz, size):
    """Packets as older versions of the app write them: the stamp of the packet's last sample for all."""
    last = (np.arange(len(values)) // size + 1) * size - 1
    ns = stamps(len(values), rate_hz)[last]
    return rows(header, phone(ns / 1e9), ns, *values.T)


def test_samples_of_packets_with_one_stamp_get_their_own_times(tmp_path):
    rng = np.random.default_rng(0)
    accel, ppg = rng.integers(-50, 50, (36 * 60, 3)), rng.integers(0, 9999, (11 * 200, 4))
    (tmp_path / "A_ACC.txt").write_text(framed(ACC_HEADER, accel, 52, 36))
    (tmp_path / "A_PPG.txt").write_text(framed(PPG_HEADER, ppg, 55, 11))
    recording = find("polar", tmp_path)[0].load()
    for name, rate_hz in (("accel", 52), ("ppg", 55)):
        timed = spread_packets(recording.streams[name])
        true = START_S + LAG_S + np.arange(len(timed.stream.time_s)) / rate_hz
        np.testing.assert_allclose(timed.stream.time_s + recording.start_unix_s - 946_684_800, true, atol=0.002)
        assert "each packet's stamp taken as its last sample's" in timed.note


def test_the_sensors_clock_joins_the_signals_and_the_phones_gives_the_start(tmp_path):
    recording = load(tmp_path)
    accel, ppg = recording.streams["accel"], recording.streams["ppg"]
    assert recording.participant.participant_id == "Polar_Sense_A1B2_20220425_113934"
    assert recording.start_unix_s == pytest.approx(946_684_800 + START_S + LAG_S, abs=2e-3)
    np.testing.assert_allclose(accel.time_s, np.arange(520) / 52, atol=1e-6)
    np.testing.assert_allclose(ppg.time_s, 0.25 + np.arange(520) / 55, atol=1e-6)
    np.testing.assert_allclose(accel.values[:3, 0], [0, 0.001, 0.002], rtol=1e-6)
    assert ppg.values[5].tolist() == [5, 10, 15] and ppg.polarity == "systole_down"
    later = load(tmp_path, options={"utc_offset_h": 3.0})
    assert recording.start_unix_s - later.start_unix_s == 3 * 3600


def test_beats_are_the_intervals_that_the_sensor_trusts(tmp_path):
    """The second is blocked, the third uncertain, the fourth lost contact; the fifth sensor cannot tell contact."""
    beats = load(tmp_path).beats
    np.testing.assert_allclose(beats.time_s, [1, 5, 6], atol=2e-3)
    assert beats.interval_s.tolist() == [1, 1, 1]
    loose = load(tmp_path, options={"most_error_ms": 50.0}).beats
    np.testing.assert_allclose(loose.time_s, [1, 3, 5, 6], atol=2e-3)
    assert load(tmp_path, PPI=PPI_HEADER + "\n").beats is None


def test_the_heart_rates_warm_up_is_unknown(tmp_path):
    reference = load(tmp_path).heart_rate
    np.testing.assert_array_equal(reference.hr_bpm, [np.nan] * 6 + [71, 72, 72, np.nan, 73, 73])
    np.testing.assert_allclose(reference.start_s[0], -5, atol=2e-3)
    constant = rows("Phone timestamp;HR [bpm]", phone(START_S + np.arange(9)), [66] * 9)
    assert load(tmp_path, HR=constant).heart_rate is None


def test_names_give_recordings_and_participants(tmp_path):
    for name in ("anna_1", "ben_2"):
        write(tmp_path, files(name, PPG=None, PPI=None, HR=None))
    write(tmp_path, {"alone_PPG.txt": "x", "notes.txt": "x"})
    found = find("polar", tmp_path, participant_from="prefix")
    assert [source.participant_id for source in found] == ["anna", "ben"]
    assert list(found[1].load().streams) == ["accel"] and found[1].load().recording_id == "ben_2"
    assert set(found.not_read) == {"alone_PPG.txt", "notes.txt"}
    (single,) = find("polar", tmp_path / "anna_1_ACC.txt")
    assert list(single.load().streams) == ["accel"]


ACC = samples(ACC_HEADER, np.zeros((9, 3)), 52)
BACK = ACC + samples(ACC_HEADER, np.zeros((9, 3)), 52).split("\n", 1)[1]


@pytest.mark.parametrize(
    ("tag", "content", "message"),
    [
        ("ACC", "", "the file is empty"),
        ("ACC", ACC_HEADER + "\n", "holds fewer than two samples"),
        ("ACC", "time,x,y,z\n1,2,3,4\n", "line 1: not a file of Polar Sensor Logger"),
        ("ACC", ACC.replace("X [mg]", "X [g]"), "line 1: the column 'x \\[mg\\]' is missing"),
        ("ACC", ACC[:-9], "line 10: a cell is missing or not a number"),
        ("ACC", ACC.replace(";0.0;0.0;0.0\n", ";0.0;zero;0.0\n", 1), "line 2: a cell is missing or not a number"),
        ("ACC", BACK, "line 11: the sensor's clock goes back by 0.15"),
        ("ACC", ACC.replace(str(stamps(1, 52)[0]), "99999999999999999999"), "line 2: a cell is missing or not a num"),
        ("ACC", ACC.replace("2022-04", "yesterday", 1), "line 2: no time of the phone"),
        ("ACC", ACC.replace("2022", "1822", 1), "line 2: the time of the phone is outside"),
        (
            "ACC",
            rows(ACC_HEADER, phone([START_S] * 9), [0] * 9, *np.zeros((3, 9))),
            "the sensor's clock stands still at 0 ns",
        ),
        ("PPG", ACC, "line 1: there is no column 'channel 0'"),
        ("PPI", ACC, "line 1: the column 'pp-interval \\[ms\\]' is missing"),
        (
            "HR",
            rows("Phone timestamp;HR [bpm]", phone(START_S + np.arange(9)), [800 + k for k in range(9)]),
            "heart rate",
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path, tag, content, message):
    with pytest.raises(UserError, match=rf"_{tag}.txt: {message}"):
        load(tmp_path, **{tag: content})


def test_real_files(shared_data):
    folder = shared_data / "biobss_polar_verity"
    if not folder.is_dir():
        pytest.skip("no Polar recording there")
    (source,) = find("polar", folder)
    recording = source.load()
    accel, ppg = recording.streams["accel"], recording.streams["ppg"]
    assert (len(accel.values), len(ppg.values)) == (26_526, 28_143)
    assert 1 / np.median(np.diff(accel.time_s)) == pytest.approx(51.7, abs=0.1)
    assert 1 / np.median(np.diff(ppg.time_s)) == pytest.approx(54.75, abs=0.1)
    assert np.median(np.linalg.norm(accel.values, axis=1)) == pytest.approx(1.009, abs=0.003)
    assert np.nanmin(recording.heart_rate.hr_bpm) >= 40 and np.nanmax(recording.heart_rate.hr_bpm) <= 70
    assert 1.1 < np.median(recording.beats.interval_s) < 1.2


@pytest.mark.parametrize("hour", [3600, -3600])
def test_a_phone_that_changes_to_daylight_saving_time_is_refused_at_the_line(tmp_path, hour):
    head, *lines = files()["Polar_Sense_A1B2_20220425_113934_ACC.txt"].splitlines()
    moved = []
    for row, line in enumerate(lines):
        moment, rest = line.split(";", 1)
        moved.append(line if row < 300 else f"{np.datetime64(moment, 'ms') + np.timedelta64(hour, 's')};{rest}")
    with pytest.raises(
        UserError, match=rf"_ACC.txt: line 302: the phone's clock jumps by \{f'{hour:+d}'[0]}3(599|600|601) s against"
    ):
        load(tmp_path, ACC="\n".join([head, *moved]) + "\n")


@pytest.mark.parametrize(
    ("tag", "change", "message"),
    [
        ("ACC", lambda text: "\ufeff", "line 1: not a file of Polar Sensor Logger"),
        ("PPI", lambda text: re.sub(r"(?m);1;0$", "", text), "_PPI.txt: line 2: a cell is missing"),
        ("HR", lambda text: re.sub(r"(?m)^(2022[^;]*)", r"\1+02:00", text), "_HR.txt: line 2: no time of the phone"),
    ],
)
def test_files_without_content_with_short_lines_or_with_time_zones(tmp_path, tag, change, message):
    text = next(content for name, content in files().items() if name.endswith(f"{tag}.txt"))
    with pytest.raises(UserError, match=message):
        load(tmp_path, **{tag: change(text)})
