"""Held values: dropouts are gaps, rest on a coarse sensor is not."""

import dataclasses

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.dropouts import held_samples, seconds, without
from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Participant, Recording, Stream

RATE = 32.0
LIMITS = {"held_s": 2.0, "held_coarse_s": 30.0}
SETTINGS = PreprocessSettings(min_ppg_quality=0)


def ppg(held_s=0.0, at=20.0, value=None, seconds=180.0, **changes):
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 2000 + 100 * np.sin(2 * np.pi * 1.2 * time) + np.random.default_rng(0).normal(0, 1, len(time))
    first = round(at * RATE)
    wave[first : first + round(held_s * RATE) + 1] = wave[first] if value is None else value
    return Stream("ppg", wave[:, None], ("a",), "a.u.", rate_hz=RATE, polarity="systole_up", **changes)


def accel(held_s=0.0, at=20.0, value=None, step_g=0.001, seconds=180.0, **changes):
    values = np.random.default_rng(1).normal((0.2, -0.3, 0.93), 0.006, (round(seconds * RATE), 3))
    values = np.round(values / step_g) * step_g
    first = round(at * RATE)
    values[first : first + round(held_s * RATE) + 1] = values[first] if value is None else value
    return Stream("accel", values, ("x", "y", "z"), "g", rate_hz=RATE, **changes)


def recording(ppg, accel):
    return Recording("r", Participant("p"), "watch", "test", 0.0, {"ppg": ppg, "accel": accel})


@pytest.mark.parametrize("held_s", [0.0, 1.5, 2.0])
def test_short_holds_are_signal(held_s):
    assert not held_samples(ppg(held_s), **LIMITS).any()
    assert not held_samples(accel(held_s), **LIMITS).any()


@pytest.mark.parametrize("value", [None, 0.0])
@pytest.mark.parametrize("make", [ppg, accel])
def test_a_dropout_is_found_to_the_sample(make, value):
    stream = make(5.0, value=value)
    held = held_samples(stream, **LIMITS)
    assert np.flatnonzero(held).tolist() == list(range(641, 801))  # the first sample of the stretch may be true
    assert seconds(stream, held) == 5.0
    assert (
        np.isnan(without(stream, held).values[641:801]).all() and not np.isnan(without(stream, held).values[:641]).any()
    )


def test_a_coarse_accelerometer_may_rest_within_a_count():
    still = accel(26.0, step_g=1 / 64)
    assert not held_samples(still, **LIMITS).any()
    assert held_samples(accel(31.0, step_g=1 / 64), **LIMITS).sum() == 31 * 32
    assert held_samples(still, held_s=2.0, held_coarse_s=20.0).sum() == 26 * 32


def test_no_acceleration_at_all_is_no_rest():
    off = accel(5.0, value=0.0, step_g=1 / 64)
    assert held_samples(off, **LIMITS).sum() == 160
    assert not held_samples(dataclasses.replace(off, gravity="removed"), **LIMITS).any()


def test_one_axis_that_holds_is_no_dropout():
    stream = accel()
    values = stream.values.copy()
    values[600:1600, 0] = values[600, 0]
    assert not held_samples(dataclasses.replace(stream, values=values), **LIMITS).any()


def test_saturation_is_left_to_the_clipped():
    assert not held_samples(ppg(5.0, value=4095.0, range=(0.0, 4095.0)), **LIMITS).any()
    assert not held_samples(accel(5.0, value=2.0, range=(-2.0, 2.0)), **LIMITS).any()


def test_irregular_stamps_hold_for_their_time():
    stream = ppg(5.0)
    time = np.cumsum(np.random.default_rng(0).uniform(0.7, 1.3, len(stream.values)) / RATE)
    stream = dataclasses.replace(stream, rate_hz=None, time_s=time)
    held = held_samples(stream, **LIMITS)
    assert held.sum() == 160 and seconds(stream, held) == pytest.approx(5.0, rel=0.05)


def test_a_minute_with_a_dropout_is_rejected_as_a_gap_and_counted():
    batch = preprocess(recording(ppg(3.0), accel(4.0, at=130.0)), SETTINGS)
    assert batch.examined == 3 and batch.rejected["gap"] == 2 and len(batch.ppg) == 1
    assert batch.notes["held_s"] == {"ppg": 3.0, "accel": 4.0}
    kept = preprocess(recording(ppg(3.0), accel(4.0, at=130.0)), dataclasses.replace(SETTINGS, max_gap_s=10.0))
    np.testing.assert_allclose(kept.columns["gap_s"], [3, 0, 4], atol=0.04)
    off = dataclasses.replace(SETTINGS, held_s=float("inf"), held_coarse_s=float("inf"))
    assert preprocess(recording(ppg(3.0), accel(4.0, at=130.0)), off).rejected["gap"] == 0


def test_a_dropout_within_irregular_stamps_is_a_gap():
    stream = ppg(3.0)
    time = np.arange(len(stream.values)) / RATE + np.random.default_rng(0).uniform(0, 0.003, len(stream.values))
    stream = dataclasses.replace(stream, rate_hz=None, time_s=time)
    assert preprocess(recording(stream, accel()), SETTINGS).rejected["gap"] == 1


def test_a_sensor_that_is_off_all_minute_is_flat_and_no_gap():
    for streams in ((ppg(180.0, at=0.0), accel()), (ppg(), accel(70.0, at=58.0))):
        batch = preprocess(recording(*streams), SETTINGS)
        assert batch.rejected["flat"] >= 1
    assert batch.rejected["gap"] == 2  # held to the end of the first minute, and into the third minute
