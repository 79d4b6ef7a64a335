"""The PPG's polarity: votes of calm, clean frames, pooled over a device."""

import dataclasses

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.polarity import (
    Vote,
    contradictions,
    count_votes,
    decide,
    described,
    first_choice,
    polarity_summary,
)

RATE = 64.0


def wave(seconds=120, seed=0, bpm=66.0):
    """[T, 1] float32, systole up."""
    rng = np.random.default_rng(seed)
    beats = np.cumsum(60 / bpm * (1 + 0.03 * rng.standard_normal(round(seconds * bpm / 60) + 5)))
    time = np.arange(round(seconds * RATE)) / RATE
    at = np.searchsorted(beats, time)
    start = np.concatenate([[0], beats])
    phase = (time - start[at]) / (start[at + 1] - start[at])
    pulse = np.exp(-0.5 * ((phase - 0.2) / 0.07) ** 2) + 0.4 * np.exp(-0.5 * ((phase - 0.45) / 0.14) ** 2)
    return (pulse - pulse.mean() + 0.02 * rng.standard_normal(len(time)))[:, None].astype(np.float32)


def accel(count, sd=0.003):
    return np.random.default_rng(1).normal((0, 0, 1), sd, (count, 3)).astype(np.float32)


def votes(ppg, motion=None, missing=None):
    return count_votes(
        ppg,
        accel(len(ppg)) if motion is None else motion,
        np.zeros(len(ppg), bool) if missing is None else missing,
        rate_hz=RATE,
        band_high_hz=8.0,
    )


@pytest.mark.parametrize("seed", range(3))
def test_frames_vote_by_their_upstroke(seed):
    assert votes(wave(seed=seed)) == (15, 15)
    assert votes(-wave(seed=seed)) == (15, 0)


def test_only_calm_clean_whole_frames_vote():
    ppg = wave()
    motion, missing = accel(len(ppg)), np.zeros(len(ppg), bool)
    half = len(ppg) // 2
    ppg[:half] *= -1  # a moving wrist, with an inverted wave
    motion[:half] += np.random.default_rng(2).normal(0, 0.1, (half, 3))
    missing[-100:] = True
    assert votes(ppg, motion, missing) == (6, 6)  # of 15: 8 move, one has a gap
    assert votes(np.random.default_rng(0).normal(size=(7680, 1)).astype(np.float32)) == (0, 0)
    assert votes(wave(seconds=7)) == (0, 0)


def test_the_best_channel_votes():
    noise = np.random.default_rng(0).normal(size=(7680, 2)).astype(np.float32)
    assert votes(np.concatenate([noise, -wave()], axis=1)) == (15, 0)


def vote(frames, up, *, device="watch", declared="unknown", applied=None):
    return Vote(device, declared, applied or first_choice(declared, frames, up), frames, up)


def test_one_recording_of_24_that_motion_spoilt_follows_its_device():
    recordings = {f"r{i:02d}": vote(40, 2) for i in range(23)} | {"r23": vote(5, 4)}
    assert recordings["r23"].applied == "systole_up"
    decisions = decide(recordings)
    assert {decision.polarity for decision in decisions.values()} == {"systole_down"}
    assert decisions["r23"].basis == "device"
    turned = dataclasses.replace(recordings["r23"], applied="systole_down")
    assert described(turned) == "systole_down, as its device's other recordings (4 of 5 calm, clean frames are up)"
    assert decide(recordings | {"r23": turned}) == decisions  # the polarity applied so far has no influence


def test_a_recording_without_a_vote_follows_too():
    assert decide({"a": vote(30, 0), "b": vote(0, 0)})["b"] == ("systole_down", "device")


def test_a_clear_dissenter_follows_and_is_reported():
    recordings = {f"r{i}": vote(90, 1) for i in range(9)} | {"odd": vote(60, 60, applied="systole_down")}
    assert decide(recordings)["odd"] == ("systole_down", "device")
    lines = polarity_summary(recordings)
    assert (
        "PPG polarity, watch: systole_down in 10 recordings, found in the data; 9 of the 10 with a clear vote agree"
        in lines[0]
    )
    assert lines[1].startswith(
        "warning: recording odd: its pulse contradicts systole_down, which was applied as to the other recordings of its device"
    )


def test_an_unnamed_device_may_be_many():
    recordings = {
        "a": vote(90, 1, device="unknown"),
        "b": vote(90, 2, device="unknown"),
        "c": vote(20, 20, device="unknown"),
        "d": vote(3, 2, device="unknown"),
    }
    decisions = decide(recordings)
    assert decisions["c"] == ("systole_up", "recording") and decisions["d"] == ("systole_down", "device")


