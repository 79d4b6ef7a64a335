"""Signals of the second generator: each range is really in them."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import signal

from accdistill_jax.data.preprocessing.measures import measure_minutes, pulse_rises
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.synthetic import physiology, wrist_signals
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, generate_batch
from accdistill_jax.data.synthetic.wrist import DEVICES, ROLL_OFF, sample_wrist
from accdistill_jax.errors import UserError

FINE = DEVICES[0]


def _quiet(index=0, **changes):
    """A wrist with a clear heartbeat, and without motion, clock errors, breathing or changes of posture, except `changes`."""
    person = dataclasses.replace(physiology.sample_participant(5, index), restlessness=0.0, bcg_delay_s=0.1)
    none = {
        "device": FINE,
        "noise_mg": 1e-3,
        "offset_s": 0.0,
        "drift_ppm": 0.0,
        "rate_error_ppm": 0.0,
        "beat_mg": 8.0,
        "timing_ms": 0.0,
        "beat_breath": 0.0,
        "pulse_breath": 0.0,
        "unrest_mg": 1e-4,
        "tremor_mg": 1e-4,
        "tilt_mg": 0.0,
        "turns": 0.0,
    }
    return dataclasses.replace(sample_wrist(5, index, person), **(none | changes))


def _minute(wrist, segment=1, *, index=0, activity="seated", beating=True):
    """State, rhythm, clocks and signals of a minute without large movement."""
    rng = physiology.random_stream(5, index, segment)
    state = physiology.draw_state(wrist.person, rng, segment_index=segment)._replace(activity=activity)
    rhythm = physiology.draw_rhythm(wrist.person, state, rng)
    if not beating:
        rhythm = rhythm._replace(strength=0.0 * rhythm.strength)
    draws = rng.bit_generator.state
    clocks = wrist_signals.draw_clocks(wrist, rng)
    rng.bit_generator.state = draws
    movement = np.random.default_rng(12)  # its first number is above the share of minutes with large movement
    minute = wrist_signals.render_wrist_minute(wrist, state, rhythm, rng, movement=movement, ppg_channels=1)
    return state, rhythm, clocks, minute


def _measures(minutes):
    ppg, accel = (np.stack(arrays) for arrays in zip(*minutes, strict=True))
    return measure_minutes(ppg, accel, rate_hz=64.0)


@pytest.mark.parametrize("device", DEVICES[:3])
@pytest.mark.parametrize("noise_mg", [0.15, 0.7])
def test_noise_density_is_in_a_calm_minute(device, noise_mg):
    _, _, _, minute = _minute(_quiet(device=device, noise_mg=noise_mg), beating=False)
    frequency, density = signal.welch(1e3 * minute.accel, fs=64, axis=0, nperseg=512)
    steps = (1e3 * device.step_g) ** 2 / 12 / (device.rate_hz / 2)
    for low, high in ((10.0, 12.0), (20.0, 22.0)):
        measured = density[(frequency > low) & (frequency < high)].mean() - steps
        falls = 1.0 + ((low + high) / 2 / (ROLL_OFF * device.rate_hz)) ** 2
        assert math.sqrt(measured) == pytest.approx(noise_mg / math.sqrt(falls), rel=0.08)


@pytest.mark.parametrize("device", DEVICES)
def test_steps_and_range_are_those_of_the_device(device):
    still = np.zeros((3, 2049), np.complex64)
    level = np.array([0.3003, -0.7002, 30.0])[:, None] * np.ones(513)
    accel = wrist_signals.sense(device, 0.0, still, level, np.random.default_rng(0))
    expected = np.array([round(0.3003 / device.step_g), round(-0.7002 / device.step_g), 0]) * device.step_g
    expected[2] = device.range_g - device.step_g
    np.testing.assert_allclose(accel, np.broadcast_to(expected, accel.shape), rtol=1e-5, atol=1e-5)
    if device.rate_hz == 64:
        steps = _minute(_quiet(device=device, noise_mg=0.5))[3].accel / device.step_g
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-2)


def _beat_delays_s(rhythm, minute):
    """Delay of each beat's wave in the acceleration after its R peak, relative to the mean: the best fit of the mean wave."""
    fine = signal.resample(minute.accel - minute.accel.mean(axis=0), 3840 * 8, axis=0)
    fine = signal.sosfiltfilt(signal.butter(2, (3.0, 15.0), "bandpass", fs=512, output="sos"), fine, axis=0)
    starts = np.round((rhythm.beats_s + 0.1) * 512).astype(int)
    starts = starts[(starts > 100) & (starts < len(fine) - 200)]
    around = np.arange(-30, 31)
    template = np.mean([fine[s : s + 90] for s in starts], axis=0)
    fits = [[np.sum(fine[s + d : s + d + 90] * template) for d in around] for s in starts]
    return around[np.argmax(fits, axis=1)] / 512


