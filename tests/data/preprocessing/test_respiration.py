"""Respiration rate by classical means: right on made-up breathing, and a quality that tells noise."""

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.respiration import estimate_respiration

RATE_HZ = 64


def minute(bpm, *, tilt_mg=3.0, modulation=0.15, noise_mg=1.0, seed=0):
    """PPG [1, T, 1] and acceleration [1, T, 3] of a minute with 65 beats."""
    rng, time_s = np.random.default_rng(seed), np.arange(60 * RATE_HZ) / RATE_HZ
    breath = np.sin(2 * np.pi * bpm / 60 * time_s + rng.uniform(0, 6))
    phase = 65 / 60 * time_s + 0.02 * np.cumsum(breath) / RATE_HZ
    wave = np.exp(-0.5 * ((phase % 1 - 0.3) / 0.1) ** 2) * (1 + modulation * breath)
    ppg = 50 * (wave - wave.mean()) + rng.normal(0, 0.5, len(time_s))
    accel = np.array([0, 0.6, 0.8]) + 1e-3 * (
        tilt_mg * breath[:, None] * [1, 0.5, 0] + noise_mg * rng.normal(size=(len(time_s), 3))
    )
    return ppg[None, :, None], accel[None]


@pytest.mark.parametrize("bpm", [8, 13, 19, 28])
def test_both_signals_give_the_rate_with_a_high_quality(bpm):
    result = estimate_respiration(*minute(bpm), rate_hz=RATE_HZ)
    for name in ("bpm", "accel_bpm", "ppg_bpm"):
        assert getattr(result, name)[0] == pytest.approx(bpm, abs=0.5)
    assert min(result.quality[0], result.accel_quality[0], result.ppg_quality[0]) > 0.5


def test_the_joint_estimate_follows_the_signal_that_breathes():
    still_wrist = estimate_respiration(*minute(14, tilt_mg=0), rate_hz=RATE_HZ)
    assert still_wrist.bpm[0] == pytest.approx(14, abs=0.5)
    assert still_wrist.accel_quality[0] < 0.3 < still_wrist.quality[0] < still_wrist.ppg_quality[0]


def test_noise_has_a_low_quality_and_missing_signals_have_none():
    rng = np.random.default_rng(0)
    ppg, accel = rng.normal(size=(20, 3840, 2)), rng.normal(size=(20, 3840, 3))
    assert np.median(estimate_respiration(ppg, accel, rate_hz=RATE_HZ).quality) < 0.2
    alone = estimate_respiration(None, minute(12)[1], rate_hz=RATE_HZ)
    assert alone.bpm[0] == alone.accel_bpm[0] == pytest.approx(12, abs=0.5)
    assert np.isnan(alone.ppg_bpm[0]) and alone.ppg_quality[0] == 0
    flat = estimate_respiration(np.zeros((1, 3840, 1)), minute(12)[1], rate_hz=RATE_HZ)
    assert flat.bpm[0] == alone.bpm[0] and np.isnan(flat.ppg_bpm[0])
    assert estimate_respiration(ppg[:0], accel[:0], rate_hz=RATE_HZ).bpm.shape == (0,)
