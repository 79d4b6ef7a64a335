"""Upper bounds for predicting the yes/no targets of synthetic participants.

A ceiling is the ROC AUC of `health_oracle`'s knowable probability: that of an answer given everything the signals are
made of, and age, sex and size. Ranking people by it is the best ranking there is, so no predictor exceeds it in
expectation, whatever it reads and however it was trained. On few participants one may by chance, and a sensor, which
sees a noisy part of the traits and not the person's age, sees less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from accdistill_jax.data.synthetic import physiology
from accdistill_jax.data.synthetic.health_oracle import NAMES, Truth, sample_truth
from accdistill_jax.data.synthetic.synthetic import GENERATOR_VERSION
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.people.roc import roc_areas


def drawn_ceilings(truth: Truth) -> dict[str, float | None]:
    """AUC of the knowable probability against the answers drawn; None where these are all alike."""
    return _areas(truth.knowable, truth.answers, ~truth.answers)


def expected_ceilings(truth: Truth) -> dict[str, float | None]:
    """AUC of the knowable probability that is expected over draws of the answers, for people like these.

    Each person counts as a positive with the probability of "yes" and as a negative with the rest. A condition that
    acts on the beats (`conditions.ACT_ON_MINUTES`) has 1: it is open to whoever reads enough minutes well enough.
    """
    return _areas(truth.knowable, truth.knowable, 1.0 - truth.knowable)


def store_truth(manifest: Mapping, participants: Iterable[str]) -> Truth:
    """Truth about participants of a synthetic store.

    Args:
        manifest: the store's.
        participants: names as in the store, for example those of its test split.

    Raises:
        UserError: a store of other recordings, or of another version of the generator, or a participant of another
            population.
    """
    if manifest["source"] != "synthetic":
        raise UserError(f"the store's recordings are {manifest['source']}: only synthetic ones have known ceilings")
    settings = manifest["source_settings"]
    if settings["generator"] != GENERATOR_VERSION:
        raise UserError(
            f"the store was made by version {settings['generator']} of the generator, this is version "
            f"{GENERATOR_VERSION}: its answers have other ceilings; make the store again"
        )
    names = list(participants)
    indices = [physiology.participant_index(name) for name in names]
    for name, index in zip(names, indices, strict=True):
        if name != physiology.participant_id(settings["seed"], index):
            raise UserError(f"participant {name} is not of the store's population {settings['seed']}")
    return sample_truth(settings["seed"], indices)


def _areas(score: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> dict[str, float | None]:
    found = {}
    for column, name in enumerate(NAMES):
        auc, _ = roc_areas(score[:, column], positive[None, :, column], negative[None, :, column])
        found[name] = None if math.isnan(auc[0]) else float(auc[0])
    return found
