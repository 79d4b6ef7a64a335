"""From recording to segments: filter, alignment, labels, selection and counts."""

import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
import scipy.signal

from accdistill_jax.data.preprocessing.cut import cut
from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.segments import REASONS, Faults, Origin, References, bandpass, finish_segments
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Beats, HeartRateWindows, Participant, Recording, Stream
from accdistill_jax.errors import UserError

KEEP_ALL = PreprocessSettings(max_motion_g=math.inf, min_ppg_quality=0, max_clipped_fraction=1, max_gap_s=math.inf)
WHO = Participant("p1")


def pulse(time, bpm=72.0):
    phase = (time * bpm / 60) % 1
    return np.exp(-0.5 * ((phase - 0.15) / 0.06) ** 2) + 0.5 * np.exp(-0.5 * ((phase - 0.38) / 0.14) ** 2)


def recording(seconds=200.0, ppg_rate=64.0, accel_rate=32.0, ppg_start=0.0, accel_start=0.0, **changes):
    """A clean pulse; the x axis of the acceleration contains the same wave (0.02 g), which shows the alignment."""
    ppg_time = ppg_start + np.arange(round(seconds * ppg_rate)) / ppg_rate
    accel_time = accel_start + np.arange(round(seconds * accel_rate)) / accel_rate
    accel = np.stack([0.02 * pulse(accel_time), 0 * accel_time, 1 + 0 * accel_time], 1)
    streams = {
        "ppg": Stream(
            "ppg",
            100 * pulse(ppg_time)[:, None],
            ("a",),
            "a.u.",
            start_s=ppg_start,
            rate_hz=ppg_rate,
            polarity="systole_up",
        ),
        "accel": Stream("accel", accel, ("x", "y", "z"), "g", start_s=accel_start, rate_hz=accel_rate),
    }
    beats = Beats(np.arange(1, 240) * 60 / 72, np.full(239, 60 / 72))
    return dataclasses.replace(Recording("r1", WHO, "watch", "test", 1e9, streams, beats), **changes)


def replace_stream(of, name, **changes):
    return dataclasses.replace(of, streams={**of.streams, name: dataclasses.replace(of.streams[name], **changes)})


def lag_s(batch, row=0):
    """Delay of the wave in the acceleration after the PPG, from the phase of their cross-spectrum at the pulse rate."""
    wave = bandpass(batch.accel[row, :, :1], axis=0, settings=KEEP_ALL)[:, 0]
    a, b = (np.fft.rfft(x * np.hanning(len(x))) for x in (batch.ppg[row, :, 0], wave))
    k = 72  # 1.2 Hz over 60 s
    return -np.angle(b[k] / a[k]) / (2 * np.pi * 1.2)


# --- filter -------------------------------------------------------------------------------------------------------


def test_bandpass_is_scipys_zero_phase_butterworth_on_any_axis():
    x = np.random.default_rng(0).normal(size=(3, 3840, 2)).astype(np.float32)
    sos = scipy.signal.butter(4, (0.5, 8.0), btype="bandpass", fs=64.0, output="sos")
    expected = scipy.signal.sosfiltfilt(sos, x.astype(np.float64), axis=1, padlen=384)
    result = bandpass(x, axis=1, settings=PreprocessSettings())
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-5)
    np.testing.assert_allclose(
        bandpass(x.transpose(0, 2, 1), axis=-1, settings=PreprocessSettings()), expected.transpose(0, 2, 1), atol=1e-5
    )


@pytest.mark.parametrize(
    ("hz", "gain"), [(0.1, 0.0), (0.5, 0.5), (1.0, 1.0), (3.0, 1.0), (5.0, 1.0), (8.0, 0.5), (20.0, 0.0)]
)
def test_bandpass_keeps_what_is_inside_in_phase(hz, gain):
    # Twice the half power of a Butterworth filter at its edges is half the amplitude.
    wave = np.sin(2 * np.pi * hz * np.arange(3840) / 64)[:, None]
    result = bandpass(wave, axis=0, settings=PreprocessSettings())
    np.testing.assert_allclose(result[640:-640], gain * wave[640:-640], atol=0.02)


