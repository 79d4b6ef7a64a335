"""Motion level and PPG quality: exact values for known signals, and the order of noisier signals."""

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.quality import accel_quality, motion_g, ppg_quality

T = np.arange(3840) / 64


def pulse(bpm, rng=None, noise=0.0):
    """An upright pulse wave [T, 1]: steep rise, slow decay."""
    phase = (T * bpm / 60) % 1
    wave = np.exp(-0.5 * ((phase - 0.15) / 0.06) ** 2) + 0.5 * np.exp(-0.5 * ((phase - 0.38) / 0.14) ** 2)
    wave -= wave.mean()
    if noise:
        wave = wave + noise * wave.std() * rng.standard_normal(len(T))
    return wave[:, None].astype(np.float32)


def quality(*waves):
    return ppg_quality(np.stack(waves), rate_hz=64.0, band_high_hz=8.0)


def test_motion_of_a_sine_is_its_effective_value_whatever_the_posture():
    accel = np.zeros((2, 3840, 3), np.float32)
    accel[..., 2] = 0.6
    accel[..., 0] = 0.8
    accel[1, :, 0] += 0.1 * np.sin(2 * np.pi * 2 * T)
    accel[1, :, 1] += 0.2 * np.sin(2 * np.pi * 2 * T)
    np.testing.assert_allclose(motion_g(accel, rate_hz=64.0), [0.0, np.sqrt((0.1**2 + 0.2**2) / 2)], atol=1e-6)


def test_motion_forgives_a_slow_turn_but_not_shaking():
    angle = np.linspace(0, np.pi / 2, 3840)
    turn = np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
    shake = np.stack([1 + 0.1 * np.sin(2 * np.pi * 3 * T), 0 * T, 0 * T], -1)
    still, shaken = motion_g(np.stack([turn, shake]).astype(np.float32), rate_hz=64.0)
    assert still < 0.02 < 0.07 < shaken


def test_motion_of_a_segment_shorter_than_a_window():
    accel = np.random.default_rng(0).standard_normal((1, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(motion_g(accel, rate_hz=64.0), np.sqrt(accel.var(1).sum(-1)), rtol=1e-5)


@pytest.mark.parametrize("bpm", [42, 60, 75, 110, 150, 190])
def test_clean_pulse_scores_high_at_any_rate(bpm):
    assert quality(pulse(bpm))[0] > 0.85


def test_noise_scores_low_and_quality_falls_with_it():
    rng = np.random.default_rng(0)
    scores = quality(*[pulse(72, rng, noise) for noise in (0.1, 0.5, 1.0, 2.0, 100.0)])
    assert (np.diff(scores) < 0).all() and scores[0] > 0.85 and scores[-1] < 0.2


def test_part_of_the_segment_counts_as_part():
    rng = np.random.default_rng(1)
    half = pulse(72)
    half[1920:, 0] = rng.standard_normal(1920)
    clean, mixed, noise = quality(pulse(72), half, rng.standard_normal((3840, 1)).astype(np.float32))
    assert mixed == pytest.approx((clean + noise) / 2, abs=0.08)


def test_best_channel_decides_and_flat_is_zero():
    flat = np.zeros((3840, 1), np.float32)
    both = quality(np.concatenate([flat, pulse(72)], 1))
    assert both[0] == pytest.approx(quality(pulse(72))[0]) and quality(flat)[0] == 0


def test_scale_does_not_matter():
    np.testing.assert_allclose(quality(1e-3 * pulse(72)), quality(1e3 * pulse(72)), rtol=1e-3)


def test_other_rates_give_the_same_quality():
    rng = np.random.default_rng(2)
    wave = pulse(72, rng, 0.5)[None]
    fine = np.repeat(wave, 2, axis=1)  # 128 Hz
    assert ppg_quality(fine, rate_hz=128.0, band_high_hz=8.0)[0] == pytest.approx(
        ppg_quality(wave, rate_hz=64.0, band_high_hz=8.0)[0], abs=0.05
    )


def shaken(bpm, rng, *, beat_g, noise_g=0.001):
    """A wrist [T, 3] in g: 6 Hz for a few tenths of a second at every beat, in the noise of a sensor."""
    since = (T * bpm / 60) % 1 * 60 / bpm
    wave = beat_g * np.sin(2 * np.pi * 6 * since) * np.exp(-since / 0.12)
    return np.stack([0.3 * wave, 0.2 * wave, 1 + wave], -1) + rng.normal(0, noise_g, (len(T), 3))


def test_the_quality_of_acceleration_is_the_clarity_of_its_beats():
    rng = np.random.default_rng(0)
    wrists = [shaken(62, rng, beat_g=beat_g) for beat_g in (0.02, 0.004, 0.002, 0.0)]
    clear, weak, weaker, none = accel_quality(np.stack(wrists).astype(np.float32), rate_hz=64.0)
    assert 1 >= clear > weak > weaker > none >= 0 and clear > 0.5 > 0.3 > none
    burst = np.stack(wrists[:1])
    burst[:, 64 * 20 : 64 * 21] += rng.normal(0, 1.0, (64, 3))
    assert accel_quality(burst, rate_hz=64.0)[0] > 0.7 * clear
    assert np.isnan(accel_quality(np.stack(wrists)[:, ::3], rate_hz=64 / 3)).all()  # no band of 4 to 12 Hz
    assert accel_quality(np.zeros((0, 3840, 3)), rate_hz=64.0).shape == (0,)
    assert accel_quality(np.ones((1, 3840, 3)), rate_hz=64.0) == 0
