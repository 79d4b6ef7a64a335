"""EmbracePlus files: joined sessions, scales, rates, beats, and bad files named. Skipped without the extra `devices`."""

import copy

import numpy as np
import pytest

from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

fastavro = pytest.importorskip("fastavro", reason="the extra `devices` is not installed")

START = 1_714_159_675


def numbers(kind):
    return {"type": "array", "items": kind}


def record_of(name, fields):
    return {"type": "record", "name": name, "fields": [{"name": key, "type": kind} for key, kind in fields.items()]}


TIMING = {"timestampStart": "long", "samplingFrequency": "float"}
IMU = record_of("imu", dict.fromkeys(("physicalMin", "physicalMax", "digitalMin", "digitalMax"), "int"))
SCHEMA = record_of(
    "Session",
    {
        "schemaVersion": record_of("version", {"major": "int", "minor": "int"}),
        "enrollment": record_of("enrollment", dict.fromkeys(("participantID", "siteID", "studyID"), "string")),
        "deviceSn": "string",
        "rawData": record_of(
            "raw",
            {
                "accelerometer": record_of(
                    "accel", {**TIMING, "imuParams": IMU, "x": numbers("int"), "y": numbers("int"), "z": numbers("int")}
                ),
                "bvp": record_of("bvp", {**TIMING, "values": numbers("float")}),
                "systolicPeaks": record_of("peaks", {"peaksTimeNanos": numbers("long")}),
            },
        ),
    },
)


def session(start_s=START, seconds=90, participant="anna", site="2"):
    """A still wrist at 64.01 Hz with a beat every 0.8 s; PPG starts a second earlier, at 64 Hz."""
    count = round(64.01 * seconds)
    rng = np.random.default_rng(start_s)
    accel = rng.normal([0, 0.6 * 2048, 0.8 * 2048], 4, (count, 3)).round().astype(int)
    time = np.arange(64 * seconds) / 64
    peaks = np.arange(0.5, seconds, 0.8)
    return {
        "schemaVersion": {"major": 6, "minor": 3},
        "enrollment": {"participantID": participant, "siteID": site, "studyID": "1"},
        "deviceSn": "3YK",
        "rawData": {
            "accelerometer": {
                "timestampStart": start_s * 1_000_000,
                "samplingFrequency": 64.01,
                "imuParams": {"physicalMin": -16, "physicalMax": 16, "digitalMin": -32768, "digitalMax": 32768},
                **{axis: accel[:, number].tolist() for number, axis in enumerate("xyz")},
            },
            "bvp": {
                "timestampStart": (start_s - 1) * 1_000_000,
                "samplingFrequency": 64.0,
                "values": (-np.cos(2 * np.pi * (time - 0.5) / 0.8)).tolist(),
            },
            "systolicPeaks": {"peaksTimeNanos": [int((start_s - 1 + peak) * 1e9) for peak in peaks]},
        },
    }


def write(folder, content, name="1-2-anna", start_s=START, schema=SCHEMA, records=None):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_{start_s}.avro"
    with path.open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema(copy.deepcopy(schema)), records or [content], codec="deflate")
    return path


def load_all(folder):
    return [source.load() for source in find("empatica_embraceplus", folder)]


def test_files_of_a_session_become_one_recording_with_the_files_rates(tmp_path):
    for start in (START, START + 91, START + 9000):
        write(tmp_path / "day", session(start), start_s=start)
    first, later = load_all(tmp_path)
    assert first.participant.participant_id == later.participant.participant_id == "1-2-anna"
    assert first.start_unix_s == START - 1 and later.start_unix_s == START + 8999
    accel, ppg = first.streams["accel"], first.streams["ppg"]
    assert len(accel.values) == 2 * round(64.01 * 90) and len(later.streams["accel"].values) == round(64.01 * 90)
    assert accel.time_s[0] == pytest.approx(1.0) and ppg.time_s[0] == 0.0
    assert np.diff(accel.time_s[:1000]).mean() == pytest.approx(1 / 64.01, rel=1e-6)
    np.testing.assert_allclose(np.median(accel.values, axis=0), [0, 0.6, 0.8], atol=0.001)
    assert ppg.polarity == "systole_down" and accel.range == (-16.0, 32767 / 2048)
    np.testing.assert_allclose(first.beats.interval_s[:100], 0.8, atol=1e-6)
    assert first.beats.interval_s.max() < 3.0


def test_participants_and_folders_are_kept_apart(tmp_path):
    write(tmp_path / "a", session(participant="anna"))
    write(tmp_path / "a", session(participant="bo"), name="1-2-bo")
    write(tmp_path / "b", session(participant="anna"))
    recordings = load_all(tmp_path)
    assert sorted(recording.participant.participant_id for recording in recordings) == [
        "1-2-anna",
        "1-2-anna",
        "1-2-bo",
    ]
    assert len({recording.recording_id for recording in recordings}) == 3


