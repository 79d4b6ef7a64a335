"""Tolerances for numbers that are measured again.

Training amplifies rounding: a run on another processor ends about as far away as a run with another training seed. The
spread over seeds measures this distance, but two or three seeds of one encoder estimate it badly. Therefore the spread is
pooled over all encoders that share a kind of number (the same error of the same target at the same share of labels). Constants,
which no training changes, are pooled among themselves. Errors spread in proportion to their value; proportions spread as their
standard deviation for one query, sqrt(p (1 - p)), so that 99 % is not given the tolerance of 20 %. The tolerance is four standard
deviations of a difference of two means over n seeds, sqrt(2 / n) times the standard deviation of one seed. Chance rarely exceeds it, even among a thousand numbers.
"""

import math
from collections.abc import Collection, Mapping

import numpy as np

from accdistill_jax.reproduce.report.document import Number

SIGMAS = 4.0
LEAST = 0.02  # smallest relative tolerance where the spread over seeds is known
LEAST_SHARE = 0.01  # smallest absolute tolerance of shares, areas under curves and correlations, likewise
ALONE = 0.15  # as LEAST where the spread is not known
ALONE_SHARE = 0.16  # likewise of shares, in units of `share_scale`: 0.08 at one half, 0.016 at 99 %
ALONE_CORRELATION = 0.06  # likewise of correlations
_LEAST_P = 0.001  # shares closer to 0 or 1 spread as this one
_FREEDOM = 4  # a pooled spread counts as known from this many degrees of freedom


def allowed(std: float, seeds: int) -> float:
    """Tolerated distance of two means over `seeds` training seeds, each with standard deviation `std`."""
    return SIGMAS * math.sqrt(2 / seeds) * std


def share_scale(value: float) -> float:
    """Standard deviation of one query of a proportion, sqrt(p (1 - p)), by which the spread of proportions is measured."""
    p = min(max(value, _LEAST_P), 1 - _LEAST_P)
    return math.sqrt(p * (1 - p))


def alone_share(value: float) -> float:
    """Absolute tolerance of a proportion whose spread over seeds is not known."""
    return max(LEAST_SHARE, ALONE_SHARE * share_scale(value))


def pooled(
    numbers: Mapping[str, Number], encoders: Collection[str], *, constants: Collection[str] = ()
) -> dict[str, Number]:
    """Sets tolerances from the spread over training seeds, pooled over encoders.

    Args:
        numbers: "<section>/<...>" -> number, made by `formatting.report_number`.
        encoders: parts of names that do not count for the kind of a number.
        constants: parts of names that do not count either, but are a kind apart: predictors without training.

    Returns:
        The same numbers. Tolerances are wider where the kind's spread is larger than the number's; they are narrower for
        numbers with one seed if other encoders give the spread.
    """
    kinds: dict[tuple, list[str]] = {}
    for name, number in numbers.items():
        parts = name.split("/")
        constant = any(part in constants for part in parts)
        rest = tuple(part for part in parts if part not in encoders and part not in constants)
        kinds.setdefault((rest, constant, number.relative > 0, number.share), []).append(name)
    adjusted = dict(numbers)
    for names in kinds.values():
        std = _pooled_std([numbers[name] for name in names])
        if std is not None:
            for name in names:
                if numbers[name].value is not None:
                    adjusted[name] = _widened(numbers[name], std * _scale(numbers[name]))
    return {name: adjusted[name] for name in numbers}


def _scale(number: Number) -> float:
    """Unit of a number's spread: its value for a relative tolerance, `share_scale` for a proportion, else 1."""
    value = number.value or 0.0
    return share_scale(value) if number.share else abs(value) if number.relative > 0 else 1.0


def _pooled_std(numbers: list[Number]) -> float | None:
    """Pooled standard deviation over seeds, in units of `_scale`."""
    squares, freedom = 0.0, 0
    for number in numbers:
        if len(number.seeds) > 1 and number.value is not None and (scale := _scale(number)):
            squares += (len(number.seeds) - 1) * float(np.var(np.asarray(number.seeds) / scale, ddof=1))
            freedom += len(number.seeds) - 1
    return math.sqrt(squares / freedom) if freedom >= _FREEDOM else None


def _widened(number: Number, std: float) -> Number:
    absolute = max(number.absolute, allowed(std, max(1, len(number.seeds))))
    if number.relative == ALONE:
        return number._replace(relative=LEAST, absolute=absolute)
    if number.relative == 0.0 and number.absolute == (
        alone_share(number.value or 0.0) if number.share else ALONE_CORRELATION
    ):
        return number._replace(absolute=max(LEAST_SHARE, allowed(std, 1)))
    return number._replace(absolute=absolute)
