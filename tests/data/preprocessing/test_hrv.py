"""Heart rate variability: series computed by hand, realistic series against numpy, and the limits of the rules."""

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.hrv import beats_of_segments, hrv, normal_intervals, window_heart_rate
from accdistill_jax.data.recording import Beats, HeartRateWindows


def beats_from(intervals, start=0.0):
    intervals = np.asarray(intervals, float)
    return Beats(start + np.cumsum(intervals), intervals)


def test_hand_worked_series():
    # 0.8, 0.9, 0.8, 0.9 ... 12 intervals over 10.2 s: mean 0.85 s; deviations all 0.05 s; differences all 0.1 s.
    result = hrv([beats_from([0.8, 0.9] * 6)], segment_s=10.2, min_coverage=1.0)
    np.testing.assert_allclose(result.hr_bpm, 60 / 0.85, rtol=1e-6)
    np.testing.assert_allclose(result.sdnn_ms, 50 * np.sqrt(12 / 11), rtol=1e-5)
    np.testing.assert_allclose(result.rmssd_ms, 100.0, rtol=1e-5)
    np.testing.assert_allclose(result.coverage, 1.0, rtol=1e-6)


def test_many_segments_match_numpy_one_by_one():
    rng = np.random.default_rng(0)
    series = [rng.normal(mean, 0.03, rng.integers(65, 75)) for mean in (0.7, 0.8, 0.75)]
    result = hrv([beats_from(s) for s in series[:2]] + [None, beats_from(series[2])], segment_s=80.0, min_coverage=0.5)
    assert np.isnan([x[2] for x in result[:3]]).all() and result.coverage[2] == 0
    for row, intervals in zip((0, 1, 3), series, strict=True):
        np.testing.assert_allclose(result.hr_bpm[row], 60 / intervals.mean(), rtol=1e-5)
        np.testing.assert_allclose(result.sdnn_ms[row], 1000 * intervals.std(ddof=1), rtol=1e-4)
        np.testing.assert_allclose(result.rmssd_ms[row], 1000 * np.sqrt((np.diff(intervals) ** 2).mean()), rtol=1e-4)


def test_ectopic_pair_is_removed_and_not_bridged():
    # A premature beat (0.5 s) with its compensatory pause (1.1 s) in a steady 0.8 s rhythm changes only the coverage.
    intervals = [0.8] * 20 + [0.5, 1.1] + [0.8] * 20
    result = hrv([beats_from(intervals)], segment_s=40.0, min_coverage=0.5)
    np.testing.assert_allclose([result.hr_bpm[0], result.sdnn_ms[0], result.rmssd_ms[0]], [75.0, 0.0, 0.0], atol=1e-3)
    np.testing.assert_allclose(result.coverage[0], 32.0 / 40.0, rtol=1e-6)


def test_differences_do_not_bridge_a_removed_beat():
    # 0.80 before and 0.86 after the ectopic pair: no difference may be computed across it.
    intervals = [0.80] * 15 + [0.5, 1.2] + [0.86] * 15
    assert hrv([beats_from(intervals)], segment_s=30.0, min_coverage=0.5).rmssd_ms[0] == pytest.approx(0.0, abs=1e-3)
    # The same intervals with a stretch of lost beats in between.
    lost = Beats(np.concatenate([0.80 * np.arange(1, 16), 20 + 0.86 * np.arange(1, 16)]), [0.80] * 15 + [0.86] * 15)
    assert hrv([lost], segment_s=40.0, min_coverage=0.5).rmssd_ms[0] == pytest.approx(0.0, abs=1e-3)
    # Without the loss, the one step of 60 ms counts.
    step = hrv([beats_from([0.80] * 15 + [0.86] * 15)], segment_s=30.0, min_coverage=0.5).rmssd_ms[0]
    assert step == pytest.approx(60 / np.sqrt(29), rel=1e-4)


def test_missed_and_extra_beats_and_implausible_intervals_are_not_normal():
    intervals = np.array([[0.8, 0.8, 1.6, 0.8, 0.4, 0.4, 0.8, 0.8, 0.1, 3.0, 0.8, np.nan]])
    expected = [True, True, False, True, False, False, True, True, False, False, True, False]
    assert normal_intervals(intervals)[0].tolist() == expected


def test_coverage_decides():
    beats = beats_from([1.0] * 30)
    assert hrv([beats], segment_s=60.0, min_coverage=0.5).hr_bpm[0] == 60
    assert np.isnan(hrv([beats], segment_s=60.0, min_coverage=0.51).hr_bpm[0])


def test_rmssd_needs_pairs():
    result = hrv([beats_from([1.0, 1.01] * 5)], segment_s=10.05, min_coverage=0.9, min_pairs=10)
    assert np.isnan(result.rmssd_ms[0]) and np.isfinite(result.sdnn_ms[0])


def test_intervals_that_reach_over_an_edge_do_not_count():
    beats = beats_from(
        [1.0] * 30, start=-0.5
    )  # the first interval begins before the segment, the last two end after it
    assert hrv([beats], segment_s=28.4, min_coverage=0.0).coverage[0] == pytest.approx(27 / 28.4)


def test_no_beats_at_all():
    result = hrv([None, None], segment_s=60.0, min_coverage=0.5)
    assert np.isnan(result.hr_bpm).all() and (result.coverage == 0).all()


def test_beats_of_segments_are_relative():
    beats = beats_from([1.0] * 100, start=1000.0)
    first, second = beats_of_segments(beats, np.array([1000.0, 1060.5]), 60.0)
    assert first.time_s[0] == 1.0 and first.time_s[-1] == 60.0
    assert second.time_s[0] == 0.5 and len(second.time_s) == 40
    assert beats_of_segments(None, np.zeros(2), 60.0) == [None, None]


def test_window_heart_rate_averages_windows_at_least_half_inside():
    windows = HeartRateWindows(np.arange(0, 120, 2.0), 8.0, np.arange(60) + 50.0)
    result = window_heart_rate(windows, np.array([0.0, 60.0, 400.0]), 60.0, min_coverage=0.5)
    # Segment at 0: starts 0 .. 56 (the last lies half inside); at 60: starts 56 .. 116.
    np.testing.assert_allclose(result, [50 + np.arange(0, 29).mean(), 50 + np.arange(28, 59).mean(), np.nan])


def test_window_heart_rate_needs_coverage():
    windows = HeartRateWindows([0.0, 10.0, 20.0], 8.0, [60.0, np.nan, 80.0])
    np.testing.assert_allclose(window_heart_rate(windows, np.zeros(1), 30.0, min_coverage=0.5), [70.0])
    assert np.isnan(window_heart_rate(windows, np.zeros(1), 30.0, min_coverage=0.55)[0])
    assert np.isnan(window_heart_rate(None, np.zeros(1), 30.0, min_coverage=0.0)[0])
