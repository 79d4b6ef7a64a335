"""Times of samples that a device stores in blocks: each block has the time of one of its samples."""

import numpy as np

from accdistill_jax.errors import UserError

MOST_RATE_ERROR = 0.1


def block_times(
    anchor_s: np.ndarray, anchor_sample: np.ndarray, counts: np.ndarray, *, rate_hz: float, follows: np.ndarray
) -> np.ndarray:
    """Interpolates the time of each sample between the stamps of blocks, so that the true sampling rate is followed.

    Args:
        anchor_s: [blocks] float64, a time in each block, in seconds.
        anchor_sample: [blocks] float64, the sample that the time belongs to, counted from the start of its block.
        counts: [blocks] int, samples in each block.
        rate_hz: nominal rate, used before and after the stamps of a run of blocks.
        follows: [blocks] bool, True if a block continues the one before without a loss. A distance of stamps that contradicts the
            rate by more than `MOST_RATE_ERROR` and half a second also ends a run.

    Returns:
        [samples] float64, seconds; they do not decrease.

    Raises:
        UserError: the clock goes back.
    """
    counts = np.asarray(counts, np.int64)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    at = first + np.asarray(anchor_sample, np.float64)
    steps, expected = np.diff(anchor_s), np.diff(at) / rate_hz
    back = np.flatnonzero(steps < 0)
    if back.size:
        raise UserError(
            f"block {back[0] + 2}: the clock goes back by {-steps[back[0]]:g} s: two recordings in one file? Split it there"
        )
    continues = np.asarray(follows, bool).copy()
    continues[0] = False
    continues[1:] &= np.abs(steps - expected) <= np.maximum(MOST_RATE_ERROR * expected, 0.5)
    edges = np.append(np.flatnonzero(~continues), len(counts))
    times = np.empty(int(counts.sum()))
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        run = slice(int(first[begin]), int(first[end - 1] + counts[end - 1]))
        samples = np.arange(run.start, run.stop, dtype=np.float64)
        anchors, stamps = at[begin:end], anchor_s[begin:end]
        keep = np.append(True, np.diff(anchors) > 0)
        anchors, stamps = anchors[keep], stamps[keep]
        inside = np.interp(samples, anchors, stamps)
        beyond = np.minimum(samples - anchors[0], 0) + np.maximum(samples - anchors[-1], 0)
        times[run] = inside + beyond / rate_hz
    return np.maximum.accumulate(times)
