"""The generic layout: the keys of descriptions, and bad descriptions and files."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import yaml

from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recordings import find, generic
from accdistill_jax.errors import UserError

START = 1_714_557_600  # 2024-05-01T10:00:00Z
SECONDS = 130


def pulse(time):
    phase = (time * 1.2) % 1
    return np.exp(-0.5 * ((phase - 0.15) / 0.06) ** 2) + 0.5 * np.exp(-0.5 * ((phase - 0.38) / 0.14) ** 2)


def write_csv(path, columns, header=True, delimiter=","):
    rows = zip(*columns.values(), strict=True)
    lines = [delimiter.join(columns)] if header else []
    path.write_text("\n".join([*lines, *(delimiter.join(map(str, row)) for row in rows)]) + "\n")


def description():
    return {
        "participant": "p01",
        "device": "My Watch",
        "start": "2024-05-01T10:00:00Z",
        "streams": {
            "ppg": {
                "file": "ppg.csv",
                "columns": ["green"],
                "rate_hz": 50,
                "polarity": "systole_down",
                "range": [-5, 5],
            },
            "accel": {"file": "acc.csv", "columns": ["x", "y", "z"], "rate_hz": 50, "unit": "mg"},
        },
    }


def make(folder, description, suffix="yaml", name="recording"):
    """A folder with 130 s of PPG (inverted) and acceleration in mg, whose x axis is the same wave."""
    folder.mkdir(parents=True, exist_ok=True)
    time = np.arange(50 * SECONDS) / 50
    write_csv(folder / "ppg.csv", {"green": -pulse(time), "red": time})
    write_csv(folder / "acc.csv", {"x": 20 * pulse(time), "y": 0 * time, "z": 0 * time + 1000})
    text = json.dumps(description) if suffix == "json" else yaml.safe_dump(description)
    (folder / f"{name}.{suffix}").write_text(text)
    return folder


def load_one(root):
    (source,) = find("generic", root)
    return source.load()


@pytest.mark.parametrize("suffix", ["yaml", "yml", "json"])
def test_minimal_description(tmp_path, suffix):
    recording = load_one(make(tmp_path / "day1", description(), suffix))
    assert (recording.recording_id, recording.participant.participant_id) == ("day1", "p01")
    assert (recording.device, recording.start_unix_s) == ("My Watch", START)
    ppg, accel = recording.streams["ppg"], recording.streams["accel"]
    assert (ppg.polarity, ppg.range, ppg.rate_hz, ppg.channels) == ("systole_down", (-5.0, 5.0), 50.0, ("green",))
    np.testing.assert_allclose(accel.values[:, 2], 1.0)
    batch = preprocess(recording, PreprocessSettings())
    assert len(batch.ppg) == 2
    # After inversion and alignment, PPG and the x axis are the same wave.
    wave = batch.accel[0, :, 0] - batch.accel[0, :, 0].mean()
    assert np.corrcoef(batch.ppg[0, :, 0], wave)[0, 1] > 0.98


def test_ppg_is_optional(tmp_path):
    content = description()
    content["streams"]["gyro"] = content["streams"].pop("ppg") | {"file": "gyro.csv"}
    del content["streams"]["gyro"]["polarity"], content["streams"]["gyro"]["range"]
    folder = make(tmp_path / "day1", content)
    (folder / "ppg.csv").rename(folder / "gyro.csv")
    recording = load_one(folder)
    assert set(recording.streams) == {"accel", "gyro"}
    batch = preprocess(recording, PreprocessSettings())
    assert len(batch.accel) == 2 and batch.ppg.shape[2] == 0


def test_a_misspelled_ppg_is_not_left_out(tmp_path):
    content = description()
    content["streams"]["PPG"] = content["streams"].pop("ppg")
    with pytest.raises(UserError, match="recording.yaml: streams.ppg is missing, but one is called 'ppg'"):
        load_one(make(tmp_path, content))


def test_participant_attributes(tmp_path):
    who = {
        "id": "p02",
        "age_years": 34,
        "height_m": 1.8,
        "weight_kg": 81,
        "sex": "female",
        "conditions": {"beta_blocker": True},
    }
    participant = load_one(make(tmp_path, description() | {"participant": who})).participant
    assert (participant.age_years, participant.sex, participant.conditions) == (34, "female", {"beta_blocker": True})
    assert participant.bmi == pytest.approx(25.0)


def test_many_recordings_in_one_folder_and_in_many(tmp_path):
    make(tmp_path / "a", description(), name="first.recording")
    make(tmp_path / "a", description() | {"participant": "p02"}, name="second.recording")
    make(tmp_path / "b" / "c", description())
    sources = find("generic", tmp_path)
    assert [(s.recording_id, s.participant_id) for s in sources] == [
        ("a__first", "p01"),
        ("a__second", "p02"),
        ("b__c", "p01"),
    ]
    assert find("generic", tmp_path / "a" / "second.recording.yaml")[0].recording_id == "second"


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("origin", ["start", "unix", "2000-01-01"])
def test_time_columns(tmp_path, unit, origin):
    content = description()
    content["streams"]["accel"] |= {"time": "t", "time_unit": unit, "time_origin": origin}
    del content["streams"]["accel"]["rate_hz"]
    make(tmp_path, content)
    time = 0.5 + np.arange(50 * SECONDS) / 50
    per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    zero = {"start": 0, "unix": START, "2000-01-01": START - 946684800}[origin]
    stamps = zero + time if unit == "s" else zero * per + np.round(time * per).astype(np.int64)
    write_csv(tmp_path / "acc.csv", {"t": stamps, "x": 20 * pulse(time), "y": 0 * time, "z": 0 * time + 1000})
    recording = load_one(tmp_path)
    np.testing.assert_allclose(recording.streams["accel"].time_s, time, atol=2e-6)


def test_iso_time_stamps_and_a_start_taken_from_them(tmp_path):
    content = description()
    del content["start"]
    for name in ("ppg", "accel"):
        content["streams"][name]["time"] = "t"
        del content["streams"][name]["rate_hz"]
    make(tmp_path, content)
    time = np.arange(50 * SECONDS) * 20
    for name, file, later in (("green", "ppg.csv", 0), ("x,y,z", "acc.csv", 250)):
        stamps = np.datetime64(START * 1000 + later, "ms") + time.astype("timedelta64[ms]")
        columns = {"t": [f"{s}Z" for s in stamps]} | {c: pulse(time / 1000) for c in name.split(",")}
        write_csv(tmp_path / file, columns)
    recording = load_one(tmp_path)
    assert recording.start_unix_s == START
    np.testing.assert_allclose(recording.streams["ppg"].time_s[:2], [0, 0.02], atol=1e-6)
    np.testing.assert_allclose(recording.streams["accel"].time_s[:2], [0.25, 0.27], atol=1e-6)


def test_starts_and_clock_offsets(tmp_path):
    content = description()
    content["streams"]["ppg"] |= {"start": "2024-05-01T12:00:01.5+02:00", "clock_offset_s": -0.25}
    content["streams"]["accel"] |= {"clock_offset_s": 2}
    streams = load_one(make(tmp_path, content)).streams
    assert (streams["ppg"].start_s, streams["accel"].start_s) == (1.25, 2.0)


def test_parquet_units_numbered_columns_delimiter_and_gaps(tmp_path):
    content = description()
    content["streams"]["ppg"] |= {"file": "ppg.txt", "columns": [1, 2], "delimiter": ";", "skip_rows": 2}
    content["streams"]["accel"] |= {"file": "acc.parquet", "unit": "counts", "counts_per_g": 64, "range": [-128, 127]}
    make(tmp_path, content)
    rows = [f"{i};{i * 0.5};{'' if i == 3 else i}" for i in range(100)]
    (tmp_path / "ppg.txt").write_text("made by\na watch\n" + "\n".join(rows))
    counts = np.arange(300, dtype=np.int16).reshape(100, 3) - 128
    pyarrow.parquet.write_table(
        pyarrow.table({"x": counts[:, 0], "y": counts[:, 1], "z": counts[:, 2]}), tmp_path / "acc.parquet"
    )
    streams = load_one(tmp_path).streams
    assert streams["ppg"].values.shape == (100, 2) and streams["ppg"].values[4].tolist() == [2.0, 4.0]
    assert np.flatnonzero(np.isnan(streams["ppg"].values[:, 1])).tolist() == [3]
    np.testing.assert_allclose(streams["accel"].values, counts / 64)
    assert streams["accel"].range == (-2.0, 127 / 64)


def test_metres_per_second_squared(tmp_path):
    content = description()
    content["streams"]["accel"]["unit"] = "m/s2"
    make(tmp_path, content)
    assert load_one(tmp_path).streams["accel"].values[0, 2] == pytest.approx(1000 / 9.80665)


def test_beats_and_heart_rate(tmp_path):
    content = description() | {
        "beats": {
            "file": "b.csv",
            "time": "t",
            "time_unit": "ms",
            "interval": "ibi",
            "interval_unit": "ms",
            "clock_offset_s": 1,
        },
        "heart_rate": {"file": "hr.csv", "time": "t", "time_origin": "unix", "hr": "bpm", "duration_s": 8},
    }
    make(tmp_path, content)
    write_csv(tmp_path / "b.csv", {"t": [800, 1600], "ibi": [800, 800]})
    write_csv(tmp_path / "hr.csv", {"t": [START + 2, START + 4], "bpm": [70, 71.5]})
    recording = load_one(tmp_path)
    np.testing.assert_allclose(recording.beats.time_s, [1.8, 2.6])
    np.testing.assert_allclose(recording.beats.interval_s, [0.8, 0.8])
    np.testing.assert_allclose(recording.heart_rate.start_s, [2, 4])
    assert recording.heart_rate.duration_s == 8 and recording.heart_rate.hr_bpm.tolist() == [70, 71.5]


def change(path, value):
    """A function that sets one key, given by its path, or removes it (value None)."""

    def apply(content):
        *outer, last = path.split(".")
        for key in outer:
            content = content[key]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return apply


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (change("particpant", "p"), r"recording.yaml: unknown key particpant; did you mean 'participant'"),
        (change("streams.ppg.rate", 5), r"recording.yaml: unknown key streams.ppg.rate; did you mean 'rate_hz'"),
        (change("participant", {"id": "p", "age": 3}), r"unknown key participant.age; did you mean 'age_years'"),
        (change("participant", None), r"participant must be an id"),
        (change("participant", {"id": "p", "age_years": "old"}), r"participant.age_years must be a number, got 'old'"),
        (change("start", "yesterday"), r"start must be a date .* got 'yesterday'"),
        (change("streams", None), r"streams must be a mapping"),
        (change("streams.accel", None), r"streams.accel is missing; the streams are ppg"),
        (change("streams.ppg.file", None), r"streams.ppg.file is missing"),
        (change("streams.ppg.file", "gone.csv"), r"gone.csv: no such file"),
        (change("streams.ppg.columns", None), r"streams.ppg.columns must be a list"),
        (change("streams.ppg.columns", ["gren"]), r"ppg.csv: there is no column 'gren'; did you mean 'green'"),
        (change("streams.ppg.columns", [7]), r"ppg.csv: there is no column 7; the file has 2 columns"),
        (change("streams.ppg.rate_hz", 0), r"ppg.csv: stream 'ppg': the sampling rate must be positive"),
        (change("streams.ppg.rate_hz", "fast"), r"streams.ppg.rate_hz must be a number"),
        (change("streams.ppg.rate_hz", None), r"streams.ppg needs either rate_hz or time"),
        (change("streams.ppg.time", "t"), r"streams.ppg needs either rate_hz or time"),
        (
            change("streams.ppg.packet_stamp", "last"),
            r"streams.ppg.packet_stamp is allowed only with time, not with rate_hz",
        ),
        (change("streams.ppg.decimal", ";"), r"streams.ppg.decimal must be one of ., ,, got ';'"),
        (change("streams.ppg.polarity", "up"), r"streams.ppg.polarity must be one of systole_up"),
        (change("streams.ppg.range", 5), r"streams.ppg.range must be \[lowest, highest\]"),
        (change("streams.ppg.range", ["a", 5]), r"streams.ppg.range must be a number, got 'a'"),
        (change("streams.ppg.delimiter", ", "), r"streams.ppg.delimiter must be one character"),
        (change("streams.ppg.skip_rows", -1), r"streams.ppg.skip_rows must be a whole number of lines"),
        (change("streams.ppg.columns", [None]), r"ppg.csv: there is no column None"),
        (change("streams.accel.unit", "G"), r"streams.accel.unit must be one of g, mg, m/s2, counts"),
        (change("streams.accel.unit", "counts"), r"streams.accel: unit: counts needs counts_per_g"),
        (change("streams.accel.columns", ["x", "y"]), r"acc.csv: stream 'accel': must have 3 channels"),
        (change("heart_rate", {"file": "acc.csv", "time": "x", "hr": "y"}), r"heart_rate needs hr .* and duration_s"),
        (change("beats", {"file": "acc.csv", "interval": "y"}), r"beats.time is missing"),
        (
            change("beats", {"file": "acc.csv", "time": "x", "interval": "y", "interval_unit": []}),
            r"beats.interval_unit must be one of",
        ),
        (change("streams.accel.time_unit", []), r"streams.accel.time_unit must be one of s, ms, us, ns, got \[\]"),
        (
            change("streams.ppg.rate_hz", 1e12),
            r"ppg.csv: stream 'ppg': the sampling rate must be 1 to 100000 Hz, got 1e\+12",
        ),
        (
            change("start", 20240501),
            r"start is 20240501, a day of 1970 if it is unix seconds; write a date as 2024-05-01",
        ),
        (
            change("streams.ppg.columns", ["green", "green"]),
            r"column 'green' of ppg.csv is already in streams.ppg.columns",
        ),
        (
            change("streams.ppg", {"file": "acc.csv", "columns": ["z"], "rate_hz": 50}),
            r"column 'z' of acc.csv is already in streams.ppg.columns",
        ),
        (change("start", 1_714_557_600_000), r"start time must be unix seconds .* got 1.71456e\+12 .*milliseconds"),
    ],
)
def test_bad_description_is_named(tmp_path, apply, message):
    content = description()
    apply(content)
    make(tmp_path, content)
    (source,) = find("generic", tmp_path)
    with pytest.raises(UserError, match=message):
        source.load()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("recording.yaml", "participant: [", "recording.yaml: cannot be read"),
        ("recording.yaml", "- a\n- b\n", "recording.yaml: must be a mapping"),
        ("ppg.csv", "green,red\n1,2\nx,3\n", r"ppg.csv: column 'green', line 3: not a number \('x'\)"),
        ("ppg.csv", "green,red\n1,2\n3\n", r"ppg.csv: cannot be read: .*Expected 2 columns, got 1"),
        ("ppg.csv", "", r"ppg.csv: cannot be read"),
        ("ppg.csv", "green,red\n", r"ppg.csv: stream 'ppg': has no samples"),
        ("ppg.csv", "green,red\n,1\n,2\n", r"ppg.csv: stream 'ppg': has only NaN values"),
        ("ppg.csv", "green,red\n1,2\n1e400,2\n", r"ppg.csv: column 'green', line 3: not a finite number"),
        ("ppg.csv", "green\n1\n".encode("utf-16"), r"ppg.csv: cannot be read: .*codec"),
        ("recording.yaml", "[" * 20_000, r"recording.yaml: cannot be read: maximum recursion depth"),
        ("recording.yaml", "start: 2024-99-99T00:00:00Z\n", r"recording.yaml: cannot be read: month must be in 1..12"),
    ],
)
def test_bad_file_is_named_with_its_line(tmp_path, file, text, message):
    make(tmp_path, description())
    (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    (source,) = find("generic", tmp_path)
    with pytest.raises(UserError, match=message):
        source.load()


def test_windows_that_last_longer_than_they_can_are_told(tmp_path):
    content = description() | {"heart_rate": {"file": "hr.csv", "time": "t", "hr": "bpm", "duration_s": 8000}}
    make(tmp_path, content)
    write_csv(tmp_path / "hr.csv", {"t": range(0, 120, 2), "bpm": range(60, 120)})
    with pytest.raises(
        UserError,
        match="hr.csv: column 'bpm': a window begins every 2 s, but lasts duration_s: 8000; give duration_s in seconds",
    ):
        load_one(tmp_path)


@pytest.mark.parametrize(
    ("every_s", "duration_s", "refused"),
    [(30, 8000, True), (0.03, 30, True), (2, 8, False), (1, 30, False), (1, 60, False), (5, 300, False)],
)
def test_windows_overlap_as_much_as_true_ones_do(tmp_path, every_s, duration_s, refused):
    content = description() | {"heart_rate": {"file": "hr.csv", "time": "t", "hr": "bpm", "duration_s": duration_s}}
    make(tmp_path, content)
    write_csv(tmp_path / "hr.csv", {"t": [every_s * row for row in range(4)], "bpm": [60, 65, 70, 75]})
    if not refused:
        assert load_one(tmp_path).heart_rate.duration_s == duration_s
        return
    with pytest.raises(UserError, match=f"hr.csv: .* begins every {every_s} s, but lasts duration_s: {duration_s}; "):
        load_one(tmp_path)


@pytest.mark.parametrize("level", [0, 1e7, 3e9])
def test_a_pulse_on_a_large_number_is_kept(tmp_path, level):
    # float32 represents 3e9 in steps of 256.
    content = description()
    content["streams"]["ppg"] |= {"range": [level - 50, level + 10]}
    make(tmp_path, content)
    wave = -20 * pulse(np.arange(50 * SECONDS) / 50)
    write_csv(tmp_path / "ppg.csv", {"green": [f"{value:.3f}" for value in level + wave], "red": 0 * wave})
    stream = load_one(tmp_path).streams["ppg"]
    np.testing.assert_allclose(stream.values[:, 0] - stream.values[:, 0].mean(), wave - wave.mean(), atol=2e-3)
    low, high = np.ravel(stream.range)
    assert (stream.values[0, 0] - low, high - low) == pytest.approx((50 + wave[0], 60), abs=2e-3)


def test_the_documented_example_names_every_key():
    text = generic.__doc__
    example = yaml.safe_load(text[text.index("    participant:") : text.index("Empty cells")])
    documented = set(example) | set(example["streams"]["ppg"]) | set(example["beats"]) | set(example["heart_rate"])
    assert documented >= {key for kind, keys in generic.KEYS.items() if kind != "participant" for key in keys}


def test_polar_text_export(tmp_path, shared_data):
    folder = shared_data / "biobss_polar_verity"
    if not folder.is_dir():
        pytest.skip("biobss_polar_verity is not among the real recordings here")
    clock = {"time_unit": "ns", "time_origin": "2000-01-01", "delimiter": ";"}
    content = {
        "participant": "polar",
        "streams": {
            "ppg": clock
            | {"file": str(folder / "Polar_Sense_PPG.txt"), "skip_rows": 1, "time": 1, "columns": [2, 3, 4]},
            "accel": clock
            | {
                "file": str(folder / "Polar_Sense_ACC.txt"),
                "time": "sensor timestamp [ns]",
                "columns": ["X [mg]", "Y [mg]", "Z [mg]"],
                "unit": "mg",
            },
        },
    }
    (tmp_path / "recording.json").write_text(json.dumps(content))
    batch = preprocess(load_one(tmp_path), PreprocessSettings())
    assert batch.examined == 8 and len(batch.ppg) >= 6
    assert batch.notes["ppg_polarity"].startswith("systole_down, by the data")
    assert np.median(np.linalg.norm(batch.accel, axis=-1)) == pytest.approx(1.009, abs=0.01)
