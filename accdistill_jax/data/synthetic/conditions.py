"""Conditions that act on the synthetic signals: their probabilities, and their effects on a person.

The formulas take numbers or arrays. `physiology` draws people with them, and `health_oracle` inverts them, so that both use
the same model. Directions follow the literature in `physiology.sample_participant`; the coefficients are choices of this
project.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

CONDITIONS = (
    "hypertension",
    "diabetes",
    "smoker",
    "endurance_training",
    "sleep_apnea",
    "ectopic_beats",
    "beta_blocker",
    "vasodilator",
)
# These conditions also act on each minute (its beats, its rate by activity). The others act on the person's traits only.
ACT_ON_MINUTES = ("sleep_apnea", "ectopic_beats", "beta_blocker")
REST_NOISE_BPM = 6.5  # sd of the unexplained part of the resting heart rate
PERFUSION_NOISE = 0.35  # sd of the log of the pulse amplitude

Number = float | np.ndarray
Has = Mapping[str, bool | np.ndarray]


class Causes(NamedTuple):
    """Risk factors of conditions in a person; numbers, or arrays of one shape."""

    age: Number  # years
    bmi: Number
    male: Number  # 0 or 1
    stiffness: Number  # latent: stiffer than the age's norm, sd units
    vagal: Number  # latent: vagal tone above the age's norm, sd units


# In the order of the draws: a logit depends only on conditions above it.
_LOGITS: dict[str, Callable[[Causes, Has], Number]] = {
    "hypertension": lambda c, _: -1.3 + 0.055 * (c.age - 50) + 0.10 * (c.bmi - 26) + 0.9 * c.stiffness,
    "diabetes": lambda c, _: -2.9 + 0.04 * (c.age - 50) + 0.13 * (c.bmi - 26) + 0.3 * c.stiffness - 0.3 * c.vagal,
    "smoker": lambda c, _: -1.7 - 0.015 * (c.age - 45) + 0.2 * c.male - 0.3 * c.vagal,
    "endurance_training": lambda c, _: -1.4 - 0.03 * (c.age - 40) - 0.25 * (c.bmi - 24) + 0.8 * c.vagal,
    "sleep_apnea": lambda c, _: -2.6 + 0.025 * (c.age - 50) + 0.20 * (c.bmi - 27) + 0.9 * c.male,
    "ectopic_beats": lambda c, _: -2.6 + 0.05 * (c.age - 50) + 0.5 * c.stiffness,
    "beta_blocker": lambda c, has: -3.2 + 0.03 * (c.age - 55) + 2.3 * has["hypertension"] + 0.8 * has["ectopic_beats"],
    "vasodilator": lambda c, has: -4.0 + 0.02 * (c.age - 55) + 3.2 * has["hypertension"],
}


def condition_logit(name: str, causes: Causes, has: Has) -> Number:
    """Log odds of a condition, given the causes and the preceding conditions in `has`."""
    return _LOGITS[name](causes, has)


def pulse_wave_velocity(age: Number, stiffness: Number, has: Has) -> Number:
    """Pulse wave velocity in m/s, before it is clipped."""
    velocity = 5.9 + 0.0010 * (age - 15.0) ** 2 + 0.7 * stiffness * (0.6 + age / 100.0)
    velocity += 1.1 * has["hypertension"] + 0.6 * has["diabetes"]
    velocity += 0.3 * has["smoker"] - 0.7 * has["vasodilator"]
    return velocity


def resting_heart_rate(causes: Causes, noise: Number, has: Has) -> Number:
    """Resting heart rate in bpm, before it is clipped; `noise` in sd units."""
    rest = 68.0 + 3.0 * (1.0 - causes.male) + 0.25 * (causes.bmi - 26.0) - 4.0 * causes.vagal + REST_NOISE_BPM * noise
    rest += 4.0 * has["smoker"] + 3.0 * has["diabetes"] - 8.0 * has["endurance_training"]
    rest += -10.0 * has["beta_blocker"] + 2.0 * has["vasodilator"]
    return rest


def modulation_depth(plain: float, has: Mapping[str, bool]) -> float:
    """Depth of the heart rate's modulations, from the depth without any condition."""
    plain *= 0.80 if has["smoker"] else 1.0
    plain *= 0.65 if has["diabetes"] else 1.0
    plain *= 0.75 if has["beta_blocker"] else 1.0
    plain *= 1.15 if has["endurance_training"] else 1.0
    return plain


def log_perfusion(noise: Number, has: Mapping[str, bool]) -> Number:
    """Log of the pulse amplitude; `noise` in sd units."""
    return PERFUSION_NOISE * noise + (0.15 if has["vasodilator"] else 0.0)
