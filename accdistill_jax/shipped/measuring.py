"""Measures a shipped encoder and its read-outs, as they are shipped, on a store."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from accdistill_jax.api.encoder import TrainedEncoder
from accdistill_jax.data.store.opening import label_values
from accdistill_jax.data.store.store import Store
from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.evaluation.predictions import measure_predictions
from accdistill_jax.evaluation.probing import probes
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings

_BLOCK = 1024  # segments that are read at a time
_DRAWS = 2000
_SEED = 0


def measure_readouts(
    encoder: TrainedEncoder, store: Store, rows: np.ndarray, *, medians: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Measures all read-outs on minutes of people whom neither encoder nor read-outs have seen.

    Args:
        encoder: has read-outs.
        store: has the labels.
        rows: [n] minutes of the store.
        medians: label -> constant to compare with.

    Returns:
        Label -> JSON values: minutes, people; mae of all minutes, median and own mean (of the constant, and of the mean of the
        person's other minutes), mae_kept, kept, coverage_kept and unknown (see `PredictionResult`). Errors are in the label's unit.
    """
    assert encoder.readouts is not None
    blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
    embedding = np.concatenate([encoder.encode(store.read(block)) for block in blocks])
    people = np.asarray(store.segments["participant"]).astype(str)[rows]
    labels = {name: label_values(store, name)[rows] for name in encoder.readouts.targets}
    motion = np.asarray(store.segments["motion_g"], np.float32)[rows]
    test = SplitEmbeddings(embedding, None, people, labels, motion_g=motion)
    results = {}
    for label, measured in measure_predictions(encoder.readouts, test, draws=_DRAWS, seed=_SEED).items():
        known = probes.ProbeSplit({"embedding": embedding}, np.asarray(labels[label], np.float64), people).labelled()
        constant = medians[label]
        baselines = {
            "median": np.full(len(known.target), constant),
            "own mean": probes.own_mean(known, otherwise=constant),
        }
        whose = ParticipantBootstrap(known.participant, draws=_DRAWS, seed=[_SEED, 25])
        results[label] = {
            "minutes": len(known.target),
            "people": known.num_participants,
            **{name: _json(_mean(whose, np.abs(values - known.target))) for name, values in baselines.items()},
            **{name: _json(getattr(measured, name)) for name in ("mae", "mae_kept", "coverage_kept")},
            "kept": measured.kept,
            "unknown": measured.unknown,
        }
    return results


def _mean(people: ParticipantBootstrap, values: np.ndarray) -> Estimate:
    sums = people.sums(np.stack([values, np.ones_like(values)], axis=1))
    drawn = people.resample(sums)
    return people.estimate(float(np.mean(values)), drawn[:, 0] / drawn[:, 1])


def _json(estimate: Estimate) -> dict[str, float | None]:
    return dataclasses.asdict(estimate)
