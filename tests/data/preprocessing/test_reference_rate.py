"""Reference heart rates: impossible rates become unknown, possible rates stay."""

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.reference_rate import cleaned
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Participant, Recording, Stream
from accdistill_jax.errors import UserError


def rates(count=300, step_s=2.0, seed=0):
    """A heart at rest, in windows of 8 s."""
    rng = np.random.default_rng(seed)
    return np.arange(count) * step_s, 70 + np.cumsum(rng.normal(0, 0.5, count))


@pytest.mark.parametrize("seed", range(3))
def test_what_devices_write_for_unknown_is_unknown(seed):
    start, hr = rates(seed=seed)
    spoilt = hr.copy()
    spoilt[[3, 50, 51, 299]], spoilt[100], spoilt[120] = [255, 0, 400, -1], np.nan, np.inf
    result = cleaned(start, 8.0, spoilt)
    unknown = [3, 50, 51, 100, 120, 299]
    assert np.flatnonzero(np.isnan(result.hr_bpm)).tolist() == unknown
    known = np.setdiff1d(np.arange(300), unknown)
    np.testing.assert_array_equal(result.hr_bpm[known], hr[known])
    assert result.note == "5 of 299 windows are unknown: 5 outside 30 to 240 bpm"


@pytest.mark.parametrize("factor", [0.5, 1.5, 2.0])
@pytest.mark.parametrize("length", [1, 2, 10, 25])
def test_a_burst_at_another_rate_is_unknown_and_nothing_else(factor, length):
    start, hr = rates()
    burst = np.arange(150, 150 + length)
    hr[burst] *= factor
    if factor == 1.5 and length > 10:  # a heart rate can rise by half within 15 s
        return
    result = cleaned(start, 8.0, hr)
    assert np.flatnonzero(np.isnan(result.hr_bpm)).tolist() == burst.tolist()
    assert "jumps that no heart makes" in result.note


def test_a_burst_at_either_end_is_unknown():
    for burst in (np.arange(5), np.arange(295, 300)):
        start, hr = rates()
        hr[burst] *= 2
        assert np.flatnonzero(np.isnan(cleaned(start, 8.0, hr).hr_bpm)).tolist() == burst.tolist()


def test_windows_in_any_order_are_cleaned_alike():
    start, hr = rates()
    hr[150:155] *= 2
    mixed = np.random.default_rng(0).permutation(300)
    np.testing.assert_array_equal(cleaned(start[mixed], 8.0, hr[mixed]).hr_bpm, cleaned(start, 8.0, hr).hr_bpm[mixed])


def test_exercise_stays():
    time = np.arange(0, 600, 2.0)
    running = np.clip(70 + np.clip(time - 100, 0, None) * 1.5, 70, 185)  # rises by 1.5 bpm/s
    recovering = np.where(time > 400, 70 + 115 * np.exp(-(time - 400) / 40), running)
    result = cleaned(time, 8.0, recovering)
    assert np.isfinite(result.hr_bpm).all() and result.note == ""


def test_slow_windows_may_differ_more():
    result = cleaned(np.arange(10) * 120.0, 60.0, np.array([60, 150, 60, 150, 160, 80, 60, 61, 62, 130.0]))
    assert np.isfinite(result.hr_bpm).all()


def test_a_number_that_is_held_is_unknown():
    start, hr = rates(count=400)
    hr[100:260] = hr[100]
    result = cleaned(start, 8.0, hr)
    assert np.flatnonzero(np.isnan(result.hr_bpm)).tolist() == list(range(100, 260))
    assert result.note == "160 of 400 windows are unknown: 160 held for minutes"
    hr[100:260] = rates(count=400, seed=1)[1][100:260]
    hr[100:200] = hr[100]  # 200 s are possible
    assert np.isfinite(cleaned(start, 8.0, np.round(hr)).hr_bpm).all()


@pytest.mark.parametrize(
    ("hr", "guess"),
    [(1.2, "beats per second"), (833.0, "beat intervals in ms"), (5.0, "give beats"), (7200.0, "give beats")],
)
def test_another_unit_is_refused(hr, guess):
    with pytest.raises(UserError, match=f"heart rate: 10 of 10 windows lie outside 30 to 240 .*{guess}"):
        cleaned(np.arange(10) * 2.0, 8.0, np.full(10, hr))


def test_nothing_known_stays_unknown():
    result = cleaned(np.arange(5) * 2.0, 8.0, np.full(5, np.nan))
    assert np.isnan(result.hr_bpm).all() and result.note == ""
    assert len(cleaned(np.zeros(0), 8.0, np.zeros(0)).hr_bpm) == 0


def test_a_day_of_seconds_takes_no_time():
    start = np.arange(20_000.0)
    hr = 80 + 20 * np.sin(start / 300)
    hr[500::1000] *= 2
    assert np.flatnonzero(np.isnan(cleaned(start, 8.0, hr).hr_bpm)).tolist() == list(range(500, 20_000, 1000))


def test_labels_are_made_of_cleaned_windows_and_the_note_is_kept():
    time = np.arange(64 * 130) / 64
    accel = np.random.default_rng(0).normal((0, 0, 1), 0.005, (len(time), 3))
    streams = {
        "ppg": Stream(
            "ppg", np.sin(2 * np.pi * 1.2 * time)[:, None], ("a",), "a.u.", rate_hz=64.0, polarity="systole_up"
        ),
        "accel": Stream("accel", accel, ("x", "y", "z"), "g", rate_hz=64.0),
    }
    hr = np.full(62, 72.0) + np.arange(62) * 0.01
    hr[::6] = 255.0
    windows = cleaned(np.arange(62) * 2.0, 8.0, hr)
    batch = preprocess(
        Recording("r", Participant("p"), "d", "s", 0.0, streams, heart_rate=windows),
        PreprocessSettings(min_ppg_quality=0),
    )
    np.testing.assert_allclose(batch.columns["hr_bpm"], 72.3, atol=0.4)
    assert batch.notes["heart_rate"] == "11 of 62 windows are unknown: 11 outside 30 to 240 bpm"
