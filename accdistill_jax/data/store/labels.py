"""Fractions of a split's labels: whole participants."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

MIN_SEGMENTS = 10


@dataclasses.dataclass(frozen=True)
class Subset:
    """Labelled segments of a part of a split's participants.

    Attributes:
        rows: [K] int64, sorted rows of the split.
        participants: number of people with such segments.
        labelled: labelled segments in the whole split.
        raised: True if the fraction gave fewer segments than the minimum, and the minimum was used.
    """

    rows: np.ndarray
    participants: int
    labelled: int
    raised: bool


def labelled_subset(
    participant: np.ndarray,
    known: np.ndarray,
    fraction: float,
    seed: int | Sequence[int],
    *,
    minimum: int = MIN_SEGMENTS,
) -> Subset:
    """Segments with a fraction of a split's labels: whole participants in a random order, and a part of the last participant.

    With the same seed a smaller fraction is a subset of a larger one, and the order of people is the same for all labels.

    Args:
        participant: [N] str.
        known: [N] bool, True if the label is known.
        fraction: fraction of the known labels, above 0 and at most 1.
        seed: int or ints, seed of the order of people and of the last participant's segments.
        minimum: minimum number of segments, if the split has so many.

    Raises:
        ValueError: a fraction out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction of labels must be above 0 and at most 1, got {fraction}")
    people, code = np.unique(np.asarray(participant).astype(str), return_inverse=True)
    rng = np.random.default_rng(seed)
    place, within = rng.permutation(len(people)), rng.permutation(len(code))
    order = np.lexsort((within, place[code]))
    order = order[np.asarray(known, bool)[order]]
    wanted = round(fraction * len(order))
    rows = np.sort(order[: max(wanted, minimum)])
    raised = wanted < min(minimum, len(order))
    return Subset(rows, len(np.unique(code[rows])), len(order), raised)
