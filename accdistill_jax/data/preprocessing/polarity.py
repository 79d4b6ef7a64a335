"""Which way the systole points in a PPG: votes of the calm, clean part of each recording, pooled over a device.

The systolic upstroke is shorter and steeper than the decay after it, so that the slope of an upright pulse has a long positive
tail. Every frame of 8 s that is calm (`CALM_G`), clean (`CLEAN`) and without a gap votes by the sign of its slope's skewness, in
its best channel. Real wrists vote rightly in 95 to 99 % of such frames (E4, EmbracePlus, Polar) and 87 % (Verily); of 180 recordings
with at least 8 none voted wrongly, while frames of moving wrists often do.

A recording's polarity, where its reader or description does not declare it:

1. that of its device, if recordings of it are declared, all the same way; or if the pooled votes of its recordings are clear
   (at least `LEAST_FRAMES`, `CLEAR` of them one way; a recording counts for at most `MOST_FRAMES`). A clear vote of its own comes first
   where the device is not named ("unknown" may be many);
2. else by its own clear vote;
3. else by its own majority, or systole up without a vote: said to be uncertain.

A recording whose own vote is clear, of at least `DISSENT_FRAMES`, and against what is applied is reported.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from accdistill_jax.data.preprocessing.quality import FRAME_S, frame_quality, motion_g

CALM_G = 0.05
CLEAN = 0.6
CLEAR = 0.75
LEAST_FRAMES = 8
MOST_FRAMES = 100
DISSENT_FRAMES = 16
UNNAMED = "unknown"
_LOOKED_AT = 2000
"""Calm frames of which the quality is computed, spread over the recording: over four hours of them."""


@dataclasses.dataclass(frozen=True)
class Vote:
    """Vote of a recording on its polarity: of `frames` calm and clean frames, `up` have their systole up.

    Attributes:
        device: that wore the sensor, as in the recording.
        declared: systole_up, systole_down or unknown.
        applied: systole_up, or systole_down where the stored PPG was turned over.
    """

    device: str
    declared: str
    applied: str
    frames: int
    up: int

    @property
    def own(self) -> str | None:
        """The clear vote, if it is one."""
        return clear(self.frames, self.up)

    @property
    def dissents(self) -> bool:
        """True if the recording clearly disagrees with what was applied."""
        return self.frames >= DISSENT_FRAMES and self.own not in (None, self.applied)


class Decision(NamedTuple):
    """polarity: systole_up or systole_down; basis: declared, device, recording or uncertain."""

    polarity: str
    basis: str


def vote_of(notes: object) -> Vote | None:
    """The vote in the notes of a recording; None where there is none, as in stores of other origin."""
    vote = notes.get("ppg_votes") if isinstance(notes, Mapping) else None
    kinds = {"device": str, "declared": str, "applied": str, "frames": int, "up": int}
    if (
        not isinstance(vote, Mapping)
        or vote.keys() != kinds.keys()
        or any(type(vote[key]) is not kind for key, kind in kinds.items())
    ):
        return None
    return Vote(**vote)


def clear(frames: float, up: float) -> str | None:
    """systole_up or systole_down where the votes are clear, else None."""
    if frames < LEAST_FRAMES:
        return None
    return "systole_up" if up >= CLEAR * frames else "systole_down" if up <= (1 - CLEAR) * frames else None


def count_votes(
    ppg: np.ndarray, accel: np.ndarray, missing: np.ndarray, *, rate_hz: float, band_high_hz: float
) -> tuple[int, int]:
    """Calm and clean frames of a recording, and how many of them have their systole up.

    Args:
        ppg: [T, C] float32, band-passed.
        accel: [T, 3] float32, in g.
        missing: [T] bool, made up samples of either.
        rate_hz: of all three.
        band_high_hz: upper edge of the band-pass.
    """
    length = round(FRAME_S * rate_hz)
    count = len(ppg) // length
    if not count:
        return 0, 0
    calm = motion_g(accel[: count * length].reshape(count, length, 3), rate_hz=rate_hz) <= CALM_G
    calm = np.flatnonzero(calm & ~missing[: count * length].reshape(count, length).any(1))
    calm = calm[:: max(-(-len(calm) // _LOOKED_AT), 1)]
    if not len(calm):
        return 0, 0
    frames = np.moveaxis(ppg[: count * length].reshape(count, length, -1)[calm], 2, 1)
    rows = np.ascontiguousarray(frames, np.float32).reshape(-1, length)
    quality = np.concatenate(
        [
            frame_quality(rows[at : at + 64], rate_hz=rate_hz, band_high_hz=band_high_hz).mean(1)
            for at in range(0, len(rows), 64)
        ]
    ).reshape(frames.shape[:2])
    best = quality.argmax(1)
    slope = np.diff(np.take_along_axis(frames, best[:, None, None], 1)[:, 0].astype(np.float64), axis=1)
    slope -= slope.mean(1, keepdims=True)
    clean = quality.max(1) >= CLEAN
    return int(clean.sum()), int(((slope**3).mean(1) > 0)[clean].sum())


def first_choice(declared: str, frames: int, up: int) -> str:
    """Polarity that is applied before the other recordings are known: the declared one, else the majority's, else systole up."""
    if declared != "unknown":
        return declared
    return "systole_down" if up < frames - up else "systole_up"


