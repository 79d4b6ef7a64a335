"""Errors of the probes by sensor: a result on one accelerometer says little about another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.probing import probes
from accdistill_jax.evaluation.probing.scoring import Scorer
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings


@dataclasses.dataclass(frozen=True)
class SensorResult:
    """Errors on the test segments of one device.

    Attributes:
        target: label.
        device: name of the device.
        segments: labelled test segments.
        participants: people who have such segments.
        mae: mean absolute error of the main encoder's probe, in the target's unit.
        mean_mae: the same of the constant "mean".
    """

    target: str
    device: str
    segments: int
    participants: int
    mae: Estimate
    mean_mae: Estimate


def errors_by_sensor(
    targets: Mapping[str, probes.TargetResult], encoder: str, test: SplitEmbeddings, *, draws: int, seed: int
) -> list[SensorResult]:
    """Errors of an encoder's probes for each device of the test split.

    Args:
        targets: results of the probes.
        encoder: the encoder to measure.
        test: its test split.
        draws: draws of participants behind each interval.
        seed: seed of the draws.

    Returns:
        A result for each target and device; [] if the devices are unknown or all segments are of one.
    """
    if test.device is None or len(np.unique(test.device)) < 2:
        return []
    results = []
    for target, result in targets.items():
        if result.truth is None or result.participant is None:
            continue
        device = test.device[np.isfinite(test.labels[target])]
        for name in np.unique(device):
            rows = device == name
            scorer = Scorer(result.truth[rows], result.participant[rows], draws=draws, seed=seed)
            mae, mean_mae = (
                scorer.estimates(scorer.measure(result.probes[probe].prediction[rows]))[0]
                for probe in (encoder, probes.MEAN)
            )
            people = len(np.unique(result.participant[rows]))
            results.append(SensorResult(target, str(name), int(rows.sum()), people, mae, mean_mae))
    return results
