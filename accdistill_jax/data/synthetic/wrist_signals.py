"""Signals of a watch in one synthetic minute, second generator: closer to wrists than `waveforms`.

Beats, breathing and labels are those of the first generator. The way from the heart to the watch, and the watch, are new:

- The time from R peak to ejection varies, so the beats of both sensors do not agree exactly.
- The ballistocardiogram is a sum of bursts. Its direction and shape change with each posture, and wander between changes.
- Small motion of the hand and changes of posture go on in a still minute.
- Each sensor has its clock. The accelerometer has the rate, noise, steps and range of a real device, and is resampled to 64 Hz as
  recordings are.

A stored minute lasts from 0 to 60 s on the clock of the PPG. "True" times are those of the heart.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.signal
from scipy import fft

from accdistill_jax.data.preprocessing.resample import lowpass
from accdistill_jax.data.synthetic.physiology import RHYTHM_TIME_S, MinuteState, Rhythm, rotation
from accdistill_jax.data.synthetic.waveforms import (
    FFT_SAMPLES,
    FREQUENCY_HZ,
    LEAD_SAMPLES,
    POSTURES,
    RATE_HZ,
    SAMPLES,
    WANDER,
    Minute,
    Pulse,
    draw_large_movement,
    impulse_spectrum,
    render_pulse,
)
from accdistill_jax.data.synthetic.wrist import ROLL_OFF, SYNC_S, Device, Wrist

_SLOW_HZ = 8.0
_LEAD_S = LEAD_SAMPLES / RATE_HZ
_WINDOW_S = FFT_SAMPLES / RATE_HZ
_WINDOW_TIME_S = np.arange(FFT_SAMPLES) / RATE_HZ - _LEAD_S
_TEMPLATE_S = np.arange(LEAD_SAMPLES) / RATE_HZ
_SAMPLE_S = np.arange(SAMPLES) / RATE_HZ
_MINUTE_S = np.arange(SAMPLES / RATE_HZ * _SLOW_HZ + 1) / _SLOW_HZ
_SLOW_TIME_S = np.arange(_WINDOW_S * _SLOW_HZ + 1) / _SLOW_HZ - _LEAD_S
# Events per minute by activity: changes of posture, small movements of the hand; factor on the small motion between them.
_TURNS = {"asleep": 0.10, "resting": 0.4, "seated": 0.8, "active": 2.0}
_BURSTS = {"asleep": 0.3, "resting": 1.5, "seated": 3.0, "active": 8.0}
_UNREST = {"asleep": 0.15, "resting": 0.5, "seated": 1.0, "active": 1.6}
_TREMOR = {"asleep": 0.3, "resting": 0.7, "seated": 1.0, "active": 1.5}
# Small motion of the hand: amplitude by frequency as measured in a seated, wakeful wearer.
_HAND = (FREQUENCY_HZ > 0.25) / np.sqrt(np.sqrt(1.0 + FREQUENCY_HZ**2) * (1.0 + (FREQUENCY_HZ / 9.0) ** 4))
_HAND /= np.sqrt(2.0 * np.sum(_HAND**2) / FFT_SAMPLES)
# Directions and phases of the bursts of a beat: spread in rad around those of the posture.
_SPREAD = (0.2, 0.9, 0.9, 0.9)
_PHASE = (0.4, 1.5, 1.5, 1.5)
_SLOW_MOTION = (FREQUENCY_HZ > 0.3) & (FREQUENCY_HZ < 4.0)


class Clock(NamedTuple):
    """Relation of a sensor's clock to true time in one minute: true = offset_s + (1 + stretch) * shown."""

    offset_s: float
    stretch: float

    def true(self, shown_s: np.ndarray) -> np.ndarray:
        """True times of times on this clock."""
        return self.offset_s + (1.0 + self.stretch) * shown_s

    def shown(self, true_s: np.ndarray) -> np.ndarray:
        """Times on this clock of true times."""
        return (true_s - self.offset_s) / (1.0 + self.stretch)


class Clocks(NamedTuple):
    """Clocks of both sensors."""

    ppg: Clock
    accel: Clock


