"""PPG-DaLiA and WESAD: units, references, participants, and bad files."""

import pickle

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

SECONDS = 130
ALL = PreprocessSettings(max_motion_g=float("inf"), min_ppg_quality=0, max_clipped_fraction=1)


def counts():
    return np.random.default_rng(0).integers([-2, -2, 60], [3, 3, 67], (32 * SECONDS, 3)).astype(float)


def bvp():
    time_s = np.arange(64 * SECONDS) / 64
    return (50 * np.sin(2 * np.pi * 1.2 * time_s) + np.random.default_rng(1).normal(size=len(time_s)))[:, None]


def dalia(**changes):
    return {
        "subject": "S2",
        "signal": {"wrist": {"ACC": counts() / 64, "BVP": bvp()}, "chest": {"ECG": np.zeros((700, 1))}},
        "label": np.full((SECONDS - 8) // 2 + 1, 72.0),
        "rpeaks": np.arange(0, 700 * SECONDS, 583),
        "activity": np.repeat([1.0, 0.0, 7.0], [4 * 60 + 2, 4 * 10, 4 * 60 - 2])[:, None],
        "questionnaire": {"AGE": 34, "Gender": " m", "HEIGHT": 182.0, "WEIGHT ": 78.0, "SPORT": 6},
    } | changes


def wesad(**changes):
    return {
        "subject": "S2",
        "signal": {"wrist": {"ACC": counts(), "BVP": bvp()}},
        "label": np.repeat(np.int32([2, 6, 3]), [700 * 60, 700 * 10, 700 * 60]),
    } | changes


def load(folder, reader, content, name="S2.pkl"):
    (folder / name).write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, 2))
    (source,) = find(reader, folder)
    return source.load()


def test_dalia(tmp_path):
    recording = load(tmp_path, "ppg_dalia", dalia())
    person = recording.participant
    assert (person.participant_id, person.age_years, person.height_m, person.weight_kg, person.sex) == (
        "S2",
        34,
        1.82,
        78,
        "male",
    )
    ppg, accel = recording.streams["ppg"], recording.streams["accel"]
    assert (ppg.rate_hz, accel.rate_hz, ppg.polarity, accel.range) == (64.0, 32.0, "systole_up", (-2.0, 127 / 64))
    np.testing.assert_array_equal(accel.values, (counts() / 64).astype(np.float32))
    assert (recording.device, recording.source, recording.start_unix_s) == ("Empatica E4", "ppg_dalia", 0)
    assert (recording.heart_rate.start_s[2], recording.heart_rate.duration_s) == (4.0, 8.0)
    np.testing.assert_allclose(recording.beats.interval_s, 583 / 700)
    np.testing.assert_allclose(recording.beats.time_s[:2], [583 / 700, 2 * 583 / 700])
    batch = preprocess(recording, ALL)
    np.testing.assert_allclose(batch.columns["hr_bpm"], 60 * 700 / 583, rtol=1e-3)
    assert set(batch.columns["hr_source"]) == {"beats"}
    activity = recording.labels.values["activity"]
    assert [activity[second] for second in (0, 59, 60, 65, 70, 129)] == ["sitting", "sitting", "", "", "", "walking"]


def test_wesad_is_in_counts(tmp_path):
    recording = load(tmp_path, "wesad", wesad())
    np.testing.assert_array_equal(recording.streams["accel"].values, (counts() / 64).astype(np.float32))
    assert recording.heart_rate is None and recording.beats is None and recording.source == "wesad"
    condition = recording.labels.values["condition"]
    assert [condition[second] for second in (0, 59, 60, 69, 70, 129)] == [
        "stress",
        "stress",
        "",
        "",
        "amusement",
        "amusement",
    ]


def test_other_pickles_are_left_out(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"")
    (tmp_path / "S2.pkl").write_bytes(b"")
    found = find("wesad", tmp_path)
    assert [source.participant_id for source in found] == ["S2"]
    assert found.not_read == {"model.pkl": "its name is not S and a number, such as S2.pkl"}


def wrist(**arrays):
    return {"wrist": {"ACC": counts(), "BVP": bvp()} | arrays}


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        ("ppg_dalia", b"", "cannot be read as a pickle"),
        ("ppg_dalia", b"ACC,BVP\n1,2\n", "cannot be read as a pickle"),
        ("wesad", pickle.dumps(wesad(), 2)[:5000], "cannot be read as a pickle"),
        ("ppg_dalia", wesad(), "holds no 'rpeaks': is it WESAD"),
        ("wesad", dalia(), "it is of PPG-DaLiA. Use the reader ppg_dalia"),
        ("wesad", wesad(subject="S7"), "is named S2, but its content is of S7"),
        ("wesad", [1, 2], "holds no array 'signal/wrist/BVP'"),
        ("wesad", wesad(signal={}), "holds no array 'signal/wrist/BVP'"),
        ("wesad", wesad(signal=wrist(ACC=counts()[:, :2])), "BVP must have 1 column and ACC 3"),
        ("wesad", wesad(signal=wrist(BVP=bvp()[: 64 * 99])), "BVP lasts 99 s, but ACC 130 s"),
        ("wesad", wesad(signal=wrist(ACC=counts() / 64 * 9.81)), "neither in g nor in 1/64 g"),
        ("wesad", wesad(signal=wrist(ACC=counts() * 9)), "neither in g nor in 1/64 g"),
        ("ppg_dalia", dalia(label=np.full(9, 72.0)), "'label' has 9 heart rates, but the signal has about 61 windows"),
        ("ppg_dalia", dalia(activity=np.ones(9)), "'activity' has 9 values of 4 Hz, 2 s, but the signal lasts 130 s"),
        ("wesad", wesad(label=np.ones(9)), "'condition' has 9 values of 700 Hz"),
        ("ppg_dalia", dalia(rpeaks=np.array([5, 3])), "'rpeaks' must increase"),
        ("ppg_dalia", dalia(label=np.full(62, 1.2)), "heart rate: 62 of 62 windows lie outside"),
        ("ppg_dalia", dalia(questionnaire={"HEIGHT": 1.82}), "height_m must be 0.3 to 2.8, got 0.0182"),
    ],
)
def test_bad_file_is_named(tmp_path, reader, content, message):
    with pytest.raises(UserError, match=rf"S2.pkl: .*{message}"):
        load(tmp_path, reader, content)
