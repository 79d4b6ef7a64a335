"""Signals of a watch in one synthetic minute: photoplethysmogram and acceleration at 64 Hz.

Parts that repeat with the heart beat are an impulse train times a spectrum. Stationary parts are Gaussian noise that is shaped in
the frequency domain. So one inverse FFT per channel gives both. Slow or local parts are added on an 8 Hz grid. One minute is
rendered at a time: its arrays stay in the processor's cache, and its bits depend on its random stream alone.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import fft

from accdistill_jax.data.synthetic.physiology import (
    RHYTHM_RATE_HZ,
    RHYTHM_TIME_S,
    MinuteState,
    Physiology,
    Rhythm,
    rotation,
    upsample,
)

RATE_HZ = 64.0
MAX_CHANNELS = 8
SAMPLES = 3840  # 60 s
ACCEL_RANGE_G = 8.0
ACCEL_STEP_G = ACCEL_RANGE_G / 32768.0  # 16 bit over +-8 g

FFT_SAMPLES = 4096  # 64 s: 3 s before the minute, where circular tails end, and 1 s after it
LEAD_SAMPLES = 192
_TAPS = np.array([[-1], [0], [1], [2]])
_TEMPLATE_S = np.arange(LEAD_SAMPLES, dtype=np.float32) / np.float32(RATE_HZ)
FREQUENCY_HZ = (np.arange(FFT_SAMPLES // 2 + 1) * (RATE_HZ / FFT_SAMPLES)).astype(np.float32)
WANDER = np.where(FREQUENCY_HZ > 0.03, 1.0 / np.maximum(FREQUENCY_HZ, 0.03), 0.0).astype(np.float32)  # amplitude ~ 1/f
WANDER /= np.sqrt(2.0 * np.sum(WANDER**2) / FFT_SAMPLES)  # unit sd in time for unit white noise
_UPSAMPLE = int(RATE_HZ / RHYTHM_RATE_HZ)
_RAMP = (np.arange(_UPSAMPLE) / _UPSAMPLE).astype(np.float32)
_DRIFT_RAMP = np.arange(64) / 64.0  # knots 8 s apart
MINUTE = slice(32, 32 + SAMPLES // _UPSAMPLE + 1)  # the minute on the 8 Hz grid, including its end

# Gravity in the watch's axes (x along the forearm towards the hand, z out of the dial), before the mount's turn.
POSTURES = {
    "asleep": np.array([[0.1, 0.3, 0.95], [0.2, 0.9, 0.4], [-0.1, -0.9, 0.4], [0.3, 0.2, -0.9]]),
    "resting": np.array([[0.2, 0.2, 0.95], [-0.3, 0.6, 0.75], [0.6, 0.3, 0.7], [0.1, 0.95, 0.3]]),
    "seated": np.array([[0.0, 0.1, 1.0], [0.1, 0.5, 0.85], [-0.4, 0.4, 0.8], [0.3, 0.2, 0.93]]),
    "active": np.array([[0.0, 0.2, 0.98], [-0.95, 0.2, 0.2], [-0.6, 0.5, 0.6], [0.3, 0.5, 0.8]]),
}
_BURSTS = {"asleep": 0.15, "resting": 0.35, "seated": 0.8, "active": 5.0}  # movements per minute
LARGE_MOVEMENT = {"asleep": 0.02, "resting": 0.06, "seated": 0.12, "active": 0.2}  # share of minutes; 8 % in all
_TREMOR = {"asleep": 0.3, "resting": 0.7, "seated": 1.0, "active": 1.5}


class Minute(NamedTuple):
    """One rendered minute."""

    ppg: np.ndarray  # [3840, C] float32, a.u., systole up
    accel: np.ndarray  # [3840, 3] float32, g


def to_signal_rate(slow: np.ndarray) -> np.ndarray:
    """Linear interpolation from [..., n + 1] at 8 Hz to [..., 8 n] float32 at 64 Hz."""
    return upsample(slow.astype(np.float32), _RAMP)


def impulse_spectrum(times_s: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spectrum [2049] complex64 of weighted impulses between samples (cubic Lagrange), -3 s to 61 s."""
    position = times_s * RATE_HZ + LEAD_SAMPLES
    keep = (position > 2.0) & (position < FFT_SAMPLES - 3.0)
    position, weights = position[keep], weights[keep]
    whole = position.astype(np.int64)
    d = position - whole
    taps = (
        np.stack(
            (
                -d * (d - 1.0) * (d - 2.0) / 6.0,
                (d + 1.0) * (d - 1.0) * (d - 2.0) / 2.0,
                -(d + 1.0) * d * (d - 2.0) / 2.0,
                (d + 1.0) * d * (d - 1.0) / 6.0,
            )
        )
        * weights
    )
    train = np.bincount((whole + _TAPS).ravel(), taps.ravel(), minlength=FFT_SAMPLES)
    return fft.rfft(train.astype(np.float32))