def draw_clocks(wrist: Wrist, rng: np.random.Generator) -> Clocks:
    """Draws how long ago the clocks were set; the accelerometer's has drifted since."""
    since_sync_s = SYNC_S.at(float(rng.random()))
    common, drift = 1e-6 * wrist.rate_error_ppm, 1e-6 * wrist.drift_ppm
    return Clocks(Clock(0.0, common), Clock(wrist.offset_s + drift * since_sync_s, common + drift))


def beat_wave(wrist: Wrist, directions: np.ndarray, *, stiffness: float, phase: np.ndarray) -> np.ndarray:
    """Acceleration of the wrist after one beat, in one posture: the sum of the wrist's bursts.

    Args:
        wrist: gives frequencies, decays, starts and shares of the bursts.
        directions: [bursts, 3] unit vectors in the watch's axes.
        stiffness: factor on the frequencies (grip, posture, strap).
        phase: [bursts, 3] rad, on each axis.

    Returns:
        [3, 192] float32 at 64 Hz, largest vector norm 1.

    Sources: see `waveforms.ballistocardiogram_template`; bursts before and after the end of ejection, their phases between axes
    and their centre at 5.5 to 8.5 Hz as measured (`wrist`).
    """
    wave = np.zeros((3, LEAD_SAMPLES))
    for burst, direction, shift in zip(wrist.bursts, directions, phase, strict=True):
        t = _TEMPLATE_S - burst.start_s
        x = np.maximum(t, 0.0) / burst.decay_s
        angle = 2.0 * math.pi * burst.hz * stiffness * t
        wave += direction[:, None] * (burst.share * x * np.exp(1.0 - x)) * np.sin(angle + shift[:, None])
    return (wave / math.sqrt(float(np.max(np.sum(wave**2, axis=0))))).astype(np.float32)


class Posture(NamedTuple):
    """One posture within a minute.

    Attributes:
        start_s: true time of its beginning; -inf for the first.
        turn_s: duration of the turn into it.
        gravity: [3] unit vector.
        across: [3] unit vector across gravity, along which breathing tilts the watch.
        waves: [2, 3, 192] acceleration after a beat, in g per unit of force: two forms between which the beats wander.
        delay_s: additional delay of the wave.
    """

    start_s: float
    turn_s: float
    gravity: np.ndarray
    across: np.ndarray
    waves: np.ndarray
    delay_s: float


def draw_postures(wrist: Wrist, state: MinuteState, rng: np.random.Generator) -> list[Posture]:
    """Draws the postures of a minute, at least one. A turn of the wrist also changes direction, size and shape of the beats."""
    person = wrist.person
    count = min(int(rng.poisson(_TURNS[state.activity] * wrist.turns)), 4)
    starts = [-math.inf, *np.sort(rng.uniform(2.0, 58.0, count)).tolist()]
    turn = rotation(0.2 * rng.standard_normal(3)) @ person.mount
    gravity = turn @ POSTURES[state.activity][int(4.0 * rng.random())]
    direction = turn @ person.bcg_direction
    postures = []
    for start in starts:
        z = rng.standard_normal((6, len(wrist.bursts), 3))
        if postures:
            angle = min(0.25 * math.exp(0.7 * z[0, 0, 0]), 1.4)
            turn = rotation(angle * z[1, 0] / math.sqrt(float(z[1, 0] @ z[1, 0])))
            gravity, direction = turn @ gravity, turn @ direction
        gravity = gravity / math.sqrt(float(gravity @ gravity))
        across = np.cross(gravity, z[1, 1])
        along = rotation(0.35 * z[1, 2]) @ direction
        directions = np.stack([rotation(spread * v) @ along for spread, v in zip(_SPREAD, z[2], strict=True)])
        phase = np.outer(_PHASE, np.ones(3)) * z[3] + person.bcg_axis_phase
        stiffness = math.exp(0.10 * z[0, 0, 1])
        changed = np.stack([rotation(0.3 * v) @ direction for direction, v in zip(directions, z[4], strict=True)])
        waves = [
            beat_wave(wrist, directions, stiffness=stiffness, phase=phase),
            beat_wave(wrist, changed, stiffness=stiffness * math.exp(0.06 * z[0, 1, 0]), phase=phase + 0.25 * z[5]),
        ]
        size = min(max(wrist.beat_mg * math.exp(0.25 * z[0, 1, 1]), 1.0), 16.0)
        postures.append(
            Posture(
                start_s=start,
                turn_s=0.5 + 2.0 * float(rng.random()),
                gravity=gravity,
                across=across / math.sqrt(float(across @ across)),
                waves=np.stack(waves) * np.float32(1e-3 * size),
                delay_s=0.005 * float(z[0, 1, 2]),
            )
        )
    return postures


