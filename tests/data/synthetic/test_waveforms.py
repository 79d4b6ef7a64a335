"""Signals that the synthetic watch records of given beats."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import signal

from accdistill_jax.data.synthetic import physiology, waveforms

QUIET = {
    "tremor_mg": 1e-6,
    "noise_g": 1e-9,
    "respiration_tilt_mg": 0.0,
    "restlessness": 0.0,
    "bcg_echo": 0.2,
}


def _minute(person, segment, *, index=0, channels=2):
    rng = physiology.random_stream(5, index, segment)
    state = physiology.draw_state(person, rng, segment_index=segment)
    rhythm = physiology.draw_rhythm(person, state, rng)
    return state, rhythm, waveforms.render_minute(person, state, rhythm, rng, ppg_channels=channels)


def _template(person, *, vascular_tone=0.0, hr_bpm=70.0):
    return waveforms.pulse_template(person, vascular_tone=vascular_tone, hr_bpm=hr_bpm, channels=1)[0]


def test_stiff_arteries_bring_the_reflection_earlier():
    person = dataclasses.replace(physiology.sample_participant(5, 0), height_m=1.75)
    arrival = []
    for velocity in (5.5, 7.0, 9.0, 12.0):
        stiff = dataclasses.replace(person, pulse_wave_velocity_m_s=velocity)
        without = dataclasses.replace(stiff, reflection=0.05)
        reflected = _template(stiff) - _template(without)
        arrival.append(reflected.argmax() / waveforms.RATE_HZ)
        systole = _template(without).argmax() / waveforms.RATE_HZ
        assert arrival[-1] - systole == pytest.approx(1.75 / velocity, abs=0.04)
    assert np.all(np.diff(arrival) < -0.02)


def test_the_young_have_a_notch_and_the_old_do_not():
    def notches(velocity):
        count = 0
        for index in range(40):
            person = dataclasses.replace(
                physiology.sample_participant(5, index), pulse_wave_velocity_m_s=velocity, reflection=0.45
            )
            count += len(signal.find_peaks(_template(person, hr_bpm=60.0))[0]) > 1
        return count

    assert notches(5.8) > 25 and notches(12.0) == 0


def test_pulse_rises_fast_and_is_over_before_three_seconds():
    wave = _template(physiology.sample_participant(5, 1))
    assert wave[0] < 0.01 and wave[-1] < 0.01 and 0.9 < wave.max() < 1.6
    assert wave.argmax() / waveforms.RATE_HZ < 0.35


def test_ballistocardiogram_has_its_resonance_direction_and_size():
    person = dataclasses.replace(physiology.sample_participant(5, 0), bcg_hz=6.0, bcg_decay_s=0.12, bcg_echo=0.0)
    wave = waveforms.ballistocardiogram_template(person, stiffness=1.1, phase=np.zeros(3))
    assert np.sqrt((wave**2).sum(0)).max() == pytest.approx(1.0, rel=1e-5)
    power = np.abs(np.fft.rfft(wave, 4096)) ** 2
    assert np.fft.rfftfreq(4096, 1 / 64)[power.sum(0).argmax()] == pytest.approx(6.6, abs=0.4)
    direction = np.abs(wave).max(1)
    np.testing.assert_allclose(direction / np.linalg.norm(direction), np.abs(person.bcg_direction), rtol=1e-4)


def test_recorded_beats_carry_the_participants_ballistocardiogram():
    sos = signal.butter(2, 3.0, "highpass", fs=64, output="sos")
    ratio, peaks = [], []
    for index in range(24):
        person = dataclasses.replace(physiology.sample_participant(5, index), **QUIET)
        _, rhythm, minute = _minute(person, 2, index=index)
        smooth = signal.sosfiltfilt(sos, minute.accel, axis=0)
        starts = (rhythm.beats_s + person.bcg_delay_s) * 64
        starts = starts[(starts > 64) & (starts < 3700)].round().astype(int)
        mean = np.mean([smooth[s : s + 40] for s in starts], axis=0)
        before = np.mean([smooth[s - 6 : s - 2] for s in starts], axis=0)
        peaks.append(1e3 * np.linalg.norm(mean, axis=1).max())
        ratio.append(peaks[-1] / person.bcg_mg)
        assert np.abs(before).max() < 0.5 * np.abs(mean).max()
    assert 0.7 < np.median(ratio) < 1.3
    assert 0.5 < min(peaks) and max(peaks) < 13 and 2 < np.median(peaks) < 6


def test_impulses_between_samples_keep_time_and_weight():
    times = np.array([1.0, 10.3 / 64 + 2.0, 20.0 + 0.77 / 64])
    weights = np.array([1.0, 0.5, 2.0])
    spectrum = waveforms.impulse_spectrum(times, weights)
    frequency = np.arange(2049) * 64 / 4096
    exact = np.exp(-2j * np.pi * frequency[:, None] * (times + 3.0)) @ weights
    band = frequency < 9
    assert np.abs(spectrum - exact)[band].max() < 0.05 * weights.sum()


def test_accelerometer_is_quantised_and_reads_one_g():
    for index in range(12):
        person = physiology.sample_participant(5, index)
        _, _, minute = _minute(person, 0, index=index)
        steps = minute.accel / np.float32(8 / 32768)
        assert np.array_equal(steps, np.rint(steps))
        norm = np.linalg.norm(minute.accel.astype(float).mean(0) - person.offset_g)
        assert norm == pytest.approx(1.0, abs=0.12 if minute.accel.std(0).max() > 0.02 else 0.01)
        assert minute.ppg.shape == (3840, 2) and minute.accel.shape == (3840, 3)
        assert minute.ppg.dtype == minute.accel.dtype == np.float32


def test_sensor_noise_has_the_density_of_its_data_sheet():
    person = physiology.sample_participant(5, 0)
    person = dataclasses.replace(person, **(QUIET | {"noise_g": 120e-6 * math.sqrt(32)}))
    _, _, minute = _minute(person, 1)
    frequency, density = signal.welch(minute.accel, fs=64, axis=0, nperseg=512)
    high = density[(frequency > 24) & (frequency < 31)].mean()
    quantisation = (8 / 32768) ** 2 / 12 / 32
    assert math.sqrt(high - quantisation) == pytest.approx(120e-6, rel=0.1)


def test_breathing_tilts_the_watch_and_modulates_the_pulse():
    found = []
    for index in range(30):
        person = physiology.sample_participant(5, index)
        person = dataclasses.replace(person, restlessness=0.0, respiration_tilt_mg=5.0)
        _, rhythm, minute = _minute(person, 1, index=index)
        accel = minute.accel.astype(float) - minute.accel.mean(0)
        power = (np.abs(np.fft.rfft(accel * np.hanning(3840)[:, None], 1 << 15, axis=0)) ** 2).sum(1)
        frequency = np.fft.rfftfreq(1 << 15, 1 / 64)
        band = (frequency > 0.1) & (frequency < 0.6)
        found.append(60 * frequency[band][power[band].argmax()] - rhythm.respiration_bpm)
    assert np.median(np.abs(found)) < 1.0 and np.mean(np.abs(found) < 2.0) > 0.7


def test_movement_is_shared_by_both_sensors():
    person = dataclasses.replace(physiology.sample_participant(5, 0), restlessness=1.5)
    still = dataclasses.replace(person, restlessness=0.0)
    sos = signal.butter(2, (0.6, 3.0), "bandpass", fs=64, output="sos")
    correlation, moving = [], 0
    for segment in range(40):
        _, _, minute = _minute(person, segment)
        energy = [
            np.sqrt((signal.sosfiltfilt(sos, x, axis=0) ** 2).sum(1).reshape(60, 64).mean(1))
            for x in (minute.accel, minute.ppg)
        ]
        if energy[0].max() > 0.03:
            moving += 1
            correlation.append(np.corrcoef(energy)[0, 1])
        _, _, quiet = _minute(still, segment)
        assert np.abs(signal.sosfiltfilt(sos, quiet.accel, axis=0)).max() < 0.015
    assert moving > 5 and np.median(correlation) > 0.8


def test_channels_share_the_pulse_and_not_the_noise():
    person = dataclasses.replace(physiology.sample_participant(5, 0), restlessness=0.0)
    _, _, minute = _minute(person, 0, channels=3)
    pulse = signal.sosfiltfilt(signal.butter(2, (0.6, 4), "bandpass", fs=64, output="sos"), minute.ppg, axis=0)
    noise = signal.sosfiltfilt(signal.butter(4, 20, "highpass", fs=64, output="sos"), minute.ppg, axis=0)
    off_diagonal = ~np.eye(3, dtype=bool)
    assert np.corrcoef(pulse.T)[off_diagonal].min() > 0.85
    assert np.abs(np.corrcoef(noise.T)[off_diagonal]).max() < 0.1
