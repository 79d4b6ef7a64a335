"""Formats measured numbers as text, makes entries of the report from them, and lists the encoders that can be measured."""

from collections.abc import Sequence

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.reproduce.measure.probe_scores import Score
from accdistill_jax.reproduce.measure.results import DONE, Bench, over_seeds
from accdistill_jax.reproduce.measure.tolerance import (
    ALONE,
    ALONE_CORRELATION,
    LEAST,
    LEAST_SHARE,
    allowed,
    alone_share,
)
from accdistill_jax.reproduce.report.document import Number

NONE = "–"


def thousands(number: int) -> str:
    """Formats a count with spaces between thousands."""
    return f"{number:,}".replace(",", " ")


def decimal(value: float | None, digits: int = 2) -> str:
    """Formats a number; a dash where it is None or not finite."""
    if value is None or not np.isfinite(value):
        return NONE
    return f"{value:.{digits}f}".replace("-", "−")


def percent(share: float | None) -> str:
    """Formats a share in per cent with three digits."""
    if share is None or not np.isfinite(share):
        return NONE
    nearly = 0.9995 <= share < 1.0  # three digits would round it to 100 %
    return (f"{min(100 * share, 99.99):.2f} %" if nearly else f"{100 * share:.3g} %").replace("-", "−")


def ranged(estimate: Estimate | None, digits: int = 2) -> str:
    """Formats a number with its interval, for example "2.31 [2.10, 2.54]"."""
    if estimate is None or estimate.value is None:
        return NONE
    if not estimate.has_interval:
        return decimal(estimate.value, digits)
    low, high = decimal(estimate.low, digits), decimal(estimate.high, digits)
    return f"{decimal(estimate.value, digits)} [{low}, {high}]"


def signed(estimate: Estimate, digits: int = 2) -> str:
    """Formats a difference with its sign and interval, for example "+0.031 [0.012, 0.050]"."""
    return ("+" if (estimate.value or 0.0) > 0 else "") + ranged(estimate, digits)


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """Multiplies an estimate and its interval, to change the unit."""
    parts = (estimate.value, estimate.low, estimate.high)
    return Estimate(*(None if part is None else part * factor for part in parts))


def points(estimate: Estimate) -> Estimate:
    """Converts a share to per cent, or a difference of shares to percentage points."""
    return scaled(estimate, 100.0)


def ranged_share(estimate: Estimate | None) -> str:
    """Formats a share with its interval, for example "93.1 % [91.2, 94.8]"."""
    if estimate is None or estimate.value is None:
        return NONE
    if estimate.low is None or estimate.high is None:
        return percent(estimate.value)
    return f"{percent(estimate.value)} [{100 * estimate.low:.3g}, {100 * estimate.high:.3g}]"


def mean_and_std(values: Sequence[float], digits: int = 2) -> str:
    """Formats mean ± standard deviation over training seeds, "2.31 ± 0.04"; the mean alone for a single seed."""
    if not len(values):
        return NONE
    mean, std = over_seeds(values)
    return decimal(mean, digits) + (f" ± {decimal(std, digits)}" if len(values) > 1 else "")


def percent_mean_and_std(values: Sequence[float]) -> str:
    """Formats mean ± standard deviation of shares, in per cent."""
    if not len(values):
        return NONE
    mean, std = over_seeds(values)
    return percent(mean) + (f" ± {decimal(100 * std)}" if len(values) > 1 else "")


def joined_words(words: Sequence[str]) -> str:
    """Joins words as "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def report_number(
    values: Sequence[float | None],
    *,
    unit: str = "",
    estimate: Estimate | None = None,
    share: bool = False,
    scale: float | None = None,
    std: float | None = None,
) -> Number:
    """Makes an entry of the report: the mean over training seeds, with the tolerance for `--check`.

    Args:
        values: the value of each training seed. If any of them is unknown, the mean is unknown.
        unit: "" for none.
        estimate: gives the interval over people, if its value is the mean; the interval of a single seed is none of the mean.
        share: True for proportions from 0 to 1, as areas under curves are; their tolerance is absolute.
        scale: the tolerance is a share of this scale, for numbers that may be near 0.
        std: standard deviation over training seeds, if it is known from other numbers.
    """
    known = [float(value) for value in values if value is not None and np.isfinite(value)]
    if not known or len(known) < len(values):
        return Number(None, None, None, tuple(known), unit, 0.0 if share or scale is not None else LEAST, 0.0, share)
    mean, std_of_values = over_seeds(known)
    of_mean = estimate is not None and np.isclose(estimate.number, mean, rtol=1e-6, atol=1e-9)
    low, high = (estimate.low, estimate.high) if estimate is not None and of_mean else (None, None)
    std_is_known = len(known) > 1 or std is not None
    relative, absolute = LEAST if std_is_known else ALONE, 0.0
    if share:
        relative, absolute = 0.0, LEAST_SHARE if std_is_known else alone_share(mean)
    elif scale is not None:
        relative, absolute = 0.0, relative * scale
    absolute = max(absolute, allowed(std_of_values if std is None else std, len(known)))
    return Number(mean, low, high, tuple(known), unit, relative, absolute, share)


def correlation_number(values: Sequence[float | None], *, estimate: Estimate | None = None) -> Number:
    """Makes an entry of a correlation, a similarity or another measure of the order of 1 that may be near 0 or below it."""
    several = len(values) > 1
    return report_number(values, estimate=estimate, scale=LEAST_SHARE / LEAST if several else ALONE_CORRELATION / ALONE)


def score_number(score: Score, *, unit: str = "") -> Number:
    """Makes an entry of an error, or of a ratio of errors.

    The value of a ratio is that of tables, intervals and claims: the ratio of means over seeds, not the mean of the seeds' ratios.
    """
    entry = report_number(score.seeds, unit=unit)
    return (
        entry
        if entry.value is None
        else entry._replace(value=score.value, low=score.estimate.low, high=score.estimate.high)
    )


def measurable_encoders(
    bench: Bench, names: Sequence[str], *, unseen: bool = False
) -> tuple[dict[str, list[int]], list[str]]:
    """Lists the encoders that can be measured.

    Args:
        bench: results of the jobs.
        names: variants.
        unseen: True requires embeddings of the unseen stores too.

    Returns:
        The seeds of each measurable encoder, and notes about the others: runs that failed, embeddings that are not finite.
    """
    seeds_of, notes = {}, []
    for name in names:
        jobs = bench.jobs(name) + (bench.jobs(name, unseen=True) if unseen else [])
        if lost := [job.name for job in jobs if bench.outcomes[job.name].status not in DONE]:
            notes.append(f"Left out, because the run has no result: {joined_words(lost)}. See the list of runs.")
        finite = {seed: _finite(bench, name, seed) for seed in bench.seeds(name, unseen=unseen)}
        if bad := [str(seed) for seed, is_finite in finite.items() if not is_finite]:
            notes.append(f"Left out, because embeddings are not finite: {name}, seed {joined_words(bad)}.")
        if any(finite.values()):
            seeds_of[name] = [seed for seed, is_finite in finite.items() if is_finite]
    return seeds_of, notes


def _finite(bench: Bench, name: str, seed: int) -> bool:
    return all(np.isfinite(values).all() for values in bench.arrays(name, seed).values())