class BeatTimes(NamedTuple):
    """True times and forces of the beats in the acceleration: [n] s, [n] relative, [n] place between both waves, 0 to 1."""

    times_s: np.ndarray
    force: np.ndarray
    mix: np.ndarray


def draw_beats(wrist: Wrist, rhythm: Rhythm, rng: np.random.Generator) -> BeatTimes:
    """Draws time and force of each beat in the acceleration.

    The delay from the R peak has the standard deviation `wrist.timing_ms`, partly with breathing, partly from beat to beat. The
    same period before ejection delays the pulse in the PPG; the travel time of the pulse varies too, and the range stands for the
    difference between both sensors. So the PPG keeps the delays of the first generator.
    """
    count = len(rhythm.beats_s)
    z = rng.standard_normal((3, count))
    knots = rng.standard_normal(12)
    breath = np.clip(np.interp(rhythm.beats_s, RHYTHM_TIME_S, rhythm.respiration), -1.0, 1.0)
    swing = np.sin(2.0 * math.pi * rng.random((2, 1)) + np.arcsin(breath))  # two phases after the breathing
    steady = math.sqrt(1.0 - 0.6**2)
    chance = np.asarray(scipy.signal.lfilter([steady], [1.0, -0.6], z[0]))
    share = wrist.timing_breath
    change = math.sqrt(2.0 * share) * swing[0] + math.sqrt(1.0 - share) * chance
    force = rhythm.strength * (1.0 + wrist.beat_breath * swing[1]) * np.exp(0.15 * z[1])
    slow = np.interp(rhythm.beats_s, np.linspace(-4.0, 62.0, 12), knots)
    mix = np.clip(0.5 + 0.35 * slow + 0.25 * breath, 0.0, 1.0)
    return BeatTimes(rhythm.beats_s + wrist.person.bcg_delay_s + 1e-3 * wrist.timing_ms * change, force, mix)


class Unrest(NamedTuple):
    """Small motion of the hand in a minute, from 3 s before it to 61 s; true times.

    Attributes:
        accel: [3, 4096] g, at 64 Hz.
        ppg: [4096] a.u., its trace in the PPG.
        spectrum: [3, 2049] complex64 of stationary tremor and sway.
    """

    accel: np.ndarray
    ppg: np.ndarray
    spectrum: np.ndarray