# --- alignment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ppg_rate", [64.0, 125.0, 55.0])
@pytest.mark.parametrize("accel_start", [-3.0, 0.0, 0.0123, 7.37])
def test_streams_are_aligned_by_their_starts(ppg_rate, accel_start):
    batch = preprocess(recording(ppg_rate=ppg_rate, accel_start=accel_start), KEEP_ALL)
    assert batch.examined == 3
    assert abs(lag_s(batch)) < 0.0005
    assert batch.columns["start_unix_s"][0] == pytest.approx(1e9 + max(accel_start, 0), abs=1 / 64)


def test_a_clock_offset_moves_one_stream_against_the_other():
    moved = recording()
    moved = replace_stream(moved, "accel", start_s=0.25)  # the same samples, declared 0.25 s later
    assert lag_s(preprocess(moved, KEEP_ALL)) == pytest.approx(0.25, abs=0.0005)


def test_irregular_stamps_are_aligned_too():
    rng = np.random.default_rng(0)
    time = 1.234 + np.sort(rng.uniform(-0.2, 0.2, 10000) / 52 + np.arange(10000) / 52)
    accel = np.stack([0.02 * pulse(time), 0 * time, 1 + 0 * time], 1)
    stream = Stream("accel", accel, ("x", "y", "z"), "g", time_s=time)
    of = recording()
    batch = preprocess(dataclasses.replace(of, streams={**of.streams, "accel": stream}), KEEP_ALL)
    assert abs(lag_s(batch)) < 0.001


def test_streams_that_never_overlap_are_an_error():
    with pytest.raises(
        UserError, match=r"recording 'r1': PPG \(0.0 to 200.0 s\) and acceleration \(500.0 to 700.0 s\)"
    ):
        preprocess(recording(accel_start=500.0), KEEP_ALL)


def test_a_missing_stream_is_an_error():
    with pytest.raises(UserError, match="recording 'r1': has no stream 'accel'; its streams are ppg"):
        preprocess(dataclasses.replace(recording(), streams={"ppg": recording().streams["ppg"]}), KEEP_ALL)


# --- acceleration alone -------------------------------------------------------------------------------------------


def alone(of):
    return dataclasses.replace(of, streams={"accel": of.streams["accel"]})


def test_without_ppg_the_acceleration_is_cut_and_labelled():
    batch, paired = preprocess(alone(recording()), PreprocessSettings()), preprocess(recording(), PreprocessSettings())
    assert batch.ppg.shape == (3, 3840, 0) and batch.ppg_channels == () and batch.examined == 3
    np.testing.assert_array_equal(batch.accel, paired.accel)  # both streams begin at the same moment
    same = set(paired.columns) - {"ppg_quality", "ppg_clipped"}
    assert set(batch.columns) == same | {"accel_quality"}
    for name in same:
        np.testing.assert_array_equal(batch.columns[name], paired.columns[name])
    assert "ppg_polarity" not in batch.notes and "ppg_votes" not in batch.notes


def test_the_settings_can_leave_out_the_ppg():
    late = recording(ppg_start=0.3)
    batch = preprocess(late, dataclasses.replace(KEEP_ALL, ppg_channels=("none",)))
    expected = preprocess(alone(late), KEEP_ALL)
    np.testing.assert_array_equal(batch.accel, expected.accel)
    assert batch.ppg.shape[2] == 0 and batch.columns["start_unix_s"][0] == 1e9  # its grid begins without the PPG


def test_faults_of_acceleration_alone_are_rejected():
    of = alone(recording(seconds=400))
    values = of.streams["accel"].values.copy()
    values[32 * 10 : 32 * 15] = np.nan
    values[32 * 60 : 32 * 120] = (0, 0, 1)
    rng = np.random.default_rng(0)
    values[32 * 180 : 32 * 240] += rng.normal(0, 0.5, (32 * 60, 3)).astype(np.float32)
    batch = preprocess(replace_stream(of, "accel", values=values), PreprocessSettings())
    assert batch.rejected == {"too_short": 0, "gap": 1, "flat": 1, "clipped": 0, "motion": 1, "quality": 0}
    assert len(batch.accel) == 3 and batch.examined == 6


