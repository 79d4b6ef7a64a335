"""Agreement of predictions with labels for repeated measurements of each participant (Bland and Altman)."""

from __future__ import annotations

import dataclasses

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap

LIMIT = 1.96


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Differences (prediction - truth) of one encoder on one target, in the target's unit.

    Attributes:
        segments: number of segments.
        participants: number of people.
        bias: mean difference over the segments.
        low, high: limits of agreement, bias -+ 1.96 `sd`.
        sd: standard deviation of the difference for a new participant, within and between participants together.
        sd_within: standard deviation within a participant. None with one segment of each participant, where the components
            cannot be separated.
        sd_between: standard deviation between participants, beyond the effect of `sd_within` on their means. None with one
            participant, or with one segment of each.
        slope: slope of the difference on the mean of prediction and truth. It is negative for a probe that shrinks towards
            the mean: too high for low values and too low for high values.
    """

    segments: int
    participants: int
    bias: Estimate
    low: Estimate
    high: Estimate
    sd: Estimate
    sd_within: float | None
    sd_between: float | None
    slope: Estimate


def bland_altman(
    truth: np.ndarray, prediction: np.ndarray, participant: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> Agreement:
    """Bias and limits of agreement for repeated measurements of each participant.

    The variance of the differences has a component within participants and one between them, from a one-way analysis of
    variance with unequal numbers of segments. The limits hold for one segment of a new participant. If people differ and
    some have more segments than others, they are wider than limits that treat all segments as independent. The intervals come
    from a bootstrap over participants.

    Args:
        truth: [N] float.
        prediction: [N] float. Rows with a truth or prediction that is not finite are left out.
        participant: [N] str.
        draws: bootstrap draws.
        seed: seed of the draws.

    Raises:
        ValueError: fewer than two finite rows, or arrays of different lengths.

    Source: Bland and Altman, "Agreement between methods of measurement with multiple observations per individual", Journal
    of Biopharmaceutical Statistics 17:571-582, 2007, the method for a true value that varies.
    """
    truth, prediction = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    participant = np.asarray(participant)
    if not truth.shape == prediction.shape == participant.shape:
        raise ValueError(
            f"agreement needs arrays of one length, got {truth.shape}, {prediction.shape}, {participant.shape}"
        )
    known = np.isfinite(truth) & np.isfinite(prediction)
    if np.count_nonzero(known) < 2:
        raise ValueError(f"agreement needs at least two labelled segments, got {np.count_nonzero(known)}")
    difference, mean = (prediction - truth)[known], ((prediction + truth) / 2)[known]
    shift = difference.mean()
    d, m = difference - shift, mean - mean.mean()  # about the means, so that sums of squares keep their precision
    people = ParticipantBootstrap(participant[known], draws=draws, seed=[seed, 23])
    sums = people.sums(np.stack([np.ones_like(d), d, d * d, m, m * m, d * m], axis=1))
    n, total = sums[:, 0], sums[:, 1]
    sums = np.column_stack([sums, n**2, total**2 / n, np.ones_like(n)])
    value, drawn = _agreement(sums.sum(axis=0)), _agreement(people.resample(sums))
    bias, low, high, sd, slope = (
        people.estimate(float(value[k] + offset), drawn[k] + offset)
        for k, offset in (("bias", shift), ("low", shift), ("high", shift), ("sd", 0.0), ("slope", 0.0))
    )
    parts = {k: float(value[k]) if np.isfinite(value[k]) else None for k in ("sd_within", "sd_between")}
    return Agreement(int(known.sum()), people.num_participants, bias, low, high, sd, **parts, slope=slope)


def _agreement(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers of `Agreement` from totals [..., 9]: the columns of `bland_altman`, the last of which counts participants."""
    n, d, dd, m, mm, dm, nn, dd_between, k = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        bias = d / n
        mean_square_within = np.where(n > k, np.maximum(dd - dd_between, 0) / (n - k), np.nan)
        mean_square_between = np.where(k > 1, np.maximum(dd_between - d * d / n, 0) / (k - 1), np.nan)
        per_person = (n * n - nn) / ((k - 1) * n)
        between = np.maximum(mean_square_between - mean_square_within, 0) / per_person
        plain = np.maximum(dd - d * d / n, 0) / (n - 1)
        variance = np.where(np.isfinite(between), between + mean_square_within, plain)
        spread = mm - m * m / n
        slope = np.where(spread > 1e-12 * (mm + 1e-300), (dm - d * m / n) / spread, np.nan)
    sd = np.sqrt(variance)
    return {
        "bias": bias,
        "low": bias - LIMIT * sd,
        "high": bias + LIMIT * sd,
        "sd": sd,
        "sd_within": np.sqrt(mean_square_within),
        "sd_between": np.sqrt(between),
        "slope": slope,
    }