def draw_unrest(wrist: Wrist, state: MinuteState, turns_s: list[float], rng: np.random.Generator) -> Unrest:
    """Draws small motion: between movements, in short movements of the hand, and around the changes of posture at `turns_s`."""
    z = rng.standard_normal(16)
    knots = np.interp(_WINDOW_TIME_S, np.linspace(-_LEAD_S, _WINDOW_S - _LEAD_S, 9), z[:9])
    base_g = 1e-3 * wrist.unrest_mg * _UNREST[state.activity] * np.exp(0.4 * z[9] + 0.4 * knots)
    power = np.zeros(FFT_SAMPLES)
    starts = rng.uniform(
        -2.0, 61.0, min(int(rng.poisson(_BURSTS[state.activity] * wrist.person.restlessness)), 20)
    ).tolist()
    for start, median_g in [(start, 0.010) for start in starts] + [(turn, 0.040) for turn in turns_s]:
        lasts = 0.4 + 4.0 * float(rng.random()) ** 2
        size = median_g * math.exp(0.7 * float(rng.standard_normal()))
        inside = np.clip((_WINDOW_TIME_S - start) / lasts, 0.0, 1.0)
        power += (size * np.sin(math.pi * inside) ** 2) ** 2
    white = rng.standard_normal((4, 2 * FREQUENCY_HZ.size), dtype=np.float32).view(np.complex64)
    hand = white * (_HAND * math.sqrt(FFT_SAMPLES / 2.0)).astype(np.float32)
    moved = fft.irfft(hand[:3], n=FFT_SAMPLES) * (np.sqrt(base_g**2 + power) / math.sqrt(3.0))
    slow = (0.5 * hand[0] + 0.5 * hand[2] + 0.6 * hand[3]) * _SLOW_MOTION
    ppg = fft.irfft(slow, n=FFT_SAMPLES) * (25.0 * np.sqrt(power) ** 0.8 + 4.0 * base_g**0.8)
    tremor_g = 1e-3 * wrist.tremor_mg * math.exp(0.3 * z[10]) * _TREMOR[state.activity] / math.sqrt(3.0)
    peak = np.exp(-0.5 * ((FREQUENCY_HZ - (wrist.person.tremor_hz + 0.3 * z[11])) / 1.2) ** 2)
    tremor = peak * (tremor_g / math.sqrt(2.0 * float(np.sum(peak**2)) / FFT_SAMPLES))
    sway = 0.0012 * math.exp(0.4 * z[12]) * WANDER
    axes = np.exp(0.4 * z[13:16])[:, None] * tremor
    noise = rng.standard_normal((3, 2 * FREQUENCY_HZ.size), dtype=np.float32).view(np.complex64)
    spectrum = noise * (np.sqrt(axes**2 + sway**2) * math.sqrt(FFT_SAMPLES / 2.0)).astype(np.float32)
    return Unrest(moved, ppg, spectrum)