def test_ppg_alone_is_the_same_wave():
    segments = cut(recording(), PreprocessSettings(), signals=("ppg",)).segments
    assert set(segments) == {"ppg"}
    np.testing.assert_array_equal(segments["ppg"], preprocess(recording(), PreprocessSettings()).ppg)


# --- segments and labels ------------------------------------------------------------------------------------------


def test_units_shapes_and_labels_of_a_clean_recording():
    batch = preprocess(recording(), PreprocessSettings())
    assert batch.ppg.shape == (3, 3840, 1) and batch.accel.shape == (3, 3840, 3)
    assert batch.ppg.dtype == batch.accel.dtype == np.float32
    np.testing.assert_allclose(batch.accel[..., 2], 1.0, atol=1e-4)
    assert np.abs(batch.ppg.mean()) < 0.5 < np.ptp(batch.ppg) / 100
    columns = batch.columns
    assert columns["hr_source"].tolist() == ["beats"] * 3 and columns["participant"].tolist() == ["p1"] * 3
    np.testing.assert_allclose(columns["hr_bpm"], 72.0, rtol=1e-5)
    np.testing.assert_allclose(columns["sdnn_ms"], 0.0, atol=1e-3)
    assert np.isnan(columns["resp_bpm"]).all()
    np.testing.assert_allclose(np.diff(columns["start_unix_s"]), 60.0)
    assert all(len(values) == 3 for values in columns.values())


def test_hop_makes_overlapping_segments_of_the_same_samples():
    batch = preprocess(recording(), dataclasses.replace(KEEP_ALL, hop_s=20.0))
    assert batch.examined == 8  # starts 0, 20 .. 140
    np.testing.assert_array_equal(batch.ppg[1, :2560], batch.ppg[0, 1280:])


def test_reference_windows_are_used_where_beats_are_missing():
    of = recording()
    windows = HeartRateWindows(np.arange(0, 200, 2.0), 8.0, np.full(100, 99.0))
    late = Beats(of.beats.time_s[of.beats.time_s > 60], of.beats.interval_s[of.beats.time_s > 60])
    batch = preprocess(dataclasses.replace(of, beats=late, heart_rate=windows), PreprocessSettings())
    assert batch.columns["hr_source"].tolist() == ["windows", "beats", "beats"]
    np.testing.assert_allclose(batch.columns["hr_bpm"], [99, 72, 72], rtol=1e-5)
    assert np.isnan(batch.columns["sdnn_ms"]).tolist() == [True, False, False]


def test_unknown_labels_are_nan_and_keep_the_segment():
    batch = preprocess(dataclasses.replace(recording(), beats=None), PreprocessSettings())
    assert len(batch.ppg) == 3 and np.isnan(batch.columns["hr_bpm"]).all() and set(batch.columns["hr_source"]) == {""}


@pytest.mark.parametrize("declared", ["systole_down", "unknown"])
def test_polarity_is_put_right_and_noted(declared):
    expected = preprocess(recording(), PreprocessSettings())
    upside_down = replace_stream(recording(), "ppg", values=-recording().streams["ppg"].values, polarity=declared)
    batch = preprocess(upside_down, PreprocessSettings())
    np.testing.assert_allclose(batch.ppg, expected.ppg, atol=1e-3)
    assert batch.notes["ppg_polarity"].startswith("systole_down")
    right = preprocess(replace_stream(recording(), "ppg", polarity="unknown"), PreprocessSettings())
    assert right.notes["ppg_polarity"].startswith("systole_up, by the data")


# --- selection ----------------------------------------------------------------------------------------------------


def faulty(seconds=420.0):
    """Seven minutes: each of the first six has a fault, and the fourth has two, of which the earlier reason must count."""
    of = recording(seconds=seconds)
    ppg, accel = (of.streams[name].values.copy() for name in ("ppg", "accel"))
    rng = np.random.default_rng(0)
    ppg[64 * 10 : 64 * 13] = np.nan
    accel[32 * 60 : 32 * 120] = accel[32 * 60]
    accel[32 * 130 : 32 * 140, 0] = 2.0
    accel[32 * 180 : 32 * 240] += 0.2 * rng.standard_normal((32 * 60, 3))
    ppg[64 * 180 : 64 * 300] = 100 * rng.standard_normal((64 * 120, 1))
    accel[32 * 310 : 32 * 313] = np.nan
    return replace_stream(replace_stream(of, "ppg", values=ppg), "accel", values=accel, range=(-2.0, 2.0))