def test_a_clock_set_back_between_files_moves_no_sample(tmp_path):
    first, second = session(seconds=60), session(START + 60, seconds=60)
    for sensor, rate in (("accelerometer", 64.01), ("bvp", 64.0)):
        second["rawData"][sensor]["timestampStart"] -= 500_000
        first["rawData"][sensor]["samplingFrequency"] = second["rawData"][sensor]["samplingFrequency"] = rate
    second["rawData"]["accelerometer"]["x"] = list(range(len(second["rawData"]["accelerometer"]["x"])))
    peaks = second["rawData"]["systolicPeaks"]["peaksTimeNanos"]
    second["rawData"]["systolicPeaks"]["peaksTimeNanos"] = [peak - 500_000_000 for peak in peaks]
    write(tmp_path, first)
    write(tmp_path, second, start_s=START + 60)
    (recording,) = load_all(tmp_path)
    for name, rate in (("accel", 64.01), ("ppg", 64.0)):
        steps = np.diff(recording.streams[name].time_s)
        assert 0.5 / rate < steps.min() and steps.max() < 1.5 / rate
    accel = recording.streams["accel"]
    counts = np.round(accel.values[-3000:, 0] * 2048)
    np.testing.assert_allclose(accel.time_s[-3000:], 60.5 + counts / 64.01, atol=1e-5)
    np.testing.assert_allclose(recording.beats.interval_s, 0.8, atol=1e-6)


def test_samples_that_are_in_two_files_are_read_once(tmp_path):
    whole = session(seconds=100)
    first, second = copy.deepcopy(whole), copy.deepcopy(whole)
    for sensor, keys, at_s in (("accelerometer", "xyz", START), ("bvp", ["values"], START - 1)):
        rate = whole["rawData"][sensor]["samplingFrequency"]
        for key in keys:
            samples = whole["rawData"][sensor][key]
            first["rawData"][sensor][key], second["rawData"][sensor][key] = samples[:3240], samples[3200:]
        second["rawData"][sensor]["timestampStart"] = round((at_s + 3200 / rate) * 1e6)
    write(tmp_path / "parts", first)
    write(tmp_path / "parts", second, start_s=START + 50)
    write(tmp_path / "whole", whole)
    joined, single = load_all(tmp_path)
    for name in ("accel", "ppg"):
        np.testing.assert_array_equal(joined.streams[name].values, single.streams[name].values)
        stamps = np.arange(len(single.streams[name].values)) / (64.01 if name == "accel" else 64.0)
        np.testing.assert_allclose(joined.streams[name].time_s - joined.streams[name].time_s[0], stamps, atol=2e-6)


@pytest.mark.parametrize(("span", "ends"), [(8, (-8.0, 8 * 32767 / 32768)), (16, (-16.0, 16 * 32767 / 32768))])
def test_the_range_is_that_of_the_counts_of_the_file(tmp_path, span, ends):
    content = change(session(), **{ACCEL + "imuParams__physicalMin": -span, ACCEL + "imuParams__physicalMax": span})
    content["rawData"]["accelerometer"]["x"][7:9] = [32767, -32768]
    write(tmp_path, content)
    accel = load_all(tmp_path)[0].streams["accel"]
    assert accel.range == pytest.approx(ends, abs=1e-9)
    assert ((accel.values <= accel.range[0]) | (accel.values >= accel.range[1])).sum() == 2


def test_files_of_one_session_with_different_ranges_are_refused(tmp_path):
    write(tmp_path, session())
    other = change(session(START + 91), **{ACCEL + "imuParams__physicalMin": -8, ACCEL + "imuParams__physicalMax": 8})
    write(tmp_path, other, start_s=START + 91)
    with pytest.raises(UserError, match=r"1714159766.avro: accel has the range \(-8.0, .* prepare them apart"):
        load_all(tmp_path)


def test_people_of_two_sites_with_one_number_are_two_people(tmp_path):
    write(tmp_path, session(participant="001", site="1"), name="1-1-001")
    write(tmp_path, session(participant="001", site="2"), name="1-2-001")
    write(tmp_path / "renamed", session(participant="001", site="3"), name="001")
    write(tmp_path / "moved", session(participant="001", site="1")).rename(tmp_path / "moved" / "night.avro")
    ids = {recording.recording_id: recording.participant.participant_id for recording in load_all(tmp_path)}
    assert sorted(ids.values()) == ["1-1-001", "1-1-001", "1-2-001", "1-3-001"]
    assert ids["moved__night"] == "1-1-001"


def test_a_renamed_file_of_another_person_is_refused(tmp_path):
    write(tmp_path, session(participant="001", site="1"), name="001")
    write(tmp_path, session(START + 91, participant="001", site="2"), name="001", start_s=START + 91)
    with pytest.raises(UserError, match=r"001_1714159766.avro.*'1-2-001', the files before of '1-1-001'"):
        load_all(tmp_path)


