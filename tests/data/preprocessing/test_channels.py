"""Reductions over channels equal numpy's."""

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.channels import in_all_channels, in_any_channel, range_of_channels


@pytest.mark.parametrize("shape", [(500, 3), (7, 1), (0, 3), (5, 0)])
def test_they_equal_numpys_reductions(shape):
    rng = np.random.default_rng(0)
    mask = rng.random(shape) < 0.4
    np.testing.assert_array_equal(in_any_channel(mask), mask.any(1))
    np.testing.assert_array_equal(in_all_channels(mask), mask.all(1))
    values = rng.normal(0, 1, shape).astype(np.float32)
    if shape[0]:
        np.testing.assert_array_equal(range_of_channels(values), np.ptp(values, axis=0))
