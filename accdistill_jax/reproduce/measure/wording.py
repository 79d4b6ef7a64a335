"""Measured numbers as text and as entries of the report, and what is missing among the encoders of an experiment."""

from collections.abc import Sequence

import numpy as np

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.reproduce.measure.results import DONE, Bench, over_seeds
from accdistill_jax.reproduce.measure.tolerance import ALONE, ALONE_SHARE, LEAST, LEAST_SHARE, allowed
from accdistill_jax.reproduce.report.document import Number

NONE = "–"


def thousands(number: int) -> str:
    """A count with its thousands apart."""
    return f"{number:,}".replace(",", " ")


def decimal(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    if value is None or not np.isfinite(value):
        return NONE
    return f"{value:.{digits}f}".replace("-", "−")


def percent(share: float | None) -> str:
    """A share in per cent, three digits of it."""
    if share is None or not np.isfinite(share):
        return NONE
    nearly = 0.9995 <= share < 1.0  # three digits would make it all
    return (f"{min(100 * share, 99.99):.2f} %" if nearly else f"{100 * share:.3g} %").replace("-", "−")


def ranged(estimate: Estimate | None, digits: int = 2) -> str:
    """A number with its interval, as "2.31 [2.10, 2.54]"."""
    if estimate is None or estimate.value is None:
        return NONE
    if not estimate.has_interval:
        return decimal(estimate.value, digits)
    low, high = decimal(estimate.low, digits), decimal(estimate.high, digits)
    return f"{decimal(estimate.value, digits)} [{low}, {high}]"


def signed(estimate: Estimate, digits: int = 2) -> str:
    """A difference with its sign and interval, as "+0.031 [0.012, 0.050]"."""
    return ("+" if (estimate.value or 0.0) > 0 else "") + ranged(estimate, digits)


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """In another unit."""
    return Estimate(*(None if one is None else one * factor for one in (estimate.value, estimate.low, estimate.high)))


def points(estimate: Estimate) -> Estimate:
    """A share in per cent, or a difference of shares in percentage points."""
    return scaled(estimate, 100.0)


def ranged_share(estimate: Estimate | None) -> str:
    """A share with its interval, as "93.1 % [91.2, 94.8]"."""
    if estimate is None or estimate.value is None:
        return NONE
    ends = f" [{100 * estimate.low:.3g}, {100 * estimate.high:.3g}]" if estimate.has_interval else ""
    return percent(estimate.value) + ends


def mean_and_std(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation over training seeds, as "2.31 ± 0.04"; without the latter for one."""
    if not len(values):
        return NONE
    mean, std = over_seeds(values)
    return decimal(mean, digits) + (f" ± {decimal(std, digits)}" if len(values) > 1 else "")


def percent_mean_and_std(values: Sequence[float]) -> str:
    """The same of shares, in per cent."""
    if not len(values):
        return NONE
    mean, std = over_seeds(values)
    return percent(mean) + (f" ± {decimal(100 * std)}" if len(values) > 1 else "")


def listed(words: Sequence[str]) -> str:
    """Words as "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def report_number(
    values: Sequence[float | None],
    *,
    value: float | None = None,
    unit: str = "",
    estimate: Estimate | None = None,
    share: bool = False,
    scale: float | None = None,
    std: float | None = None,
) -> Number:
    """An entry of the report: the mean over training seeds.

    Args:
        values: by training seed; one that could not be measured makes the mean unknown too.
        value: in place of the mean, where a number over all seeds is something else.
        unit: "" for none.
        estimate: whose interval over people is given.
        share: whether it is a share or an area under a curve, of which a difference is judged as it is.
        scale: what a difference is judged by in place of the number itself, which may be 0.
        std: over training seeds, where the values are of one seed and others tell.
    """
    known = [float(value) for value in values if value is not None and np.isfinite(value)]
    low, high = (None, None) if estimate is None else (estimate.low, estimate.high)
    if not known or len(known) < len(values):
        return Number(None, low, high, tuple(known), unit, 0.0 if share or scale is not None else LEAST, 0.0)
    mean, own = over_seeds(known)
    told = len(known) > 1 or std is not None
    relative, absolute = LEAST if told else ALONE, 0.0
    if share:
        relative, absolute = 0.0, LEAST_SHARE if told else ALONE_SHARE
    elif scale is not None:
        relative, absolute = 0.0, relative * scale
    absolute = max(absolute, allowed(own if std is None else std, len(known)))
    return Number(mean if value is None else value, low, high, tuple(known), unit, relative, absolute)


def measurable_encoders(
    bench: Bench, names: Sequence[str], *, elsewhere: bool = False
) -> tuple[dict[str, list[int]], list[str]]:
    """The encoders that can be measured with their seeds, and notes about the rest: failed runs, embeddings that are not finite.

    With `elsewhere` those that can be in unseen stores.
    """
    found, notes = {}, []
    for name in names:
        jobs = bench.jobs(name) + (bench.jobs(name, elsewhere=True) if elsewhere else [])
        if lost := [job.name for job in jobs if bench.outcomes[job.name].status not in DONE]:
            notes.append(f"Without a result, and so left out: {listed(lost)}; see the runs.")
        finite = {seed: _finite(bench, name, seed) for seed in bench.seeds(name, elsewhere=elsewhere)}
        if bad := [str(seed) for seed, fine in finite.items() if not fine]:
            notes.append(f"{name}, seed {listed(bad)}, is left out: its embeddings are not all finite.")
        if any(finite.values()):
            found[name] = [seed for seed, fine in finite.items() if fine]
    return found, notes


def _finite(bench: Bench, name: str, seed: int) -> bool:
    return all(np.isfinite(values).all() for values in bench.arrays(name, seed).values())