@pytest.mark.parametrize("timing_ms", [2.0, 6.0, 12.0])
def test_beats_of_the_sensors_disagree_by_the_timing(timing_ms):
    wave, pulse = [], []
    for segment in range(4):
        _, rhythm, _, minute = _minute(_quiet(timing_ms=timing_ms, turns=0.0), segment)
        wave += list(_beat_delays_s(rhythm, minute))
        rises = pulse_rises(minute.ppg, rate_hz=64.0)
        nearest = rhythm.beats_s[np.searchsorted(rhythm.beats_s, rises) - 1]
        pulse += list((rises - nearest) - np.median(rises - nearest))
    # The form of the wave wanders between beats, which moves the best fit too.
    assert 1e3 * np.std(wave) == pytest.approx(math.hypot(timing_ms, 2.5), rel=0.25)
    assert 1e3 * 1.4826 * np.median(np.abs(pulse)) < 6.0  # as in the first generator


def test_offset_of_the_clocks_moves_the_acceleration():
    lags = {}
    for offset in (-0.2, 0.0, 0.2):
        minutes = [_minute(_quiet(offset_s=offset), segment)[3] for segment in range(6)]
        lags[offset] = float(np.median(_measures(minutes).lag_s))
    assert lags[0.2] - lags[0.0] == pytest.approx(0.2, abs=0.02)
    assert lags[-0.2] - lags[0.0] == pytest.approx(-0.2, abs=0.02)


def test_clocks_drift_apart_since_they_were_set():
    wrist = _quiet(drift_ppm=100.0)
    drawn = [_minute(wrist, segment) for segment in range(24)]
    offset = np.array([clocks.accel.offset_s for _, _, clocks, _ in drawn])
    assert 0 <= offset.min() < 0.04 and 0.14 < offset.max() <= 0.18  # 100 ppm of half an hour
    lag = _measures([minute for _, _, _, minute in drawn]).lag_s
    assert np.polyfit(offset, lag, 1)[0] == pytest.approx(1.0, abs=0.2)


def test_sensors_of_one_device_share_a_clock():
    apart, shared = (
        generate_batch(
            SyntheticSettings(participants=1, segments_per_participant=4, seed=5, generator=2, clock_error=error),
            0,
            PreprocessSettings(),
        )
        for error in (1.0, 0.0)
    )
    np.testing.assert_array_equal(apart.ppg, shared.ppg)
    assert (apart.accel != shared.accel).any()
    wrist = _quiet(offset_s=0.5, drift_ppm=100.0).with_clock_error(0.0)
    clocks = [_minute(wrist, segment)[2] for segment in range(3)]
    assert all(clock.accel == clock.ppg for clock in clocks)


def test_the_clock_error_is_part_of_the_identity_and_needs_the_second_generator():
    assert "clock_error" not in SyntheticSettings(generator=2).to_json()
    assert SyntheticSettings(generator=2, clock_error=0.0).to_json()["clock_error"] == 0.0
    for options in ({"generator": 2, "clock_error": 1.5}, {"clock_error": 0.5}):
        with pytest.raises(UserError, match="clock_error"):
            SyntheticSettings(**options)


