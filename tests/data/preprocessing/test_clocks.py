"""Lag and drift between the clocks of PPG and acceleration, from the heartbeat in both."""

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.clocks import USUAL_LAG_S, clock_lag, still_rows
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, generate_batch

RATE_HZ = 64.0


@pytest.fixture(scope="module")
def still():
    """PPG, acceleration and starts of 40 minutes or fewer of a wrist of generator 2, whose sensors share a clock."""
    people = SyntheticSettings(participants=2, segments_per_participant=40, generator=2, clock_error=0.0, seed=5)
    batches = [generate_batch(people, number, PreprocessSettings(max_motion_g=0.02)) for number in range(2)]
    return [(batch.ppg, batch.accel, 180.0 * np.arange(len(batch.ppg))) for batch in batches]


def early(accel, by_s):
    """The acceleration of each minute, earlier by a number of seconds each."""
    at = np.arange(accel.shape[1])
    axes = np.moveaxis(accel, 2, 1)
    moved = [[np.interp(at + s * RATE_HZ, at, axis) for axis in minute] for minute, s in zip(axes, by_s, strict=True)]
    return np.moveaxis(np.array(moved, np.float32), 1, 2)


@pytest.mark.parametrize(("offset_s", "drift_ppm"), [(-2.3, 0.0), (1.2, 80.0), (0.0, -100.0)])
def test_offset_and_drift_are_found(still, offset_s, drift_ppm):
    ppg, accel, start_s = still[0]
    usual = clock_lag(ppg, accel, start_s, rate_hz=RATE_HZ, largest_s=5.0)
    assert usual.is_sure and 0 < usual.lag_s < 0.25 and abs(usual.drift_ppm) < 15 and usual.minutes == len(ppg)
    by_s = offset_s + drift_ppm * 1e-6 * (start_s - start_s.max() / 2)
    found = clock_lag(ppg, early(accel, by_s), start_s, rate_hz=RATE_HZ, largest_s=5.0)
    assert found.is_sure and found.spread_s < 0.1
    assert found.lag_s - usual.lag_s == pytest.approx(offset_s, abs=0.02)
    assert found.drift_ppm - usual.drift_ppm == pytest.approx(drift_ppm, abs=5)


@pytest.mark.slow
def test_a_sure_lag_is_never_far_off():
    """Offsets and drifts as between devices, on sensors of all kinds of generator 2."""
    people = SyntheticSettings(participants=16, segments_per_participant=40, generator=2, clock_error=0.0, seed=9)
    rng, found = np.random.default_rng(0), []
    for number in range(16):
        batch = generate_batch(people, number, PreprocessSettings(max_motion_g=0.02))
        start_s = 120.0 * np.arange(len(batch.ppg))
        offset_s, drift = rng.uniform(-3, 3), rng.uniform(-100e-6, 100e-6)
        accel = early(batch.accel, offset_s + drift * (start_s - start_s.max() / 2))
        lag = clock_lag(batch.ppg, accel, start_s, rate_hz=RATE_HZ, largest_s=5.0)
        if lag.is_sure:
            found.append(lag.lag_s - offset_s)
    assert len(found) >= 9
    assert np.abs(np.array(found) - USUAL_LAG_S).max() < 0.12 and np.ptp(found) < 0.2


def test_signals_of_two_people_give_no_sure_lag(still):
    (ppg, _, _), (_, accel, _) = still
    count = min(len(ppg), len(accel))
    start_s = 60.0 * np.arange(count)
    assert not clock_lag(ppg[:count], accel[:count], start_s, rate_hz=RATE_HZ, largest_s=5.0).is_sure


def test_a_short_recording_has_no_drift_and_a_shorter_one_no_lag(still):
    ppg, accel, start_s = (part[:12] for part in still[0])
    short = clock_lag(ppg, accel, start_s, rate_hz=RATE_HZ, largest_s=2.0)
    assert np.isfinite(short.lag_s) and np.isnan(short.drift_ppm)
    shorter = clock_lag(ppg[:7], accel[:7], start_s[:7], rate_hz=RATE_HZ, largest_s=2.0)
    assert shorter.minutes == 7 and np.isnan(shorter[1:]).all() and not shorter.is_sure


def test_segments_that_overlap_or_move_do_not_count():
    motion_g = np.where(np.arange(24) == 6, 0.05, 0.01)
    rows = still_rows(motion_g, 1e9 + 10.0 * np.arange(24), segment_s=60.0)
    assert rows.tolist() == [0, 7, 13, 19]
    assert still_rows(motion_g, 1e9 + 60.0 * np.arange(24), segment_s=60.0, most=3).tolist() == [0, 12, 23]
    assert not len(still_rows(motion_g[6:7], np.zeros(1), segment_s=60.0))
