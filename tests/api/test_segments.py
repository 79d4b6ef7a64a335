"""encoder.encode: arrays of any byte order, and numbers beyond those of any sensor."""

import numpy as np
import pytest

import accdistill_jax as ad
from accdistill_jax.errors import UserError


@pytest.fixture(scope="module")
def encoder():
    return ad.load("synthetic-small")


@pytest.fixture(scope="module")
def stored():
    """Three minutes of a still wrist, as `Store.read` returns them."""
    signal = np.random.default_rng(0).normal([0.0, 0.6, 0.8], 0.002, (3, 3840, 3))
    whole = np.round(signal / 1e-4).astype(np.int16)
    return {
        "accel": whole,
        "accel_scale": np.full((3, 3), 1e-4, np.float32),
        "accel_offset": np.full((3, 3), 0.01, np.float32),
    }


def test_the_byte_order_does_not_matter(encoder, stored):
    wanted = encoder.encode(stored)
    swapped = {name: values.astype(values.dtype.newbyteorder("S")) for name, values in stored.items()}
    np.testing.assert_array_equal(encoder.encode(swapped), wanted)


@pytest.mark.parametrize("value", [1e20, 1e39])
def test_numbers_whose_squares_float32_cannot_hold_are_refused(encoder, value):
    signal = np.random.default_rng(0).normal([0.0, 0.6, 0.8], 0.002, (3840, 3))
    signal[500, 1] = value
    for embed in (lambda: encoder.encode(signal[None]), lambda: encoder.embed(signal, 64.0)):
        with pytest.raises(UserError, match=r"accel has values up to 1e\+(20|39), which no sensor gives"):
            embed()
