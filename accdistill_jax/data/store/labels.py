"""Fractions of a split's labels, participants kept together."""

from __future__ import annotations

import dataclasses

import numpy as np

MIN_SEGMENTS = 10


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some labelled segments of a split, participants kept together.

    Attributes:
        rows: [K] int64, sorted rows of the split.
        participants: people they are of.
        labelled: labelled segments in the whole split.
        raised: whether the fraction was below the minimum, which was taken instead.
    """

    rows: np.ndarray
    participants: int
    labelled: int
    raised: bool


def labelled_subset(
    participant: np.ndarray, known: np.ndarray, fraction: float, seed, *, minimum: int = MIN_SEGMENTS
) -> Subset:
    """Segments that make up a fraction of a split's labels: whole participants in a random order, the last one cut off.

    With one seed a smaller fraction is part of a larger one, and people come in the same order whatever target is known.

    Args:
        participant: [N] str.
        known: [N] bool, whether the label is known.
        fraction: of the known ones, above 0 and at most 1.
        seed: int or sequence of ints; of the order of people, and of the last one's segments.
        minimum: segments taken at least, where there are as many.

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