def described(vote: Vote) -> str:
    """The decision in words, for the notes of a recording; they depend on the recording and on what was applied alone."""
    if vote.declared != "unknown":
        return f"{vote.declared}, as declared"
    how = f"{vote.up} of {vote.frames} calm, clean frames are up" if vote.frames else "no calm, clean frame of its own"
    if vote.applied == first_choice(vote.declared, vote.frames, vote.up):
        return f"{vote.applied}, {'by the data' if vote.frames else 'without anything to tell by'} ({how})"
    return f"{vote.applied}, as its device's other recordings ({how})"


def decide(votes: Mapping[str, Vote]) -> dict[str, Decision]:
    """The polarity of every recording, by the rules of the module, whatever is applied so far.

    Args:
        votes: recording -> vote.
    """
    devices = defaultdict(list)
    for vote in votes.values():
        devices[vote.device].append(vote)
    pools = {device: _pool(own) for device, own in devices.items()}
    decisions = {}
    for name, vote in votes.items():
        pool = pools[vote.device]
        if vote.declared != "unknown":
            decisions[name] = Decision(vote.declared, "declared")
        elif pool and not (vote.device == UNNAMED and vote.own):
            decisions[name] = Decision(pool, "device")
        elif vote.own:
            decisions[name] = Decision(vote.own, "recording")
        else:
            decisions[name] = Decision(first_choice(vote.declared, vote.frames, vote.up), "uncertain")
    return decisions


def _pool(votes: list[Vote]) -> str | None:
    declared = {vote.declared for vote in votes if vote.declared != "unknown"}
    if declared:
        return declared.pop() if len(declared) == 1 else None
    weights = [min(vote.frames, MOST_FRAMES) / max(vote.frames, 1) for vote in votes]
    return clear(
        sum(w * vote.frames for w, vote in zip(weights, votes, strict=True)),
        sum(w * vote.up for w, vote in zip(weights, votes, strict=True)),
    )


def summary(votes: Mapping[str, Vote], *, most: int = 10) -> list[str]:
    """Lines that say, for each device, what was applied and by which votes, and name the recordings that disagree or are uncertain."""
    devices, decisions = defaultdict(dict), decide(votes)
    for name, vote in votes.items():
        devices[vote.device][name] = vote
    lines = []
    for device, own in sorted(devices.items()):
        for polarity in sorted({vote.applied for vote in own.values()}):
            chosen = {name: vote for name, vote in own.items() if vote.applied == polarity}
            declared = sum(vote.declared != "unknown" for vote in chosen.values())
            tell = [vote.own for vote in chosen.values() if vote.own]
            frames, up = (sum(getattr(vote, key) for vote in chosen.values()) for key in ("frames", "up"))
            basis = (
                "as declared" if declared == len(chosen) else f"{declared} as declared" if declared else "by the data"
            )
            agree = (
                f"{tell.count(polarity)} of the {len(tell)} with a clear pulse agree ({up} of {frames} calm, clean frames are up)"
                if tell
                else f"none has enough calm, clean frames to tell ({up} of {frames} are up)"
            )
            lines.append(f"PPG polarity, {device}: {polarity} in {counted(len(chosen))}, {basis}; {agree}")
    odd = [
        f"recording {name}: its pulse points the other way than {vote.applied}, {_why(decisions[name])} "
        f"({vote.up} of {vote.frames} frames are up): declare its polarity, or leave it out"
        for name, vote in sorted(votes.items())
        if vote.dissents
    ]
    odd += [
        f"recording {name}: its PPG's polarity is uncertain ({vote.up} of {vote.frames} calm, clean frames are up): taken to be "
        f"{vote.applied}; declare it"
        for name, vote in sorted(votes.items())
        if decisions[name].basis == "uncertain"
    ]
    lines += [f"warning: {line}" for line in odd[:most]]
    if len(odd) > most:
        lines.append(
            f"warning: {len(odd) - most} more recordings disagree about the PPG's polarity, or leave it uncertain"
        )
    return lines


def counted(recordings: int) -> str:
    """1 recording, 2 recordings."""
    return f"{recordings} recording{'s' * (recordings != 1)}"


def _why(decision: Decision) -> str:
    return {"declared": "as declared", "device": "as its device's recordings"}.get(decision.basis, "as was applied")
