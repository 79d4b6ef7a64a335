"""Finds the direction of the systole in a PPG, from votes of the calm, clean frames of each recording, pooled over a device.

The systolic upstroke is shorter and steeper than the decay after it, so the slope of an upright pulse has a long positive tail. Each
frame of 8 s that is calm (`CALM_G`), clean (`CLEAN`) and without a gap votes by the skewness of its slope, in its best channel. On
real wrists 95 to 99 % of such frames vote correctly (E4, EmbracePlus, Polar), or 87 % (Verily); of 180 recordings with at least 8
such frames none voted wrongly. Frames of moving wrists often vote wrongly.

If neither the reader nor a description declares a recording's polarity, it is:

1. the polarity of its device, if all declarations for the device agree, or if the pooled votes of its recordings are clear (at least
   `LEAST_FRAMES` frames, `CLEAR` of them in one direction; a recording counts for at most `MOST_FRAMES`). If the device has no name
   ("unknown" may be several devices), a clear vote of the recording comes first;
2. else the recording's clear vote;
3. else the recording's majority, or systole up without votes; this is reported as uncertain.

Recordings that are added to a finished store follow it: a device whose recordings there have one polarity, by declaration or by clear
votes, keeps that polarity. Otherwise the votes of old and new recordings are pooled.

A recording is reported, too, if its vote is clear, has at least `DISSENT_FRAMES` frames, and contradicts the applied polarity.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
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
NO_VOTES: Mapping[str, "Vote"] = MappingProxyType({})
_MOST_EXAMINED = 2000  # calm frames of which the quality is computed, spread over the recording (over four hours)


@dataclasses.dataclass(frozen=True)
class Vote:
    """The vote of a recording on its polarity.

    Attributes:
        device: name of the device.
        declared: systole_up, systole_down or unknown.
        applied: systole_up, or systole_down if the stored PPG was inverted.
        frames: number of calm and clean frames.
        up: number of those frames with the systole up.
    """

    device: str
    declared: str
    applied: str
    frames: int
    up: int

    @property
    def own(self) -> str | None:
        """The recording's vote, if it is clear; else None."""
        return clear(self.frames, self.up)

    @property
    def dissents(self) -> bool:
        """True if the recording clearly contradicts the applied polarity."""
        return self.frames >= DISSENT_FRAMES and self.own not in (None, self.applied)


class Decision(NamedTuple):
    """Polarity (systole_up or systole_down) and its basis (declared, device, recording or uncertain)."""

    polarity: str
    basis: str


def vote_of(notes: object) -> Vote | None:
    """The vote in the notes of a recording; None if there is none, as in stores of other software."""
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
    """systole_up or systole_down if the votes are clear, else None."""
    if frames < LEAST_FRAMES:
        return None
    return "systole_up" if up >= CLEAR * frames else "systole_down" if up <= (1 - CLEAR) * frames else None


