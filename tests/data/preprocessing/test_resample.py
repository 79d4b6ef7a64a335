"""Resampling, compared with direct calls of scipy and with sines of known values."""

import numpy as np
import pytest
import scipy.signal

from accdistill_jax.data.preprocessing.resample import covered_until, fraction_clipped, is_flat, to_grid
from accdistill_jax.data.recording import Stream
from accdistill_jax.errors import UserError


def sine(hz, time, level=0.0):
    return level + np.sin(2 * np.pi * hz * time + 0.3)


def constant(rate, hz=1.3, seconds=40.0, start=0.0, level=0.0):
    time = start + np.arange(round(seconds * rate)) / rate
    return Stream("s", sine(hz, time, level)[:, None], ("a",), "a.u.", start_s=start, rate_hz=rate)


def grid(stream, start=0.0, count=64 * 39, rate=64.0, gap=0.25):
    return to_grid(stream, start_s=start, count=count, rate_hz=rate, gap_s=gap)


INNER = slice(64, -64)  # a second away from both ends, where filters have full support


@pytest.mark.parametrize("rate", [32.0, 125.0, 100.0, 50.0, 256.0])
def test_rational_rates_are_scipys_polyphase(rate):
    stream = constant(rate)
    up, down = {32.0: (2, 1), 125.0: (64, 125), 100.0: (16, 25), 50.0: (32, 25), 256.0: (1, 4)}[rate]
    taps = scipy.signal.firwin(64 * max(up, down) + 1, 0.91 / max(up, down), window=("kaiser", 9.0))
    expected = scipy.signal.resample_poly(stream.values, up, down, axis=0, padtype="line", window=taps)
    np.testing.assert_allclose(grid(stream).values, expected[: 64 * 39], atol=1e-6)


@pytest.mark.parametrize("rate", [32.0, 125.0])
def test_scipys_own_filter_agrees_inside_the_band(rate):
    stream = constant(rate, hz=6.0)
    up, down = {32.0: (2, 1), 125.0: (64, 125)}[rate]
    expected = scipy.signal.resample_poly(stream.values, up, down, axis=0, padtype="line")
    np.testing.assert_allclose(grid(stream).values[INNER], expected[: 64 * 39][INNER], atol=2e-3)


@pytest.mark.parametrize("rate", [32.0, 50.0, 125.0])
def test_gravity_adds_no_tone(rate):
    stream = Stream("accel", np.ones((round(40 * rate), 3)), ("x", "y", "z"), "g", rate_hz=rate)
    np.testing.assert_allclose(grid(stream).values, 1.0, atol=5e-5)


def test_equal_rate_is_passed_on():
    stream = constant(64.0)
    np.testing.assert_array_equal(grid(stream).values, stream.values[: 64 * 39])


@pytest.mark.parametrize("rate", [25.0, 32.0, 54.7512, 64.0, 100.49, 125.0, 256.0])
@pytest.mark.parametrize("start", [0.0, 0.0041, 0.5, 0.99])
def test_sine_keeps_amplitude_and_phase(rate, start):
    # The stream begins a fraction of a sample before the grid: values must equal the sine at the grid's moments.
    result = grid(constant(rate, hz=3.1, level=5.0), start=start)
    expected = sine(3.1, start + np.arange(64 * 39) / 64, 5.0)
    np.testing.assert_allclose(result.values[INNER, 0], expected[INNER], atol=0.006)
    assert not result.missing.any()


@pytest.mark.parametrize("rate", [125.0, 256.0])
@pytest.mark.parametrize("irregular", [False, True])
def test_aliases_are_suppressed(rate, irregular):
    # 45 Hz would alias to 19 Hz at 64 Hz.
    stream = constant(rate, hz=45.0)
    if irregular:
        time = np.arange(len(stream.values)) / rate
        stream = Stream("s", stream.values, ("a",), "a.u.", time_s=time)
    assert np.abs(grid(stream).values[INNER]).max() < 0.01


def test_a_ratio_that_would_drift_is_interpolated():
    rate = 64.0213377  # no ratio with a denominator up to 1000 stays exact enough for an hour
    stream = constant(rate, hz=1.3, seconds=3600.0)
    result = grid(stream, count=64 * 3599)
    expected = sine(1.3, np.arange(64 * 3599) / 64)
    np.testing.assert_allclose(result.values[INNER, 0], expected[INNER], atol=0.01)


@pytest.mark.parametrize("rate", [26.0, 52.0, 100.0])
def test_irregular_stamps(rate):
    rng = np.random.default_rng(0)
    time = np.arange(round(40 * rate)) / rate + rng.uniform(-0.2, 0.2, round(40 * rate)) / rate
    stream = Stream("s", np.stack([sine(1.3, time, 1.0), sine(2.0, time)], 1), ("a", "b"), "a.u.", time_s=time)
    result = grid(stream, start=0.5, count=64 * 38)
    moments = 0.5 + np.arange(64 * 38) / 64
    expected = np.stack([sine(1.3, moments, 1.0), sine(2.0, moments)], 1)
    np.testing.assert_allclose(result.values[INNER], expected[INNER], atol=0.01)
    assert not result.missing.any()


