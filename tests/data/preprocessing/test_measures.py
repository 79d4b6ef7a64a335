"""WristMeasures of wrists on signals with known noise, heartbeat, motion, posture and breathing."""

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.measures import MIN_BEATS, WristMeasures, measure_minutes, pulse_rises

RATE = 64.0
TIME = np.arange(3840) / RATE


def _beats(seed=0):
    """About 65 beats of a minute."""
    return 0.5 + np.cumsum(0.9 + 0.04 * np.random.default_rng(seed).standard_normal(65))


def _ppg(beats, delay_s=0.2):
    """Pulse waves whose steepest rise is `delay_s` after the beat."""
    wave = np.zeros(3840)
    for beat in beats:
        wave += np.exp(-0.5 * ((TIME - beat - delay_s - 0.1) / 0.1) ** 2)
    return wave[:, None]


def _accel(beats=(), *, size_mg=5.0, hz=6.5, noise_mg=0.3, turn_deg=0.0, seed=0, direction=(1.0, 0.0, 0.0)):
    """Gravity, white noise with a density in mg/sqrt(Hz), and a damped oscillation after each beat."""
    rng = np.random.default_rng(seed)
    angle = np.radians(turn_deg) * np.clip((TIME - 25) / 10, 0, 1)
    accel = 1000 * np.stack([np.zeros(3840), np.sin(angle), np.cos(angle)], axis=1)
    accel += noise_mg * np.sqrt(RATE / 2) * rng.standard_normal((3840, 3))
    for beat in beats:
        t = np.maximum(TIME - beat, 0)
        wave = t / 0.06 * np.exp(1 - t / 0.06) * np.sin(2 * np.pi * hz * t)
        accel += size_mg / 1.6 * wave[:, None] * np.asarray(direction)
    return accel / 1000


def _one(ppg, accel) -> WristMeasures:
    return WristMeasures(*(values[0] for values in measure_minutes(ppg[None], accel[None], rate_hz=RATE)))


def test_beats_are_found_at_the_steepest_rise():
    beats = _beats()
    rises = pulse_rises(np.concatenate([_ppg(beats), 3 + 2 * _ppg(beats)], axis=1), rate_hz=RATE)
    inside = beats[(beats > 0.5) & (beats < 59)]
    nearest = np.abs(rises[:, None] - 0.2 - inside).min(axis=0)
    assert nearest.max() < 0.01 and abs(len(rises) - len(inside)) <= 2


@pytest.mark.parametrize("noise_mg", [0.1, 0.7])
def test_noise_is_the_density_of_the_sensor(noise_mg):
    measures = _one(_ppg(_beats()), _accel(_beats(), noise_mg=noise_mg))
    assert measures.noise_mg == pytest.approx(noise_mg, rel=0.06)
    calm = _one(_ppg(_beats()), _accel(noise_mg=noise_mg))
    assert calm.motion_mg == pytest.approx(noise_mg * np.sqrt(3 * RATE / 2), rel=0.05)


def test_heartbeat_below_the_noise_is_measured():
    beats = _beats()
    measures = _one(_ppg(beats), _accel(beats, size_mg=8.0, noise_mg=0.6))
    assert measures.beat_mg == pytest.approx(8.0, rel=0.25)
    assert measures.chance_mg < 0.45 * measures.beat_mg
    assert measures.beat_hz == pytest.approx(6.5, abs=1.0)
    assert measures.steadiness == pytest.approx(1.0, abs=0.15)
    without = _one(_ppg(beats), _accel(noise_mg=0.6))
    assert without.beat_mg < 3 and np.isnan(without.beat_hz) and np.isnan(without.steadiness)


def test_a_change_of_direction_is_no_steady_wave():
    beats = _beats()
    early, late = beats[beats < 30], beats[beats >= 30]
    changed = _accel(early, noise_mg=0.2) + _accel(late, noise_mg=0.0, direction=(0.0, 1.0, 0.0)) - [0, 0, 1]
    assert _one(_ppg(beats), changed).steadiness < 0.4


def test_lag_is_the_delay_of_the_pulse_after_the_heartbeat():
    beats = _beats()
    lags = [_one(_ppg(beats, delay), _accel(beats)).lag_s for delay in (0.1, 0.3)]
    assert lags[1] - lags[0] == pytest.approx(0.2, abs=0.02)
    assert lags[0] == pytest.approx(0.0, abs=0.08)  # the wave itself lasts about 0.1 s


def test_turn_and_breathing():
    beats = _beats()
    assert _one(_ppg(beats), _accel(beats, turn_deg=20.0)).turn_deg == pytest.approx(20.0, abs=0.5)
    breathing = _accel(beats)
    breathing[:, 0] += 0.006 * np.sin(2 * np.pi * 0.25 * TIME)
    assert _one(_ppg(beats), breathing).breath_mg == pytest.approx(6.0 / np.sqrt(2), rel=0.1)
    assert _one(_ppg(beats), _accel(beats)).breath_mg < 0.6


def test_too_few_beats_give_no_measures_of_the_heart():
    measures = _one(_ppg(_beats()[: MIN_BEATS - 5]), _accel(_beats()))
    assert np.isnan([measures.beat_mg, measures.chance_mg, measures.beat_hz, measures.steadiness]).all()
    assert np.isfinite([measures.noise_mg, measures.motion_mg, measures.turn_deg]).all()


def test_a_flat_pulse_and_no_segments():
    measures = _one(np.zeros((3840, 1)), _accel(_beats()))
    assert np.isnan(measures.beat_mg) and np.isfinite(measures.noise_mg)
    empty = measure_minutes(np.empty((0, 3840, 1)), np.empty((0, 3840, 3)), rate_hz=RATE)
    assert all(len(values) == 0 for values in empty)
