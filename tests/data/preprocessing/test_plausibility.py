"""Impossible units: right numbers in a wrong unit are refused with a unit that fits; right units are never refused."""

import dataclasses
import json

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.plausibility import check_units, resting_g
from accdistill_jax.data.preprocessing.reference_rate import cleaned
from accdistill_jax.data.preprocessing.resample import fraction_clipped
from accdistill_jax.data.recording import Beats, LabelWindows, Participant, Recording, Stream
from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

RATE = 32.0
SECONDS = 120


def worn(seed=0, shake=0.003, seconds=SECONDS):
    """[samples, 3] in g: a wrist that rests, turns once and moves in between."""
    rng = np.random.default_rng(seed)
    count = round(seconds * RATE)
    angle = np.where(np.arange(count) < count // 2, 0.3, 1.2)
    gravity = np.stack([np.sin(angle), np.cos(angle) * 0.6, np.cos(angle) * 0.8], 1)
    moved = np.zeros((count, 1))
    moved[count // 3 : count // 3 + round(10 * RATE)] = 0.3
    return gravity + shake * rng.standard_normal((count, 3)) + moved * rng.standard_normal((count, 3))


def running(seed=0):
    """[samples, 3] in g: an arm that swings all the time."""
    time, rng = np.arange(SECONDS * RATE) / RATE, np.random.default_rng(seed)
    swing = np.stack([0.8 * np.sin(2 * np.pi * 1.4 * time), 0.6 * np.cos(2 * np.pi * 2.8 * time), 0 * time], 1)
    return np.array([0.1, 0.5, 0.85]) + swing + 0.2 * rng.standard_normal((len(time), 3))


def recording(accel, *, scale=1.0, source="generic", beats=None, **more):
    streams = {"accel": Stream("accel", accel, ("x", "y", "z"), "g", rate_hz=RATE, scale=scale, **more)}
    return Recording("r", Participant("p"), "d", source, 0.0, streams, beats, is_described=source == "generic")


# Name of the unit, numbers per g, text that the message must suggest.
WRITTEN = {
    "m/s2": (9.80665, "unit: m/s2"),
    "mg": (1000, "unit: mg"),
    "counts of 64": (64, "counts_per_g: 64"),
    "counts of 256": (256, "counts_per_g: 256"),
    "counts of 2048": (2048, "counts_per_g: 2048"),
    "counts of 8192": (8192, "counts_per_g: 8192"),
    "counts of 333": (333, "counts_per_g: 333"),
}


@pytest.mark.parametrize("motion", [worn, running])
@pytest.mark.parametrize("unit", WRITTEN)
def test_numbers_in_another_unit_read_as_g_are_refused_with_theirs(unit, motion):
    per_g, advice = WRITTEN[unit]
    if motion is running and unit == "counts of 333":
        advice = "unit: mg"  # without rest, 333 is too close to 1000
    with pytest.raises(UserError, match=r"stream 'accel': \|a\| .* g, but a device at rest measures 1 g.*" + advice):
        check_units(recording(motion() * per_g))


@pytest.mark.parametrize("declared", [1e-3, 1 / 9.80665])
def test_g_read_as_another_unit_is_refused(declared):
    with pytest.raises(UserError, match="at rest is 0.(001|102) g.*numbers that is 1; use unit: g"):
        check_units(recording(worn() * declared, scale=declared))


def test_a_tenth_of_g_is_refused_though_no_unit_fits():
    with pytest.raises(UserError, match=r"at rest is 0.1 g.*unit: counts with counts_per_g: 0.1"):
        check_units(recording(worn() / 10))


@pytest.mark.parametrize("declared", [1.0, 1e-3, 1 / 9.80665])
def test_advice_names_the_key_of_signals_without_gravity(declared):
    posture = worn() - worn().mean(axis=0)  # 0.4 g of turns are left
    with pytest.raises(UserError, match="or gravity: removed if the values do not contain gravity"):
        check_units(recording(posture, scale=declared))


def test_a_wrong_number_of_counts_is_refused_with_the_right_one():
    with pytest.raises(UserError, match="at rest is 2 g.*numbers that is 512; .*counts_per_g: 512"):
        check_units(recording(worn() * 2, scale=1 / 256))


@pytest.mark.parametrize("source", ["empatica_e4", "troika"])
def test_other_readers_refuse_too(source):
    with pytest.raises(UserError, match="at rest is 9.81 g.*this device does not write such numbers"):
        check_units(recording(worn() * 9.80665, source=source))


@pytest.mark.parametrize("off_by", [0.75, 0.83, 1.0, 1.05, 1.3])
def test_a_badly_calibrated_sensor_is_no_wrong_unit(off_by):
    assert check_units(recording(worn() * off_by)) == {}
    assert resting_g(recording(worn() * off_by).streams["accel"])[0] == pytest.approx(off_by, rel=0.01)


def test_running_is_no_wrong_unit():
    accel = recording(running()).streams["accel"]
    assert resting_g(accel)[1] == 0 and 0.8 < resting_g(accel)[0] < 1.6
    assert check_units(recording(running())) == {}


def test_a_sensor_that_is_off_decides_nothing():
    off = worn()
    off[200:] = 0.0
    assert check_units(recording(off)) == {}
    assert np.isnan(resting_g(recording(np.zeros((500, 3))).streams["accel"])[0])
    assert check_units(recording(np.zeros((500, 3)))) == {}


def test_irregular_stamps_are_checked_too():
    time = np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, round(SECONDS * RATE)) / RATE)
    stream = Stream("accel", worn() * 1000, ("x", "y", "z"), "g", time_s=time)
    with pytest.raises(UserError, match="unit: mg"):
        check_units(Recording("r", Participant("p"), "d", "generic", 0.0, {"accel": stream}, is_described=True))


