"""Alignment of the clocks of two sensors in preparation: the acceleration is moved if the estimate is sure, and told otherwise."""

import functools
import re

import numpy as np
import pytest

from accdistill_jax.data.prepare.preparation import PreparationSettings, prepare_recordings
from accdistill_jax.data.preprocessing.align import SHIFT, ClockShift, retimed
from accdistill_jax.data.preprocessing.clocks import USUAL_LAG_S, still_lag
from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Participant, Recording, RecordingSource, Stream
from accdistill_jax.data.recordings import Found
from accdistill_jax.data.store.remarks import remarks
from accdistill_jax.data.synthetic.synthetic import generate_segments
from accdistill_jax.errors import UserError

MINUTES, RATE_HZ = 70, 64.0
ALIGN = PreprocessSettings(align_clocks=True, max_motion_g=0.02)
PLAIN = PreprocessSettings(max_motion_g=0.02)


@functools.cache
def signals():
    """PPG [T, 1] and acceleration [T, 3] of 70 minutes of one person of generator 1, who does not turn between the minutes."""
    raw = generate_segments(3, 0, range(MINUTES), ppg_channels=1)
    accel = raw.accel - raw.accel.mean(axis=1, keepdims=True) + np.array([0, 0, 1], np.float32)
    return raw.ppg.reshape(-1, 1), accel.reshape(-1, 3)


def recorded(*, late_s=0.0, drift=0.0, stamps=False, name="r1", minutes=MINUTES):
    """A recording whose acceleration has a clock of its own: it shows a time that is `late_s` too late, and gains `drift`."""
    ppg, accel = (signal[: int(minutes * 60 * RATE_HZ)] for signal in signals())
    clock = {"start_s": late_s, "rate_hz": RATE_HZ / (1 + drift)}
    if stamps:
        clock = {"time_s": late_s + np.arange(len(accel)) / RATE_HZ * (1 + drift)}
    streams = {
        "ppg": Stream("ppg", ppg, ("green",), "a.u.", rate_hz=RATE_HZ, polarity="systole_up"),
        "accel": Stream("accel", accel, ("x", "y", "z"), "g", **clock),
    }
    return Recording(name, Participant(name), "two devices", "test", 1e9, streams)


def lag_of(batch):
    start_s = batch.columns["start_unix_s"] - 1e9
    motion_g = batch.columns["motion_g"]
    return still_lag((batch.ppg, batch.accel), start_s, motion_g, rate_hz=RATE_HZ, segment_s=60.0)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("late_s", "drift", "stamps"), [(1.4, 0.0, False), (-0.6, 100e-6, False), (-0.6, 100e-6, True)]
)
def test_an_acceleration_of_another_clock_is_moved(late_s, drift, stamps):
    recording = recorded(late_s=late_s, drift=drift, stamps=stamps)
    before = lag_of(preprocess(recording, PLAIN))
    middle_s = late_s + drift * MINUTES * 30
    assert before.is_sure and before.lag_s == pytest.approx(USUAL_LAG_S - middle_s, abs=0.1)
    batch = preprocess(recording, ALIGN)
    after = lag_of(batch)
    assert after.is_sure and after.lag_s == pytest.approx(USUAL_LAG_S, abs=0.02) and abs(after.drift_ppm) < 5
    shift = batch.columns[SHIFT]
    assert shift.dtype == np.float32 and shift.mean() == pytest.approx(-middle_s, abs=0.1)
    assert shift[-1] - shift[0] == pytest.approx(-drift * 60 * (MINUTES - 1), abs=0.02)
    assert "acceleration moved by " in batch.notes["clocks"] and " ppm (z " in batch.notes["clocks"]


@pytest.mark.slow
def test_a_recording_stays_as_it_is_where_clocks_agree_or_cannot_be_compared():
    agreed, plain = (preprocess(recorded(minutes=20), settings) for settings in (ALIGN, PLAIN))
    np.testing.assert_array_equal(agreed.accel, plain.accel)
    assert (
        not agreed.columns.pop(SHIFT).any()
        and agreed.columns.keys() == plain.columns.keys()
        and agreed.notes == plain.notes
    )
    short = recorded(late_s=1.4, minutes=5, name="short")
    batch = preprocess(short, ALIGN)
    np.testing.assert_array_equal(batch.accel, preprocess(short, PLAIN).accel)
    assert not batch.columns[SHIFT].any()
    note = batch.notes["clocks"]
    assert re.fullmatch(
        r"not compared, since the heartbeat is not clear enough in both signals \([45] still minutes\)", note
    )


@pytest.mark.slow
def test_a_store_keeps_the_shift_and_the_setting(tmp_path):
    made = {"late": recorded(late_s=1.4, minutes=20, name="late"), "short": recorded(minutes=5, name="short")}
    sources = [RecordingSource(name, name, functools.partial(made.get, name)) for name in made]
    found = Found(sources, reader="generic")
    preparation = PreparationSettings(workers=1, quiet=True)
    store = prepare_recordings(found, tmp_path / "store", settings=ALIGN, preparation=preparation)
    recording, shift = store.segments["recording"], store.segments[SHIFT]
    assert shift[recording == "late"] == pytest.approx(-1.4, abs=0.1) and not shift[recording == "short"].any()
    lines = remarks(store.manifest)
    assert any(line.startswith("recording late: clocks: acceleration moved by -1.") for line in lines)
    assert any(line.startswith("recording short: clocks: not compared") for line in lines)
    assert PreprocessSettings.from_json(store.manifest["preprocess"]) == ALIGN
    with pytest.raises(UserError, match="align_clocks: True there, None now"):
        prepare_recordings(found, tmp_path / "store", settings=PLAIN, preparation=preparation)


def test_streams_get_other_times():
    shift = ClockShift(10.0, 0.5, 1e-3)
    values = np.zeros((641, 3)) + np.arange(641)[:, None] % 7
    steady = Stream("accel", values, ("x", "y", "z"), "g", start_s=2.0, rate_hz=64.0)
    stamped = Stream("accel", values, ("x", "y", "z"), "g", time_s=2.0 + np.arange(641) / 64)
    for stream in (retimed(steady, shift), retimed(stamped, shift)):
        assert stream.start_s == pytest.approx(2.0 + 0.5 - 0.008) and stream.end_s == pytest.approx(12.0 + 0.5 + 0.002)


def test_the_option_needs_ppg_and_leaves_other_stores_their_fingerprint():
    assert "align_clocks" not in PLAIN.to_json() and ALIGN.to_json()["align_clocks"] is True
    assert "align_clocks" not in ALIGN.to_json(measured=False)
    with pytest.raises(UserError, match="align_clocks compares the acceleration with the PPG"):
        PreprocessSettings(align_clocks=True, ppg_channels=("none",))
    with pytest.raises(UserError, match="align_clocks must be true or false, got 'no'"):
        PreprocessSettings.from_json({"align_clocks": "no"})
    alone = recorded(minutes=2)
    streams = {"accel": alone.streams["accel"]}
    with pytest.raises(UserError, match="recording 'r1': --align-clocks .* there is none; leave it out"):
        preprocess(Recording("r1", alone.participant, "watch", "test", 1e9, streams), ALIGN)
