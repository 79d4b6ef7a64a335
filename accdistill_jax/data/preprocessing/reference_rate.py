"""Cleans reference heart rates before labels are made from them, as `hrv` cleans beat intervals.

A window's heart rate becomes unknown (NaN) by the first rule that applies:

- range: it lies outside 30 to 240 bpm. Devices write 0, 255, 400 or -1 for an unknown rate.
- jump: it is not on the longest chain of windows in which each window follows from the window before it. A window follows from
  another that began dt seconds earlier if both differ by at most 20 % + 2 % x dt, and at most 60 %, of the smaller value; it always
  follows from a window more than 60 s earlier. So the shorter part of a doubled or halved stretch is dropped. A wrong rate that
  lasts for minutes loses only its first minute, because nothing shows which of two long stretches is right.
- held: exactly the same number in at least 10 successive windows whose starts span more than 300 s: the device repeats its last
  value.

Unknown values stay unknown. The 20 % come from the rule for beats (`hrv`); the other limits are choices of this project.
"""

import dataclasses

import numpy as np

from accdistill_jax.data.recording import HeartRateWindows
from accdistill_jax.errors import UserError

RANGE_BPM = (30.0, 240.0)
JUMP = 0.2
JUMP_PER_S = 0.02
MOST_JUMP = 0.6
FREE_AFTER_S = 60.0
HELD_S = 300.0
HELD_WINDOWS = 10


@dataclasses.dataclass(frozen=True)
class Removed:
    """Number of windows whose heart rate cleaning removed, by rule, and of the windows with a `known` rate before."""

    known: int = 0
    range: int = 0
    jump: int = 0
    held: int = 0

    def __str__(self) -> str:
        # Stores keep this text: other words would change their fingerprints.
        rules = {
            "outside 30 to 240 bpm": self.range,
            "jumps that no heart makes": self.jump,
            "held for minutes": self.held,
        }
        parts = ", ".join(f"{count} {rule}" for rule, count in rules.items() if count)
        return f"{self.range + self.jump + self.held} of {self.known} windows are unknown: {parts}"


def cleaned(start_s: np.ndarray, duration_s: float, hr_bpm: np.ndarray) -> HeartRateWindows:
    """Cleans reference windows by the rules of the module; `HeartRateWindows.note` gives the number of removed values.

    Args:
        start_s: [n] float64, start of each window, seconds after the recording's start, in any order.
        duration_s: length of a window in seconds.
        hr_bpm: [n] float64, beats per minute; NaN where unknown.

    Raises:
        UserError: most values lie outside 30 to 240 bpm (a wrong unit or column), or an error of `HeartRateWindows`.
    """
    start, hr = np.asarray(start_s, np.float64), np.array(hr_bpm, np.float64)
    windows = HeartRateWindows(start, duration_s, np.full(hr.shape, np.nan))  # checks shapes and times
    known = np.isfinite(hr)
    low, high = RANGE_BPM
    beyond = ~np.isnan(hr) & ~((hr >= low) & (hr <= high))
    number = int((~np.isnan(hr)).sum())
    if beyond.sum() > number / 2:
        raise UserError(
            f"heart rate: {beyond.sum()} of {number} windows lie outside {low:g} to {high:g} beats per minute, "
            f"such as {hr[beyond][0]:g}{_guess(float(np.median(hr[beyond])))}; "
            "give beats per minute, and an empty cell (NaN) where the rate is unknown"
        )
    hr[beyond] = np.nan
    order = np.argsort(start, kind="stable")
    order = order[np.isfinite(hr[order])]
    jump = order[~_longest_chain(start[order], hr[order])]
    hr[jump] = np.nan
    order = order[np.isfinite(hr[order])]
    held = order[_held(start[order], hr[order])]
    hr[held] = np.nan
    removed = Removed(int(known.sum()) + int(np.isinf(hr_bpm).sum()), int(beyond.sum()), len(jump), len(held))
    note = str(removed) if removed.range + removed.jump + removed.held else ""
    return dataclasses.replace(windows, hr_bpm=hr, note=note)


def _guess(usual: float) -> str:
    if 0.5 <= usual <= 4:
        return " (beats per second?)"
    return " (beat intervals in ms?)" if 240 < usual <= 2000 else ""


def _follows(earlier: np.ndarray, earlier_s: np.ndarray, hr: float, start_s: float) -> np.ndarray:
    allowed = np.minimum(JUMP + JUMP_PER_S * (start_s - earlier_s), MOST_JUMP)
    return np.abs(earlier - hr) <= allowed * np.minimum(earlier, hr)


def _longest_chain(start: np.ndarray, hr: np.ndarray) -> np.ndarray:
    """Mask [n] of the windows on the longest chain (the earlier of two equally long chains); windows are sorted and known."""
    count = len(hr)
    step, gap = np.abs(np.diff(hr)), np.diff(start)
    allowed = np.minimum(JUMP + JUMP_PER_S * gap, MOST_JUMP) * np.minimum(hr[:-1], hr[1:])
    if ((step <= allowed) | (gap > FREE_AFTER_S)).all():
        return np.ones(count, bool)
    length, before = np.ones(count, np.int64), np.full(count, -1)
    near = np.searchsorted(start, start - FREE_AFTER_S, side="left")  # the first window within that time
    best_end = np.zeros(count, np.int64)  # for each window: the end of the longest chain that ends at or before it
    for i in range(1, count):
        candidates = near[i] + np.flatnonzero(_follows(hr[near[i] : i], start[near[i] : i], hr[i], start[i]))
        if near[i] > 0:
            candidates = np.append(candidates, best_end[near[i] - 1])
        if len(candidates):
            before[i] = candidates[length[candidates].argmax()]
            length[i] = length[before[i]] + 1
        best_end[i] = i if length[i] > length[best_end[i - 1]] else best_end[i - 1]
    kept = np.zeros(count, bool)
    at = int(best_end[-1])
    while at >= 0:
        kept[at] = True
        at = int(before[at])
    return kept


def _held(start: np.ndarray, hr: np.ndarray) -> np.ndarray:
    held = np.zeros(len(hr), bool)
    edges = np.concatenate([[0], np.flatnonzero(np.diff(hr)) + 1, [len(hr)]]).astype(int)
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        if last - first >= HELD_WINDOWS and start[last - 1] - start[first] > HELD_S:
            held[first:last] = True
    return held
