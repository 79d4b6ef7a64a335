"""Quantisation to int16: error bounds, constant channels, refused values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from accdistill_jax.data.preprocessing.quantise import dequantise, quantise
from accdistill_jax.errors import UserError


@given(st.integers(0, 2**32 - 1), st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.sampled_from([1, 7, 640]))
@hypothesis_settings(max_examples=60, deadline=None)
def test_round_trip_error_is_at_most_half_a_step(seed, level, spread, samples):
    signal = (np.random.default_rng(seed).normal(level, spread, (3, samples, 2))).astype(np.float32)
    quantised = quantise(signal, name="x")
    back = dequantise(
        quantised.values.astype(np.float64), quantised.scale.astype(np.float64), quantised.offset.astype(np.float64)
    )
    step = quantised.scale[:, None, :].astype(np.float64)
    rounding = 4 * np.finfo(np.float32).eps * (np.abs(signal).max() + 1e-30)
    assert (np.abs(back - signal) <= step / 2 * 1.01 + rounding).all()
    assert quantised.values.dtype == np.int16 and (quantised.scale > 0).all()


def test_quantisation_uses_the_whole_range():
    signal = np.linspace(-2, 6, 640, dtype=np.float32)[None, :, None]
    quantised = quantise(signal, name="x")
    assert quantised.values.min() == -32767 and quantised.values.max() == 32767
    assert quantised.offset[0, 0] == pytest.approx(2) and quantised.scale[0, 0] == pytest.approx(4 / 32767)


@pytest.mark.parametrize("level", [0.0, 1.0, -3e30])
def test_constant_channel_comes_back_exactly(level):
    signal = np.full((2, 640, 1), level, np.float32)
    quantised = quantise(signal, name="x")
    assert np.isfinite(quantised.scale).all() and (quantised.scale > 0).all() and not quantised.values.any()
    np.testing.assert_array_equal(dequantise(*quantised), signal)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_are_refused(bad):
    signal = np.zeros((20, 640, 2), np.float32)
    signal[17, 5, 1] = bad
    with pytest.raises(UserError, match="rec-7: ppg: segment 17, channel 1"):
        quantise(signal, name="rec-7: ppg")