def test_a_file_without_ppg_or_of_a_moment_is_read(tmp_path):
    content = session()
    content["rawData"]["bvp"]["values"] = []
    content["rawData"]["systolicPeaks"]["peaksTimeNanos"] = []
    write(tmp_path, content)
    (recording,) = load_all(tmp_path)
    assert set(recording.streams) == {"accel"} and recording.beats is None


def change(content, **values):
    content = copy.deepcopy(content)
    for dotted, value in values.items():
        *parents, last = dotted.split("__")
        target = content
        for parent in parents:
            target = target[parent]
        target[last] = value
    return content


ACCEL = "rawData__accelerometer__"
BAD = {
    "another schema": ({"schemaVersion__major": 7}, "schema version 7, this reader knows 6"),
    "another participant": ({"enrollment__participantID": "eve"}, "of participant '1-2-eve', its name says '1-2-anna'"),
    "seconds as stamps": ({ACCEL + "timestampStart": START}, "is not a time in microseconds"),
    "no stamp": ({"rawData__bvp__timestampStart": 0}, "bvp: timestampStart 0"),
    "another rate": ({ACCEL + "samplingFrequency": 32.0}, "samplingFrequency 32 Hz, the EmbracePlus samples at 64"),
    "rate zero": ({"rawData__bvp__samplingFrequency": 0.0}, "bvp: samplingFrequency 0 Hz"),
    "an axis is short": ({ACCEL + "y": [1, 2]}, "x, y and z have 5761, 2, 5761 samples"),
    "no acceleration": ({ACCEL + axis: [] for axis in "xyz"}, "no acceleration in the 1 files"),
    "a scale of nothing": ({ACCEL + "imuParams__digitalMax": -32768}, "are no scale from counts to g"),
    "a scale in m/s2": ({ACCEL + "imuParams__physicalMax": 157}, "are no scale from counts to g"),
    "counts beyond": ({ACCEL + "imuParams__digitalMax": 100}, "counts from .* outside -32768 to 100"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_content_is_named(tmp_path, name):
    values, message = BAD[name]
    path = write(tmp_path, change(session(), **values))
    with pytest.raises(UserError, match=message) as raised:
        load_all(tmp_path)
    assert path.name in str(raised.value) and "\n" not in str(raised.value)


def test_damaged_files_are_named(tmp_path):
    path = write(tmp_path, session())
    content = path.read_bytes()
    cuts = (4, 300, len(content) // 2, len(content) - 20, len(content) - 16, len(content) - 1)
    for damaged in (b"", b"PK" + content[2:], *(content[:cut] for cut in cuts)):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=path.name):
            load_all(tmp_path)


def test_other_files_are_named(tmp_path):
    write(tmp_path, {"a": 1}, schema=record_of("other", {"a": "int"}))
    with pytest.raises(UserError, match="not raw data of an EmbracePlus: 'schemaVersion' is missing"):
        load_all(tmp_path)
    write(tmp_path, None, records=[session(), session()])
    with pytest.raises(UserError, match="2 records, a file of the EmbracePlus has one"):
        load_all(tmp_path)


def test_a_file_of_another_name_is_a_recording_of_the_participant_inside(tmp_path):
    write(tmp_path, session(participant="eve")).rename(tmp_path / "night.avro")
    write(tmp_path, session(participant="eve")).rename(tmp_path / "day.avro")
    (tmp_path / "broken.avro").write_bytes(b"Obj")
    sources = find("empatica_embraceplus", tmp_path)
    assert [source.participant_id for source in sources] == ["broken", "1-2-eve", "1-2-eve"]
    assert sources[1].load().participant.participant_id == "1-2-eve"
    with pytest.raises(UserError, match="broken.avro"):
        sources[0].load()


def test_missing_keys_are_named(tmp_path):
    content = session()
    del content["rawData"]["accelerometer"]["imuParams"]
    schema = copy.deepcopy(SCHEMA)
    raw = next(field for field in schema["fields"] if field["name"] == "rawData")["type"]
    accel = next(field for field in raw["fields"] if field["name"] == "accelerometer")["type"]
    accel["fields"] = [field for field in accel["fields"] if field["name"] != "imuParams"]
    path = write(tmp_path, content, schema=schema)
    with pytest.raises(UserError, match="'imuParams' is missing or malformed") as raised:
        load_all(tmp_path)
    assert path.name in str(raised.value)


def test_copies_and_other_devices_in_a_session_are_refused(tmp_path):
    write(tmp_path, session())
    write(tmp_path, session(START + 30), start_s=START + 30)
    with pytest.raises(UserError, match=r"starts 60.0 s before 1-2-anna_1714159675.avro ends; is one of them a copy"):
        load_all(tmp_path)
    write(tmp_path, change(session(START + 95), deviceSn="other"), start_s=START + 30)
    with pytest.raises(UserError, match="written by the device other, the file before by 3YK"):
        load_all(tmp_path)