def count_votes(
    ppg: np.ndarray, accel: np.ndarray, missing: np.ndarray, *, rate_hz: float, band_high_hz: float
) -> tuple[int, int]:
    """Number of calm and clean frames of a recording, and number of those with the systole up.

    Args:
        ppg: [T, C] float32, band-passed.
        accel: [T, 3] float32, in g.
        missing: [T] bool, True where either signal is interpolated.
        rate_hz: rate of all three arrays.
        band_high_hz: upper edge of the band-pass.
    """
    length = round(FRAME_S * rate_hz)
    count = len(ppg) // length
    if not count:
        return 0, 0
    calm = motion_g(accel[: count * length].reshape(count, length, 3), rate_hz=rate_hz) <= CALM_G
    calm = np.flatnonzero(calm & ~missing[: count * length].reshape(count, length).any(1))
    calm = calm[:: max(-(-len(calm) // _MOST_EXAMINED), 1)]
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
    """Polarity before the other recordings are known: the declared one, else that of the majority, else systole up."""
    if declared != "unknown":
        return declared
    return "systole_down" if up < frames - up else "systole_up"


def described(vote: Vote) -> str:
    """The decision as text, for the notes of a recording; it depends only on the recording and the applied polarity.

    Stores keep this text: other words would change the fingerprints of stores.
    """
    if vote.declared != "unknown":
        return f"{vote.declared}, as declared"
    frames = (
        f"{vote.up} of {vote.frames} calm, clean frames are up" if vote.frames else "no calm, clean frame of its own"
    )
    if vote.applied == first_choice(vote.declared, vote.frames, vote.up):
        return f"{vote.applied}, {'by the data' if vote.frames else 'without anything to tell by'} ({frames})"
    return f"{vote.applied}, as its device's other recordings ({frames})"


def decide(votes: Mapping[str, Vote], *, earlier: Mapping[str, Vote] = NO_VOTES) -> dict[str, Decision]:
    """The polarity of every recording, by the rules of the module; polarities applied to it so far have no influence.

    Args:
        votes: recording id -> vote.
        earlier: the same of a finished store to which the recordings are added.
    """
    pools: dict[str, str | None] = {
        device: _pool(of_device) for device, of_device in _by_device(*earlier.values(), *votes.values()).items()
    }
    pools |= _settled(earlier)
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


def contradictions(votes: Mapping[str, Vote], *, earlier: Mapping[str, Vote]) -> list[str]:
    """Lines of text, one per device: recordings that follow the polarity of a finished store, but alone clearly have the other one.

    Args:
        votes: recording id -> vote, of the recordings that were added.
        earlier: the same of the finished store.
    """
    alone, settled = decide(votes), _settled(earlier)
    odd = [
        vote
        for name, vote in votes.items()
        if vote.declared == "unknown"
        and vote.applied == settled.get(vote.device)
        and vote.applied != alone[name].polarity
        and alone[name].basis in ("device", "recording")
    ]
    lines = []
    for device, turned in sorted(_by_device(*odd).items()):
        up, frames = (sum(getattr(vote, key) for vote in turned) for key in ("up", "frames"))
        lines.append(
            f"{device}: {turned[0].applied} in {recordings_text(len(turned))}, as in the store that they are added to, but the new recordings "
            f"alone clearly have the other polarity ({up} of {frames} calm, clean frames are up): declare it, or give this device another name"
        )
    return lines


def _by_device(*votes: Vote) -> dict[str, list[Vote]]:
    devices = defaultdict(list)
    for vote in votes:
        devices[vote.device].append(vote)
    return dict(devices)


def _settled(votes: Mapping[str, Vote]) -> dict[str, str]:
    """Device -> the polarity of all its recordings, if declarations or clear votes are behind it."""
    return {
        device: pool
        for device, own in _by_device(*votes.values()).items()
        if (pool := _pool(own)) is not None and {vote.applied for vote in own} == {pool}
    }


def _pool(votes: list[Vote]) -> str | None:
    declared = {vote.declared for vote in votes if vote.declared != "unknown"}
    if declared:
        return declared.pop() if len(declared) == 1 else None
    weights = [min(vote.frames, MOST_FRAMES) / max(vote.frames, 1) for vote in votes]
    return clear(
        sum(w * vote.frames for w, vote in zip(weights, votes, strict=True)),
        sum(w * vote.up for w, vote in zip(weights, votes, strict=True)),
    )


def polarity_summary(votes: Mapping[str, Vote], *, most: int = 10) -> list[str]:
    """Lines of text: the applied polarity and the votes of each device, and the recordings that disagree or are uncertain."""
    devices: defaultdict[str, dict[str, Vote]] = defaultdict(dict)
    decisions = decide(votes)
    for name, vote in votes.items():
        devices[vote.device][name] = vote
    lines = []
    for device, of_device in sorted(devices.items()):
        for polarity in sorted({vote.applied for vote in of_device.values()}):
            chosen = {name: vote for name, vote in of_device.items() if vote.applied == polarity}
            declared = sum(vote.declared != "unknown" for vote in chosen.values())
            clear_votes = [vote.own for vote in chosen.values() if vote.own]
            frames, up = (sum(getattr(vote, key) for vote in chosen.values()) for key in ("frames", "up"))
            basis = (
                "as declared"
                if declared == len(chosen)
                else f"{declared} as declared"
                if declared
                else "found in the data"
            )
            agree = (
                f"{clear_votes.count(polarity)} of the {len(clear_votes)} with a clear vote agree ({up} of {frames} calm, clean frames are up)"
                if clear_votes
                else f"none has enough calm, clean frames for a vote ({up} of {frames} are up)"
            )
            lines.append(f"PPG polarity, {device}: {polarity} in {recordings_text(len(chosen))}, {basis}; {agree}")
    odd = [
        f"recording {name}: its pulse contradicts {vote.applied}, which was applied {_why(decisions[name])} "
        f"({vote.up} of {vote.frames} frames are up): declare its polarity, or leave it out"
        for name, vote in sorted(votes.items())
        if vote.dissents
    ]
    odd += [
        f"recording {name}: the polarity of its PPG is uncertain ({vote.up} of {vote.frames} calm, clean frames are up); {vote.applied} was "
        f"applied: declare the polarity"
        for name, vote in sorted(votes.items())
        if decisions[name].basis == "uncertain"
    ]
    # The preparation of all recordings together applies the decisions, so others come from stores that were merged.
    odd += [
        f"recording {name}: {vote.applied} was applied, but by all recordings here the PPG of {vote.device} has {decisions[name].polarity}: it "
        f"was prepared apart from them; prepare all together, or declare the polarity"
        for name, vote in sorted(votes.items())
        if vote.applied != decisions[name].polarity and not vote.dissents
    ]
    lines += [f"warning: {line}" for line in odd[:most]]
    if len(odd) > most:
        lines.append(
            f"warning: {len(odd) - most} more recordings have a PPG polarity that is contradicted or uncertain"
        )
    return lines


def recordings_text(recordings: int) -> str:
    """The number with its noun: 1 recording, 2 recordings."""
    return f"{recordings} recording{'s' * (recordings != 1)}"


def _why(decision: Decision) -> str:
    return {"declared": "as declared", "device": "as to the other recordings of its device"}.get(
        decision.basis, "before"
    )