def test_devices_do_not_vote_for_each_other():
    decisions = decide({"a": vote(90, 1), "b": vote(0, 0, device="other"), "c": vote(50, 49, device="third")})
    assert [decisions[name].polarity for name in "abc"] == ["systole_down", "systole_up", "systole_up"]
    assert decisions["b"].basis == "uncertain"


def test_what_is_declared_stands_and_leads_the_others():
    recordings = {"a": vote(50, 50, declared="systole_down"), "b": vote(50, 50)}
    assert decide(recordings) == {"a": ("systole_down", "declared"), "b": ("systole_down", "device")}
    against = [
        line
        for line in polarity_summary(recordings | {"b": vote(50, 50, applied="systole_down")})
        if line.startswith("warning")
    ]
    assert (
        len(against) == 2
        and "recording a: its pulse contradicts systole_down, which was applied as declared" in against[0]
    )


def test_declarations_that_contradict_each_other_lead_nobody():
    recordings = {
        "a": vote(50, 50, declared="systole_up"),
        "b": vote(50, 0, declared="systole_down"),
        "c": vote(50, 1),
        "d": vote(2, 2),
    }
    decisions = decide(recordings)
    assert decisions["c"] == ("systole_down", "recording") and decisions["d"] == ("systole_up", "uncertain")


def test_what_nobody_can_know_is_said_to_be_uncertain():
    lines = polarity_summary({"a": vote(3, 1), "b": vote(0, 0)})
    assert [line.split(":")[1].strip() for line in lines if line.startswith("warning")] == [
        "recording a",
        "recording b",
    ]
    assert (
        "polarity of its PPG is uncertain (1 of 3 calm, clean frames are up); systole_down was applied: declare"
        in " ".join(lines)
    )


def test_one_long_recording_does_not_outvote_many():
    recordings = {"long": vote(5000, 5000)} | {f"r{i}": vote(60, 0) for i in range(10)}
    assert decide(recordings)["r0"].polarity == "systole_down"


def test_many_oddities_are_cut_short():
    lines = polarity_summary({f"r{i:02d}": vote(0, 0) for i in range(30)}, most=10)
    assert sum("recording r" in line for line in lines) == 10 and lines[-1].startswith("warning: 20 more recordings")


def test_a_recording_that_was_prepared_apart_is_reported():
    """As after a merge: alone, the recording with few frames got another polarity."""
    together = {f"r{i}": vote(90, 1, applied="systole_down") for i in range(3)}
    lines = polarity_summary(together | {"alone": vote(2, 2, applied="systole_up")})
    assert [line for line in lines if line.startswith("warning")] == [
        "warning: recording alone: systole_up was applied, but by all recordings here the PPG of watch has systole_down: it was prepared "
        "apart from them; prepare all together, or declare the polarity"
    ]


def test_added_recordings_follow_the_finished_store_and_a_contradiction_is_a_line():
    earlier = {"old": vote(12, 0), "worn": vote(3, 2, applied="systole_down")}
    added = {"new": vote(40, 40), "moved": vote(0, 0), "other": vote(40, 40, device="ring")}
    decided = {name: decision.polarity for name, decision in decide(added, earlier=earlier).items()}
    assert decided == {"new": "systole_down", "moved": "systole_down", "other": "systole_up"}
    applied = {name: dataclasses.replace(added[name], applied=polarity) for name, polarity in decided.items()}
    (line,) = contradictions(applied, earlier=earlier)
    assert line.startswith("watch: systole_down in 2 recordings, as in the store that they are added to")
    assert "(40 of 40 calm, clean frames are up)" in line
    declared = added | {"new": vote(40, 40, declared="systole_up")}
    assert decide(declared, earlier=earlier)["new"].polarity == "systole_up"
    assert contradictions({"new": declared["new"]}, earlier=earlier) == []


def test_a_finished_store_that_could_not_decide_does_not_bind_the_next_recordings():
    unsure = {"old": vote(3, 3)}
    assert decide({"new": vote(30, 0)}, earlier=unsure)["new"].polarity == "systole_down"
    both = {"old": vote(20, 20, declared="systole_up"), "turned": vote(20, 0, declared="systole_down")}
    assert decide({"new": vote(30, 0)}, earlier=both)["new"] == ("systole_down", "recording")
    assert decide({"new": vote(3, 0)}, earlier={"old": vote(5, 0)})["new"] == ("systole_down", "device")