def test_every_rejection_is_counted_under_its_first_reason():
    batch = preprocess(faulty(), PreprocessSettings())
    assert batch.rejected == {"too_short": 0, "gap": 2, "flat": 1, "clipped": 1, "motion": 1, "quality": 1}
    assert batch.examined == 7 == len(batch.ppg) + sum(batch.rejected.values())
    assert batch.columns["start_unix_s"][0] == 1e9 + 360


def test_relaxed_thresholds_keep_all_but_the_flat():
    batch = preprocess(faulty(), KEEP_ALL)
    assert batch.rejected == dict.fromkeys(REASONS, 0) | {"flat": 1}
    np.testing.assert_allclose(batch.columns["gap_s"], [3, 0, 0, 0, 3, 0], atol=0.04)
    np.testing.assert_allclose(batch.columns["accel_clipped"][1], 10 / 60, atol=0.002)


@pytest.mark.parametrize("seed", range(5))
def test_counts_add_up_whatever_the_thresholds(seed):
    rng = np.random.default_rng(seed)
    settings = PreprocessSettings(
        hop_s=float(rng.integers(10, 61)),
        max_motion_g=rng.uniform(0, 0.7),
        max_gap_s=rng.uniform(0, 4),
        min_ppg_quality=rng.uniform(0, 1),
        max_clipped_fraction=rng.uniform(0, 0.3),
    )
    batch = preprocess(faulty(), settings)
    assert batch.examined == (420 - 60) // settings.hop_s + 1
    assert (
        batch.examined
        == len(batch.ppg) + sum(batch.rejected.values())
        == len(batch.columns["hr_bpm"]) + sum(batch.rejected.values())
    )


def test_a_recording_shorter_than_a_segment_is_one_rejection():
    batch = preprocess(recording(seconds=59.0), PreprocessSettings())
    assert (batch.examined, batch.rejected["too_short"], batch.ppg.shape) == (1, 1, (0, 3840, 1))
    assert preprocess(recording(seconds=60.0), KEEP_ALL).examined == 1


def test_a_flat_ppg_is_rejected():
    flat = replace_stream(recording(), "ppg", values=np.full((12800, 1), 1234.5))
    assert preprocess(flat, KEEP_ALL).rejected["flat"] == 3


def test_finish_segments_refuses_wrong_shapes():
    origin = Origin(WHO, "watch", "r1", np.zeros(2))
    with pytest.raises(ValueError, match="are not"):
        finish_segments(np.zeros((2, 100, 1)), np.zeros((2, 100, 3)), settings=KEEP_ALL, origin=origin)
    ppg, accel, three_values = np.zeros((2, 3840, 1)), np.zeros((2, 3840, 3)), np.zeros(3)
    for wrong in (
        {"faults": Faults(gap_s=three_values)},
        {"references": References(labels={"resp_bpm": three_values})},
    ):
        with pytest.raises(ValueError, match="one value per segment"):
            finish_segments(ppg, accel, settings=KEEP_ALL, origin=origin, **wrong)


# --- settings -----------------------------------------------------------------------------------------------------


