"""True probability of every yes/no answer of synthetic participants, for the best possible predictor.

The signals of a participant depend on the traits in `Physiology`, on three conditions that act on each minute
(`conditions.ACT_ON_MINUTES`), and on independent chance. A predictor from the signals, age, sex and size knows at most the
traits and these three conditions. `knowable` is the probability of an answer given exactly this knowledge. It differs from the
probability of the draw:

- Five conditions act on the traits (for example, hypertension stiffens arteries). Bayes' rule over their 32 combinations and
  over vagal tone gives their probability given the traits.
- The three conditions that act on minutes are visible in the beats: their probability is 0 or 1.
- The targets of `health_targets` do not act on anything. Their probability is that of their logistic model, averaged over the
  five conditions given the traits.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_expit, logsumexp

from accdistill_jax.data.synthetic import physiology
from accdistill_jax.data.synthetic.conditions import (
    ACT_ON_MINUTES,
    CONDITIONS,
    PERFUSION_NOISE,
    REST_NOISE_BPM,
    Causes,
    condition_logit,
    log_perfusion,
    modulation_depth,
    pulse_wave_velocity,
    resting_heart_rate,
)
from accdistill_jax.data.synthetic.health_targets import HEALTH_TARGETS, draw_answers, features, logit
from accdistill_jax.data.synthetic.physiology import (
    DEPTH_NOISE,
    MODULATIONS,
    RATE_DEPTH,
    VAGAL_DEPTH,
    Physiology,
)

NAMES = (*CONDITIONS, *(target.name for target in HEALTH_TARGETS))
_HIDDEN = tuple(name for name in CONDITIONS if name not in ACT_ON_MINUTES)
_COMBINATIONS = tuple(itertools.product((False, True), repeat=len(_HIDDEN)))
_VAGAL = np.arange(-5.0, 5.01, 0.4)  # grid for integrals over vagal tone; the integrands are smooth at this scale


class HealthTruth(NamedTuple):
    """Answers of N participants to the K questions of `NAMES`, and their probabilities.

    Attributes:
        answers: [N, K] bool.
        drawn_with: [N, K] float64, probability of "yes" given the latent variables and the other conditions.
        knowable: [N, K] float64, probability of "yes" given the traits behind the signals, age, sex and size.
    """

    answers: np.ndarray
    drawn_with: np.ndarray
    knowable: np.ndarray


def sample_truth(seed: int, indices: Sequence[int]) -> HealthTruth:
    """Truth about participants `indices` of the population `seed`. It renders no signals: about 3000 participants per second."""
    people = [physiology.sample_participant(seed, int(index)) for index in indices]
    asked = [draw_answers(seed, int(index), person) for index, person in zip(indices, people, strict=True)]
    answers = [
        [(person.conditions | drawn)[name] for name in NAMES] for person, drawn in zip(people, asked, strict=True)
    ]
    return HealthTruth(np.array(answers, bool).reshape(len(people), len(NAMES)), _drawn_with(people), _knowable(people))


def _columns(people: Sequence[Physiology]) -> dict[str, np.ndarray]:
    rows = [features(person) for person in people]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _array(people: Sequence[Physiology], name: str) -> np.ndarray:
    return np.array([getattr(person, name) for person in people], np.float64)


def _causes(people: Sequence[Physiology], stiffness: np.ndarray, vagal: np.ndarray) -> Causes:
    male = np.array([person.sex == "male" for person in people], np.float64)
    shape = (-1, *(1,) * (np.ndim(stiffness) - 1))
    return Causes(
        age=_array(people, "age_years").reshape(shape),
        bmi=_array(people, "bmi").reshape(shape),
        male=male.reshape(shape),
        stiffness=stiffness,
        vagal=vagal,
    )


def _drawn_with(people: Sequence[Physiology]) -> np.ndarray:
    if not people:
        return np.empty((0, len(NAMES)))
    of = _columns(people)
    causes = _causes(people, _array(people, "stiffness"), _array(people, "vagal"))
    logits = [condition_logit(name, causes, of) for name in CONDITIONS]
    logits += [np.broadcast_to(logit(target, of), len(people)) for target in HEALTH_TARGETS]
    return expit(np.stack(logits, axis=1))


def _knowable(people: Sequence[Physiology]) -> np.ndarray:
    result = np.empty((len(people), len(NAMES)))
    for known in itertools.product((False, True), repeat=len(ACT_ON_MINUTES)):
        seen = dict(zip(ACT_ON_MINUTES, known, strict=True))
        rows = [i for i, person in enumerate(people) if all(person.conditions[k] == v for k, v in seen.items())]
        for start in range(0, len(rows), 4096):
            part = rows[start : start + 4096]
            result[part] = _knowable_of_group([people[i] for i in part], seen)
    return result


def _knowable_of_group(people: Sequence[Physiology], seen: dict[str, bool]) -> np.ndarray:
    """[N, K] probabilities for people with the same conditions that act on minutes."""
    combinations = [seen | dict(zip(_HIDDEN, hidden, strict=True)) for hidden in _COMBINATIONS]
    log_weight = np.stack([_log_likelihood(people, has) for has in combinations], axis=1)
    weight = np.exp(log_weight - logsumexp(log_weight, axis=1, keepdims=True))
    of = _columns(people)
    result = np.zeros((len(people), len(NAMES)))
    for column, name in enumerate(CONDITIONS):
        given = np.array([has[name] for has in combinations], np.float64)
        result[:, column] = seen[name] if name in seen else np.clip(weight @ given, 0.0, 1.0)
    for column, target in enumerate(HEALTH_TARGETS, start=len(CONDITIONS)):
        if not set(target.weights) & set(_HIDDEN):  # exact, so that equal people have equal probabilities
            result[:, column] = expit(logit(target, of))
            continue
        for has, share in zip(combinations, weight.T, strict=True):
            given = of | {name: float(value) for name, value in has.items()}
            result[:, column] += share * expit(logit(target, given))
    return result


def _log_likelihood(people: Sequence[Physiology], has: dict[str, bool]) -> np.ndarray:
    """[N] log probability of these conditions together with the person's traits, up to a constant per person.

    A clipped trait is used as it is (one person in fifty has one).
    """
    age, rest = _array(people, "age_years"), _array(people, "resting_hr_bpm")
    plain = pulse_wave_velocity(age, 0.0, has)
    stiffness = (_array(people, "pulse_wave_velocity_m_s") - plain) / (pulse_wave_velocity(age, 1.0, has) - plain)
    causes = _causes(people, stiffness[:, None], _VAGAL[None, :])
    chance = (rest[:, None] - resting_heart_rate(causes, 0.0, has)) / REST_NOISE_BPM
    total = -0.5 * (stiffness[:, None] ** 2 + _VAGAL**2 + chance**2)

    # Log modulations minus their known part are VAGAL_DEPTH * vagal + common noise + separate noise.
    spread = np.array([spread for _, _, spread, _, _ in MODULATIONS.values()])
    precision = np.linalg.inv(DEPTH_NOISE**2 + np.diag(spread**2))
    known = RATE_DEPTH * (rest - 68.0) + np.log(modulation_depth(1.0, has))
    left = np.stack(
        [
            np.log(_array(people, name) / size) - per_year * (age - 40.0) - known
            for name, (size, per_year, *_) in MODULATIONS.items()
        ],
        axis=1,
    )
    left = left[:, None, :] - VAGAL_DEPTH * _VAGAL[:, None]
    total -= 0.5 * np.einsum("nqi,ij,nqj->nq", left, precision, left)
    chance = (np.log(_array(people, "perfusion")) - log_perfusion(0.0, has)) / PERFUSION_NOISE
    total -= 0.5 * chance[:, None] ** 2
    for name in CONDITIONS:
        total = total + log_expit((1.0 if has[name] else -1.0) * condition_logit(name, causes, has))
    return logsumexp(total, axis=1)
