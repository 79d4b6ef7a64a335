"""Yes/no questions about the health of synthetic participants, besides the conditions that act on their signals.

They resemble the 46 targets of arXiv 2412.11276: conditions, medications and lifestyle answers. None of them acts on a
signal. A logistic model draws each answer from the traits behind the signals (rates, variability, arteries, movement, the
eight conditions of `conditions`) and from age, sex and size. So the best possible prediction is known (`health_oracle`). It
ranges from nearly certain to pure chance.

Directions follow the literature. All coefficients are choices of this project, for a range of prevalence and difficulty; they
are not effect sizes in people:

- Essential tremor: commoner with age (Louis & Ferreira 2010, Mov Disord 25).
- Peripheral artery disease: smoking, diabetes (Fowkes et al. 2013, Lancet 382). Coronary disease: age, sex, blood
  pressure, diabetes, smoking (Wilson et al. 1998, Circulation 97), arterial stiffness (Vlachopoulos, Aznaouridis &
  Stefanadis 2010, J Am Coll Cardiol 55).
- Heart failure: low variability (Nolan et al. 1998, Circulation 98), a weak ballistocardiogram (Starr & Wood 1961,
  Circulation 23). Atrial fibrillation: age, blood pressure (Benjamin et al. 1994, JAMA 271).
- Autonomic neuropathy: diabetes, low variability (Vinik et al. 2003, Diabetes Care 26).
- Depression and anxiety: lower variability (Kemp et al. 2010, Biol Psychiatry 67; Chalmers et al. 2014, Front
  Psychiatry 5). Restless legs: women, age (Allen et al. 2005, Arch Intern Med 165). Migraine: women (Lipton et al.
  2007, Neurology 68).
- Anaemia and hyperthyroidism raise the heart rate, and hyperthyroidism causes tremor; Raynaud's phenomenon reduces the blood
  in the fingers; drugs follow the diseases they are prescribed for; training slows the heart: textbook medicine.
- The other answers (sleep, stress, drinks, breathing) have plausible directions, without evidence.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from accdistill_jax.data.synthetic.conditions import CONDITIONS
from accdistill_jax.data.synthetic.physiology import Physiology

CONDITION, MEDICATION, LIFESTYLE, CONTROL = "condition", "medication", "lifestyle", "control"
Kind = Literal["condition", "medication", "lifestyle", "control"]
_STREAM = 3  # number of the random stream, see `physiology.random_stream`


@dataclasses.dataclass(frozen=True)
class HealthTarget:
    """One question.

    Attributes:
        name: name in the store, after `condition_`.
        kind: kind of the answer; a control does not depend on any feature.
        base: log odds if all features are 0.
        weights: feature (see `features`) -> change of the log odds per unit.
    """

    name: str
    kind: Kind
    base: float
    weights: Mapping[str, float]


def _ask(name: str, kind: Kind, base: float, **weights: float) -> HealthTarget:
    return HealthTarget(name, kind, base, weights)


# Add new targets at the end only: the place of a target selects its random number.
HEALTH_TARGETS = (
    _ask("sinus_tachycardia", CONDITION, -6.5, hr=6.0),
    _ask("essential_tremor", CONDITION, -4.6, tremor=3.2, age=0.4),
    _ask("peripheral_artery_disease", CONDITION, -3.6, velocity=1.6, smoker=0.8, diabetes=0.6),
    _ask("coronary_disease", CONDITION, -3.6, age=0.7, male=0.7, velocity=0.4, smoker=0.4, diabetes=0.5),
    _ask("heart_failure", CONDITION, -4.5, hf=-1.0, bcg=-1.5, age=0.5, hypertension=0.5),
    _ask("atrial_fibrillation", CONDITION, -3.4, ectopic_beats=1.7, age=0.8, sleep_apnea=0.6),
    _ask("autonomic_neuropathy", CONDITION, -3.8, hf=-1.2, drift=-0.8, diabetes=1.5),
    _ask("kidney_disease", CONDITION, -3.4, age=0.8, diabetes=0.8, hypertension=0.6),
    _ask("chronic_bronchitis", CONDITION, -3.4, smoker=1.8, respiration=0.9, age=0.5),
    _ask("asthma", CONDITION, -2.2, respiration=0.4, bmi=0.2),
    _ask("depression", CONDITION, -1.5, hr=0.25, hf=-0.3, restlessness=0.2, male=-0.4),
    _ask("anxiety", CONDITION, -1.3, hr=0.4, respiration=0.5, lf=-0.2, male=-0.5),
    _ask("anaemia", CONDITION, -2.3, hr=0.9, perfusion=-0.6, male=-1.2),
    _ask("hyperthyroidism", CONDITION, -3.9, hr=1.5, tremor=1.5, bmi=-0.4, male=-0.9),
    _ask("restless_legs", CONDITION, -3.0, restlessness=2.0, male=-0.5, age=0.2),
    _ask("insomnia", CONDITION, -1.2, restlessness=1.0, hr=0.2, age=0.2, male=-0.3),
    _ask("migraine", CONDITION, -1.5, male=-1.0, age=-0.2),
    _ask("raynaud", CONDITION, -3.4, perfusion=-2.4, male=-0.8, bmi=-0.3),
    _ask("arthritis", CONDITION, -1.2, age=1.0, bmi=0.4, male=-0.3),
    _ask("high_cholesterol", CONDITION, -0.9, age=0.4, bmi=0.3, velocity=0.2),
    _ask("metformin", MEDICATION, -3.9, diabetes=5.0),
    _ask("statin", MEDICATION, -1.6, age=0.7, diabetes=1.0, velocity=0.3),
    _ask("ace_inhibitor", MEDICATION, -3.6, hypertension=3.2, diabetes=0.5),
    _ask("anticoagulant", MEDICATION, -3.4, ectopic_beats=1.5, age=1.0),
    _ask("antidepressant", MEDICATION, -1.9, hr=0.4, hf=-0.6, male=-0.6),
    _ask("thyroid_hormone", MEDICATION, -2.0, male=-1.6, age=0.4, hr=0.2),
    _ask("bronchodilator", MEDICATION, -2.6, respiration=1.2, smoker=0.8, tremor=0.5),
    _ask("regular_exercise", LIFESTYLE, -0.6, endurance_training=2.5, hr=-1.2, hf=0.3, bmi=-0.4),
    _ask("breathing_practice", LIFESTYLE, -3.6, respiration=-2.8, hf=0.4),
    _ask("high_stress", LIFESTYLE, -0.6, hr=0.3, respiration=0.2, age=-0.2),
    _ask("daily_caffeine", LIFESTYLE, 0.4, tremor=0.4, restlessness=0.2),
    _ask("daily_alcohol", LIFESTYLE, -2.0, male=0.6, age=0.2, hr=0.2),
    _ask("control_left_handed", CONTROL, math.log(0.10 / 0.90)),
    _ask("control_born_in_winter", CONTROL, math.log(0.25 / 0.75)),
    _ask("control_blood_group_o", CONTROL, math.log(0.45 / 0.55)),
)
_CONDITION_KIND: Kind = CONDITION
KINDS: dict[str, Kind] = {
    **dict.fromkeys(CONDITIONS, _CONDITION_KIND),
    "smoker": LIFESTYLE,
    "endurance_training": LIFESTYLE,
    "beta_blocker": MEDICATION,
    "vasodilator": MEDICATION,
    **{target.name: target.kind for target in HEALTH_TARGETS},
}


def features(person: Physiology) -> dict[str, float]:
    """Features that answers depend on, centred and scaled to about unit spread in the population. Conditions are 0 or 1."""
    return {
        "age": (person.age_years - 50.0) / 15.0,
        "male": float(person.sex == "male"),
        "bmi": (person.bmi - 26.0) / 4.5,
        "hr": (person.resting_hr_bpm - 67.0) / 10.0,
        "hf": math.log(person.hf_ms / 24.0) / 0.6,
        "lf": math.log(person.lf_ms / 24.0) / 0.5,
        "drift": math.log(person.drift_ms / 22.0) / 0.5,
        "respiration": (person.respiration_bpm - 15.0) / 2.5,
        "velocity": (person.pulse_wave_velocity_m_s - 8.0) / 2.0,
        "perfusion": math.log(person.perfusion) / 0.35,
        "bcg": math.log(person.bcg_mg / 3.7) / 0.42,
        "tremor": math.log(person.tremor_mg / 0.93) / 0.45,
        "restlessness": math.log(person.restlessness) / 0.5,
        **{name: float(has) for name, has in person.conditions.items()},
    }


def logit(target: HealthTarget, of: Mapping[str, float | np.ndarray]) -> float | np.ndarray:
    """Log odds of "yes" from `features`, as numbers or arrays of one shape."""
    total = target.base
    for name, weight in target.weights.items():
        total = total + weight * of[name]
    return total


def draw_answers(seed: int, index: int, person: Physiology) -> dict[str, bool]:
    """Answers of participant `index` of the population `seed` to all of `HEALTH_TARGETS`.

    Args:
        seed: seed of the population.
        index: index of the participant.
        person: `sample_participant(seed, index)`.

    Returns:
        Target -> answer. The draws use a random stream of their own.
    """
    stream = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(index, _STREAM))))
    chances, of = stream.random(len(HEALTH_TARGETS)).tolist(), features(person)
    return {
        target.name: chance < 1.0 / (1.0 + math.exp(-logit(target, of)))
        for target, chance in zip(HEALTH_TARGETS, chances, strict=True)
    }