# --- gravity ------------------------------------------------------------------------------------------------------


def linear(seed=0):
    return 0.02 * np.random.default_rng(seed).standard_normal((round(SECONDS * RATE), 3))


def test_removed_gravity_is_recognised_and_may_be_declared():
    with pytest.raises(
        UserError,
        match=r"\(median; hardly any second is calm\) is 0.03.* g.*or gravity: removed if the values do not contain gravity",
    ):
        check_units(recording(linear()))
    assert check_units(recording(linear(), gravity="removed")) == {}


def test_gravity_that_is_there_cannot_be_declared_to_be_removed():
    with pytest.raises(UserError, match="at rest is 1 g, so gravity is included"):
        check_units(recording(worn(), gravity="removed"))


# --- axes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sign", "how"), [(1, "the same"), (-1, "opposite")])
def test_one_column_as_two_axes_is_refused(sign, how):
    accel = worn()
    accel[:, 1] = sign * accel[:, 0]
    accel /= np.median(np.linalg.norm(accel, axis=1))
    with pytest.raises(UserError, match=f"axes x and y are {how} in every sample"):
        check_units(recording(accel))


def test_an_axis_that_never_changes_is_refused_where_the_others_turn_and_noted_where_they_rest():
    accel = worn()
    accel[:, 1] = 0.0
    with pytest.raises(UserError, match="axis y is 0 g in every sample, but other axes change by"):
        check_units(recording(accel / np.median(np.linalg.norm(accel, axis=1))))
    still = np.random.default_rng(0).normal((0, 0, 1), 0.005, (4000, 3))
    still[:, 1] = 0.0
    assert check_units(recording(still)) == {
        "accel_axes": "axis y is 0 g in every sample: a wrong column, or a broken axis?"
    }


# --- beat intervals -----------------------------------------------------------------------------------------------


def beats(interval_s, unit="s"):
    interval = np.full(100, interval_s)
    return Beats(np.arange(1, 101) * 0.8333, interval, file_unit=unit)


