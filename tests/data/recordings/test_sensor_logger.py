"""Sensor Logger: watch and phones, units, gravity, and bad files."""

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.plausibility import check_units
from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

START_NS = 1_700_000_000_500_000_000
COUNT = 200
RNG = np.random.default_rng(0)
USER = RNG.normal(0, 0.02, (COUNT, 3))
GRAVITY = np.tile([0.6, 0.0, -0.8], (COUNT, 1))


def table(header, values, *, period_ns=20_000_000, start=START_NS):
    rows = [f"{start + k * period_ns},{k * period_ns / 1e9},{','.join(map(str, row))}" for k, row in enumerate(values)]
    return "time,seconds_elapsed," + header + "\n" + "\n".join(rows) + "\n"


def watch(scale=1.0):
    columns = "accelerationX,accelerationY,accelerationZ,gravityX,gravityY,gravityZ"
    return table(columns, scale * np.hstack([USER, GRAVITY]))


def phone(values, **options):
    return table("z,y,x", 9.80665 * values[:, ::-1], **options)


def load(folder, content, **options):
    place = folder / "anna"
    place.mkdir()
    for name, text in content.items():
        (place / name).write_text(text)
    (source,) = find("sensor_logger", folder, **options)
    return source.load()


def test_folders_that_are_named_by_the_time_belong_to_the_person_around_them(tmp_path):
    for night in ("2024-05-01_22-30-11", "2024-05-02_22-31-00"):
        place = tmp_path / "anna" / night
        place.mkdir(parents=True)
        (place / "WristMotion.csv").write_text(watch())
    found = find("sensor_logger", tmp_path, participant_from="parent")
    assert [source.participant_id for source in found] == ["anna", "anna"]
    assert len({source.recording_id for source in found}) == 2
    assert found[0].load().participant.participant_id == "anna"
    with pytest.raises(UserError, match="participant_from must be auto, name or parent, got 'prefix'"):
        find("sensor_logger", tmp_path, participant_from="prefix")


@pytest.mark.parametrize("scale", [1.0, 9.80665])
def test_watch_in_either_unit_with_its_heart_rate(tmp_path, scale):
    heart = table("bpm", [[60], [61]], period_ns=5_000_000_000)
    content = {"WristMotion.csv": watch(scale), "HeartRate.csv": heart, "Accelerometer.csv": phone(USER)}
    recording = load(tmp_path, content)
    accel = recording.streams["accel"]
    np.testing.assert_allclose(accel.values, USER + GRAVITY, atol=1e-6)
    np.testing.assert_allclose(accel.time_s[:2], [0.5, 0.52], atol=1e-6)
    assert (recording.device, recording.participant.participant_id, accel.gravity) == (
        "Apple Watch",
        "anna",
        "included",
    )
    assert recording.heart_rate.hr_bpm.tolist() == [60, 61] and recording.heart_rate.start_s[1] == pytest.approx(0.5)


def test_phones_with_gravity(tmp_path):
    (tmp_path / "one").mkdir()
    recording = load(tmp_path / "one", {"TotalAcceleration.csv": phone(USER + GRAVITY)})
    np.testing.assert_allclose(recording.streams["accel"].values, USER + GRAVITY, atol=1e-6)
    (tmp_path / "two").mkdir()
    content = {"Accelerometer.csv": phone(USER), "Gravity.csv": phone(GRAVITY, start=START_NS - 7_000_000)}
    recording = load(tmp_path / "two", content | {"WristMotion.csv": watch()}, source="phone")
    np.testing.assert_allclose(recording.streams["accel"].values[:-1], (USER + GRAVITY)[:-1], atol=1e-6)


def test_without_gravity_is_refused_or_marked(tmp_path):
    with pytest.raises(UserError, match="Accelerometer.csv: is acceleration without gravity.* --without-gravity"):
        load(tmp_path, {"Accelerometer.csv": phone(USER)})
    (source,) = find("sensor_logger", tmp_path, without_gravity=True)
    recording = source.load()
    assert recording.streams["accel"].gravity == "removed"
    assert check_units(recording) == {}


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("WristMotion.csv", {"WristMotion.csv": ""}, {}, "the file is empty"),
        ("WristMotion.csv", {"WristMotion.csv": watch().replace("gravityX", "gX")}, {}, "gravityX"),
        ("WristMotion.csv", {"WristMotion.csv": watch(3.0)}, {}, "has the length 3, which is neither 1"),
        ("WristMotion.csv", {"WristMotion.csv": watch()[:-30]}, {}, "line 201"),
        (
            "WristMotion.csv",
            {"WristMotion.csv": watch() + watch().split("\n", 1)[1]},
            {},
            "line 202: the time goes back",
        ),
        (
            "WristMotion.csv",
            {"Accelerometer.csv": phone(USER)},
            {"source": "watch"},
            "no such file; record Wrist Motion",
        ),
        ("anna", {"WristMotion.csv": watch()}, {"source": "phone"}, "holds neither TotalAcceleration.csv"),
        (
            "TotalAcceleration.csv",
            {"TotalAcceleration.csv": phone(GRAVITY).replace("\n", "\n1_0", 1)},
            {},
            "line 2: not a number",
        ),
        (
            "Gravity.csv",
            {"Accelerometer.csv": phone(USER), "Gravity.csv": phone(GRAVITY, start=START_NS + 10**10)},
            {},
            "its times meet less than half of Accelerometer.csv",
        ),
        (
            "Gravity.csv",
            {"Accelerometer.csv": phone(USER), "Gravity.csv": phone(0.5 * GRAVITY)},
            {},
            "the gravity vector has the length 4.9",
        ),
        (
            "HeartRate.csv",
            {"WristMotion.csv": watch(), "HeartRate.csv": table("bpm", [[1.1], [1.2]])},
            {},
            "2 of 2 windows lie outside",
        ),
    ],
)
def test_bad_file_is_named(tmp_path, name, content, options, message):
    with pytest.raises(UserError, match=rf"{name}: .*{message}"):
        load(tmp_path, content, **options)