def test_settings_survive_pickle_and_are_strict_json():
    for settings in (PreprocessSettings(), KEEP_ALL, PreprocessSettings(segment_s=30, hop_s=15, ppg_band_hz=(0.4, 12))):
        assert set(json.loads(json.dumps(settings.to_json(), allow_nan=False))) >= {"rate_hz", "segment_s"}
        assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate_hz": 0}, "rate_hz must be positive"),
        ({"rate_hz": float("inf")}, "rate_hz must be at most 100000, got inf"),
        ({"segment_s": -float("inf")}, "segment_s must be at most 100000"),
        ({"hop_s": 1e300}, "hop_s must be at most 100000"),
        ({"rate_hz": "64"}, "rate_hz must be a number"),
        ({"segment_s": 0.3}, "segment_s times rate_hz must be a whole number"),
        ({"hop_s": 0}, "hop_s must be positive"),
        ({"ppg_band_hz": [8, 0.5]}, "ppg_band_hz must be"),
        ({"ppg_band_hz": [0.5, 40]}, "ppg_band_hz must be"),
        ({"ppg_filter_order": 2.5}, "ppg_filter_order must be a whole number"),
        ({"max_motion_g": -1}, "max_motion_g must not be negative"),
        ({"min_ppg_quality": 2}, "min_ppg_quality must be within 0 to 1"),
        ({"max_clipped_fraction": float("nan")}, "max_clipped_fraction must be a number"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(UserError, match=message):
        PreprocessSettings(**values)


# --- channels -----------------------------------------------------------------------------------------------------


def three_channels():
    """Channels with a clean pulse, clipped noise, and an inverted pulse."""
    one = recording()
    wave = one.streams["ppg"].values[:, 0]
    noise = np.clip(np.random.default_rng(0).normal(0, 150, len(wave)), -150, 150)
    return replace_stream(
        one, "ppg", values=np.stack([wave, noise, -wave], 1), channels=("green", "red", "1"), range=(-150.0, 150.0)
    )


@pytest.mark.parametrize(
    ("asked", "names", "columns"),
    [
        ((), ("green", "red", "1"), [0, 1, 2]),
        (("red",), ("red",), [1]),
        ((2, 0), ("1", "green"), [2, 0]),
        (("1", "green"), ("1", "green"), [2, 0]),
    ],  # the name "1" has priority over the number 1
)
def test_chosen_channels(asked, names, columns):
    everything = preprocess(three_channels(), KEEP_ALL)
    batch = preprocess(three_channels(), dataclasses.replace(KEEP_ALL, ppg_channels=asked))
    assert batch.ppg_channels == names
    np.testing.assert_array_equal(batch.ppg, everything.ppg[..., columns])


def test_quality_and_clipping_are_of_the_chosen_channels():
    green, red = (
        preprocess(three_channels(), dataclasses.replace(KEEP_ALL, ppg_channels=(name,))) for name in ("green", "red")
    )
    assert red.columns["ppg_clipped"].min() > 0.2 and green.columns["ppg_clipped"].max() == 0
    assert green.columns["ppg_quality"].min() > 0.8 > 0.3 > red.columns["ppg_quality"].max()


@pytest.mark.parametrize("asked", ["blue", "3", "-1"])
def test_unknown_channel_names_recording_and_channels(asked):
    with pytest.raises(
        UserError, match=f"recording 'r1': has no PPG channel '{asked}'; its channels are green, red, 1"
    ):
        preprocess(three_channels(), dataclasses.replace(KEEP_ALL, ppg_channels=(asked,)))


@pytest.mark.parametrize("wrong", ["green", ("a", "a"), ("",), 1])
def test_wrong_channel_settings(wrong):
    with pytest.raises(UserError, match="ppg_channels must"):
        PreprocessSettings(ppg_channels=wrong)


def test_channel_settings_survive_json():
    settings = PreprocessSettings(ppg_channels=(1, "red"))
    assert json.loads(json.dumps(settings.to_json()))["ppg_channels"] == ["1", "red"]


def test_a_stream_that_lasts_for_months_is_refused():
    """One wrong time stamp must not use all the memory."""
    time_s = np.append(np.arange(99.0), 5e6)
    streams = {
        "ppg": Stream("ppg", np.ones((100, 1)), ("a",), "a.u.", time_s=time_s),
        "accel": Stream("accel", np.ones((100, 3)), tuple("xyz"), "g", rate_hz=1.0),
    }
    recording = Recording("r", Participant("p"), "d", "s", 0.0, streams)
    with pytest.raises(
        UserError, match="recording 'r': stream 'ppg' lasts 58 days, but at most 31 are allowed: correct"
    ):
        preprocess(recording, PreprocessSettings())
