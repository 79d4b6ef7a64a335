"""The classical matcher on synthetic minutes: it finds the PPG of a minute, by a lag that holds for other people."""

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.segments import bandpass
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.synthetic.synthetic import generate_segments
from accdistill_jax.evaluation.classical import ballistocardiogram as bcg
from accdistill_jax.evaluation.classical.matcher import accel_curves, best_lag, ppg_curves


@pytest.fixture(scope="module")
def curves():
    """(acceleration's, PPG's) curves of 8 minutes of each of ten people."""
    accel, ppg = [], []
    for person in range(10):
        raw = generate_segments(7, person, range(8))
        accel.append(accel_curves(raw.accel, rate_hz=64.0))
        ppg.append(ppg_curves(bandpass(raw.ppg, axis=1, settings=PreprocessSettings()), rate_hz=64.0))
    return np.concatenate(accel), np.concatenate(ppg)


def test_most_minutes_are_found_with_the_lag_of_other_people(curves):
    accel, ppg = curves
    assert accel.shape == ppg.shape == (80, 60 * bcg.ENVELOPE_HZ)
    for half in (slice(0, 40), slice(40, 80)):
        other = slice(40, 80) if half.start == 0 else slice(0, 40)
        lag = best_lag(accel[other], ppg[other])
        assert 0 < lag / bcg.ENVELOPE_HZ < 0.5
        similarity = np.roll(accel[half], lag, axis=1) @ ppg[half].T
        found = similarity.argmax(axis=1) == np.arange(40)
        assert found.mean() > 0.7


def test_the_lag_is_that_between_two_curves(curves):
    accel, _ = curves
    assert best_lag(accel, np.roll(accel, 5, axis=1)) == 5


def test_flat_signals_have_a_curve_of_zeros():
    flat = np.zeros((2, 3840, 3), np.float32)
    assert not accel_curves(flat + 1.0, rate_hz=64.0).any() or np.isfinite(accel_curves(flat + 1.0, rate_hz=64.0)).all()
    assert np.isfinite(ppg_curves(flat, rate_hz=64.0)).all()
