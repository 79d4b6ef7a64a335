"""encoder.encode: arrays of any byte order, and numbers that float32 cannot hold."""

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


def test_numbers_beyond_float32_are_refused(encoder):
    with pytest.raises(UserError, match=r"values of 1e\+39, more than float32 holds"):
        encoder.encode(np.full((1, 3840, 3), 1e39))
