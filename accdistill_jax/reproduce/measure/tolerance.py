"""By how much a number may differ when it is measured again.

Training amplifies rounding: a run on another processor ends about as far away as one with another training seed. How far that is,
is told by the numbers that have several seeds, and two or three seeds of one encoder tell it badly. So what encoders have in common
(the same error of the same target at the same share of labels) is pooled over them, and a number may differ by four standard
deviations of a difference: of two means over n seeds, sqrt(2 / n) times that of one seed. That is seldom exceeded by chance even
among a thousand numbers.
"""

import math
from collections.abc import Collection, Mapping

import numpy as np

from accdistill_jax.reproduce.report.document import Number

SIGMAS = 4.0
LEAST, LEAST_SHARE = (
    0.02,
    0.01,
)  # relative, and of shares and areas under curves absolute, where the spread over seeds is known
ALONE, ALONE_SHARE = 0.15, 0.06  # where it is not
_FREEDOM = 4  # degrees of it, from which on a pooled spread counts as known


def allowed(std: float, seeds: int) -> float:
    """Tolerated distance of two means over so many training seeds, each seed with this standard deviation."""
    return SIGMAS * math.sqrt(2 / seeds) * std


def pooled(numbers: Mapping[str, Number], encoders: Collection[str]) -> dict[str, Number]:
    """Numbers with the tolerances that the spread of their kind over training seeds asks for.

    Args:
        numbers: by "<section>/<...>", as `wording.number` makes them.
        encoders: parts of names that do not make a number one of another kind.

    Returns:
        The same; tolerances are wider where the spread of a kind is larger than a number's own, and narrower for numbers with one
        seed of a kind whose spread is known by others.
    """
    kinds: dict[tuple, list[str]] = {}
    for name, number in numbers.items():
        parts = tuple(part for part in name.split("/") if part not in encoders)
        kinds.setdefault((parts, number.relative > 0), []).append(name)
    found = dict(numbers)
    for (_, relative), names in kinds.items():
        std = _spread([numbers[name] for name in names], relative=relative)
        if std is not None:
            for name in names:
                if (own := numbers[name]).value is not None:
                    found[name] = _widened(own, std * abs(own.value) if relative else std)
    return {name: found[name] for name in numbers}


def _spread(several: list[Number], *, relative: bool) -> float | None:
    """Standard deviation over seeds, pooled; as a share of the value where that is what numbers of the kind go by."""
    squares, freedom = 0.0, 0
    for one in several:
        if len(one.seeds) > 1 and one.value:
            scale = abs(one.value) if relative else 1.0
            squares += (len(one.seeds) - 1) * float(np.var(np.asarray(one.seeds) / scale, ddof=1))
            freedom += len(one.seeds) - 1
    return math.sqrt(squares / freedom) if freedom >= _FREEDOM else None


def _widened(one: Number, std: float) -> Number:
    absolute = max(one.absolute, allowed(std, max(1, len(one.seeds))))
    if one.relative == ALONE:
        return one._replace(relative=LEAST, absolute=absolute)
    if one.relative == 0.0 and one.absolute == ALONE_SHARE:
        return one._replace(absolute=max(LEAST_SHARE, allowed(std, 1)))
    return one._replace(absolute=absolute)