def test_equal_and_nearly_equal_stamps():
    time = np.repeat(np.arange(400) / 10, 2)  # each stamp twice, +1 and -1 around the value: averaged
    values = sine(0.3, time) + np.tile([1.0, -1.0], 400)
    result = grid(Stream("s", values[:, None], ("a",), "a.u.", time_s=time), count=64 * 39)
    np.testing.assert_allclose(result.values[INNER, 0], sine(0.3, np.arange(64 * 39) / 64)[INNER], atol=0.01)
    time = np.sort(np.concatenate([np.arange(400) / 10, np.arange(5, 300, 7) / 10 + 1e-6]))
    noisy = sine(0.3, time) + 0.01 * np.random.default_rng(0).standard_normal(len(time))
    result = grid(Stream("s", noisy[:, None], ("a",), "a.u.", time_s=time), count=64 * 39)
    np.testing.assert_allclose(result.values[INNER, 0], sine(0.3, np.arange(64 * 39) / 64)[INNER], atol=0.05)


def test_all_stamps_equal_is_an_error():
    with pytest.raises(UserError, match="all samples have the same time stamp"):
        grid(Stream("s", np.zeros((5, 1)), ("a",), "a.u.", time_s=np.ones(5)))


def test_nan_runs_are_filled_and_marked():
    stream = constant(32.0, level=5.0)
    stream.values[320:352] = np.nan  # 10.0 to 11.0 s
    result = grid(stream)
    marked = np.flatnonzero(result.missing) / 64
    assert marked.min() == pytest.approx(10.0, abs=1 / 32) and marked.max() == pytest.approx(11.0, abs=1 / 32)
    assert result.missing.sum() == pytest.approx(64, abs=2)
    assert np.isfinite(result.values).all() and np.ptp(result.values[645:700]) < 2.1


@pytest.mark.parametrize("nan", [False, True])
def test_gaps_between_stamps_are_marked_and_bridged_straight(nan):
    time = np.arange(40 * 50) / 50
    values = sine(1.3, time, 5.0)
    lost = (time > 10.0) & (time < 13.0)
    if nan:
        values[lost] = np.nan
        lost = np.zeros_like(lost)
    result = grid(Stream("s", values[~lost, None], ("a",), "a.u.", time_s=time[~lost]))
    assert result.missing.sum() / 64 == pytest.approx(3.0, abs=0.05)
    inside = result.values[result.missing, 0]
    np.testing.assert_allclose(inside, np.linspace(sine(1.3, 10.0, 5.0), sine(1.3, 13.0, 5.0), len(inside)), atol=0.05)


def test_short_pauses_are_not_gaps():
    time = np.delete(np.arange(40 * 50) / 50, [500, 700, 701])
    assert not grid(Stream("s", sine(1.3, time)[:, None], ("a",), "a.u.", time_s=time)).missing.any()


def test_covered_until_counts_the_last_samples_period():
    assert covered_until(constant(32.0, seconds=60.0, start=2.0)) == pytest.approx(62.0)
    assert covered_until(Stream("s", np.zeros((3, 1)), ("a",), "a.u.", time_s=np.array([0, 1.0, 2]))) == 3.0


def test_is_flat_looks_at_own_samples_only():
    values = np.arange(1000.0)[:, None] % 7
    values[200:300] = 1.5
    stream = Stream("a", values, ("a",), "g", rate_hz=100.0)
    assert is_flat(stream, np.array([0.0, 1.99, 2.0, 2.01]), 1.0).tolist() == [False, False, True, False]


def test_fraction_clipped_counts_own_samples():
    values = np.zeros((1000, 2))
    values[100:150, 0] = 2.0
    values[140:160, 1] = -2.0
    stream = Stream("s", values, ("a", "b"), "g", rate_hz=100.0, start_s=0.5, range=(-2.0, 2.0))
    np.testing.assert_allclose(fraction_clipped(stream, np.array([0.5, 1.5, 5.5]), 1.0), [0, 0.6, 0])
    stamped = Stream("s", values, ("a", "b"), "g", time_s=0.5 + np.arange(1000) / 100, range=(-2.0, 2.0))
    np.testing.assert_allclose(fraction_clipped(stamped, np.array([0.5, 1.5, 5.5]), 1.0), [0, 0.6, 0])
    assert fraction_clipped(constant(32.0), np.zeros(1), 1.0)[0] == 0


def test_blocks_give_what_one_pass_gives(monkeypatch):
    rng = np.random.default_rng(0)
    time = np.sort(np.arange(40 * 200) / 200 + rng.uniform(-0.002, 0.002, 40 * 200))
    time = np.delete(time, slice(3000, 3300))
    stream = Stream("s", np.stack([sine(1.3, time, 1.0), sine(9.0, time)], 1), ("a", "b"), "a.u.", time_s=time)
    whole = grid(stream)
    monkeypatch.setattr("accdistill_jax.data.preprocessing.resample.FINE_POINTS", 4 * 100)
    blocks = grid(stream)
    np.testing.assert_allclose(blocks.values[INNER], whole.values[INNER], atol=1e-6)
    np.testing.assert_array_equal(blocks.missing, whole.missing)
    assert whole.missing.any()


@pytest.mark.parametrize("inside", [1e-6, 1e-4])
def test_bursts_far_denser_than_the_stream_are_refused(inside):
    number = np.arange(25 * 13)
    time = (number // 25) * 3.0 + (number % 25) * inside
    with pytest.raises(
        UserError, match="time stamps are .* s apart, far too close for 325 samples in 3600 s: give rate_hz"
    ):
        grid(Stream("s", sine(0.1, time)[:, None], ("a",), "a.u.", time_s=time), count=64 * 3600)