@pytest.mark.parametrize(
    ("interval", "unit", "message"),
    [
        (833.3, "s", "median interval is 833.3 s.*number is 833.3: use interval_unit: ms"),
        (0.8333e-3, "ms", "interval_unit: s"),
        (833300.0, "s", "interval_unit: us"),
        (833.3, "ms", "interval_unit: us"),
        (72.0, "s", "they may be heart rates"),
        (5.0, "s", "no unit of time fits; check the column"),
        (0.02, "s", "no unit of time fits"),
    ],
)
def test_intervals_of_no_heart_are_refused(interval, unit, message):
    with pytest.raises(UserError, match="beats: .*" + message):
        check_units(recording(worn(), beats=beats(interval, unit)))


@pytest.mark.parametrize("bpm", [31, 60, 100, 200])
def test_intervals_of_hearts_pass(bpm):
    interval = np.full(100, 60 / bpm)
    assert check_units(recording(worn(), beats=Beats(np.cumsum(interval), interval))) == {}


def test_a_long_gap_between_beats_is_no_wrong_unit():
    interval = np.full(100, 0.8)
    interval[5::10] = 300.0
    assert check_units(recording(worn(), beats=Beats(np.cumsum(interval), interval))) == {}


def test_beats_that_do_not_fit_into_their_time_are_refused():
    interval = np.full(100, 0.8)
    with pytest.raises(UserError, match="100 intervals add up to 80 s, but cover only 40.*occur twice"):
        check_units(recording(worn(), beats=Beats(np.cumsum(interval) / 2, interval)))


def test_times_of_beats_in_another_unit_are_refused():
    interval = np.full(100, 0.8)
    with pytest.raises(
        UserError,
        match="beats: the distance between beats is 1000 times their intervals: use time_unit: ms",
    ):
        check_units(recording(worn(), beats=Beats(np.cumsum(interval) * 1000, interval)))


def test_references_outside_the_recording_are_noted():
    interval = np.full(100, 0.8)
    notes = check_units(recording(worn(), beats=Beats(7200 + np.cumsum(interval), interval)))
    assert notes == {
        "references": "none of 100 beats lies within the recording's 0 to 120 s (they lie at 7201 to 7280 s): "
        "do their clocks or units differ?"
    }
    windows = cleaned(np.arange(-900.0, -800.0, 2), 8.0, np.full(50, 70.0) + np.arange(50) / 10)
    of = dataclasses.replace(recording(worn()), heart_rate=windows)
    assert "none of 50 windows of heart rate lies within" in check_units(of)["references"]


@pytest.mark.parametrize(
    ("start_s", "duration_s", "note"),
    [
        (7200.0 + 30 * np.arange(4), 30.0, "none of 4 windows of labels lies within the recording's 0 to 120 s"),
        (30_000.0 * np.arange(4), 30.0, "only 1 of 4 windows of labels lies within the recording's 0 to 120 s"),
        (2000.0 * np.arange(300) - 2000, 2.0, "only 1 of 300"),
        (30.0 * np.arange(4), 30.0, ""),
        (120.0 * np.arange(-5, 5), 120.0, ""),  # a diary of more than the recording
        (np.array([-30.0]), 86_400.0, ""),  # one label that began before the recording
        (np.array([-30.0, 3600]), 86_400.0, ""),
        (np.zeros(0), 30.0, ""),
    ],
)
def test_labels_outside_the_recording_are_noted(start_s, duration_s, note):
    texts = np.full(len(start_s), "")
    labels = LabelWindows(start_s, duration_s, {"stress": np.arange(len(start_s), dtype=float), "stage": texts})
    notes = check_units(dataclasses.replace(recording(worn()), labels=labels))
    assert notes.keys() == ({"references"} if note else set())
    assert notes.get("references", "").startswith(note)


def test_unknown_labels_do_not_count_as_outside():
    labels = LabelWindows(np.array([0.0, 60, 7200, 7260]), 60.0, {"stage": np.array(["a", "b", "", ""])})
    assert check_units(dataclasses.replace(recording(worn()), labels=labels)) == {}


def test_heart_rates_with_times_in_another_unit_are_noted():
    windows = cleaned(np.arange(50) * 30_000.0, 30.0, 70 + np.arange(50) / 10)
    of = dataclasses.replace(recording(worn()), heart_rate=windows)
    assert "only 1 of 50 windows of heart rate lies within" in check_units(of)["references"]
    week = cleaned(np.arange(-5000, 5000, 2.0), 8.0, 70 + np.arange(5000) % 7)
    assert check_units(dataclasses.replace(recording(worn()), heart_rate=week)) == {}


