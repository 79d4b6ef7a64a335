"""Simulated sensors: slower, coarser, or with fewer axes."""

import jax
import numpy as np
import pytest

from accdistill_jax.config.schema import InputSettings
from accdistill_jax.inputs.prepare import prepare_inputs, simulated_sensor

RATE_HZ, SAMPLES = 64.0, 3840
TIME_S = np.arange(SAMPLES) / RATE_HZ


def sines(*hertz):
    return np.stack([np.sin(2 * np.pi * f * TIME_S + 0.3) for f in hertz], axis=1)[None].astype(np.float32)


def sensed(x, **settings):
    return np.asarray(jax.jit(lambda x: simulated_sensor(x, InputSettings(**settings)))(x))


def test_the_recorded_sensor_is_the_default():
    x = sines(1, 6, 20)
    np.testing.assert_array_equal(sensed(x), x)


def test_a_slower_sensor_keeps_what_is_below_its_nyquist_frequency():
    x = sines(5, 11.5, 13.5) + np.float32(0.98)  # with gravity
    slow = sensed(x, simulated_rate_fraction=25 / 64)
    inside = slice(640, -640)  # away from the kinks where segment and mirror image meet
    np.testing.assert_allclose(slow[:, inside, :2], x[:, inside, :2], atol=0.02)
    assert np.abs(slow[:, inside, 2] - 0.98).max() < 0.03


def test_a_slower_sensor_agrees_with_sampling_and_band_limited_interpolation():
    """Scipy's resampling to 32 Hz and back, away from the ends."""
    from scipy.signal import resample

    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(size=(1, SAMPLES, 3)), axis=1).astype(np.float32) * 0.01
    mirrored = np.concatenate([x, x[:, ::-1]], axis=1).astype(np.float64)
    expected = resample(resample(mirrored, SAMPLES, axis=1), 2 * SAMPLES, axis=1)[:, :SAMPLES]
    np.testing.assert_allclose(sensed(x, simulated_rate_fraction=0.5)[:, 200:-200], expected[:, 200:-200], atol=2e-3)


@pytest.mark.parametrize("step", [1 / 64, 1 / 16])
def test_a_coarser_sensor_has_multiples_of_its_step(step):
    x = 0.1 * sines(1, 6, 20) + np.float32(0.98)
    coarse = sensed(x, simulated_step=step)
    np.testing.assert_allclose(coarse / step, np.round(coarse / step), atol=1e-3)
    assert np.abs(coarse - x).max() <= step / 2 + 1e-6
    assert sensed(np.full((1, 64, 3), step / 3, np.float32), simulated_step=step).max() == 0


def test_fewer_axes_are_the_first_ones_and_the_others_constant():
    x = sines(1, 6, 20)
    one = sensed(x, simulated_axes=1)
    np.testing.assert_array_equal(one[..., 0], x[..., 0])
    assert not one[..., 1:].any()
    np.testing.assert_array_equal(sensed(x, simulated_axes=3), x)


def test_the_encoders_input_is_finite_and_zero_where_there_is_no_axis():
    batch = {
        "accel": np.random.default_rng(0).integers(-3000, 3000, (2, 256, 3)).astype(np.int16),
        "accel_scale": np.full((2, 3), 1e-4, np.float32),
        "accel_offset": np.ones((2, 3), np.float32),
    }
    x = np.asarray(
        prepare_inputs(
            batch,
            "accel",
            InputSettings(bands="low+high", simulated_rate_fraction=0.39, simulated_step=1 / 64, simulated_axes=1),
        )
    )
    assert np.isfinite(x).all() and x.shape == (2, 256, 6)
    assert not x[..., [1, 2, 4, 5]].any() and x[..., [0, 3]].std() > 0.5
