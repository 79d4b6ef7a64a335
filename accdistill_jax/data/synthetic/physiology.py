"""Synthetic participants: their traits, the state of each minute, and their heart beats.

Directions and orders of magnitude follow the literature in each docstring. The coefficients are choices of this project, for a
plausible population rather than an epidemiological model.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from accdistill_jax.data.synthetic.conditions import (
    CONDITIONS,
    Causes,
    condition_logit,
    log_perfusion,
    modulation_depth,
    pulse_wave_velocity,
    resting_heart_rate,
)

RHYTHM_RATE_HZ = 8.0  # grid of the slow signals (respiration, rate modulation, drifts)
RHYTHM_START_S = -4.0  # slow signals start before the minute, so that its first beats have predecessors
RHYTHM_SAMPLES = 528  # 66 s at 8 Hz
VAGAL_DEPTH, DEPTH_NOISE, RATE_DEPTH = 0.25, 0.20, -0.011  # log depth per sd of vagal tone, of chance, per bpm
# Modulations of the beat intervals: sd in ms at 40 years, log change per year, sd of its log between people, limits in ms.
MODULATIONS = {
    "hf_ms": (27.0, -0.016, 0.25, 2.0, 110.0),
    "lf_ms": (27.0, -0.010, 0.20, 3.0, 80.0),
    "drift_ms": (24.0, -0.006, 0.25, 4.0, 80.0),
}
_KNOTS = 12  # knots of slow fluctuations, 6 s apart, including both ends

Activity = Literal["asleep", "resting", "seated", "active"]
RHYTHM_TIME_S = RHYTHM_START_S + np.arange(RHYTHM_SAMPLES) / RHYTHM_RATE_HZ
_KNOT_RAMP = np.arange(48) / 48.0


@dataclasses.dataclass(frozen=True)
class Physiology:
    """One synthetic participant: attributes, cardiovascular traits, and the position of the watch on the wrist.

    Angles are in rad, amplitudes in the unit of their name. `bcg_direction` and `offset_g` are in the watch's axes.
    """

    participant_id: str
    age_years: float
    sex: Literal["female", "male"]
    height_m: float
    weight_kg: float
    conditions: dict[str, bool]
    stiffness: float  # latent: stiffness of arteries above the age's norm, sd units; acts on the traits below only
    vagal: float  # latent: vagal tone above the age's norm, sd units; acts on the traits below only
    resting_hr_bpm: float
    hf_ms: float  # sd of the beat intervals due to respiration, at 15 breaths/min and resting heart rate
    lf_ms: float  # sd due to the 0.1 Hz oscillation
    drift_ms: float  # sd due to slower drifts
    respiration_bpm: float
    pulse_wave_velocity_m_s: float
    reflection: float  # height of the reflected wave relative to the systolic one
    pulse_delay_s: float  # R peak to the foot of the pulse at the wrist
    perfusion: float  # pulse amplitude, a.u.
    channel_gain: np.ndarray  # [8] gain of each PPG channel
    channel_noise: np.ndarray  # [8] sd of the sensor noise, a.u.
    channel_shape: np.ndarray  # [8] relative change of the reflected wave
    bcg_mg: float  # peak of the ballistocardiogram's vector, mg
    bcg_hz: float
    bcg_decay_s: float
    bcg_delay_s: float
    bcg_direction: np.ndarray  # [3] unit vector
    bcg_axis_phase: np.ndarray  # [3]
    bcg_echo: float  # second, later burst relative to the first
    tremor_mg: float
    tremor_hz: float
    restlessness: float  # factor on the rate of movements
    respiration_tilt_mg: float
    mount: np.ndarray  # [3, 3] rotation of the watch on this wrist
    offset_g: np.ndarray  # [3] zero offset of the accelerometer
    noise_g: float  # sd of one sample of its noise

    @property
    def bmi(self) -> float:
        """Body mass index in kg/m²."""
        return self.weight_kg / self.height_m**2


class MinuteState(NamedTuple):
    """Properties of one minute, apart from its random signals."""

    activity: Activity
    hour: float  # local time of day
    hr_bpm: float  # mean rate of the minute's beats
    respiration_bpm: float
    depth: float  # factor on the depth of the heart rate's modulations
    vascular_tone: float  # sd units; constriction raises stiffness and reflection
    start_unix_s: float


class Rhythm(NamedTuple):
    """Beats and respiration of one minute; times in s from its start, negative before it."""

    beats_s: np.ndarray  # [n] float64, R peaks from about -4 s to 62 s
    strength: np.ndarray  # [n] float64, stroke volume relative to the mean (ectopic beats eject less)
    respiration: np.ndarray  # [528] float64 at 8 Hz from -4 s, about -1..1, inspiration positive
    respiration_bpm: float  # mean rate inside the minute


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.sqrt(np.sum(v * v))


def rotation(axis_angle: np.ndarray) -> np.ndarray:
    """Rotation matrix [3, 3] about `axis_angle` [3] by its length in rad (Rodrigues' formula)."""
    angle = math.sqrt(float(np.sum(axis_angle**2)))
    x, y, z = (axis_angle / max(angle, 1e-12)).tolist()
    skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + math.sin(angle) * skew + (1.0 - math.cos(angle)) * (skew @ skew)


def participant_id(seed: int, index: int) -> str:
    """Name of participant `index` of the population `seed`."""
    return f"synthetic-{seed}-{index:06d}"


def participant_index(name: str) -> int:
    """Index of the participant with this `participant_id`."""
    return int(name.rpartition("-")[2])


def random_stream(
    seed: int, participant_index: int, segment_index: int | None = None, *, movement: bool = False
) -> np.random.Generator:
    """Random stream of a participant's traits, or of one of its minutes. It depends on the arguments alone.

    Large movement has a separate stream (`movement`), so that the rest of the minute does not depend on it. A participant's
    answers about health have a separate stream too (key 3, `health_targets`).
    """
    key = (participant_index, 0) if segment_index is None else (participant_index, 2 if movement else 1, segment_index)
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key)))