def test_a_wrong_sampling_rate_stretches_both_sensors():
    for error in (-1000.0, 1000.0):
        _, rhythm, clocks, minute = _minute(_quiet(rate_error_ppm=error))
        rises = pulse_rises(minute.ppg, rate_hz=64.0)
        beats = rhythm.beats_s[np.searchsorted(rhythm.beats_s, rises) - 1]
        assert np.polyfit(beats, rises, 1)[0] == pytest.approx(1.0 - 1e-6 * error, abs=2.5e-4)
        assert clocks.accel.stretch == pytest.approx(1e-6 * error)
        np.testing.assert_allclose(clocks.accel.shown(clocks.accel.true(beats)), beats, atol=1e-12)


def test_a_turn_changes_gravity_and_the_form_of_the_beats():
    still = _measures([_minute(_quiet(index), index=index)[3] for index in range(12)])
    turned = _measures([_minute(_quiet(index, turns=10.0), index=index)[3] for index in range(12)])
    assert np.median(still.turn_deg) < 0.5 and np.median(turned.turn_deg) > 5.0
    assert np.nanmedian(still.steadiness) > 0.95 and np.nanmedian(turned.steadiness) < 0.7


def test_height_of_the_heartbeat_is_in_the_signal():
    for size in (2.0, 8.0):
        drawn = [_minute(_quiet(index, beat_mg=size), index=index)[3] for index in range(12)]
        measured = _measures(drawn).beat_mg
        # The strongest axis swings to both sides of zero; beats with other force and form are averaged.
        assert 0.6 * size < np.median(measured) < 2.0 * size


def test_breathing_tilts_the_watch_and_modulates_pulse_and_heartbeat():
    _, rhythm, _, minute = _minute(_quiet(tilt_mg=10.0), beating=False)
    power = (
        np.abs(np.fft.rfft((minute.accel - minute.accel.mean(0)) * np.hanning(3840)[:, None], 1 << 15, axis=0)) ** 2
    ).sum(1)
    frequency = np.fft.rfftfreq(1 << 15, 1 / 64)
    band = (frequency > 0.1) & (frequency < 0.6)
    assert 60 * frequency[band][power[band].argmax()] == pytest.approx(rhythm.respiration_bpm, abs=1.5)

    def modulation(x, times_s, rhythm):
        breath = np.interp(times_s, physiology.RHYTHM_TIME_S, rhythm.respiration)
        return np.polyfit(breath, x / np.mean(x), 1)[0]

    for depth in (0.0, 0.2):
        wrist = _quiet(pulse_breath=depth, beat_breath=2 * depth)
        heights, spreads = [], []
        for segment in range(8):
            rng = physiology.random_stream(5, 0, segment)
            state, rhythm, _, minute = _minute(wrist, segment)
            rises = pulse_rises(minute.ppg, rate_hz=64.0)
            slope = np.interp(rises, np.arange(3840) / 64, np.gradient(minute.ppg[:, 0]))
            heights.append(modulation(slope, rises - 0.28, rhythm))
            spreads.append(wrist_signals.draw_beats(wrist, rhythm, rng).force.std())
        assert np.mean(heights) == pytest.approx(depth, abs=0.06)
        assert np.mean(spreads) == pytest.approx(math.hypot(0.17, math.sqrt(2.0) * depth), abs=0.06)


def test_small_motion_and_tremor_are_in_the_signal():
    for size in (2.0, 8.0):
        drawn = [_minute(_quiet(unrest_mg=size), segment, beating=False)[3] for segment in range(12)]
        assert np.median(_measures(drawn).motion_mg) == pytest.approx(size, rel=0.35, abs=0.5)
    _, _, _, minute = _minute(_quiet(tremor_mg=4.0), beating=False)
    frequency, density = signal.welch(1e3 * minute.accel, fs=64, axis=0, nperseg=512)
    assert frequency[1:][density.sum(1)[1:][frequency[1:] > 4].argmax() + (frequency[1:] <= 4).sum()] == pytest.approx(
        10, abs=3
    )
    asleep = _minute(_quiet(unrest_mg=8.0), beating=False, activity="asleep")[3]
    awake = _minute(_quiet(unrest_mg=8.0), beating=False)[3]
    assert _measures([asleep]).motion_mg < 0.5 * _measures([awake]).motion_mg