def sense(device: Device, noise_mg: float, fast: np.ndarray, slow: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Records acceleration by a device: its rate, noise, range and steps. Then resamples to 64 Hz as recordings are.

    Args:
        device: rate, steps and range.
        noise_mg: noise density at low frequencies in mg/sqrt(Hz).
        fast: [3, 2049] complex64, spectrum of 64 s at 64 Hz, in g, from 3 s before the minute.
        slow: [3, 513] g at 8 Hz, added to it.
        rng: random stream of the minute.

    Returns:
        [3840, 3] float32, g.
    """
    count = round(device.rate_hz * _WINDOW_S)
    white = rng.standard_normal((3, 2 * (count // 2 + 1)), dtype=np.float32).view(np.complex64)
    bins = np.arange(count // 2 + 1) / (ROLL_OFF * device.rate_hz * _WINDOW_S)
    noise_g = 1e-3 * noise_mg * math.sqrt(device.rate_hz / 2.0) / np.sqrt(1.0 + bins**2)
    spectrum = white * (noise_g * math.sqrt(count / 2.0)).astype(np.float32)
    both = min(count // 2 + 1, fast.shape[1])
    spectrum[:, :both] += fast[:, :both] * np.float32(count / FFT_SAMPLES)
    at = np.arange(count) / device.rate_hz * _SLOW_HZ
    accel = fft.irfft(spectrum, n=count, overwrite_x=True)
    accel = accel + np.stack([np.interp(at, np.arange(slow.shape[1]), axis) for axis in slow])
    most = device.range_g / device.step_g
    accel = np.clip(np.rint(accel / device.step_g), -most, most - 1.0) * device.step_g
    if count != FFT_SAMPLES:
        divisor = math.gcd(device.rate_hz, int(RATE_HZ))
        up, down = int(RATE_HZ) // divisor, device.rate_hz // divisor
        accel = scipy.signal.resample_poly(accel, up, down, axis=1, padtype="line", window=lowpass(up, down))
    return np.ascontiguousarray(accel[:, LEAD_SAMPLES : LEAD_SAMPLES + SAMPLES].T, np.float32)


def render_wrist_minute(
    wrist: Wrist,
    state: MinuteState,
    rhythm: Rhythm,
    rng: np.random.Generator,
    *,
    movement: np.random.Generator,
    ppg_channels: int,
) -> Minute:
    """Renders the sensor signals of a minute from its beats and breathing.

    Args:
        wrist: the participant's wrist with the watch.
        state: state of the minute.
        rhythm: beats and breathing of the minute.
        rng: random stream of the minute.
        movement: random stream of the minute's large movement, see `waveforms.draw_large_movement`.
        ppg_channels: number of channels C, at most 8.

    Returns:
        ppg [3840, C] and accel [3840, 3].
    """
    person = wrist.person
    clocks = draw_clocks(wrist, rng)
    postures = draw_postures(wrist, state, rng)
    beats = draw_beats(wrist, rhythm, rng)
    unrest = draw_unrest(wrist, state, [posture.start_s for posture in postures[1:]], rng)
    z = rng.standard_normal(4)
    drift = rng.standard_normal((3, 9))
    large = draw_large_movement(person, state, movement, ppg_channels=ppg_channels)

    # Small and large motion lag by the offset of the clocks; their stretch by less than 0.1 s hardly shows in them.
    spectrum = unrest.spectrum + fft.rfft(unrest.accel.astype(np.float32))
    spectrum *= np.exp(2j * math.pi * clocks.accel.offset_s * FREQUENCY_HZ).astype(np.complex64)
    for number, posture in enumerate(postures):
        ends = postures[number + 1].start_s if number + 1 < len(postures) else math.inf
        inside = (beats.times_s >= posture.start_s) & (beats.times_s < ends)
        shown = clocks.accel.shown(beats.times_s[inside] + posture.delay_s)
        for wave, share in zip(posture.waves, (1.0 - beats.mix[inside], beats.mix[inside]), strict=True):
            spectrum += fft.rfft(wave, n=FFT_SAMPLES) * impulse_spectrum(shown, beats.force[inside] * share)
    slow_s = clocks.accel.true(_SLOW_TIME_S)
    breath_g = 1e-3 * wrist.tilt_mg * math.exp(0.3 * z[0]) * (1.2 if state.activity == "asleep" else 0.8)
    breath_g *= np.interp(slow_s, RHYTHM_TIME_S, rhythm.respiration)
    slow = _gravity(postures, slow_s, breath_g) + person.offset_g[:, None]
    slow += 0.0015 * np.stack([np.interp(slow_s, np.linspace(-4.0, 62.0, 9), knots) for knots in drift])
    if large is not None:
        moved = np.stack([np.interp(clocks.accel.true(_WINDOW_TIME_S), _SAMPLE_S, x) for x in large.accel.T])
        spectrum += fft.rfft(moved.astype(np.float32))
    accel = sense(wrist.device, wrist.noise_mg, spectrum, slow, rng)

    beat_breath = np.interp(rhythm.beats_s, RHYTHM_TIME_S, rhythm.respiration)
    delay = person.pulse_delay_s - 0.008 * state.vascular_tone + 0.004 * beat_breath
    minute_s = clocks.ppg.true(_MINUTE_S)
    breath = np.interp(minute_s, RHYTHM_TIME_S, rhythm.respiration)
    pulse = Pulse(
        times_s=clocks.ppg.shown(rhythm.beats_s + delay),
        weights=person.perfusion * math.exp(0.3 * z[1]) * rhythm.strength * (1.0 + wrist.pulse_breath * beat_breath),
        baseline=0.35 * person.perfusion * breath * math.exp(0.4 * z[2])
        + np.interp(minute_s, _WINDOW_TIME_S, unrest.ppg),
    )
    ppg = render_pulse(person, state, pulse, rng, channels=ppg_channels)
    return Minute(ppg if large is None else ppg + large.ppg, accel)


def _gravity(postures: list[Posture], true_s: np.ndarray, breath_g: np.ndarray) -> np.ndarray:
    """Gravity with the tilt by breathing, [3, n] g, at true times; turns between postures are smooth."""
    gravity = postures[0].gravity[:, None] + postures[0].across[:, None] * breath_g
    for posture in postures[1:]:
        place = np.clip((true_s - posture.start_s) / posture.turn_s, 0.0, 1.0)
        place = place * place * (3.0 - 2.0 * place)
        gravity += place * (posture.gravity[:, None] + posture.across[:, None] * breath_g - gravity)
    return gravity / np.sqrt(np.sum(gravity**2, axis=0))