def _draw_conditions(u: np.ndarray, causes: Causes) -> dict[str, bool]:
    """Draws conditions from logistic models on the physiology. Medication depends on the conditions that it treats."""
    has: dict[str, bool] = {}
    for chance, name in zip(u, CONDITIONS, strict=True):
        has[name] = bool(chance < _sigmoid(float(condition_logit(name, causes, has))))
    return has


def sample_participant(seed: int, index: int, *, conditions: Mapping[str, bool] | None = None) -> Physiology:
    """Draws participant `index` of the population `seed`.

    Args:
        seed: seed of the population, at least 0.
        index: index of the participant, at least 0. Participants are independent.
        conditions: name -> condition to impose. All other random numbers stay the same, so two calls with different
            `conditions` show the causal effect.

    Returns:
        The participant's physiology.

    Raises:
        ValueError: an unknown condition.

    Sources:
        Heart rate variability: Nunan, Sandercock & Brodie 2010, Pacing Clin Electrophysiol 33 (short-term
        norms, SDNN around 50 ms, RMSSD around 42 ms); fall with age: Umetani et al. 1998, J Am Coll Cardiol
        31. Pulse wave velocity by age and blood pressure: Reference Values for Arterial Stiffness'
        Collaboration 2010, Eur Heart J 31 (about 6 m/s below 30 years, 11 m/s from 70 on).
        Ballistocardiogram: see `waveforms`. Condition effects: beta-blockade slows the heart (the drugs'
        purpose); smoking raises its rate; endurance training lowers it; diabetic autonomic neuropathy reduces
        variability (Task Force of the ESC and NASPE 1996, Circulation 93); hypertension and diabetes stiffen
        arteries.
    """
    unknown = sorted(set(conditions or ()) - set(CONDITIONS))
    if unknown:
        raise ValueError(f"unknown condition {unknown[0]!r}; known are {', '.join(CONDITIONS)}")
    rng = random_stream(seed, index)
    u = rng.random(32)
    z = rng.standard_normal(96)
    age = 18.0 + 67.0 * (0.75 * float(u[0]) + 0.25 * float(u[1]))
    male = float(u[2] < 0.5)
    height = 1.63 + 0.13 * male + 0.065 * z[0] - 0.0008 * max(age - 40.0, 0.0)
    bmi = float(np.clip(23.5 * math.exp(0.16 * z[1]) + 0.055 * (age - 18.0), 17.0, 45.0))
    stiffness, vagal = z[2], z[3]  # latent variables
    causes = Causes(age, bmi, male, stiffness, vagal)
    has = _draw_conditions(u[8:16], causes)
    has.update({name: bool(value) for name, value in (conditions or {}).items()})

    velocity = float(np.clip(pulse_wave_velocity(age, stiffness, has), 4.5, 16.0))
    rest = float(np.clip(resting_heart_rate(causes, z[4], has), 42.0, 100.0))
    depth = math.exp(VAGAL_DEPTH * vagal + DEPTH_NOISE * z[5] + RATE_DEPTH * (rest - 68.0))
    depth = modulation_depth(depth, has)
    ageing = age - 40.0
    amplitude = math.exp(math.log(4.0) + 0.40 * z[6] - 0.006 * ageing - 0.012 * (bmi - 26.0))
    return Physiology(
        participant_id=participant_id(seed, index),
        age_years=age,
        sex="male" if male else "female",
        height_m=float(height),
        weight_kg=float(bmi * height**2),
        conditions={name: has[name] for name in CONDITIONS},
        stiffness=float(stiffness),
        vagal=float(vagal),
        resting_hr_bpm=rest,
        **{name: _modulation(name, depth, ageing, chance) for name, chance in zip(MODULATIONS, z[7:10], strict=True)},
        respiration_bpm=float(np.clip(15.0 + 0.1 * (bmi - 26.0) + 2.4 * z[10], 8.5, 24.0)),
        pulse_wave_velocity_m_s=velocity,
        reflection=float(np.clip(0.40 + 0.02 * (velocity - 8.0) + 0.08 * z[11], 0.1, 0.75)),
        pulse_delay_s=float(np.clip(0.09 + 0.8 * height / 1.7 / velocity + 0.012 * z[12], 0.12, 0.35)),
        perfusion=math.exp(log_perfusion(z[13], has)),
        channel_gain=np.exp(0.25 * z[16:24]),
        channel_noise=0.02 * np.exp(0.5 * z[24:32]),
        channel_shape=0.10 * z[32:40],
        bcg_mg=float(np.clip(amplitude, 1.5, 10.0)),
        bcg_hz=float(np.clip(6.2 * math.exp(0.16 * z[40]), 4.2, 9.0)),
        bcg_decay_s=float(np.clip(0.075 * math.exp(0.22 * z[41]), 0.045, 0.14)),
        bcg_delay_s=float(np.clip(0.10 + 0.02 * z[42] - 0.004 * (velocity - 8.0), 0.05, 0.18)),
        bcg_direction=_unit(np.array([1.0, 0.45, 0.5]) * z[43:46]),  # mostly along the forearm
        bcg_axis_phase=0.6 * z[46:49],
        bcg_echo=0.5 * float(u[3]),
        tremor_mg=0.9 * math.exp(0.45 * z[49] + 0.004 * ageing),
        tremor_hz=float(np.clip(9.6 + 1.0 * z[50], 7.5, 12.0)),
        restlessness=math.exp(0.5 * z[51]),
        respiration_tilt_mg=float(3.0 * math.exp(0.5 * z[52])),
        mount=rotation(0.25 * z[53:56]),
        offset_g=0.012 * z[56:59],
        noise_g=float(np.clip(122e-6 * math.exp(0.15 * z[59]), 90e-6, 165e-6)) * math.sqrt(32.0),
    )