def pulse_template(person: Physiology, *, vascular_tone: float, hr_bpm: float, channels: int) -> np.ndarray:
    """One pulse wave, starting at its foot.

    It is the sum of a log-normal systolic wave, a wave that is reflected from the lower body after height / pulse wave
    velocity, and a broad diastolic run-off. Ejection is shorter at higher heart rates. With stiffer arteries the reflection is
    earlier and larger, until it merges with the systolic wave.

    Args:
        person: gives height, pulse wave velocity and reflection.
        vascular_tone: vascular tone of the minute, in sd units.
        hr_bpm: heart rate of the minute.
        channels: number of PPG channels C, at most 8.

    Returns:
        [C, 192] float32 at 64 Hz, systolic peak about 1.

    Sources: contour and its change with stiffness: Millasseau et al. 2002, Clin Sci 103 (stiffness index =
    height over the delay between direct and reflected wave); Allen 2007, Physiol Meas 28 (review); sums of
    bell-shaped waves as a description of the pulse: Rubins 2008, Med Biol Eng Comput 46.
    """
    t = _TEMPLATE_S
    speed = max(person.pulse_wave_velocity_m_s + 0.35 * vascular_tone, 4.0)
    transit = min(max(person.height_m / (speed + 0.1), 0.11), 0.36)
    pace = (72.0 / hr_bpm) ** 0.35
    peak = 0.165 * pace
    systolic = np.exp(-1.95 * np.log(np.maximum(t, 1e-3) / peak) ** 2, dtype=np.float32)
    reflected = np.exp(-0.5 * ((t - (peak + transit)) / (0.078 * pace)) ** 2)
    runoff = 0.35 * (1.0 - np.exp(-((t / 0.22) ** 2))) * np.exp(-t / 0.45)
    size = max(person.reflection + 0.04 * vascular_tone, 0.05) * (1.0 + person.channel_shape[:channels, None])
    onset = np.minimum(t / 0.06, 1.0) ** 2  # zero before the foot
    return (systolic + onset * (size * reflected + runoff)).astype(np.float32)


def ballistocardiogram_template(person: Physiology, *, stiffness: float, phase: np.ndarray) -> np.ndarray:
    """Acceleration of the wrist after one beat.

    It is a burst at the resonance of body and arm, which rises and decays within about four decay times, and a smaller later
    burst (end of ejection). The axes oscillate with different phases.

    Args:
        person: gives resonance, decay, direction and echo.
        stiffness: factor on the resonance in this minute (grip, posture).
        phase: [3] rad, one per axis.

    Returns:
        [3, 192] float32 at 64 Hz, largest vector norm 1.

    Sources: Starr et al. 1939, Am J Physiol 127 (ballistocardiogram); Inan et al. 2015, IEEE J Biomed Health
    Inform 19 (review: origin, amplitudes, wearable measurement); Hernandez, McDuff & Picard 2015,
    PervasiveHealth (heart and breathing rate from wrist accelerometers in still postures).
    """
    t = _TEMPLATE_S
    omega = np.float32(2.0 * math.pi * person.bcg_hz * stiffness)
    phase = phase.astype(np.float32)[:, None]

    def burst(start: float) -> np.ndarray:
        x = np.maximum(t - np.float32(start), 0.0) / np.float32(person.bcg_decay_s)
        return x * np.exp(1.0 - x) * np.sin(omega * (t - np.float32(start)) + phase)

    wave = person.bcg_direction.astype(np.float32)[:, None] * (burst(0.0) + np.float32(person.bcg_echo) * burst(0.30))
    return wave / np.sqrt(np.max(np.sum(wave**2, axis=0)))


