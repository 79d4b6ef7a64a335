"""The true probability of every yes/no answer of synthetic participants: what the best possible predictor would know.

The signals of a participant are made of three things: the traits in `Physiology`, three conditions that act on each
minute (`conditions.ACT_ON_MINUTES`), and chance that depends on neither. So whoever reads the signals, however long and
however well, and the person's age, sex and size besides, knows at most the traits and these three. `knowable` is the
probability of an answer given exactly that. It differs from the probability an answer was drawn with:

- Five conditions act on the traits (hypertension stiffens arteries and so on), which gives part of them away. Their
  probability given the traits is Bayes' rule over their 32 combinations and over vagal tone.
- The three that act on minutes stand written in the beats: their probability is 0 or 1, and only few and noisy minutes
  hide them.
- The targets of `health_targets` act on nothing: their probability is their logistic model's, averaged over the five
  conditions as far as the traits leave these open.
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
_VAGAL = np.arange(-5.0, 5.01, 0.4)  # sums over it are integrals: all that is summed is smooth at this scale


class Truth(NamedTuple):
    """Answers of N participants to the K questions of `NAMES`, and how sure anyone can be of them."""

    answers: np.ndarray  # [N, K] bool
    drawn_with: np.ndarray  # [N, K] float64: probability of "yes" given the latents and the other conditions
    knowable: np.ndarray  # [N, K] float64: the same given all that the signals are made of, and age, sex and size


def sample_truth(seed: int, indices: Sequence[int]) -> Truth:
    """Truth about participants `indices` of the population `seed`; about 3000 a second, no signal is rendered."""
    people = [physiology.sample_participant(seed, int(index)) for index in indices]
    asked = [draw_answers(seed, int(index), person) for index, person in zip(indices, people, strict=True)]
    answers = [[(person.conditions | own)[name] for name in NAMES] for person, own in zip(people, asked, strict=True)]
    return Truth(np.array(answers, bool).reshape(len(people), len(NAMES)), _drawn_with(people), _knowable(people))


def _columns(people: Sequence[Physiology]) -> dict[str, np.ndarray]:
    rows = [features(person) for person in people]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _array(people: Sequence[Physiology], name: str) -> np.ndarray:
    return np.array([getattr(person, name) for person in people], np.float64)


def _causes(people: Sequence[Physiology], stiffness: np.ndarray, vagal: np.ndarray) -> Causes:
    male = np.array([person.sex == "male" for person in people], np.float64)
    shape = (-1, *(1,) * (np.ndim(stiffness) - 1))
    return Causes(
        *(x.reshape(shape) for x in (_array(people, "age_years"), _array(people, "bmi"), male)), stiffness, vagal
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
    """[N, K] probabilities for people who are alike in the conditions that act on minutes."""
    combinations = [seen | dict(zip(_HIDDEN, hidden, strict=True)) for hidden in _COMBINATIONS]
    log_weight = np.stack([_log_likelihood(people, has) for has in combinations], axis=1)
    weight = np.exp(log_weight - logsumexp(log_weight, axis=1, keepdims=True))
    of = _columns(people)
    result = np.zeros((len(people), len(NAMES)))
    for column, name in enumerate(CONDITIONS):
        given = np.array([has[name] for has in combinations], np.float64)
        result[:, column] = seen[name] if name in seen else np.clip(weight @ given, 0.0, 1.0)
    for column, target in enumerate(HEALTH_TARGETS, start=len(CONDITIONS)):
        if not set(target.weights) & set(_HIDDEN):  # exactly, so that people who are alike tie
            result[:, column] = expit(logit(target, of))
            continue
        for has, share in zip(combinations, weight.T, strict=True):
            given = of | {name: float(value) for name, value in has.items()}
            result[:, column] += share * expit(logit(target, given))
    return result


def _log_likelihood(people: Sequence[Physiology], has: dict[str, bool]) -> np.ndarray:
    """[N] log probability, up to a constant per person, of having these conditions and the traits the person has.

    A trait that lies at its limit is taken at face value (one person in fifty has one).
    """
    age, rest = _array(people, "age_years"), _array(people, "resting_hr_bpm")
    plain = pulse_wave_velocity(age, 0.0, has)
    stiffness = (_array(people, "pulse_wave_velocity_m_s") - plain) / (pulse_wave_velocity(age, 1.0, has) - plain)
    causes = _causes(people, stiffness[:, None], _VAGAL[None, :])
    chance = (rest[:, None] - resting_heart_rate(causes, 0.0, has)) / REST_NOISE_BPM
    total = -0.5 * (stiffness[:, None] ** 2 + _VAGAL**2 + chance**2)

    # Log modulations minus what is known of them are VAGAL_DEPTH * vagal + noise they share + noise of their own.
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