@pytest.mark.parametrize(("rate", "noted"), [(RATE, False), (RATE * 1.01, False), (RATE / 2, True), (RATE * 2, True)])
def test_signals_that_cover_different_times_are_noted(rate, noted):
    ppg = Stream("ppg", np.arange(SECONDS * RATE)[:, None], ("green",), "a.u.", rate_hz=rate)
    plain = recording(worn())
    notes = check_units(dataclasses.replace(plain, streams={**plain.streams, "ppg": ppg}))
    assert ("coverage" in notes) == noted
    assert not noted or notes["coverage"].startswith(
        f"PPG covers 0 to {SECONDS * RATE / rate:.0f} s and acceleration 0 to 120 s: only what both"
    )


# --- the zero of a converter, in a description ---------------------------------------------------------------------


def described(folder, numbers, **accel):
    np.savetxt(folder / "acc.csv", numbers, fmt="%d", delimiter=",", header="x,y,z", comments="")
    time = np.arange(round(SECONDS * RATE)) / RATE
    np.savetxt(folder / "ppg.csv", 100 * np.sin(2 * np.pi * 1.2 * time), fmt="%.3f", header="green", comments="")
    stream = {"file": "acc.csv", "columns": ["x", "y", "z"], "rate_hz": RATE, "unit": "counts"} | accel
    text = {
        "participant": "p",
        "streams": {"ppg": {"file": "ppg.csv", "columns": ["green"], "rate_hz": RATE}, "accel": stream},
    }
    (folder / "recording.json").write_text(json.dumps(text))
    (source,) = find("generic", folder)
    return source.load()


def test_an_unsigned_converter_needs_its_zero(tmp_path):
    numbers = np.clip(np.round(worn() * 100 + 512), 0, 1023)
    with pytest.raises(UserError, match="no number is negative: .* give its zero"):
        check_units(described(tmp_path, numbers, counts_per_g=100))
    recording = described(tmp_path, numbers, counts_per_g=100, zero=512, range=[0, 1023])
    assert check_units(recording) == {} and resting_g(recording.streams["accel"])[0] == pytest.approx(1, abs=0.01)
    assert recording.streams["accel"].range == (-5.12, pytest.approx(5.11))


def test_a_zero_of_each_axis(tmp_path):
    zero = np.array([500, 520, 512])
    numbers = np.round(worn() * 100 + zero)
    accel = described(tmp_path, numbers, counts_per_g=100, zero=zero.tolist(), range=[0, 1023]).streams["accel"]
    np.testing.assert_allclose(accel.values, (numbers - zero) / 100, rtol=1e-5)
    assert accel.range[0] == pytest.approx((-5.0, -5.2, -5.12))
    end = described(
        tmp_path,
        np.where(np.arange(len(numbers))[:, None] < 32, [0, 520, 512], numbers),
        counts_per_g=100,
        zero=zero.tolist(),
        range=[0, 1023],
    ).streams["accel"]
    np.testing.assert_allclose(fraction_clipped(end, np.array([0.0, 60.0]), 60.0), [1 / 60, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"unit": "g", "zero": 512}, "zero is allowed only with unit: counts"),
        ({"counts_per_g": 100, "zero": [1, 2]}, "zero must be a number, or 3 numbers"),
        ({"counts_per_g": 100, "zero": "middle"}, "zero must be a number"),
        (
            {"counts_per_g": 100, "zero": [1, 2, None]},
            "zero must be a number, or 3 numbers|zero must be a number",
        ),
        ({"counts_per_g": 100, "gravity": "gone"}, "gravity must be one of included, removed"),
    ],
)
def test_wrong_zeros_are_named(tmp_path, keys, message):
    with pytest.raises(UserError, match="streams.accel." + message):
        described(tmp_path, np.ones((3840, 3)), **keys)