class _Motion(NamedTuple):
    accel: np.ndarray  # [3, 481] g, at 8 Hz
    ppg: np.ndarray  # [481] a.u., shared by the channels


def _draw_motion(person: Physiology, state: MinuteState, rng: np.random.Generator) -> _Motion:
    """Draws bursts of movement: small ones of the fingers, and larger ones of the arm that also change its orientation."""
    accel = np.zeros((3, SAMPLES // _UPSAMPLE + 1))
    ppg = np.zeros(SAMPLES // _UPSAMPLE + 1)
    for _ in range(min(int(rng.poisson(_BURSTS[state.activity] * person.restlessness)), 20)):
        u = rng.random(4).tolist()
        large = u[0] < 0.35
        n = int(RHYTHM_RATE_HZ * (0.8 + (6.0 if large else 3.0) * u[1] ** 2)) + 2
        start = int(u[2] * (accel.shape[1] + n)) - n
        a, b = max(start, 0), min(start + n, accel.shape[1])
        if b - a < 2:
            continue
        z = rng.standard_normal((4, n + 2))
        size = math.exp(math.log(0.060 if large else 0.008) + 0.6 * float(rng.standard_normal()))
        envelope = np.sin(math.pi * (np.arange(n) + 0.5) / n) ** 2
        jerk = (0.6 * z[:, :-2] + 0.6 * z[:, 1:-1] - 0.5 * z[:, 2:]) * envelope  # mostly 0.5-4 Hz
        inner = slice(a - start, b - start)
        accel[:, a:b] += size * jerk[:3, inner]
        coupling = 25.0 * size**0.8
        ppg[a:b] += coupling * (0.5 * jerk[0, inner] + 0.5 * jerk[2, inner] + 0.6 * jerk[3, inner])
        if large:
            turn = np.cumsum(envelope) / np.sum(envelope)
            shift = size * rng.standard_normal(3)
            accel[:, a:b] += shift[:, None] * turn[inner]
            accel[:, b:] += shift[:, None]
    return _Motion(accel, ppg)


def add_large_movement(minute: Minute, person: Physiology, state: MinuteState, rng: np.random.Generator) -> Minute:
    """Adds walking or other large movement of the arm to some minutes, chosen at random; the others are unchanged.

    The acceleration is rounded to the sensor's steps again. See `draw_large_movement`.

    Args:
        minute: rendered minute.
        person: the participant.
        state: state of the minute.
        rng: random stream of the minute's large movement.
    """
    added = draw_large_movement(person, state, rng, ppg_channels=minute.ppg.shape[1])
    if added is None:
        return minute
    accel = _digitise((minute.accel.T + added.accel.T).astype(np.float32))
    return Minute(minute.ppg + added.ppg, accel.T)


def draw_large_movement(
    person: Physiology, state: MinuteState, rng: np.random.Generator, *, ppg_channels: int
) -> Minute | None:
    """Draws what walking or other large movement of the arm adds to a minute; None in most minutes.

    Walking swings the arm once in two steps and shakes it at every step. Other movement is noise of 0.5 to 4 Hz with changing
    strength. Both also move the blood and the sensor and hide most of the pulse. The root mean square of the acceleration is
    0.17 to 0.6 g over the minute, above the default limit for calm minutes.

    Args:
        person: the participant.
        state: state of the minute.
        rng: random stream of the minute's large movement.
        ppg_channels: number of channels C, at most 8.

    Returns:
        ppg [3840, C] float32 and accel [3840, 3] float64 to add.

    Sources: steps at 1.5 to 2.1 Hz: Pachi & Ji 2005, Struct Eng 83. Amplitudes are choices of this project.
    """
    if rng.random() >= LARGE_MOVEMENT[state.activity]:
        return None
    walks = state.activity != "asleep" and rng.random() < 0.5
    size = 0.17 * (0.6 / 0.17) ** rng.random()
    sample = np.arange(SAMPLES)
    if walks:
        unrest = np.interp(sample, np.linspace(0, SAMPLES, 13), rng.standard_normal(13))
        swing = np.pi * np.cumsum(rng.uniform(1.5, 2.1) * (1.0 + 0.02 * unrest)) / RATE_HZ  # one turn per two steps
        weight = rng.standard_normal((4, 5, 2)) * np.array([1.0, 1.0, 0.4, 0.5, 0.2])[:, None]
        angle = np.arange(1, 6)[:, None] * swing
        wave = weight[..., 0] @ np.sin(angle) + weight[..., 1] @ np.cos(angle)
    else:
        z = rng.standard_normal((4, 2 * FREQUENCY_HZ.size)).view(np.complex128)
        wave = fft.irfft(z * ((FREQUENCY_HZ > 0.5) & (FREQUENCY_HZ < 4.0)), n=FFT_SAMPLES)[:, :SAMPLES]
        wave *= np.interp(sample, np.linspace(0, SAMPLES, 21), rng.random(21) ** 2)
    wave /= math.sqrt(float(np.mean(np.sum(wave[:3] ** 2, axis=0))))
    artefact = 25.0 * size**0.8 * (0.5 * wave[0] + 0.5 * wave[2] + 0.6 * wave[3])
    gain = (person.channel_gain * (1.0 + 0.15 * rng.standard_normal(MAX_CHANNELS)))[:ppg_channels]
    return Minute((artefact[:, None] * gain).astype(np.float32), (size * wave[:3]).T)


def _digitise(accel: np.ndarray) -> np.ndarray:
    """Rounds acceleration in g, float32, to steps and range of the sensor, in place."""
    np.clip(np.rint(accel * np.float32(1.0 / ACCEL_STEP_G)), -32768, 32767, out=accel)
    accel *= np.float32(ACCEL_STEP_G)
    return accel


def coloured_noise(rng: np.random.Generator, spectrum: np.ndarray) -> np.ndarray:
    """Gaussian noise in the frequency domain; `spectrum` [2049] is the sd of white noise with the same density."""
    z = rng.standard_normal(2 * spectrum.shape[0], dtype=np.float32).view(np.complex64)
    return z * (spectrum * np.float32(math.sqrt(FFT_SAMPLES / 2.0)))


def render_minute(
    person: Physiology, state: MinuteState, rhythm: Rhythm, rng: np.random.Generator, *, ppg_channels: int
) -> Minute:
    """Renders the sensor signals of a minute from its beats and breathing.

    PPG: pulse waves after the pulse's travel time; respiration in amplitude and baseline; wander; movement; noise of each
    channel. Acceleration: gravity in a posture with slow drift and zero offset; ballistocardiogram; tilt by respiration;
    physiological tremor; movement; noise, range and step of a 16-bit sensor over +-8 g.

    Args:
        person: the participant.
        state: state of the minute.
        rhythm: beats and breathing of the minute.
        rng: random stream of the minute. A channel draws its numbers after the previous channels.
        ppg_channels: number of channels C, at most 8.

    Returns:
        ppg [3840, C] and accel [3840, 3].

    Sources: respiration in the PPG: Charlton et al. 2016, Physiol Meas 37. Tremor near 8-12 Hz: McAuley &
    Marsden 2000, Brain 123. Sensor: noise density, range and resolution as in data sheets of current consumer
    sensors (90-165 micro-g per root Hz). Ballistocardiogram: `ballistocardiogram_template`.
    """
    u = rng.random(8).tolist()
    z = rng.standard_normal(40)
    drift = upsample(rng.standard_normal((3, 9)), _DRIFT_RAMP)[:, : SAMPLES // _UPSAMPLE + 1]
    beat_breath = np.interp(rhythm.beats_s, RHYTHM_TIME_S, rhythm.respiration)
    breath = rhythm.respiration[MINUTE]
    motion = _draw_motion(person, state, rng)

    # Acceleration.
    turn = rotation(0.2 * z[0:3])
    posture = POSTURES[state.activity][int(4.0 * u[0])]
    gravity = turn @ (person.mount @ posture)
    gravity /= math.sqrt(float(gravity @ gravity))
    across = np.cross(gravity, z[3:6])
    across /= math.sqrt(float(across @ across))
    tilt_g = 1e-3 * person.respiration_tilt_mg * math.exp(0.35 * z[6])
    tilt_g *= 1.2 if state.activity == "asleep" else 0.8  # the arm lies on or beside the trunk
    slow_accel = gravity[:, None] + person.offset_g[:, None] + 0.0015 * drift
    slow_accel += (tilt_g * across)[:, None] * breath + motion.accel

    template = ballistocardiogram_template(
        person, stiffness=math.exp(0.06 * z[7]), phase=person.bcg_axis_phase + 0.2 * z[8:11]
    )
    template = rotation(0.15 * z[11:14]).astype(np.float32) @ template
    bcg_mg = min(max(person.bcg_mg * math.exp(0.25 * z[14]), 1.0), 12.0)
    depth = 0.15 * (1.0 + 0.3 * z[15])
    force = rhythm.strength * (1.0 + depth * np.sin(math.pi * u[1] + np.arcsin(np.clip(beat_breath, -1, 1))))
    beats = impulse_spectrum(rhythm.beats_s + person.bcg_delay_s, 1e-3 * bcg_mg * force)
    tremor_g = 1e-3 * person.tremor_mg * math.exp(0.3 * z[16]) * _TREMOR[state.activity] / math.sqrt(3.0)
    peak = np.exp(-0.5 * ((FREQUENCY_HZ - np.float32(person.tremor_hz + 0.3 * z[17])) / 0.9) ** 2)
    tremor = peak * np.float32(tremor_g / math.sqrt(2.0 * float(np.sum(peak**2)) / FFT_SAMPLES))
    sway = np.float32(0.0012 * math.exp(0.4 * z[18])) * WANDER
    sd = np.sqrt(np.float32(person.noise_g**2) + tremor**2 + sway**2)
    spectrum = fft.rfft(template, n=FFT_SAMPLES)
    spectrum *= beats
    for axis in range(3):
        spectrum[axis] += coloured_noise(rng, sd)
    accel = fft.irfft(spectrum, n=FFT_SAMPLES, overwrite_x=True)[:, LEAD_SAMPLES : LEAD_SAMPLES + SAMPLES]
    accel = _digitise(accel + to_signal_rate(slow_accel))

    # Photoplethysmogram.
    volume = rhythm.strength * (1.0 + 0.08 * beat_breath)
    delay = person.pulse_delay_s - 0.008 * state.vascular_tone + 0.004 * beat_breath
    pulse = Pulse(
        times_s=rhythm.beats_s + delay,
        weights=person.perfusion * math.exp(0.3 * z[19]) * volume,
        baseline=0.35 * person.perfusion * breath * math.exp(0.4 * z[20]) + motion.ppg,
    )
    return Minute(render_pulse(person, state, pulse, rng, channels=ppg_channels), accel.T)


class Pulse(NamedTuple):
    """Pulse waves and baseline of one minute; times in s from its start."""

    times_s: np.ndarray  # [n] arrivals of the pulse waves' feet
    weights: np.ndarray  # [n] their heights, a.u.
    baseline: np.ndarray  # [481] a.u. at 8 Hz: breathing and movement


def render_pulse(
    person: Physiology, state: MinuteState, pulse: Pulse, rng: np.random.Generator, *, channels: int
) -> np.ndarray:
    """Renders the PPG of a minute: pulse waves, baseline, wander, and noise of each channel.

    Args:
        person: the participant.
        state: state of the minute.
        pulse: arrivals and heights of the pulse waves, and the baseline.
        rng: random stream of the minute. A channel draws its numbers after the previous channels.
        channels: number of channels C, at most 8.

    Returns:
        [3840, C] float32, a.u., 64 Hz, systole up.
    """
    templates = pulse_template(person, vascular_tone=state.vascular_tone, hr_bpm=state.hr_bpm, channels=channels)
    spectrum = fft.rfft(templates, n=FFT_SAMPLES)
    spectrum *= impulse_spectrum(pulse.times_s, pulse.weights)
    spectrum *= person.channel_gain[:channels, None].astype(np.float32)
    local = np.empty((channels, pulse.baseline.shape[0]))
    for channel in range(channels):
        change = rng.standard_normal(2)
        noise = np.float32(person.channel_noise[channel] * math.exp(0.3 * change[0]))
        wander = np.float32(0.3 * person.perfusion) * WANDER
        spectrum[channel] += coloured_noise(rng, np.sqrt(noise**2 + wander**2))
        local[channel] = person.channel_gain[channel] * (1.0 + 0.15 * change[1]) * pulse.baseline
    ppg = fft.irfft(spectrum, n=FFT_SAMPLES, overwrite_x=True)[
        :, LEAD_SAMPLES : LEAD_SAMPLES + SAMPLES
    ] + to_signal_rate(local)
    return ppg.T