def _modulation(name: str, depth: float, ageing: float, chance: float) -> float:
    size, per_year, spread, low, high = MODULATIONS[name]
    return float(np.clip(size * depth * math.exp(per_year * ageing + spread * chance), low, high))


def draw_state(person: Physiology, rng: np.random.Generator, *, segment_index: int) -> MinuteState:
    """Draws the state of minute `segment_index` of a person. Minutes are about two hours apart, day and night.

    Sources: circadian rhythm of heart rate with its low at night, respiratory slowing and stronger vagal
    modulation in (non-REM) sleep, faster breathing and shallower modulation with activity: standard
    physiology.
    """
    u = rng.random(6).tolist()
    z = rng.standard_normal(6).tolist()
    start = 1_704_067_200.0 + 7200.0 * segment_index + math.floor(7000.0 * u[0])
    hour = (start % 86400.0) / 3600.0
    asleep = 0.9 if (hour >= 23.0 or hour < 6.5) else 0.03
    activity: Activity
    if u[1] < asleep:
        activity = "asleep"
    else:
        activity = "resting" if u[2] < 0.45 else ("seated" if u[2] < 0.90 else "active")
    offset = {"asleep": -4.0, "resting": 0.0, "seated": 5.0, "active": 15.0}[activity]
    offset *= 0.7 if person.conditions["beta_blocker"] else 1.0
    circadian = 3.0 * math.cos(2.0 * math.pi * (hour - 15.0) / 24.0)
    hr = min(max(person.resting_hr_bpm + offset + circadian + 5.0 * z[0], 40.0), 125.0)
    breathing = {"asleep": -1.0, "resting": 0.0, "seated": 1.5, "active": 4.0}[activity]
    breaths = min(max(person.respiration_bpm + breathing + 1.8 * z[1], 6.5), 28.0)
    depth = math.exp(0.25 * z[2] - 0.018 * (hr - person.resting_hr_bpm))
    return MinuteState(activity, hour, hr, breaths, depth, z[3], start)


