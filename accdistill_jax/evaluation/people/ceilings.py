"""Upper bounds for predicting the yes/no targets of synthetic participants.

A ceiling is the ROC AUC of the knowable probability of `health_oracle`: the probability of an answer given age, sex, size and
all traits behind the signals. No ranking of people is better in expectation, so no predictor exceeds the ceiling in
expectation. With few participants a predictor may exceed it by chance. A sensor records a noisy part of the traits and not the
person's age, so predictors from signals stay below it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from accdistill_jax.data.synthetic import physiology
from accdistill_jax.data.synthetic.health_oracle import NAMES, HealthTruth, sample_truth
from accdistill_jax.data.synthetic.synthetic import GENERATOR_VERSION
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.people.roc import roc_areas


def drawn_ceilings(truth: HealthTruth) -> dict[str, float | None]:
    """AUC of the knowable probability for the drawn answers: condition -> AUC, None if all people have the same answer."""
    ceilings: dict[str, float | None] = {}
    for column, name in enumerate(NAMES):
        yes = truth.answers[None, :, column]
        auc, _ = roc_areas(truth.knowable[:, column], yes, ~yes)
        ceilings[name] = None if math.isnan(auc[0]) else float(auc[0])
    return ceilings


def store_truth(manifest: Mapping, participants: Iterable[str]) -> HealthTruth:
    """True health of participants of a synthetic store.

    Args:
        manifest: manifest of the store.
        participants: names as in the store, for example the people of its test split.

    Raises:
        UserError: a store of other recordings or of another version of the generator, or a participant of another
            population.
    """
    if manifest["source"] != "synthetic":
        raise UserError(
            f"the store's recordings are {manifest['source']}: only synthetic recordings have known ceilings"
        )
    settings = manifest["source_settings"]
    if settings["generator"] != GENERATOR_VERSION:
        raise UserError(
            f"the store was made by version {settings['generator']} of the generator, and this is version "
            f"{GENERATOR_VERSION}, whose answers have other ceilings: make the store again"
        )
    names = list(participants)
    indices = [physiology.participant_index(name) for name in names]
    for name, index in zip(names, indices, strict=True):
        if name != physiology.participant_id(settings["seed"], index):
            raise UserError(f"participant {name} does not belong to the store's population {settings['seed']}")
    return sample_truth(settings["seed"], indices)
