"""Tolerances for numbers that are measured again.

Training amplifies rounding: a run on another processor ends about as far away as a run with another training seed. The
spread over seeds measures this distance, but two or three seeds of one encoder estimate it badly. Therefore the spread is
pooled over all encoders that share a kind of number (the same error of the same target at the same share of labels). The
tolerance is four standard deviations of a difference of two means over n seeds, sqrt(2 / n) times the standard deviation of
one seed. Chance rarely exceeds it, even among a thousand numbers.
"""

import math
from collections.abc import Collection, Mapping

import numpy as np

from accdistill_jax.reproduce.report.document import Number

SIGMAS = 4.0
LEAST = 0.02  # smallest relative tolerance where the spread over seeds is known
LEAST_SHARE = 0.01  # smallest absolute tolerance of shares and areas under curves, likewise
ALONE, ALONE_SHARE = 0.15, 0.06  # the same where the spread is not known
_FREEDOM = 4  # a pooled spread counts as known from this many degrees of freedom


def allowed(std: float, seeds: int) -> float:
    """Tolerated distance of two means over `seeds` training seeds, each with standard deviation `std`."""
    return SIGMAS * math.sqrt(2 / seeds) * std


def pooled(numbers: Mapping[str, Number], encoders: Collection[str]) -> dict[str, Number]:
    """Sets tolerances from the spread over training seeds, pooled over encoders.

    Args:
        numbers: "<section>/<...>" -> number, made by `formatting.report_number`.
        encoders: parts of names that do not count for the kind of a number.

    Returns:
        The same numbers. Tolerances are wider where the kind's spread is larger than the number's; they are narrower for
        numbers with one seed if other encoders give the spread.
    """
    kinds: dict[tuple, list[str]] = {}
    for name, number in numbers.items():
        parts = tuple(part for part in name.split("/") if part not in encoders)
        kinds.setdefault((parts, number.relative > 0), []).append(name)
    adjusted = dict(numbers)
    for (_, relative), names in kinds.items():
        std = _pooled_std([numbers[name] for name in names], relative=relative)
        if std is not None:
            for name in names:
                value = numbers[name].value
                if value is not None:
                    adjusted[name] = _widened(numbers[name], std * abs(value) if relative else std)
    return {name: adjusted[name] for name in numbers}


def _pooled_std(numbers: list[Number], *, relative: bool) -> float | None:
    """Pooled standard deviation over seeds; as a share of the value for numbers with a relative tolerance."""
    squares, freedom = 0.0, 0
    for number in numbers:
        if len(number.seeds) > 1 and number.value:
            scale = abs(number.value) if relative else 1.0
            squares += (len(number.seeds) - 1) * float(np.var(np.asarray(number.seeds) / scale, ddof=1))
            freedom += len(number.seeds) - 1
    return math.sqrt(squares / freedom) if freedom >= _FREEDOM else None


def _widened(number: Number, std: float) -> Number:
    absolute = max(number.absolute, allowed(std, max(1, len(number.seeds))))
    if number.relative == ALONE:
        return number._replace(relative=LEAST, absolute=absolute)
    if number.relative == 0.0 and number.absolute == ALONE_SHARE:
        return number._replace(absolute=max(LEAST_SHARE, allowed(std, 1)))
    return number._replace(absolute=absolute)