def upsample(knots: np.ndarray, ramp: np.ndarray) -> np.ndarray:
    """Linear interpolation between knots: [..., k + 1] to [..., k * len(ramp)]; `ramp` rises from 0 to below 1."""
    left = knots[..., :-1, None]
    return (left + (knots[..., 1:, None] - left) * ramp).reshape(*knots.shape[:-1], -1)


def draw_rhythm(person: Physiology, state: MinuteState, rng: np.random.Generator) -> Rhythm:
    """Draws the beats of one minute from an integral pulse frequency model.

    The rate f0 (1 + m(t)) is integrated, and a beat occurs when the integral passes an integer. m(t) is the sum of respiration
    (respiratory sinus arrhythmia), an oscillation near 0.1 Hz, slower drift and, during sleep with apnoea, a cycle of about
    45 s. Each part is scaled so that it alone gives the participant's sd of beat intervals for this part.

    Sources: model: Hyndman & Mohn 1975, Automedica 1; Mateo & Laguna 2000, IEEE Trans Biomed Eng 47.
    Low-frequency and respiratory bands: Task Force of the ESC and NASPE 1996, Circulation 93; McSharry et al.
    2003, IEEE Trans Biomed Eng 50. Respiratory modulation falls with breathing rate: Hirsch & Bishop 1981, Am
    J Physiol 241. Cyclical variation in sleep apnoea: Guilleminault et al. 1984, Lancet 1.
    """
    u = rng.random(8)
    knots = upsample(rng.standard_normal((5, _KNOTS)), _KNOT_RAMP)
    steps = 2.0 * math.pi / RHYTHM_RATE_HZ
    breaths_hz = state.respiration_bpm / 60.0 * np.clip(1.0 + 0.10 * knots[0], 0.6, 1.5)
    phase = 2.0 * math.pi * u[0] + steps * np.cumsum(breaths_hz)
    respiration = np.sin(phase + 0.3 * np.sin(phase)) * (1.0 + 0.15 * knots[1])
    low_phase = 2.0 * math.pi * u[1] + steps * np.cumsum(0.085 + 0.02 * u[2] + 0.012 * knots[2])
    low = np.sin(low_phase) * (1.0 + 0.3 * knots[3])

    f0 = state.hr_bpm / 60.0
    sd = 1e-3 * f0 * state.depth
    hf = person.hf_ms * min(0.25 * 60.0 / state.respiration_bpm, 2.0)
    asleep = state.activity == "asleep"
    modulation = math.sqrt(2.0) * sd * (hf * (1.3 if asleep else 1.0)) * respiration
    modulation += math.sqrt(2.0) * sd * (person.lf_ms * (0.8 if asleep else 1.0)) * low
    modulation += sd * person.drift_ms * 1.2 * knots[4]
    if asleep and person.conditions["sleep_apnea"] and u[3] < 0.6:
        cycle = 2.0 * math.pi * (RHYTHM_TIME_S / (38.0 + 14.0 * u[4]) + u[5])
        modulation += 0.07 * np.sin(cycle)
    integral = u[6] + np.cumsum(f0 * np.clip(1.0 + modulation, 0.6, 1.6)) / RHYTHM_RATE_HZ
    count = np.arange(math.ceil(integral[0]), math.floor(integral[-1]) + 1.0)
    beats = np.interp(count, integral, RHYTHM_TIME_S)

    n = beats.shape[0]
    noise = rng.standard_normal((2, 160))[:, :n]
    beats += 0.003 * noise[0]
    strength = 1.0 + 0.08 * noise[1]
    ectopic_draw = rng.random(160)[:n]
    if person.conditions["ectopic_beats"]:
        early = np.flatnonzero(ectopic_draw < 0.03 * u[7] ** 2)
        early = early[(early > 1) & (early < n - 2)]
        early = early[np.diff(early, prepend=-9) > 2]
        beats[early] -= (0.22 + 0.15 * u[4]) * (beats[early] - beats[early - 1])
        strength[early] *= 0.45
        strength[early + 1] *= 1.2
    inside = slice(32, 512)
    return Rhythm(beats, strength, respiration, float(60.0 * breaths_hz[inside].mean()))
